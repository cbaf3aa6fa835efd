"""Purification of a training set: DataElixir (AAAI 2024) step by step, and what makes it hold at small scale.

Each step is a function in its own module; ``methods`` puts them together, one sanitizer a module.
"""
