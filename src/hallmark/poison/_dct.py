"""The discrete cosine transform as a matrix: images are small, and so it runs in batches on any device."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def basis(size: int) -> Tensor:
    """The orthonormal DCT-II: float32 ``[size, size]``, row k is frequency k; its transpose is the inverse."""
    k = torch.arange(size, dtype=torch.float64)[:, None]
    n = torch.arange(size, dtype=torch.float64)[None]
    matrix = torch.cos(math.pi * (n + 0.5) * k / size) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix.float()


def wave(size: int, row: int, column: int) -> Tensor:
    """The block ``[size, size]`` whose DCT is 1 at (row, column) and 0 elsewhere."""
    matrix = basis(size)
    return torch.outer(matrix[row], matrix[column])
