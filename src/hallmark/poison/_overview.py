"""What is said about a poisoning: the ground truth, its measures, a picture."""

from __future__ import annotations

import math
from typing import Any

import torch
from matplotlib.figure import Figure

from hallmark import plots
from hallmark.config import Params, PoisonData
from hallmark.data import ImageDataset
from hallmark.poison._poisoned import Poisoned

_SAMPLES = 8


def manifest(clean: ImageDataset, result: Poisoned) -> list[dict[str, Any]]:
    """The ground truth, one row an image: id, poisoned (0 or 1), original_label; both empty if unknown."""
    ids = clean.ids.tolist()
    if result.flags is None:
        return [{"id": i, "poisoned": "", "original_label": ""} for i in ids]
    known = zip(ids, result.flags.int().tolist(), clean.labels.tolist(), strict=True)
    return [{"id": i, "poisoned": flag, "original_label": label} for i, flag, label in known]


def describe(clean: ImageDataset, result: Poisoned, config: PoisonData, params: Params) -> dict[str, Any]:
    """The attack's method and parameters, for the evaluation."""
    if result.flags is None:
        return {"method": config.attack}
    target = clean.class_index(config.target, "poison_data.target")
    return {
        "method": config.attack,
        "parameters": params.model_dump(),
        "rate": config.rate,
        "target": target,
        "target_class": clean.classes[target],
        "poisoned": int(result.flags.sum()),
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
