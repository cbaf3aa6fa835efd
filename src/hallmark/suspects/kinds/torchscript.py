"""Torch's program files: TorchScript (``.pt``) and exported programs (``.pt2``).

Both hold programs, not only numbers, so neither is opened without ``trust: true``:

* ``.pt2``: ``torch.export`` unpickles weights and constants that the file itself marks as pickled, without
  restriction, and evaluates the file's shape expressions as Python source.  Opening a hostile one runs its code.
* ``.pt``: TorchScript's own unpickler builds no arbitrary Python objects, but the program, parts of which run while
  loading, may call any operator of torch, among them those that map and write files, and torch does not claim to be
  safe against crafted files.

ONNX files and safetensors folders need no trust: ask for one of those.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from hallmark import artifacts
from hallmark.errors import UserError, naming
from hallmark.runtime import Runtime
from hallmark.suspects.block import Foreign
from hallmark.suspects.local import Local, must_be_a_file

MAX_UNPACKED = 8 << 30
MAX_MEMBERS = 100_000


class Params(Foreign):
    """Block of a suspect of kind ``torchscript``."""

    kind: Literal["torchscript"]
    path: str
    """``.pt2``: an exported program; any other name: TorchScript."""
    trust: bool = False
    """The file comes from somebody who may run code on this machine."""


def open_suspect(
    params: Params, classes: tuple[str, ...], shape: tuple[int, int, int], runtime: Runtime, where: str
) -> Local:
    """Load the program onto the CPU, or the runtime's device, and try it.

    Raises:
        UserError: not trusted, missing, not such a file, or another input or output than described.
    """
    return load(params, classes, shape, runtime, where).probe()


def load(params: Params, classes: tuple[str, ...], shape: tuple[int, int, int], runtime: Runtime, where: str) -> Local:
    """Load the program; arguments and errors as for :func:`open_suspect`, but it is not tried."""
    path = Path(params.path)
    must_be_a_file(path)
    if not params.trust:
        raise UserError(
            f"{where}.trust: {path} is a program, and opening it can run code of whoever made it; set trust: true if "
            "you would run their code on this machine, or ask for the model as ONNX or safetensors"
        )
    _must_be_an_archive(path)
    with naming(where):
        matched, adapter = params.match(classes), params.adapter(shape)
    function = _exported(path) if path.suffix == ".pt2" else _script(path, runtime.device)
    device = torch.device("cpu") if path.suffix == ".pt2" else runtime.device
    description = params.describe() | {"sha256": artifacts.sha256(path)}
    return Local(lambda x: function(x.to(device)), adapter, matched, params.scores, f"{where} ({path})", description)


def _must_be_an_archive(path: Path) -> None:
    """Both are ZIP archives, stored uncompressed; an archive that unpacks to more than it says is no model."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
        raise UserError(f"{path}: not a TorchScript or pt2 file ({error})") from None
    if len(members) > MAX_MEMBERS or sum(member.file_size for member in members) > MAX_UNPACKED:
        raise UserError(f"{path}: unpacks to more than any model that is opened ({MAX_UNPACKED >> 30} GiB)")


def _script(path: Path, device: torch.device) -> Callable[[Tensor], Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates the format: no business of who is handed such a file
        try:
            module = torch.jit.load(str(path), map_location=device)
        except (RuntimeError, ValueError, OSError) as error:
            raise UserError(f"{path}: not a TorchScript file ({_short(error)})") from None
    return module.eval()


def _exported(path: Path) -> Callable[[Tensor], Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # buffers of the file are mapped read-only, and stay so
        try:
            return torch.export.load(path).module()
        # Reading a foreign graph fails in as many ways as there are classes in torch's schema.
        except Exception as error:
            raise UserError(f"{path}: not an exported program ({type(error).__name__}: {_short(error)})") from None


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
