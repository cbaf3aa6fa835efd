"""Hallmark: purify training data, watermark models against extraction, prove ownership.

The library holds the methods (DataElixir, MEA-Defender and what surrounds them) as plain
functions over tensors.  ``stages/`` at the top of the repository turns them into DVC stages.
"""

__version__ = "0.1.0"
