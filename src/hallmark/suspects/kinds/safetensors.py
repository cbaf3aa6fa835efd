"""A model folder of Hallmark: ``model.safetensors`` and ``model.json``.  Holds numbers only; nothing in it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from hallmark import artifacts, models
from hallmark.errors import naming
from hallmark.runtime import Runtime
from hallmark.suspects import memory
from hallmark.suspects.adapt import Classes
from hallmark.suspects.block import Named
from hallmark.suspects.local import Local


class Params(Named):
    """Block of a suspect of kind ``safetensors``."""

    kind: Literal["safetensors"]
    path: str
    """The folder."""


def open_suspect(
    params: Params, classes: tuple[str, ...], shape: tuple[int, int, int], runtime: Runtime, where: str
) -> Local:
    """Read the folder; image size, channels and normalisation are its own.

    Raises:
        UserError: missing, corrupt or mismatching files, or classes that are not ours and not mapped.
    """
    folder = Path(params.path)
    network = models.load(folder, runtime)
    where = f"{where} ({folder})"  # classes, size and channels are the folder's as well: whatever does not fit
    with naming(where):
        matched = Classes.match(classes, params.classes or network.spec.classes, params.mapping)
    description = params.describe() | {"sha256": _hashes(folder)}
    return memory.suspect(network, runtime, matched, shape, where=where, description=description).probe()


def load(params: Params, classes: tuple[str, ...], shape: tuple[int, int, int], runtime: Runtime, where: str) -> Local:
    """The folder's network as an encoder: it gives its penultimate features, and its classes mean nothing.

    Raises:
        UserError: missing, corrupt or mismatching files.
    """
    folder = Path(params.path)
    network = models.load(folder, runtime)
    description = params.describe() | {"sha256": _hashes(folder)}
    nothing = Classes.match(classes, None, {})
    return memory.suspect(
        network, runtime, nothing, shape, where=f"{where} ({folder})", description=description, answer=models.features
    )


def _hashes(folder: Path) -> dict[str, str]:
    return {name: artifacts.sha256(folder / name) for name in ("model.safetensors", "model.json")}
