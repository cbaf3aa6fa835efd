"""Fashion-MNIST (Xiao et al. 2017): 60,000 + 10,000 grey images of clothes, 28x28.

Looked for in data/raw, where Debian's package dataset-fashion-mnist installs it, by torchvision's
download, and by ``apt-get download`` unpacked without root.  Whichever serves, the decompressed IDX
files are checked by SHA-256 (the gzip wrappers differ in their headers).
"""

from __future__ import annotations

import gzip
import hashlib
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from hallmark import artifacts
from hallmark.config import PrepareData
from hallmark.data.dataset import ImageDataset
from hallmark.data.decode import conform
from hallmark.data.sources import Source
from hallmark.data.sources._torchvision import quiet_download
from hallmark.errors import UserError

READS: frozenset[str] = frozenset()
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
FILES = {
    "train-images-idx3-ubyte": (16 + 60_000 * 784, "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
    "train-labels-idx1-ubyte": (8 + 60_000, "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
    "t10k-images-idx3-ubyte": (16 + 10_000 * 784, "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
    "t10k-labels-idx1-ubyte": (8 + 10_000, "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
}
"""Name to (bytes, SHA-256) of the decompressed content."""

Content = dict[str, bytes]


def load(config: PrepareData, raw: Path) -> Source:
    """Read the official sets, fetching them first where they are in no known place.

    Raises:
        UserError: a stored file is damaged, or no way led to the files.
    """
    content = stored(raw) or fetched(raw)

    def part(prefix: str, first: int) -> ImageDataset:
        images = _body(content[f"{prefix}-images-idx3-ubyte"], 16).view(-1, 1, 28, 28)
        labels = _body(content[f"{prefix}-labels-idx1-ubyte"], 8).long()
        ids = torch.arange(first, first + len(labels))
        return ImageDataset(conform(images, config.size, config.channels), labels, ids, CLASSES)

    return Source(part("train", 0), part("t10k", 60_000), {name: digest for name, (_, digest) in FILES.items()})


def stored(raw: Path) -> Content | None:
    """The files in ``raw`` or in Debian's folder; None where neither has all four."""
    for folder in (raw / "FashionMNIST" / "raw", raw, DEBIAN):
        content = read_folder(folder)
        if content is not None:
            return content
    return None


def fetched(raw: Path) -> Content:
    """Download, check, and keep the files as torchvision does, in ``raw/FashionMNIST/raw``.

    Raises:
        UserError: no way worked; the line says why each did not.
    """
    ways: dict[str, Callable[[Path], Path]] = {"torchvision": _torchvision, "apt-get": _apt}
    reasons = []
    for name, fetch in ways.items():
        with tempfile.TemporaryDirectory() as temporary:
            try:
                content = read_folder(fetch(Path(temporary)))
                if content is None:
                    raise RuntimeError("files are missing")
            except (UserError, RuntimeError, OSError, subprocess.SubprocessError) as error:
                lines = str(error).strip().splitlines() or [type(error).__name__]
                reasons.append(f"{name}: {lines[-1][:160]}")
                continue
        for file, data in content.items():
            artifacts.write_bytes(raw / "FashionMNIST" / "raw" / file, data)
        return content
    raise UserError(
        f"Fashion-MNIST is neither in {raw} nor in {DEBIAN}, and could not be fetched ({'; '.join(reasons)}); "
        f"put its four files train-images-idx3-ubyte.gz, ... into {raw} or install the package dataset-fashion-mnist"
    )


def read_folder(folder: Path) -> Content | None:
    """The four files, plain or .gz, checked; None if one is missing.

    Raises:
        UserError: a file is not what Fashion-MNIST's authors published.
    """
    paths = {}
    for name in FILES:
        found = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
        if not found:
            return None
        paths[name] = found[0]
    return {name: _checked(path, *FILES[name]) for name, path in paths.items()}


def _checked(path: Path, size: int, digest: str) -> bytes:
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            data = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: truncated or damaged ({error}); delete it and run again") from None
    if len(data) != size or hashlib.sha256(data).hexdigest() != digest:
        raise UserError(f"{path}: not Fashion-MNIST's file (SHA-256 of its content differs); delete it and run again")
    return data


def _torchvision(folder: Path) -> Path:
    from torchvision.datasets import FashionMNIST  # noqa: PLC0415 - only where a download is needed

    quiet_download(lambda: FashionMNIST(folder, download=True))
    return folder / "FashionMNIST" / "raw"


def _apt(folder: Path) -> Path:
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise RuntimeError(f"{tool} is not installed")
    options = ["-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=10", "-o", "Acquire::https::Timeout=10"]
    _run(["apt-get", *options, "download", "dataset-fashion-mnist"], folder, timeout=300)
    packages = sorted(folder.glob("*.deb"))
    if not packages:
        raise RuntimeError("apt-get wrote no package")
    _run(["dpkg-deb", "-x", str(packages[0]), str(folder / "unpacked")], folder, timeout=120)
    return folder / "unpacked" / DEBIAN.relative_to("/")


def _run(command: list[str], folder: Path, timeout: int) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip() or f"{command[0]} failed with status {done.returncode}")


def _body(data: bytes, offset: int) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8, offset=offset)
