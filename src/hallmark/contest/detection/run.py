"""One model's work: train it if it is not in the work folder, then ask every detector.

The detector gets what a defender has: the network and the reserve, clean images that no model was trained on.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hallmark import artifacts, models, poison, runtime, training
from hallmark.config import PoisonData, parse
from hallmark.contest.common import kept
from hallmark.contest.detection import cells
from hallmark.contest.detection.plan import Model, Plan
from hallmark.contest.parameters import digest
from hallmark.data import sources, splits
from hallmark.data.dataset import ImageDataset
from hallmark.detection import judging
from hallmark.detection.models import registry
from hallmark.progress import Advance, silent
from hallmark.runtime import Runtime
from hallmark.watermark.schemes import rates, schemes

PURPOSE = "contest"
QUERIES = 500
"""Watermark queries for a mark's success."""


@dataclass(frozen=True)
class Base:
    """A seed's images."""

    train: ImageDataset
    test: ImageDataset
    reserve: ImageDataset
    runtime: Runtime


def run_model(plan: Plan, each: Model, *, raw: Path, out: Path, work: Path, advance: Advance = silent) -> None:
    """Measure what is not finished of a model's cells.

    Args:
        raw: folder of downloaded data sets.
        out: folder of the results, of which the folder ``cells`` is written.
        work: folder of what can be made again.
        advance: told of every cell that is finished now.

    Raises:
        UserError: the data cannot be read, or a block does not fit.
    """
    known = cells.read(plan, each, out)
    todo = [name for name in plan.contest.detectors if known is None or name not in known["detectors"]]
    if known is not None and not todo:
        return
    base = load_base(plan, each.seed, raw)
    folder = kept(work / f"model-{plan.model_hash(each)}", lambda folder: _make(plan, each, base, folder))
    network = models.load(folder / "model", base.runtime)
    figures: dict[str, Any] = artifacts.read_json(folder / "figures.json")
    found: dict[str, Any] = {} if known is None else known["detectors"]
    if known is None:
        cells.write(plan, each, out, figures, found)
        advance(1)
    for name in todo:
        started = time.perf_counter()
        finding = registry.get(name).detect(network, base.reserve, plan.detector(name), base.runtime)
        found[name] = {
            "score": finding.score,
            "classes": finding.classes.tolist(),
            "seconds": round(time.perf_counter() - started, 1),
            **finding.metrics,
        }
        if finding.pictures is not None:
            artifacts.write_tensors(folder / f"triggers-{name}.safetensors", {"triggers": finding.pictures}, {})
        cells.write(plan, each, out, figures, found)
        advance(1)


def calibrate(plan: Plan, nulls: Path, trusted: Path, out: Path) -> None:
    """Every detector's scores of the innocent models, kept in ``OUT/cells/nulls.json`` with a hash of what they are of.

    Raises:
        UserError: no models, or images that do not fit.
    """
    path, started = out / "cells" / "nulls.json", runtime.start(plan.runtime)
    stored: dict[str, Any] = artifacts.read_json(path) if path.is_file() else {}
    for name in plan.contest.detectors:
        params = plan.detector(name)
        weights = [artifacts.sha256(file) for file in sorted(nulls.glob("*/model.safetensors"))]
        hashed = digest([name, params.model_dump(mode="json"), weights, artifacts.sha256(trusted)])
        if stored.get(name, {}).get("hash") != hashed:
            scores = judging.innocent_scores(nulls, name, ImageDataset.load(trusted), params, started)
            stored[name] = {"hash": hashed, "scores": scores}
            artifacts.write_json(path, stored)


def load_base(plan: Plan, seed: int, raw: Path) -> Base:
    """A seed's splits.

    Raises:
        UserError: the data cannot be read or split.
    """
    started = runtime.start(plan.at(seed).runtime)
    sets = splits.split(sources.load(plan.prepare_data, raw), plan.prepare_data, started).sets
    return Base(sets["train"], sets["test"], sets["reserve"], started)


def _make(plan: Plan, each: Model, base: Base, folder: Path) -> None:
    """Train a model; ``model`` and ``figures.json``, its accuracy and the success of what it hides, on test images."""
    kind, settings = plan.contest.kinds[each.kind], plan.training(each)
    train, target, success = base.train, None, None
    network = models.build(plan.contest.architecture, train.images, train.classes, base.runtime, PURPOSE)
    if kind.mark is not None:
        module, params = schemes.get(kind.mark.scheme), plan.mark_params(each.kind, kind.mark)
        mark = module.strike(network, train, params, settings, base.runtime, purpose=PURPOSE)
        asked = mark.queries(base.test, QUERIES, base.runtime.generator("contest/queries"))
        success, target = rates(network, asked, base.runtime)["wsr"], int(asked.labels[0])
    else:
        triggered = None
        if kind.poison is not None:
            target, where = each.seed % len(train.classes), f"{plan.path}: detection_contest.kinds.{each.kind}.poison"
            block = {"attack": kind.poison.attack, "rate": kind.poison.rate, "target": target}
            values = parse(PoisonData, block | {kind.poison.attack: kind.poison.params}, where)
            poisoned, _ = poison.apply(train, base.test, values, base.runtime)
            train, triggered = poisoned.train, poisoned.triggered
        training.train_classifier(network, train.images, train.labels, settings, base.runtime, purpose=PURPOSE)
        success = None if triggered is None else training.accuracy(network, triggered, base.runtime)
    models.save(network, folder / "model")
    accuracy = training.accuracy(network, base.test, base.runtime)
    artifacts.write_json(folder / "figures.json", {"accuracy": accuracy, "success": success, "target": target})
