"""What the sources that torchvision downloads have in common."""

from __future__ import annotations

import io
import socket
import sys
from collections.abc import Callable
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch

from hallmark import artifacts
from hallmark.config import PrepareData
from hallmark.data.dataset import ImageDataset
from hallmark.data.decode import conform
from hallmark.data.sources import Source
from hallmark.errors import UserError

TIMEOUT_S = 10.0
"""For a connection and for each read: offline machines learn it soon."""


def quiet_download(download: Callable[[], Any]) -> Any:
    """Run torchvision's download with a timeout; its progress bar shows on a terminal only.

    Raises:
        RuntimeError, OSError: as torchvision does (no network, wrong checksum).
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)
    try:
        with redirect_stdout(sys.stderr), nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO()):
            return download()
    finally:
        socket.setdefaulttimeout(before)


def load_cifar(kind: Callable[..., Any], config: PrepareData, raw: Path) -> Source:
    """CIFAR-10 or -100 through torchvision, which checks the files' MD5 before it unpickles them.

    Args:
        kind: ``torchvision.datasets.CIFAR10`` or ``CIFAR100``.

    Raises:
        UserError: not in ``raw`` and not to be had from the network.
    """
    name = getattr(kind, "__name__", str(kind))
    try:
        try:
            train = kind(raw, train=True)
        except RuntimeError:  # not there, or incomplete
            train = quiet_download(lambda: kind(raw, train=True, download=True))
        test = kind(raw, train=False)
    except (RuntimeError, OSError, EOFError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{name}: not in {raw} and could not be downloaded ({lines[-1]}); put {kind.filename} into {raw} "  # pyright: ignore
            "or use source: parquet with a local copy"
        ) from None

    def part(data: Any, first: int) -> ImageDataset:
        images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
        ids = torch.arange(first, first + len(images))
        labels = torch.tensor(data.targets, dtype=torch.int64)
        return ImageDataset(conform(images, config.size, config.channels), labels, ids, tuple(data.classes))

    folder = Path(train.root) / train.base_folder
    files = [file for file, _ in [*kind.train_list, *kind.test_list]]  # pyright: ignore[reportFunctionMemberAccess]
    return Source(
        part(train, 0), part(test, len(train.data)), {file: artifacts.sha256(folder / file) for file in files}
    )
