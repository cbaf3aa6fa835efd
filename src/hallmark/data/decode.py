"""Encoded pictures (PNG, JPEG, WebP) to pixels.  Files are untrusted: formats, sizes and pixels are bounded."""

from __future__ import annotations

import io
import itertools
import math
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from hallmark.data.dataset import MAX_PIXELS
from hallmark.errors import UserError
from hallmark.progress import progress

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PICTURE_PIXELS = 1 << 26
"""Width times height of one picture (67 megapixels); more is a decompression bomb or a mistake."""
MAX_PICTURE_BYTES = 64 << 20
_CHUNK = 2048
_TASK = 128
"""Pictures a task of the thread pool: handing over single small ones costs as much as decoding them."""
_GREY, _COLOUR = ("1", "L"), ("RGB", "P")


@dataclass(frozen=True)
class Box:
    """A rectangle to be cut out of a picture of a known size.

    Attributes:
        of: (width, height) that the picture must have.
        left, top, right, bottom: columns ``left`` to ``right - 1`` and rows ``top`` to ``bottom - 1``, from the upper
            left corner of the upright picture.

    Raises:
        ValueError: the rectangle is empty or reaches beyond the picture.
    """

    of: tuple[int, int]
    left: int
    top: int
    right: int
    bottom: int

    def __post_init__(self) -> None:
        width, height = self.of
        if self.left >= self.right or self.top >= self.bottom:
            raise ValueError(f"the box {self} is empty")
        if self.left < 0 or self.top < 0 or self.right > width or self.bottom > height:
            raise ValueError(f"the box {self} reaches beyond the picture of {width}x{height} pixels")

    def __str__(self) -> str:
        return f"({self.left}, {self.top})-({self.right}, {self.bottom})"


class Picture(NamedTuple):
    """A picture that is still encoded; ``name`` is its file, for messages.  Of ``box`` None all is taken."""

    name: str
    data: bytes
    box: Box | None = None


def decode(data: bytes, name: str, size: int | None, channels: int | None, box: Box | None = None) -> np.ndarray:
    """One picture, or a part of it, as uint8 ``[C, H, W]``.

    Args:
        name: the file, for the message.
        size: resize to this many pixels a side (the aspect ratio is not kept); None keeps the size.
        channels: convert to grey (1) or RGB (3; transparency is dropped); None keeps what the picture has.
        box: cut out before anything is resized: nothing from outside flows in.

    Raises:
        UserError: unreadable, truncated, too large, of a mode that needs ``channels``, or not of the box's size.
    """
    if len(data) > MAX_PICTURE_BYTES:
        raise UserError(f"{name}: {len(data):,} bytes; a picture may have {MAX_PICTURE_BYTES:,}")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MAX_PICTURE_PIXELS:
            raise UserError(
                f"{name}: {image.width}x{image.height} pixels; more than {MAX_PICTURE_PIXELS:,}: scale it down"
            )
        image.load()
        # Photographs are often stored lying on their side, with a note which way is up.
        if image.getexif().get(0x0112, 1) != 1:
            image = ImageOps.exif_transpose(image)
    except UserError:
        raise
    except Exception as error:  # PIL's decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        detail = " ".join(str(error).split()).split(" <_io")[0] or type(error).__name__
        raise UserError(f"{name}: not a readable PNG, JPEG or WebP picture ({detail}); replace or remove it") from None
    if box is not None:
        if image.size != box.of:
            raise UserError(
                f"{name}: has {image.width}x{image.height} pixels, but its box is one of a picture of "
                f"{box.of[0]}x{box.of[1]}; mend the size, and see whether the box is right"
            )
        image = image.crop((box.left, box.top, box.right, box.bottom))
    mode = _mode(image.mode, channels, name)
    if image.mode != mode:
        image = image.convert(mode)
    if size is not None and image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def decode_all(
    pictures: Iterable[Picture],
    total: int,
    size: int | None,
    channels: int | None,
    *,
    like: tuple[str, tuple[int, ...]] | None = None,
) -> Tensor:
    """Many pictures of one shape as uint8 ``[N, C, H, W]``, decoded on torch's number of threads.

    Args:
        pictures: read lazily.
        total: N.
        like: (name, shape) of a picture with which all must agree; None takes the first.

    Raises:
        UserError: as :func:`decode`; or a picture has another size or mode than the rest.
    """
    out: np.ndarray | None = None
    position = 0

    def task(items: list[Picture]) -> list[tuple[str, np.ndarray]]:
        return [(name, decode(data, name, size, channels, box)) for name, data, box in items]

    with (
        warnings.catch_warnings(),
        ThreadPoolExecutor(torch.get_num_threads()) as pool,
        progress(total, "decode") as advance,
    ):
        warnings.simplefilter("ignore")  # PIL warns of what the bounds above refuse, and of odd metadata
        for chunk in _chunks(pictures, _CHUNK):
            tasks = pool.map(task, _chunks(chunk, _TASK))
            for name, pixels in itertools.chain.from_iterable(tasks):
                like = like or (name, pixels.shape)
                if pixels.shape != like[1]:
                    raise UserError(_mismatch(name, pixels.shape, *like))
                if out is None:
                    if total * math.prod(pixels.shape) > MAX_PIXELS:
                        raise UserError(f"prepare_data.path: {total:,} images of {_shape(pixels.shape)} are too many")
                    out = np.empty((total, *pixels.shape), np.uint8)
                out[position] = pixels
                position += 1
            advance(len(chunk))
    if out is None:
        raise ValueError("no pictures")
    return torch.from_numpy(out[:position])


def read_picture(path: Path, parameter: str = "") -> bytes:
    """The bytes of a picture file.

    Args:
        parameter: the one that named the file, for the message.

    Raises:
        UserError: missing, unreadable or too large.
    """
    try:
        with open(path, "rb") as file:
            return file.read(MAX_PICTURE_BYTES + 1)
    except OSError as error:
        where = f"{parameter}: {path}" if parameter else str(path)
        raise UserError(f"{where}: cannot be read ({error.strerror})") from None


def conform(images: Tensor, size: int | None, channels: int | None) -> Tensor:
    """uint8 ``[N, C, H, W]`` resized and converted as :func:`decode` does for single pictures."""
    if channels == 3 and images.shape[1] == 1:
        images = images.repeat(1, 3, 1, 1)
    convert = channels == 1 and images.shape[1] == 3
    square = None if size is None or images.shape[2:] == (size, size) else (size, size)
    if not convert and square is None:
        return images
    parts = []
    for part in images.split(_CHUNK):
        x = part.float()
        if convert:  # ITU-R 601 luma, PIL's conversion
            x = (x * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
        if square is not None:
            x = F.interpolate(x, square, mode="bilinear", antialias=True)
        parts.append(x.round_().clamp_(0, 255).to(torch.uint8))
    return torch.cat(parts)


def _mode(mode: str, channels: int | None, name: str) -> str:
    if mode.startswith(("I", "F")):
        raise UserError(f"{name}: more than 8 bits a pixel (mode {mode}); save it as 8-bit grey or RGB")
    if channels is not None:
        return "L" if channels == 1 else "RGB"
    if mode not in _GREY + _COLOUR:
        raise UserError(f"{name}: mode {mode}; set prepare_data.channels to 1 (grey) or 3 (RGB) to convert all images")
    return "L" if mode in _GREY else "RGB"


def _mismatch(name: str, shape: tuple[int, ...], first: str, wanted: tuple[int, ...]) -> str:
    what = "channels" if shape[1:] == wanted[1:] else "size"
    return (
        f"{name}: {_shape(shape)}, but {first} is {_shape(wanted)}; "
        f"set prepare_data.{what} to convert all images, or mend the file"
    )


def _shape(shape: tuple[int, ...]) -> str:
    return f"{shape[2]}x{shape[1]} {'grey' if shape[0] == 1 else 'RGB'}"


def _chunks(items: Iterable[Picture], length: int) -> Iterator[list[Picture]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, length)):
        yield chunk
