"""One set's work: what is shared is made once and cached, then every sanitizer and repair, then its cells' rows.

The work folder holds safetensors and JSON alone: for each seed the splits, the diffusion model and clean models,
and for each set that is not finished the poisoned set and the model trained on it.
"""

from __future__ import annotations

import copy
import hashlib
import shutil
import statistics
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from hallmark import artifacts, models, poison
from hallmark.config import PoisonData, Repair
from hallmark.contest.common import guarded
from hallmark.contest.purification import cells
from hallmark.contest.purification.base import Base, load_base, no_epochs, train_model
from hallmark.contest.purification.judges import load_judges, save_judges
from hallmark.contest.purification.plan import COLUMNS, NONE, Cell, Plan, Set
from hallmark.data.dataset import ImageDataset
from hallmark.models import Network
from hallmark.poison import Poisoned
from hallmark.progress import Advance, silent
from hallmark.purify import methods, preparation
from hallmark.purify import repair as repairs
from hallmark.purify.result import ACTIONS, KEPT, Findings, Material, Purification
from hallmark.runtime import Runtime
from hallmark.training import accuracy


@dataclass(frozen=True)
class Suspect:
    """A poisoned set and the model trained on it."""

    config: PoisonData
    poisoned: Poisoned
    network: Network
    seconds: float


def run_set(plan: Plan, each: Set, *, raw: Path, out: Path, work: Path, advance: Advance = silent) -> None:
    """Measure what is not finished of a set; every cell is written as soon as it is measured.

    Args:
        raw: folder of downloaded data sets.
        out: folder of the results, of which the folder ``cells`` is written.
        work: folder of what can be made again.
        advance: told of every cell that is finished now.
    """
    done = cells.finished(plan, each, out)
    if all(cell.name in done for cell in each.cells):
        return
    base = load_base(plan, each.seed, raw, work)
    dataset = plan.contest.dataset or plan.prepare_data.source
    common = {"seed": each.seed, "dataset": dataset, "attack": each.name, "rate": each.rate}
    cache = work / f"set-{plan.set_hash(each)}"

    def write(cell: Cell, values: Mapping[str, Any], *, final: bool = True) -> None:
        row = {**dict.fromkeys(COLUMNS), **common, **values, "sanitizer": cell.sanitizer, "repair": cell.repair}
        cells.write_cell(cells.cells_file(each, out), each, cell, plan.cell_hash(each, cell) if final else "", row)
        advance(1)

    suspect, error = guarded(lambda: load_suspect(plan, each, base, cache))
    if suspect is None:
        for cell in each.cells:
            if cell.name not in done:
                write(cell, {"error": error.text, "label_mode": each.plan.label_mode}, final=error.users)
        return
    common |= describe(suspect, base)
    same = len(cells.runs([*done.values(), artifacts.rounded(common)])) == 1
    todo = [cell for cell in each.cells if cell.name not in done or not same]
    judge = Judge(plan, base, suspect)
    material = preparation.prepare(
        suspect.poisoned.train,
        base.reserve,
        base.diffusion,
        plan.purify_data,
        base.runtime,
        epochs=no_epochs,
        suspect=suspect.network,
        judges=load_judges(plan, each.seed, work, base.runtime),
    )
    for sanitizer in dict.fromkeys(cell.sanitizer for cell in todo):
        own_cells = [cell for cell in todo if cell.sanitizer == sanitizer]
        # A copy, so that no sanitizer can leave traces in the network that the next one gets.
        own = replace(material, suspect=copy.deepcopy(material.suspect))
        for cell, values, final in _sanitize(plan, sanitizer, own_cells, judge, own):
            write(cell, values, final=final)
    save_judges(material.judges, plan, each.seed, work)
    shutil.rmtree(cache, ignore_errors=True)


def _sanitize(
    plan: Plan, sanitizer: str, chosen: Collection[Cell], judge: Judge, material: Material
) -> Iterator[tuple[Cell, dict[str, Any], bool]]:
    """Rows of one sanitizer's cells: (cell, values, whether the figures are final)."""
    if sanitizer == NONE:
        for cell in chosen:
            unknown = judge.suspect.poisoned.flags is None
            values = {"kept": len(material.data), **dict.fromkeys((*ACTIONS[1:], "added"), 0)}
            yield cell, {**values, **judge.measure(material.data), "fpr": 0.0, "tpr": None if unknown else 0.0}, True
        return
    found, error = guarded(lambda: _detect(plan, sanitizer, material, truth(judge.suspect.poisoned)))
    for cell in chosen:
        if found is None:
            yield cell, {"error": error.text}, error.users
            continue
        findings, values = found
        repaired, error = guarded(lambda cell=cell, findings=findings: _repair(plan, cell, material, findings))
        if repaired is None:
            yield cell, {**values, "error": error.text}, error.users
            continue
        result, seconds = repaired
        values = {**values, "repair_seconds": seconds, **judge.detection(result)}
        measured, error = guarded(lambda result=result: judge.measure(preparation.finish(result, material)))
        yield cell, {**values, **(measured or {"error": error.text})}, measured is not None or error.users


def truth(poisoned: Poisoned) -> dict[str, float]:
    """Every kind of :data:`~hallmark.contest.purification.plan.Told`; empty without poisons."""
    flags, labels = poisoned.flags, poisoned.train.labels
    if flags is None or not flags.any():
        return {}
    held = labels[flags].bincount()
    most = int(held.argmax())
    return {
        "share_of_set": float(flags.float().mean()),
        "share_of_class": float(held[most]) / int((labels == most).sum()),
        "target": most,
        "share_of_target": float(held[most]) / len(labels),
    }


def _detect(
    plan: Plan, sanitizer: str, material: Material, known: Mapping[str, float]
) -> tuple[Findings, dict[str, Any]]:
    """Findings, their seconds and the diffusion model's evaluations.

    Args:
        known: the truth, of which a sanitizer learns what ``contest.told`` says.
    """
    own: Any = plan.method_params(sanitizer, known)
    method = methods.registry.get(sanitizer)
    evaluations = material.purifier.evaluations
    before, started = evaluations.count, time.perf_counter()
    findings = method.detect(material, own)
    seconds = time.perf_counter() - started
    spent = (evaluations.count - before) / len(material.data)
    return findings, {"detect_seconds": seconds, "evaluations_per_image": spent}


def _repair(plan: Plan, cell: Cell, material: Material, findings: Findings) -> tuple[Purification, float]:
    started = time.perf_counter()
    result = repairs.repair(material, findings, cast("Repair", cell.repair), plan.purify_data.restore)
    return result, time.perf_counter() - started


@dataclass
class Judge:
    """Trains and measures final models of each different set, and compares decisions with the ground truth."""

    plan: Plan
    base: Base
    suspect: Suspect
    known: dict[str, dict[str, Any]] = field(default_factory=dict)

    def measure(self, data: ImageDataset) -> dict[str, Any]:
        """Benign accuracy and attack success of models trained on ``data``, and the seconds of a training.

        Means over ``contest.models`` of them: with a trigger that a clean model takes for the target now and then,
        two trainings of the same set are often further apart than two sets.

        Raises:
            UserError: a loss stopped being finite.
        """
        key = content(data)
        if key not in self.known:
            networks, seconds = [], []
            # The suspect is the first model of the set as given: same architecture, training and random streams.
            if key == content(self.suspect.poisoned.train):
                networks, seconds = [self.suspect.network], [self.suspect.seconds]
            for k in range(len(networks), self.plan.contest.models):
                started = time.perf_counter()
                networks.append(train_model(self.plan, data, self.base.runtime, k))
                seconds.append(time.perf_counter() - started)
            self.known[key] = {**self._rates(networks), "train_seconds": statistics.fmean(seconds)}
        return self.known[key]

    def detection(self, result: Purification) -> dict[str, Any]:
        """What was done to how many images, and how it fits the ground truth."""
        changed = result.actions != KEPT
        counts = torch.bincount(result.actions, minlength=len(ACTIONS)).tolist()
        poisoned = self.suspect.poisoned
        values: dict[str, Any] = {
            **dict(zip(ACTIONS, counts, strict=True)),
            "added": 0 if result.added is None else len(result.added),
            "targets_found": " ".join(map(str, result.findings.targets)),
        }
        if poisoned.flags is None:
            return {**values, "fpr": float(changed.float().mean())}
        return values | rates(poisoned.flags, poisoned.covers, changed, result.findings.scores)

    def _rates(self, networks: Sequence[Network]) -> dict[str, Any]:
        benign = [accuracy(network, self.base.test, self.base.runtime) for network in networks]
        success, spread = attack_success(networks, self.suspect.poisoned.triggered, self.base.runtime)
        return {"accuracy": statistics.fmean(benign), "asr": success, "asr_sd": spread, "models": len(networks)}


def attack_success(
    networks: Sequence[Network], triggered: ImageDataset | None, runtime: Runtime
) -> tuple[float | None, float | None]:
    """Mean and standard deviation over the networks; None without an attack, and no deviation of a single one."""
    if triggered is None:
        return None, None
    found = [accuracy(network, triggered, runtime) for network in networks]
    return statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else None


def rates(flags: Tensor, covers: Tensor | None, changed: Tensor, scores: Tensor) -> dict[str, float | None]:
    """Detection rates and the area under the ROC curve; covers are neither poisoned nor clean.

    Args:
        flags, covers, changed: bool ``[N]``.
        scores: float ``[N]``, higher is worse; with anything that is no number there is no curve.

    Returns:
        tpr, fpr, covers_changed, auc in 0-1; None where a kind of image is missing.
    """
    from sklearn.metrics import roc_auc_score  # noqa: PLC0415 - slow to import

    rest = torch.ones_like(flags) if covers is None else ~covers
    clean = rest & ~flags
    both = bool(flags.any()) and bool(clean.any()) and not bool(scores.isnan().any())
    # Ranks are all that counts, and scikit-learn refuses infinities.
    ranked = scores.double().nan_to_num().unique(return_inverse=True)[1]
    return {
        "tpr": float(changed[flags].float().mean()) if flags.any() else None,
        "fpr": float(changed[clean].float().mean()) if clean.any() else None,
        "covers_changed": float(changed[~rest].float().mean()) if not rest.all() else None,
        "auc": float(roc_auc_score(flags[rest].numpy(), ranked[rest].numpy())) if both else None,
    }


def content(data: ImageDataset) -> str:
    """A hash of images and labels in their order: what training sees."""
    found = hashlib.sha256(data.images.contiguous().numpy().data)
    found.update(data.labels.contiguous().numpy().data)
    return found.hexdigest()


def draw_target(name: str, classes: int, runtime: Runtime) -> int:
    """The target class of the attack that stands under ``name`` in the plan, where the plan has none."""
    return int(torch.randint(classes, (), generator=runtime.generator(f"contest/target/{name}")))


def load_suspect(plan: Plan, each: Set, base: Base, cache: Path) -> Suspect:
    """Poison the training set and train a model on it, or take both from the cache.

    Raises:
        UserError: the attack does not fit the data, or a training fails.
    """
    target = each.plan.target
    if target is None:
        target = draw_target(each.name, len(base.train.classes), base.runtime)
    config = each.poison_data(target)
    if not cache.is_dir():
        poisoned, _ = poison.apply(base.train, base.test, config, base.runtime)
        started = time.perf_counter()
        network = train_model(plan, poisoned.train, base.runtime)
        seconds = time.perf_counter() - started
        with artifacts.replacing(cache) as folder:
            folder.mkdir()
            poisoned.train.save(folder / "train.safetensors")
            if poisoned.triggered is not None:
                poisoned.triggered.save(folder / "triggered.safetensors")
            truth = {"flags": poisoned.flags, "covers": poisoned.covers}
            known = {name: value for name, value in truth.items() if value is not None}
            artifacts.write_tensors(folder / "truth.safetensors", known, {})
            models.save(network, folder / "suspect")
            artifacts.write_json(folder / "suspect.json", {"seconds": seconds})
    train = ImageDataset.load(cache / "train.safetensors")
    triggered = cache / "triggered.safetensors"
    truth, _ = artifacts.read_tensors(cache / "truth.safetensors", 2 * len(train))
    poisoned = Poisoned(
        train,
        truth.get("flags"),
        ImageDataset.load(triggered) if triggered.is_file() else None,
        truth.get("covers"),
    )
    seconds = float(artifacts.read_json(cache / "suspect.json")["seconds"])
    return Suspect(config, poisoned, models.load(cache / "suspect", base.runtime), seconds)


def describe(suspect: Suspect, base: Base) -> dict[str, Any]:
    """What a set's rows have in common."""
    config, triggered = suspect.config, suspect.poisoned.triggered
    mode = poison.label_mode(config, poison.registry.get(config.attack).LABEL_MODES)
    aimed = mode not in ("none", "all_to_all")
    floor, spread = attack_success(base.clean, triggered, base.runtime)
    return {
        "label_mode": mode,
        "target": base.train.class_index(config.target, "contest") if aimed else None,
        "clean_accuracy": base.accuracy,
        "floor": floor,
        "floor_sd": spread,
    }
