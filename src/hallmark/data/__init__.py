"""Where images come from, and the one type they come in."""

from hallmark.data.dataset import ImageDataset

__all__ = ["ImageDataset"]
