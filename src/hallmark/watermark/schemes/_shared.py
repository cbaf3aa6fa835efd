"""What the marks without a key share, and endless batches."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Self

import torch
from pydantic import ValidationError
from torch import Tensor

from hallmark import config
from hallmark.config import Count
from hallmark.data.dataset import ImageDataset
from hallmark.errors import UserError


class ShapedMark(config.Params):
    """A mark for images of one shape and models of so many classes."""

    classes: Count
    """Number of the model's classes."""
    shape: tuple[Count, Count, Count]
    """(C, H, W) of an image."""

    def check(self, data: ImageDataset) -> None:
        """Raises UserError: ``data`` has images of another shape or another number of classes."""
        if data.shape != self.shape or len(data.classes) != self.classes:
            raise UserError(
                f"the mark is for images of shape {self.shape} in {self.classes} classes, the data's have "
                f"{data.shape} in {len(data.classes)}; use the data that the model was trained for"
            )

    def to_json(self) -> dict[str, Any]:
        """See :class:`hallmark.watermark.schemes.Mark`."""
        return self.model_dump(mode="json")

    @classmethod
    def read(cls, value: Any, where: str) -> Self:
        """What :meth:`to_json` gave.

        Raises:
            UserError: it is not such a mark.
        """
        try:
            return cls.model_validate_json(json.dumps(value))
        except (ValidationError, TypeError, ValueError) as error:
            raise UserError(f"{where}: not a mark of this scheme ({' '.join(str(error).split())})") from None


def in_turn(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless batches of ``size`` of ``count`` positions, int64: everyone's turn comes before anybody's second."""
    left = torch.empty(0, dtype=torch.int64)
    while True:
        while len(left) < size:
            left = torch.cat([left, torch.randperm(count, generator=generator)])
        yield left[:size]
        left = left[size:]
