"""What is said about a poisoning: the ground truth, its measures, a picture."""

from __future__ import annotations

import math
from typing import Any

import torch
from matplotlib.figure import Figure

from hallmark import plots
from hallmark.config import Params, PoisonData
from hallmark.data import ImageDataset
from hallmark.poison._poisoned import Poisoned, label_mode, registry

_SAMPLES = 8
COLUMNS = ("id", "poisoned", "cover", "original_label")
"""Of the manifest."""


def manifest(clean: ImageDataset, result: Poisoned) -> list[dict[str, Any]]:
    """The ground truth, one row an image, under :data:`COLUMNS`: cells are empty if unknown.

    ``poisoned`` and ``cover`` are 0 or 1; a cover is altered but rightly labelled (see :class:`Poisoned`).
    """
    ids = clean.ids.tolist()
    if result.flags is None:
        return [dict(zip(COLUMNS, (i, "", "", ""), strict=True)) for i in ids]
    covers = torch.zeros_like(result.flags) if result.covers is None else result.covers
    known = zip(ids, result.flags.int().tolist(), covers.int().tolist(), clean.labels.tolist(), strict=True)
    return [dict(zip(COLUMNS, row, strict=True)) for row in known]


def describe(clean: ImageDataset, result: Poisoned, config: PoisonData, params: Params) -> dict[str, Any]:
    """The attack's method and parameters, for the evaluation."""
    if result.flags is None:
        return {"method": config.attack}
    mode = label_mode(config, registry.get(config.attack).LABEL_MODES)
    target = clean.class_index(config.target, "poison_data.target")
    aim = {} if mode == "all_to_all" else {"target": target, "target_class": clean.classes[target]}
    return {
        "method": config.attack,
        "label_mode": mode,
        "parameters": params.model_dump(),
        "rate": config.rate,
        **aim,
        "poisoned": int(result.flags.sum()),
        "covers": 0 if result.covers is None else int(result.covers.sum()),
    }


def measure(clean: ImageDataset, result: Poisoned) -> dict[str, Any]:
    """Numbers for metrics.json; without ground truth the number of images only."""
    if result.flags is None:
        return {"images": len(clean)}
    count = int(result.flags.sum())
    change = result.train.images[result.flags].float() - clean.images[result.flags].float()
    mse = float(change.square().mean()) / 255**2
    return {
        "images": len(clean),
        "poisoned": count,
        "rate": count / len(clean),
        "covers": 0 if result.covers is None else int(result.covers.sum()),
        "relabelled": int((result.train.labels != clean.labels).sum()),
        "triggered_test_images": 0 if result.triggered is None else len(result.triggered),
        # Of a poisoned image against its original, pixels in 0-1; 100 dB stands for no change at all.
        "pixel_change": float(change.abs().mean()) / 255,
        "psnr_db": min(100.0, -10 * math.log10(mse)) if mse > 0 else 100.0,
    }


def picture(clean: ImageDataset, result: Poisoned) -> Figure:
    """Poisoned training images beside their originals; without ground truth the first images."""
    if result.flags is None:
        given = result.train.images[:_SAMPLES]
        labels = [clean.classes[k] for k in result.train.labels[:_SAMPLES].tolist()]
        return plots.image_grid([("as given", given)], "no attack simulated", [labels])
    index = result.flags.nonzero()[:_SAMPLES, 0]
    before, after = clean.images[index], result.train.images[index]
    difference = (after.int() - before.int()).abs().mul(10).clamp_(max=255).to(torch.uint8)
    names = [[data.classes[k] for k in data.labels[index].tolist()] for data in (clean, result.train)]
    rows = [("clean", before), ("poisoned", after), ("difference x10", difference)]
    return plots.image_grid(rows, "poisoned training images and their labels", [*names, [""] * len(index)])
