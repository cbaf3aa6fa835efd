"""What the sources with one folder a class have in common: the parts of the set, and its classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hallmark.errors import UserError

TEST_NAMES = ("test", "val", "valid", "validation")


@dataclass(frozen=True)
class Parts:
    """Where the parts lie.

    Attributes:
        train: the folder of the class folders.
        test, reserve: the same of these parts; None: there is none.
        classes: names of the class folders of ``train``, sorted, or by number where all are whole numbers.
        split: whether ``train`` is a part of that name, and not the whole set.
    """

    train: Path
    test: Path | None
    reserve: Path | None
    classes: list[str]
    split: bool


def find_parts(root: Path, source: str) -> Parts:
    """``root/train/CLASS``, ``root/test/CLASS``, ``root/reserve/CLASS``; without ``train`` the classes lie in ``root``.

    Args:
        source: its name, for the message.

    Raises:
        UserError: ``root`` is a file, there are fewer than two classes, a part has one that ``train`` has not, or a
            name is not UTF-8.
    """
    if not root.is_dir():
        raise UserError(f"prepare_data.path: {root}: is a file; source '{source}' wants a folder")
    # A folder of pictures called 'train' is a class (of vehicles, say), not a split.
    split = (root / "train").is_dir() and bool(_folders(root / "train"))
    train = root / "train" if split else root
    test = next((root / name for name in TEST_NAMES if split and (root / name).is_dir()), None)
    trusted = root / "reserve"
    reserve = trusted if trusted.is_dir() and (split or _folders(trusted)) else None
    classes = _classes(train, without=None if split or reserve is None else reserve.name)
    for part in (test, reserve):
        if part is not None and (extra := set(_folders(part)) - set(classes)):
            raise UserError(f"{part}: class '{min(extra)}' is not in {train}; add or remove it")
    return Parts(train, test, reserve, classes, split)


def _folders(root: Path) -> list[str]:
    names = [p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")]
    for name in names:
        if not name.isprintable():  # bytes that are no UTF-8 are not, nor is a line break
            raise UserError(f"{root}: the name of folder {name!a} is not UTF-8 text of one line; rename it")
    return names


def _classes(root: Path, without: str | None) -> list[str]:
    names = [name for name in _folders(root) if name != without]
    if len(names) < 2:
        raise UserError(f"{root}: wants one folder of pictures for each of two classes or more, found {len(names)}")
    numbers = all(name.isascii() and name.isdigit() for name in names)
    return sorted(names, key=int) if numbers else sorted(names)
