"""A folder of pictures: ``path/train/CLASS/*.png`` and ``path/test/CLASS/*.png`` (or .jpg, .jpeg, .webp).

Without a folder ``train`` the classes are the folders of ``path`` itself, and the test split is drawn.
``path/reserve/CLASS/*.png`` are, if there, the images that are trusted to be clean; without them the reserve
is drawn from the training part.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch
from torch import Tensor

from hallmark.config import PrepareData
from hallmark.data.dataset import ImageDataset
from hallmark.data.decode import Picture, decode_all, read_picture
from hallmark.data.sources import Source
from hallmark.data.sources._folders import find_parts
from hallmark.errors import UserError

READS = frozenset({"path"})
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}
OTHER_PICTURES = {".bmp", ".gif", ".tif", ".tiff", ".heic", ".avif", ".ppm", ".pgm"}


def load(config: PrepareData, raw: Path) -> Source:
    """Images in the order of their classes' and files' names.

    Classes are sorted by name, or by number where all names are whole numbers.

    Raises:
        UserError: no pictures, a class without any, a picture that cannot be read or differs in size or mode.
    """
    root = Path(str(config.path))
    parts = find_parts(root, "image_folder")
    classes = parts.classes
    files = _files(parts.train, classes)
    train = _read(files, classes, root, config)
    raw_hashes = {parts.train.name if parts.split else "all": train[1]}
    like = (str(files[0][0]), tuple(train[0].images.shape[1:]))
    others: list[ImageDataset | None] = []
    read = len(files)
    for part in (parts.test, parts.reserve):
        if part is None:
            others.append(None)
            continue
        files = _files(part, classes, all_classes=False)
        data, raw_hashes[part.name] = _read(files, classes, root, config, first_id=read, like=like)
        others.append(data)
        read += len(data)
    return Source(train[0], others[0], raw_hashes, others[1])


def _read(
    files: list[tuple[Path, int]],
    classes: list[str],
    root: Path,
    config: PrepareData,
    *,
    first_id: int = 0,
    like: tuple[str, tuple[int, ...]] | None = None,
) -> tuple[ImageDataset, str]:
    """The data set, and SHA-256 over the files' relative names and contents."""
    digest = hashlib.sha256()

    def pictures():
        for path, _ in files:
            data = read_picture(path)
            digest.update(os.fsencode(path.relative_to(root)) + b"\0" + hashlib.sha256(data).digest())
            yield Picture(str(path), data)

    images = decode_all(pictures(), len(files), config.size, config.channels, like=like)
    labels = torch.tensor([label for _, label in files], dtype=torch.int64)
    ids: Tensor = torch.arange(first_id, first_id + len(files))
    return ImageDataset(images, labels, ids, tuple(classes)), digest.hexdigest()


def _files(root: Path, classes: list[str], *, all_classes: bool = True) -> list[tuple[Path, int]]:
    found: list[tuple[Path, int]] = []
    for label, name in enumerate(classes):
        folder = root / name
        entries = sorted(folder.iterdir()) if folder.is_dir() else []
        files = [p for p in entries if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
        unread = [p for p in entries if p.suffix.lower() in OTHER_PICTURES]
        if unread:
            raise UserError(f"{unread[0]}: not PNG, JPEG or WebP; convert or remove it")
        if not files and all_classes:
            raise UserError(f"{folder}: holds no PNG, JPEG or WebP picture; fill the class or remove its folder")
        found += [(path, label) for path in files]
    if not found:
        raise UserError(f"{root}: holds no PNG, JPEG or WebP picture of the training part's classes")
    return found
