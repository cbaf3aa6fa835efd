"""The images that a thief asks about: the pipeline's query split, or another data set made to fit the victim."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator
from torch.nn import functional as F

from hallmark.config import Params, PrepareData
from hallmark.data import sources
from hallmark.data.dataset import ImageDataset
from hallmark.data.decode import conform
from hallmark.errors import UserError


class TransferSet(Params):
    """Block ``images`` of an attack: a data set as section ``prepare_data`` names one.  Its training part is used."""

    source: str
    path: str | None = None
    """A folder or a file.  DVC does not watch it."""
    image_column: str | None = None
    label_column: str | None = None


def _or_queries(value: Any) -> Any:
    if isinstance(value, str) and value != "queries":
        raise ValueError(f"wants queries, or a block with a source, not {value!r}")
    return None if value == "queries" else value


OwnImages = Annotated[TransferSet | None, BeforeValidator(_or_queries)]
"""The thief's own images: the word ``queries`` (None), which is the pipeline's or the contest's query split, or another
data set."""


def load(block: TransferSet, shape: tuple[int, int, int], raw: Path, where: str) -> tuple[ImageDataset, str]:
    """Read a transfer set and make its images the victim's size (bilinear, antialiased) and channels.

    Labels and class names stay the set's own: the copy's classes are the victim's (:attr:`Thief.classes`).

    Args:
        shape: (C, H, W) of the victim's images.
        raw: folder in which downloads are kept.
        where: the attack's block, for messages.

    Returns:
        The images, and the SHA-256 of what was read.

    Raises:
        UserError: as :func:`hallmark.data.sources.load`.
    """
    channels, height, width = shape
    # Sources read these fields alone; the sizes are those of splits, of which there is none.
    described = PrepareData(
        **block.model_dump(),
        size=max(height, width),
        channels=3 if channels == 3 else 1,
        train=1,
        test=1,
        reserve=1,
        queries=1,
    )
    try:
        source = sources.load(described, raw)
    except UserError as error:  # the readers speak of the section that they were made for
        raise UserError(str(error).replace("prepare_data.", f"{where}.images.")) from None
    images = conform(source.train.images, None, described.channels)
    if images.shape[2:] != (height, width):
        resized = F.interpolate(images.float(), (height, width), mode="bilinear", antialias=True)
        images = resized.round_().clamp_(0, 255).byte()
    return replace(source.train, images=images), source.raw_sha256
