"""The judge's labelled images, on which a linear probe gives classes to an encoder: suspects and null models alike."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field

from hallmark.config import Params, parse
from hallmark.data.dataset import ImageDataset
from hallmark.errors import UserError, naming


class Labelled(Params):
    """A data set file and how much of it."""

    images: str
    """A data set file of Hallmark with labelled images of all our classes, which the probe is trained on.  None of
    them may be among the images that are asked, or that the encoder was trained on."""
    count: Annotated[int, Field(ge=2, le=1_000_000)] = 5000
    """Images of the probe at most, drawn at random."""


def load(params: Labelled, classes: tuple[str, ...], shape: tuple[int, int, int], where: str) -> ImageDataset:
    """At most ``count`` images of the file, the same ones every time, whatever the run's seed is.

    Args:
        classes, shape: our class names, and (C, H, W) of our images.
        where: the block's place, for messages.

    Raises:
        UserError: no such file, other classes or another shape, or no image of a class.
    """
    path = Path(params.images)
    data = ImageDataset.load(path)
    with naming(f"{where}.images"):
        if data.classes != classes:
            raise UserError(
                f"{path} has the classes {', '.join(data.classes[:12])}, not ours ({', '.join(classes[:12])})"
            )
        if data.shape != shape:
            raise UserError(f"{path} has images of shape {data.shape} where {shape} is expected")
        # Independent of the run's seed: whoever repeats the judgement gets the same probe.
        chosen = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[: params.count]
        data = data.subset(chosen.sort().values)
        missing = set(range(len(classes))) - set(data.labels.tolist())
        if missing:
            raise UserError(f"{path}: no image of class '{classes[min(missing)]}' is among {len(data):,}; give more")
    return data


def refuse_other_probes(suspects: Mapping[str, Any], kinds: Mapping[str, Any], where: str) -> None:
    """An encoder is compared with encoders that the same probe reads: they alone are replicates of an innocent one.

    Args:
        suspects: valid blocks of suspects of any kind, by name.
        kinds: the blocks of the null models.
        where: of the suspects, for messages.

    Raises:
        UserError: a suspect is an encoder, and no kind of null model is one with its probe.
    """
    read = [
        parse(Labelled, block["probe"], f"train_nulls.kinds.{name}.probe")
        for name, block in kinds.items()
        if isinstance(block, Mapping) and block.get("kind") == "encoder" and "probe" in block
    ]
    for name, block in suspects.items():
        own = {field: block[field] for field in Labelled.model_fields if field in block}
        if block["kind"] == "encoder" and (probe := parse(Labelled, own, f"{where}.{name}")) not in read:
            raise UserError(
                f"{where}.{name}: no null model is an encoder behind the same probe ({probe.images}, count "
                f"{probe.count}); give train_nulls.kinds one of kind encoder with this probe, and run train_nulls"
            )
