"""What all architectures share: the specification, normalisation, files, batched inference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hallmark import artifacts
from hallmark.config import Architecture
from hallmark.data.dataset import ImageDataset
from hallmark.errors import UserError, naming
from hallmark.registry import Registry
from hallmark.runtime import Runtime

registry = Registry("hallmark.models", "architecture", ("build",))
MAX_PARAMETERS = 1 << 30
EVAL_BATCH = 500
"""Batch of :func:`logits`; fixed, because results may differ in the last bit between batch sizes."""


@dataclass(frozen=True)
class ModelSpec:
    """All that is needed to build a network again.

    Attributes:
        architecture: name, width and dropout.
        shape: (C, H, W) of an image.
        classes: class names, in label order.
        mean, std: per-channel normalisation of images in 0-1.
    """

    architecture: Architecture
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of what the trunk gets: the image with its pixel blocks folded into channels."""
        c, h, w = self.shape
        r = self.architecture.unshuffle
        if h % r or w % r:
            raise UserError(f"architecture.unshuffle: {r} does not divide the image size {h}x{w}; use 1")
        return c * r * r, h // r, w // r

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; :meth:`from_json` reads it back."""
        return {
            "architecture": self.architecture.model_dump(),
            "shape": list(self.shape),
            "classes": list(self.classes),
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @classmethod
    def from_json(cls, value: Any, path: Path) -> ModelSpec:
        """Check and read what :meth:`to_json` wrote.

        Raises:
            UserError: a field is missing or of the wrong kind.
        """
        try:
            c, h, w = (int(v) for v in value["shape"])
            spec = cls(
                Architecture(**value["architecture"]),
                (c, h, w),
                tuple(str(v) for v in value["classes"]),
                tuple(float(v) for v in value["mean"]),
                tuple(float(v) for v in value["std"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: not a model description ({type(error).__name__}: {error})") from None
        sound = c in (1, 3) and 8 <= h <= 1024 and 8 <= w <= 1024 and 2 <= len(spec.classes) <= 100_000
        if not sound or len(spec.mean) != c or len(spec.std) != c or min(spec.std) <= 0:
            raise UserError(f"{path}: shape, classes, mean or std out of bounds")
        return spec


class Network(nn.Module):
    """Normalisation, trunk (penultimate features) and head (logits).

    ``features`` are float ``[B, D]``; ``forward`` returns float logits ``[B, K]``.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: ModelSpec, trunk: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.spec, self.trunk, self.head = spec, trunk, head
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, -1, 1, 1), persistent=False)

    def features(self, images: Tensor) -> Tensor:
        """Penultimate features ``[B, D]`` of images ``[B, C, H, W]`` in 0-1."""
        x = (images - self.mean) / self.std
        if self.spec.architecture.unshuffle > 1:
            x = F.pixel_unshuffle(x, self.spec.architecture.unshuffle)
            x = x.contiguous(memory_format=torch.channels_last)
        return self.trunk(x)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def normalisation(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel's pixels on 0-1, six decimals; a constant channel's is 0.001.

    Args:
        images: uint8 ``[N, C, H, W]``.
    """
    mean, std = [], []
    for channel in images.unbind(1):
        # Of 256 numbers: the pixels as float64 would take eight times the data set's memory, and longer.
        counts = torch.bincount(channel.flatten(), minlength=256).double().cpu()
        values = torch.arange(256, dtype=torch.float64) / 255
        total = counts.sum()
        centre = (counts * values).sum() / total
        spread = ((counts * (values - centre).square()).sum() / (total - 1)).sqrt()
        mean.append(round(float(centre), 6))
        std.append(max(round(float(spread), 6), 1e-3))  # else a constant channel would divide by zero
    return tuple(mean), tuple(std)


def build(
    architecture: Architecture,
    images: Tensor,
    classes: tuple[str, ...],
    runtime: Runtime,
    purpose: str,
) -> Network:
    """A freshly initialised network on ``runtime.device``.

    Args:
        images: uint8 ``[N, C, H, W]``; the shape and the normalisation are taken from them.
        purpose: names the random stream of the initialisation.
    """
    mean, std = normalisation(images)
    c, h, w = images.shape[1:]
    spec = ModelSpec(architecture, (c, h, w), classes, mean, std)
    with runtime.seeded(purpose):
        network = _construct(spec)
    return network.to(runtime.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def save(network: Network, folder: Path) -> None:
    """Write ``model.safetensors`` and ``model.json`` into ``folder``, which is replaced whole."""
    with artifacts.replacing(folder) as temporary:
        temporary.mkdir()
        artifacts.write_tensors(temporary / "model.safetensors", network.state_dict(), {})
        artifacts.write_json(temporary / "model.json", network.spec.to_json())


def load(folder: Path, runtime: Runtime) -> Network:
    """Read a network written by :func:`save`; safe on files from strangers.

    Raises:
        UserError: missing, corrupt or mismatching files.
    """
    spec = ModelSpec.from_json(artifacts.read_json(folder / "model.json"), folder / "model.json")
    path = folder / "model.safetensors"
    tensors, _ = artifacts.read_tensors(path, MAX_PARAMETERS)
    # A stranger's description may ask for any amount of memory: compare it with the weights before any is taken.
    with naming(str(folder / "model.json")), torch.device("meta"):
        described = {name: tuple(tensor.shape) for name, tensor in _construct(spec).state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(described.keys() | found.keys()):
        if described.get(name) != found.get(name):
            detail = f"{name}: {found.get(name, 'missing')} where {described.get(name, 'none')} is expected"
            raise UserError(f"{path}: weights do not fit {spec.architecture.name} ({detail}); rerun its stage")
    with torch.random.fork_rng(devices=[]):  # the initialisation is overwritten and must not count as a draw
        network = _construct(spec)
    network.load_state_dict(tensors)
    network.to(runtime.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return network.eval()


class Shaped(Protocol):
    """Anything that knows an image shape and classes: a :class:`ModelSpec`, a data set."""

    @property
    def shape(self) -> tuple[int, int, int]: ...

    @property
    def classes(self) -> tuple[str, ...]: ...


def check_images(data: ImageDataset, path: Path, expected: Shaped) -> None:
    """Refuse a data set that a network cannot be trained or measured on.

    Args:
        path: the data set's file, for the message.
        expected: a network's specification, or the data that it will be trained on.

    Raises:
        UserError: no images, or another image shape or other classes than expected.
    """
    remedy = "prepare data and models together (dvc repro)"
    if not len(data):
        raise UserError(f"{path}: holds no images; {remedy}")
    if data.shape != expected.shape:
        raise UserError(f"{path}: images of shape {data.shape} (C, H, W) where {expected.shape} is expected; {remedy}")
    if data.classes != expected.classes:
        counts = f"{len(data.classes)} classes where {len(expected.classes)} are expected"
        if len(data.classes) == len(expected.classes):
            k = next(k for k, name in enumerate(data.classes) if name != expected.classes[k])
            counts = f"class {k} is '{data.classes[k]}' where '{expected.classes[k]}' is expected"
        raise UserError(f"{path}: {counts}; {remedy}")


def logits(network: Network, images: Tensor, runtime: Runtime) -> Tensor:
    """float32 logits ``[N, K]`` on the CPU, in evaluation mode, batched.

    Args:
        images: uint8 ``[N, C, H, W]`` (0-255) or float (0-1), on any device.
    """
    return _batched(network, network, images, runtime)


def features(network: Network, images: Tensor, runtime: Runtime) -> Tensor:
    """float32 penultimate features ``[N, D]`` on the CPU; arguments as for :func:`logits`."""
    return _batched(network, network.features, images, runtime)


def probabilities(network: Network, images: Tensor, runtime: Runtime) -> Tensor:
    """float32 softmax probabilities ``[N, K]`` on the CPU; arguments as for :func:`logits`."""
    return logits(network, images, runtime).softmax(1)


def features_and_logits(network: Network, images: Tensor, runtime: Runtime) -> tuple[Tensor, Tensor]:
    """Both, as :func:`features` and :func:`logits` give them, in one pass through the trunk."""

    def both(batch: Tensor) -> Tensor:
        found = network.features(batch)
        return torch.cat([found, network.head(found)], 1)

    found = _batched(network, both, images, runtime)
    classes = len(network.spec.classes)
    return found[:, :-classes], found[:, -classes:]


@torch.no_grad()
def _batched(network: Network, function: Callable[[Tensor], Tensor], images: Tensor, runtime: Runtime) -> Tensor:
    if not len(images):
        raise ValueError("no images")
    was_training = network.training
    network.eval()
    outputs = []
    for part in images.split(EVAL_BATCH):
        batch = part.to(runtime.device).float()
        if images.dtype == torch.uint8:
            batch.div_(255)
        with runtime.autocast():
            outputs.append(function(batch.contiguous(memory_format=torch.channels_last)).float().cpu())
    network.train(was_training)
    return torch.cat(outputs)


def _construct(spec: ModelSpec) -> Network:
    trunk, head = registry.get(spec.architecture.name).build(spec)
    return Network(spec, trunk, head)
