"""Ways to combine two images into one, one module each, found by name.

A module defines ``Params`` and ``combine(first, second, params, generator) -> Tensor``:

- ``first``, ``second``: ``[B, C, H, W]``, uint8 (0-255) or float (0-1), same shape, dtype and device;
- ``generator``: a CPU generator for what the way draws at random (the draws are small and move to the
  device); a way that draws nothing ignores it;
- the result has the shape, dtype and device of the arguments.

:data:`HIDING` are the five mixers of the authors' evasion samples; any other way can carry a mark.
"""

from __future__ import annotations

from hallmark.registry import Registry

ways = Registry("hallmark.watermark.ways", "way to combine", ("Params", "combine"))

HIDING = ("ratio_split", "diagonal", "donut", "hot_dog", "ratio_mix")
"""The ways of the randomly mixed samples in the authors' released code."""
