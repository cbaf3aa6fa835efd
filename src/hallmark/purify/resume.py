"""What an interrupted purification has finished: what was measured of each batch, one file a batch.

That is little, but for the purified states themselves where a method asks for them (``dataelixir``).

The name of a file is the hash of everything that its content depends on (:func:`digest`): the images and their
positions, the weights of the diffusion model and of the classifiers, parameters, seed, machine and code.  Whatever
is changed has another name, so nothing stale is ever taken.  The files are no artifacts: whoever removes them
loses time only.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hallmark import artifacts
from hallmark.errors import UserError

FOLDER = Path(".hallmark/purify")
"""In the current directory; Git ignores it."""


@dataclass(frozen=True)
class Kept:
    """Finished batches in ``folder``."""

    folder: Path

    @classmethod
    def of(cls, out: Path) -> Kept:
        """The finished batches of a stage that writes ``out``: two stages at work side by side share none."""
        return cls(FOLDER / hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:16])

    def read(self, key: str) -> dict[str, Tensor] | None:
        """The tensors that were written under ``key``; None if they are not there, or not whole."""
        path = self._path(key)
        if not path.is_file():
            return None
        try:
            tensors, meta = artifacts.read_tensors(path, max_elements=path.stat().st_size)
        except UserError:  # truncated, or not one of ours: computed again
            return None
        return tensors if meta.get("sha256") == digest(tensors) else None

    def write(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep what was measured of a finished batch.

        Raises:
            UserError: the disk is full or the place is not writable.
        """
        artifacts.write_tensors(self._path(key), tensors, {"sha256": digest(tensors)})

    def clear(self) -> None:
        """Remove everything: the stage's outputs are written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"


def weights(**networks: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers of networks, those that are not saved as well, by the network's name and their own."""
    return {
        f"{name}.{key}": tensor
        for name, network in networks.items()
        for key, tensor in (*network.named_parameters(), *network.named_buffers())
    }


def digest(tensors: Mapping[str, Tensor], facts: Any = None) -> str:
    """SHA-256, hexadecimal, of named tensors (names, types, shapes, values) and of facts that JSON can write."""
    found = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for name, tensor in sorted(tensors.items()):
        found.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        # A single row of a column counts as contiguous with the column's stride, and cannot be seen as bytes so.
        flat = tensor.detach().cpu().contiguous().as_strided((tensor.numel(),), (1,))
        found.update(flat.view(torch.uint8).numpy().data)
    return found.hexdigest()
