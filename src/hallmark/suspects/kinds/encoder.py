"""An encoder, which gives features and no classes: the judge trains a linear probe, and the two together answer.

The probe is the judge's own, on images that the judge chose, so an encoder can be asked what a classifier is asked,
without anybody's downstream task.  It is deterministic: the same encoder and images give the same answers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from hallmark import artifacts, labelled, models
from hallmark.config import parse
from hallmark.data.dataset import fingerprints
from hallmark.errors import UserError
from hallmark.labelled import Labelled
from hallmark.runtime import Runtime
from hallmark.suspects.adapt import Classes
from hallmark.suspects.answer import Arrived, Suspect
from hallmark.suspects.kinds import onnx, safetensors, torchscript
from hallmark.suspects.local import Local

KINDS = {"onnx": onnx, "safetensors": safetensors, "torchscript": torchscript}
"""Kinds whose models can give features."""
MOST_VALUES = 1 << 28
"""Features of all the probe's images together: 1 GiB."""


class Params(Labelled):
    """Block of a suspect of kind ``encoder``; ``images`` and ``count`` are the judge's."""

    kind: Literal["encoder"]
    encoder: dict[str, Any]
    """A block of kind safetensors, onnx or torchscript without classes, mapping and scores: the model gives float
    features [N, D] (a safetensors folder: its penultimate features)."""


@dataclass(frozen=True)
class Probed(Suspect):
    """An encoder with the judge's probe, which refuses the images that the probe was trained on.

    Attributes:
        model: the two together.
        known: fingerprints of the probe's images, int64 ``[M]``.
        where: of the probe's images, for messages.
    """

    model: Local
    known: Tensor
    where: str

    def describe(self) -> dict[str, Any]:
        return self.model.describe()

    def ask(self, images: Tensor, arrived: Arrived) -> None:
        """As :meth:`Suspect.ask`; an image that the probe was trained on is a :class:`UserError`, and none is asked."""
        if count := int(torch.isin(fingerprints(images), self.known).sum()):
            raise UserError(
                f"{self.where}: {count:,} of the {len(images):,} images that are asked are among those the probe is "
                "trained on, which says nothing of the encoder; give images that are not asked"
            )
        self.model.ask(images, arrived)


def open_suspect(
    params: Params, classes: tuple[str, ...], shape: tuple[int, int, int], runtime: Runtime, where: str
) -> Probed:
    """Open the encoder, train the probe.

    Raises:
        UserError: as the encoder's own kind; it gives no features; or the images are not labelled in our classes, or
            have another shape, or a class has none.
    """
    encoder = _encoder(params.encoder, classes, shape, runtime, f"{where}.encoder")
    data = labelled.load(params, classes, shape, where)
    size = encoder.features(data.images[:2]).shape[1]
    if size * len(data) > MOST_VALUES:
        raise UserError(
            f"{where}.count: {len(data):,} images of {size:,} features are more than {MOST_VALUES:,} values; lower it"
        )
    probe = models.linear_probe(encoder.features(data.images), data.labels, len(classes))
    description = {
        "kind": "encoder",
        "encoder": encoder.description,
        "images": {"sha256": artifacts.sha256(Path(params.images)), "count": len(data)},
    }
    forward = encoder.forward
    model = replace(
        encoder,
        forward=lambda x: probe(forward(x).float().cpu()),
        classes=Classes.match(classes, None, {}),
        meaning="logits",
        description=description,
    ).probe()
    return Probed(model, fingerprints(data.images), f"{where}.images")


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
