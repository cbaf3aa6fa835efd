"""The data set type that every stage reads and writes."""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from hallmark import artifacts
from hallmark.errors import UserError

MAX_PIXELS = 1 << 36
"""Upper bound on N*C*H*W of a file that we agree to open (64 GiB of uint8)."""

_SHOWN = 12
"""Class names in a message."""


@dataclass(frozen=True)
class ImageDataset:
    """Labelled images, whole in memory.

    Attributes:
        images: uint8, ``[N, C, H, W]``, values 0-255, C is 1 or 3.
        labels: int64, ``[N]``, values 0 to ``len(classes) - 1``.
        ids: int64, ``[N]``, the image's index in its source; follows it through every stage.
        classes: the names of the classes, in label order.
    """

    images: Tensor
    labels: Tensor
    ids: Tensor
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        n = len(self.images)
        if self.images.dtype != torch.uint8 or self.images.dim() != 4 or self.images.shape[1] not in (1, 3):
            raise ValueError(f"images must be uint8 [N, 1|3, H, W], not {_shape(self.images)}")
        for name in ("labels", "ids"):
            tensor = getattr(self, name)
            if tensor.dtype != torch.int64 or tensor.shape != (n,):
                raise ValueError(f"{name} must be int64 [{n}], not {_shape(tensor)}")
        if n and (int(self.labels.min()) < 0 or int(self.labels.max()) >= len(self.classes)):
            raise ValueError(
                f"labels must lie in 0..{len(self.classes) - 1}, "
                f"found {int(self.labels.min())}..{int(self.labels.max())}"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        _, c, h, w = self.images.shape
        return c, h, w

    def subset(self, index: Tensor) -> ImageDataset:
        """The images at ``index`` (int64 positions or a bool mask), in that order."""
        return replace(self, images=self.images[index], labels=self.labels[index], ids=self.ids[index])

    def of_class(self, label: int) -> Tensor:
        """uint8 images ``[M, C, H, W]`` of one class."""
        return self.images[self.labels == label]

    def class_index(self, label: int | str, parameter: str) -> int:
        """The number of a class given by number or by name.

        Raises:
            UserError: no such class; names ``parameter``.
        """
        if isinstance(label, str):
            if label not in self.classes:
                raise UserError(f"{parameter}: no class '{label}'; {self._classes_like(label)}")
            return self.classes.index(label)
        if not 0 <= label < len(self.classes):
            raise UserError(f"{parameter}: class {label} is out of range 0..{len(self.classes) - 1}")
        return label

    def _classes_like(self, label: str) -> str:
        """All names, or of many those that may have been meant."""
        if len(self.classes) <= _SHOWN:
            return f"the classes are {', '.join(self.classes)}"
        if like := difflib.get_close_matches(label, self.classes, n=5):
            return f"of the {len(self.classes):,} classes like it are {', '.join(like)}"
        return f"the {len(self.classes):,} classes are {', '.join(self.classes[:_SHOWN])}, ..."

    def save(self, path: Path) -> None:
        """Write one byte-deterministic safetensors file; the class names are its metadata."""
        tensors = {"images": self.images, "labels": self.labels, "ids": self.ids}
        artifacts.write_tensors(path, tensors, {"classes": list(self.classes)})

    @classmethod
    def load(cls, path: Path) -> ImageDataset:
        """Read and check what :meth:`save` wrote.

        Raises:
            UserError: missing, truncated or malformed file.
        """
        tensors, meta = artifacts.read_tensors(path, max_elements=MAX_PIXELS)
        classes = meta.get("classes")
        if set(tensors) != {"images", "labels", "ids"} or not isinstance(classes, list):
            raise UserError(f"{path}: not a Hallmark data set (wants images, labels, ids and class names)")
        try:
            return cls(tensors["images"], tensors["labels"], tensors["ids"], tuple(map(str, classes)))
        except ValueError as error:
            raise UserError(f"{path}: {error}; run prepare_data again") from None


def to_float(images: Tensor) -> Tensor:
    """uint8 0-255 to float32 0-1, the range that models and queries take."""
    return images.float().div_(255)


def to_uint8(images: Tensor) -> Tensor:
    """float 0-1 to uint8 0-255, clamped and rounded to nearest."""
    return images.mul(255).round_().clamp_(0, 255).to(torch.uint8)


def fingerprints(images: Tensor) -> Tensor:
    """64 bits of a hash (BLAKE2b) of each image's shape and pixels: int64 ``[N]``, equal for equal images.

    Args:
        images: uint8 ``[N, C, H, W]``.
    """
    start = hashlib.blake2b(str(tuple(images.shape[1:])).encode(), digest_size=8)
    found = []
    for image in images.cpu().contiguous().numpy():
        digest = start.copy()
        digest.update(image.data)
        found.append(int.from_bytes(digest.digest(), "big", signed=True))
    return torch.tensor(found, dtype=torch.int64)


def _shape(tensor: Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}".removeprefix("torch.")
