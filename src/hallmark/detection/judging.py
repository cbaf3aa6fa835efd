"""Models put to a detector and judged by what it says of innocent ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from matplotlib.figure import Figure

from hallmark import models, plots
from hallmark.config import BackdoorDetection, EvalBackdoor, Params
from hallmark.data.dataset import ImageDataset
from hallmark.detection import calibration
from hallmark.detection.finding import Finding
from hallmark.detection.models import registry
from hallmark.errors import UserError, naming
from hallmark.models import Network
from hallmark.progress import progress
from hallmark.runtime import Runtime

SIZES = {"index": "index", "norm": "norms"}
"""Columns of tables, and what detectors call them in their metrics: the paper's anomaly index, the trigger's size."""


@dataclass(frozen=True)
class Judged:
    """What is claimed of one model.

    Attributes:
        p_value: that an innocent model scores so high.
        flagged: it is called backdoored; a model known to be clean would be.
        target: the class with the most evidence against it; None where no class has any.
    """

    COLUMNS: ClassVar = ("model", "score", "p_value", "flagged", "target")

    name: str
    finding: Finding
    p_value: float
    flagged: bool
    target: int | None

    def to_dict(self, classes: Sequence[str]) -> dict[str, Any]:
        """Values under :attr:`COLUMNS`."""
        target = "" if self.target is None else classes[self.target]
        cells = (self.name, self.finding.score, self.p_value, int(self.flagged), target)
        return dict(zip(self.COLUMNS, cells, strict=True))


def innocent_scores(
    folder: Path,
    detector: str,
    trusted: ImageDataset,
    params: Params,
    runtime: Runtime,
    *,
    kinds: Sequence[str] | None = None,
) -> dict[str, float]:
    """The detector's score of every innocent model.

    Args:
        folder: one subfolder a model, as ``train_nulls`` writes it.
        kinds: only models of these; None: all.

    Raises:
        UserError: no model there, or one of other images or classes.
    """
    places = [path for path in sorted(folder.iterdir()) if path.is_dir()] if folder.is_dir() else []
    places = [path for path in places if kinds is None or kind_of(path.name) in kinds]
    if not places:
        raise UserError(f"{folder}: no models there; run train_nulls")
    scores = {}
    with progress(len(places), f"{detector}: null models", "model") as advance:
        for place in places:
            network = models.load(place, runtime)
            models.check_images(trusted, place, network.spec)
            scores[place.name] = registry.get(detector).detect(network, trusted, params, runtime).score
            advance(1)
    return scores


def kind_of(name: str) -> str:
    """Of a null model: ``NUMBER-KIND`` is its folder."""
    return name.partition("-")[2]


def refuse_accomplices(config: EvalBackdoor, params: Mapping[str, Any], where: str) -> None:
    """Refuse innocent models that learnt from delivered images, purified or not: they would share their backdoor.

    Those that are stolen with clean images do not get it (docs/detection.md, measured).

    Args:
        params: params.yaml, of which ``train_nulls.kinds`` and ``train_controls.controls`` are read.

    Raises:
        UserError: such a kind is to calibrate the detector, or one that is not there; such a control is the reference.
    """
    kinds = (params.get("train_nulls") or {}).get("kinds") or {}
    controls = (params.get("train_controls") or {}).get("controls") or {}
    for name in config.detection.innocents or []:
        if not isinstance(kinds.get(name), Mapping):
            raise UserError(
                f"{where}.detection.innocents: train_nulls has no kind '{name}'; there are {', '.join(kinds)}"
            )
        if _learns_from_delivered(kinds[name]):
            raise UserError(
                f"{where}.detection.innocents: null models of kind '{name}' learn from delivered images, and would "
                "share their backdoor; name kinds with data: queries, or stolen ones"
            )
    if config.detection.detector is not None and _learns_from_delivered(controls.get(config.reference) or {}):
        raise UserError(
            f"{where}.reference: the control '{config.reference}' learns from delivered images, and would share their "
            "backdoor; name one with data: queries, or a stolen one"
        )


def _learns_from_delivered(block: Mapping[str, Any]) -> bool:
    return block.get("data", "queries") != "queries"


def judge(name: str, finding: Finding, innocent: Sequence[float], false_alarm: float) -> Judged:
    """Call a model backdoored if innocent ones score so high with a probability of at most ``false_alarm``.

    Raises:
        UserError: too few innocent models for such a rate.
    """
    calibration.threshold(innocent, false_alarm)  # refuses too few
    p = calibration.p_value(finding.score, innocent)
    known = not bool(finding.classes.isnan().all())
    target = int(finding.classes.nan_to_num(-torch.inf).argmax()) if known else None
    return Judged(name, finding, p, p <= false_alarm, target)


@dataclass(frozen=True)
class Scan:
    """Models judged.

    Attributes:
        judged: empty where no detector was asked.
        innocent: the null models' scores, by name.
        classes: class names, in label order.
        reference: one of those judged that is known to be clean.  It is judged by the null models; where it scores no
            lower than another, it is an innocent model more for that one: it may clear others and accuses none.
    """

    judged: Sequence[Judged]
    innocent: Mapping[str, float]
    classes: Sequence[str]
    reference: str | None = None

    COLUMNS: ClassVar = (*Judged.COLUMNS, "class", "evidence", *SIZES)

    def rows(self) -> list[dict[str, Any]]:
        """One row a model and class, under :attr:`COLUMNS`."""
        found = []
        for each in self.judged:
            sizes = {column: each.finding.metrics[key] for column, key in SIZES.items() if key in each.finding.metrics}
            for label, (name, value) in enumerate(zip(self.classes, each.finding.classes.tolist(), strict=True)):
                own = {column: values[label] for column, values in sizes.items()}
                row = {**each.to_dict(self.classes), "class": name, "evidence": value, **own}
                found.append({**dict.fromkeys(self.COLUMNS), **row})
        return found

    def figures(self) -> dict[str, Figure]:
        """The reversed triggers, a row a model and a column a class; nothing from a detector that makes none."""
        grid, captions = [], []
        for each in self.judged:
            if each.finding.pictures is not None:
                known = " (clean)" if each.name == self.reference else ""
                grid.append((f"{each.name}{known}{' (!)' if each.flagged else ''}", each.finding.pictures))
                evidence = zip(self.classes, each.finding.classes.tolist(), strict=True)
                captions.append([f"{name}: {value:.1f}" for name, value in evidence])
        title = "Reversed triggers and the evidence against each class; (!): called backdoored"
        return {"reversed_triggers": plots.image_grid(grid, title, captions)} if grid else {}

    def metrics(self) -> dict[str, Any]:
        """Numbers for metrics.json, under ``backdoors``; nothing where no detector was asked."""
        if not self.judged:
            return {}
        models_: dict[str, Any] = {}
        for each in self.judged:
            evidence = zip(self.classes, each.finding.classes.tolist(), strict=True)
            models_[each.name] = {
                "score": each.finding.score,
                "p_value": each.p_value,
                "flagged": int(each.flagged),
                "classes": {name: value for name, value in evidence if not math.isnan(value)},  # NaN is no JSON
            }
        highest = max((score for score in self.innocent.values() if not math.isnan(score)), default=0.0)
        return {"backdoors": {"null_models": len(self.innocent), "highest_null_score": highest, "models": models_}}

    def lines(self) -> list[str]:
        """One line a model, for the log."""
        found = []
        for each in self.judged:
            known = each.name == self.reference
            call = "BACKDOOR towards " if each.flagged else "no backdoor found; most suspicious: "
            if known:
                call = f"clean, {'and yet would be called backdoored' if each.flagged else 'and not called'}: "
            by = f"{len(self.innocent)} null models"
            by += "" if known or self.reference is None else " and the reference"
            target = "no class" if each.target is None else self.classes[each.target]
            found.append(
                f"{each.name:<18} {call}{target} (score {each.finding.score:.2f}, p {each.p_value:.3f} by {by})"
            )
        return found


def scan(
    networks: Mapping[str, Network],
    nulls: Path,
    trusted: ImageDataset,
    config: BackdoorDetection,
    runtime: Runtime,
    *,
    reference: str | None = None,
) -> Scan:
    """Put all models to the detector that ``config`` names; nothing is judged if it names none.

    Args:
        reference: one of ``networks`` that is known to be clean, see :class:`Scan`.  A score of it that is no number is
            the most suspicious there is, and clears all others.

    Raises:
        UserError: no such detector, bad parameters, too few null models or unfit ones.
    """
    if config.detector is None:
        return Scan((), {}, trusted.classes)
    where = "eval_backdoor.detection"
    params = registry.parameters(config.detector, config.model_extra or {}, where)
    innocent = innocent_scores(nulls, config.detector, trusted, params, runtime, kinds=config.innocents)
    scores, detect = [*innocent.values()], registry.get(config.detector).detect
    with naming(f"{where}.false_alarm"):
        calibration.threshold(scores, config.false_alarm)
    findings: dict[str, Finding] = {}
    with progress(len(networks), f"{config.detector}: models", "model") as advance:
        for name, network in networks.items():
            findings[name] = detect(network, trusted, params, runtime)
            advance(1)
    judged = []
    for name, finding in findings.items():
        known = [] if reference in (None, name) else [findings[reference].score]
        # A lower one would make the p-value smaller: the reference clears others and accuses none.
        panel = scores + [score for score in known if not score < finding.score]
        judged.append(judge(name, finding, panel, config.false_alarm))
    return Scan(judged, innocent, trusted.classes, reference)
