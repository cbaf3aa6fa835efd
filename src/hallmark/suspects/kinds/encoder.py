"""An encoder, which gives features and no classes: the judge trains a linear probe, and the two together answer.

The probe is the judge's own, on images that the judge chose, so an encoder can be asked what a classifier is asked,
without anybody's downstream task.  It is deterministic: the same encoder and images give the same answers.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from hallmark import artifacts, models
from hallmark.config import Params as Block
from hallmark.config import parse
from hallmark.data.dataset import ImageDataset
from hallmark.errors import UserError, naming
from hallmark.runtime import Runtime
from hallmark.suspects.adapt import Classes
from hallmark.suspects.kinds import onnx, safetensors, torchscript
from hallmark.suspects.local import Local

KINDS = {"onnx": onnx, "safetensors": safetensors, "torchscript": torchscript}
"""Kinds whose models can give features."""
MOST_VALUES = 1 << 28
"""Features of all the probe's images together: 1 GiB."""


class Params(Block):
    """Block of a suspect of kind ``encoder``."""

    kind: Literal["encoder"]
    encoder: dict[str, Any]
    """A block of kind safetensors, onnx or torchscript without classes, mapping and scores: the model gives float
    features [N, D] (a safetensors folder: its penultimate features)."""
    images: str
    """A data set file of Hallmark with labelled images of all our classes, which the probe is trained on.  None of
    them may be among the images that are asked."""
    count: Annotated[int, Field(ge=2, le=1_000_000)] = 5000
    """Images of the probe at most, drawn at random."""


def open_suspect(
    params: Params, classes: tuple[str, ...], shape: tuple[int, int, int], runtime: Runtime, where: str
) -> Local:
    """Open the encoder, train the probe.

    Raises:
        UserError: as the encoder's own kind; it gives no features; or the images are not labelled in our classes, or
            have another shape, or a class has none.
    """
    encoder = _encoder(params.encoder, classes, shape, runtime, f"{where}.encoder")
    path = Path(params.images)
    data = _images(path, classes, shape, params.count, f"{where}.images")
    size = encoder.features(data.images[:2]).shape[1]
    if size * len(data) > MOST_VALUES:
        raise UserError(
            f"{where}.count: {len(data):,} images of {size:,} features are more than {MOST_VALUES:,} values; lower it"
        )
    probe = models.linear_probe(encoder.features(data.images), data.labels, len(classes))
    description = {
        "kind": "encoder",
        "encoder": encoder.description,
        "images": {"sha256": artifacts.sha256(path), "count": len(data)},
    }
    forward = encoder.forward
    return replace(
        encoder,
        forward=lambda x: probe(forward(x).float().cpu()),
        classes=Classes.match(classes, None, {}),
        meaning="logits",
        description=description,
    ).probe()


def _encoder(
    block: dict[str, Any], classes: tuple[str, ...], shape: tuple[int, int, int], runtime: Runtime, where: str
) -> Local:
    kind = block.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise UserError(f"{where}.kind: wants one of {', '.join(KINDS)}, not {kind!r}")
    for name in ("classes", "mapping", "scores"):
        if name in block:
            raise UserError(f"{where}.{name}: an encoder has no classes; take it out")
    module = KINDS[kind]
    return module.load(parse(module.Params, block, where), classes, shape, runtime, where)


def _images(path: Path, classes: tuple[str, ...], shape: tuple[int, int, int], count: int, where: str) -> ImageDataset:
    """At most ``count`` images of the file, the same ones every time."""
    data = ImageDataset.load(path)
    with naming(where):
        if data.classes != classes:
            raise UserError(
                f"{path} has the classes {', '.join(data.classes[:12])}, not ours ({', '.join(classes[:12])})"
            )
        if data.shape != shape:
            raise UserError(f"{path} has images of shape {data.shape} where {shape} is expected")
        # Independent of the run's seed: whoever repeats the judgement gets the same probe.
        chosen = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:count]
        data = data.subset(chosen.sort().values)
        missing = set(range(len(classes))) - set(data.labels.tolist())
        if missing:
            raise UserError(f"{path}: no image of class '{classes[min(missing)]}' is among {len(data):,}; give more")
    return data
