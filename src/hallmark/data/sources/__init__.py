"""Where images come from: one module a source, found by its file name.

A source module defines ``READS`` (those of ``path``, ``image_column``, ``label_column``, ``min_images`` that it uses)
and ``load(config, raw) -> Source``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hallmark.config import PrepareData
from hallmark.data.dataset import ImageDataset
from hallmark.errors import UserError
from hallmark.registry import Registry

registry = Registry("hallmark.data.sources", "prepare_data.source", ("READS", "load"))
_OPTIONAL = ("path", "image_column", "label_column", "min_images")


@dataclass(frozen=True)
class Source:
    """A data set as its maker publishes it.

    Attributes:
        train: the training part, or everything where there is no test part.
        test: the test part; None: it is to be drawn from ``train``.  Its ids follow on those of ``train``.
        raw: SHA-256 by name of the files (or their content) that were read.
        reserve: a part that its maker trusts; None: it is to be drawn from ``train``.  Its ids follow on the others.
    """

    train: ImageDataset
    test: ImageDataset | None
    raw: Mapping[str, str]
    reserve: ImageDataset | None = None

    @property
    def raw_sha256(self) -> str:
        """One SHA-256 over the names and hashes of :attr:`raw`, in the order of the names."""
        lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(self.raw.items()))
        return hashlib.sha256(lines.encode()).hexdigest()


def load(config: PrepareData, raw: Path) -> Source:
    """Read the source that ``config`` names.

    Args:
        raw: folder in which downloads are kept.

    Raises:
        UserError: unknown source, a parameter that it does not read, or missing or bad files.
    """
    module = registry.get(config.source)
    for name in _OPTIONAL:
        if getattr(config, name) is not None and name not in module.READS:
            raise UserError(
                f"prepare_data.{name}: source '{config.source}' does not read it; set it to null or change the source"
            )
    if "path" in module.READS:
        if config.path is None:
            raise UserError(f"prepare_data.path: source '{config.source}' wants the place of the images")
        if not Path(config.path).exists():
            raise UserError(f"prepare_data.path: {config.path}: no such file or folder")
    try:
        return module.load(config, raw)
    except OSError as error:
        place = error.filename or config.path or raw
        raise UserError(f"{place}: cannot be read ({error.strerror or error}); mend its permissions or path") from None
