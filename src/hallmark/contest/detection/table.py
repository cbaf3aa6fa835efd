"""The cells of a contest of detectors as models.csv and classes.csv (tidy), contest.md and pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score, roc_curve

from hallmark import artifacts, plots
from hallmark.contest.detection import cells
from hallmark.contest.detection.plan import Plan
from hallmark.contest.rows import Row, markdown_table
from hallmark.detection import calibration, judging
from hallmark.detection.judging import SIZES
from hallmark.errors import UserError
from hallmark.statistics import rate

MODEL_COLUMNS = (
    "kind", "role", "seed", "accuracy", "success", "target", "counted", "detector", "score", "p_value", "flagged",
    "found", "seconds",
)  # fmt: skip
"""Of models.csv, a row a model and detector.

success: of the backdoor (triggered test images called the target) or the mark (WSR).  target: its class.  counted: the
success is not below the kind's least_success.  p_value: that a null model scores so high.  found: the class with the
most evidence against it."""
CLASS_COLUMNS = ("kind", "seed", "detector", "class", "is_target", "evidence", "index", "norm")
"""Of classes.csv, a row a model, detector and class.  evidence: the detector's statistic.  index, norm: the paper's
anomaly index and the size of the reversed trigger, of detectors that have them."""


def write(plan: Plan, out: Path) -> str:
    """Write the tables and pictures of what is measured; returns a line for people.

    Raises:
        UserError: nothing is measured, or there are no scores of null models.
    """
    rows, classes = read(plan, out)
    if not rows:
        raise UserError(f"{out / 'cells'}: no cells of these parameters; run the contest first")
    artifacts.write_csv(out / "models.csv", rows, MODEL_COLUMNS)
    artifacts.write_csv(out / "classes.csv", classes, CLASS_COLUMNS)
    for name in plan.contest.detectors:
        own = [row for row in rows if row["detector"] == name]
        if {row["role"] for row in own} >= {"clean", "backdoored"}:
            plots.save(roc_figure(own, name), out / f"roc_{name}.png")
        if own:
            plots.save(
                scores_figure(own, null_scores(plan, out, name), plan.contest.false_alarm, name), out / f"{name}.png"
            )
    artifacts.write_bytes(out / "contest.md", render(plan, rows, out).encode())
    return f"detection-contest: {len(rows):,} rows in {out / 'models.csv'}, {len(classes):,} in {out / 'classes.csv'}"


def null_scores(plan: Plan, out: Path, detector: str) -> list[float]:
    """The detector's scores of the null models that count.

    Raises:
        UserError: there are none.
    """
    path = out / "cells" / "nulls.json"
    stored = artifacts.read_json(path) if path.is_file() else {}
    if detector not in stored:
        raise UserError(f"{path}: no scores of null models by {detector}; run the contest with --table")
    kinds, scores = plan.contest.innocents, stored[detector]["scores"]
    return [score for name, score in scores.items() if kinds is None or judging.kind_of(name) in kinds]


def read(plan: Plan, out: Path) -> tuple[list[Row], list[Row]]:
    """The rows of models.csv and classes.csv, in the plan's order."""
    rows, classes = [], []
    innocent = {name: null_scores(plan, out, name) for name in plan.contest.detectors}
    for each in plan.models():
        stored = cells.read(plan, each, out)
        if stored is None:
            continue
        kind, model = plan.contest.kinds[each.kind], stored["model"]
        counted = model["success"] is None or model["success"] >= kind.least_success
        for name, said in stored["detectors"].items():
            p = calibration.p_value(said["score"], innocent[name])
            evidence = [-math.inf if value is None or math.isnan(value) else value for value in said["classes"]]
            common = {"kind": each.kind, "seed": each.seed, "detector": name}
            rows.append({
                **common, "role": kind.role, **model, "counted": int(counted), "score": said["score"], "p_value": p,
                "flagged": int(p <= plan.contest.false_alarm), "found": evidence.index(max(evidence)),
                "seconds": said["seconds"],
            })  # fmt: skip
            for label, value in enumerate(said["classes"]):
                extra = {column: said[key][label] for column, key in SIZES.items() if key in said}
                is_target = int(label == model["target"])
                row = {**common, "class": label, "is_target": is_target, "evidence": value, **extra}
                classes.append({**dict.fromkeys(CLASS_COLUMNS), **row})
    return rows, classes


def auc(rows: Sequence[Row], kind: str) -> float | None:
    """Area under the curve of a kind's counted models against the clean ones; None without both."""
    clean = [row["score"] for row in rows if row["role"] == "clean"]
    own = [row["score"] for row in rows if row["kind"] == kind and row["counted"]]
    if not clean or not own:
        return None
    return float(roc_auc_score([0] * len(clean) + [1] * len(own), clean + own))


def roc_figure(rows: Sequence[Row], detector: str) -> Figure:
    """True against false alarms, a line a kind that is not clean."""
    figure, axis = plt.subplots(figsize=(4.8, 4.4), layout="constrained")
    clean = [row["score"] for row in rows if row["role"] == "clean"]
    for kind in dict.fromkeys(row["kind"] for row in rows if row["role"] != "clean"):
        own = [row["score"] for row in rows if row["kind"] == kind and row["counted"]]
        if own:
            false, true, _ = roc_curve([0] * len(clean) + [1] * len(own), clean + own)
            axis.plot(100 * false, 100 * true, marker=".", label=f"{kind} ({len(own)}), AUC {auc(rows, kind):.2f}")
    axis.plot([0, 100], [0, 100], color="gray", linewidth=0.8, linestyle=":")
    axis.set_xlabel(f"clean models called backdoored ({len(clean)}), per cent")
    axis.set_ylabel("models called backdoored, per cent")
    axis.set_title(detector, fontsize=11)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="lower right")
    return figure


def scores_figure(rows: Sequence[Row], innocent: Sequence[float], false_alarm: float, detector: str) -> Figure:
    """A dot a model, a line of dots a kind, and the threshold."""
    groups: dict[str, list[float]] = {"null models": list(innocent)}
    for row in rows:
        groups.setdefault(row["kind"], []).append(row["score"])
    figure, axis = plt.subplots(figsize=(7.6, 1.2 + 0.32 * len(groups)), layout="constrained")
    for place, values in enumerate(groups.values()):
        axis.plot(values, [place] * len(values), "o", alpha=0.5, markersize=5)
    bound = calibration.threshold(innocent, false_alarm)
    axis.axvline(bound, color="gray", linestyle="--", linewidth=1, label=f"false alarms {false_alarm:.0%}")
    axis.set_yticks(range(len(groups)), list(groups))
    axis.invert_yaxis()
    axis.set_xlabel("score")
    axis.set_title(detector, fontsize=11)
    axis.grid(axis="x", alpha=0.3)
    axis.legend(fontsize=8)
    return figure


def render(plan: Plan, rows: Sequence[Row], out: Path) -> str:
    """contest.md."""
    lines = [
        "# The contest of detectors",
        "",
        f"Thresholds of false-alarm rate {plan.contest.false_alarm:.0%}, from the pipeline's null models. Every model",
        "is in [models.csv](models.csv), every class in [classes.csv](classes.csv). Right class: of the models called",
        "backdoored, those of which the attack's (or the mark's) target has the most evidence against it.",
        "",
    ]
    for name in plan.contest.detectors:
        own = [row for row in rows if row["detector"] == name]
        lines += [f"## {name}", ""]
        if not own:
            lines += ["Not measured yet.", ""]
            continue
        scores = null_scores(plan, out, name)
        kinds = dict.fromkeys(row["kind"] for row in own)
        body = [_line([row for row in own if row["kind"] == kind], own, kind) for kind in kinds]
        header = ("kind", "models", "accuracy", "success", "called backdoored", "95 %", "right class", "AUC")
        lines += [
            f"{len(scores)} null models, threshold {calibration.threshold(scores, plan.contest.false_alarm):.2f}; "
            f"{torch.tensor([float(row['seconds']) for row in own]).median():.1f} s a model (median, busy machine).",
            "",
            *markdown_table(header, body),
            f"![{name}]({name}.png)",
            "",
        ]
        if (out / f"roc_{name}.png").is_file():
            lines += [f"![ROC of {name}](roc_{name}.png)", ""]
    return "\n".join(lines).rstrip() + "\n"


def _line(rows: Sequence[Mapping[str, Any]], every: Sequence[Row], kind: str) -> list[str]:
    counted = [row for row in rows if row["counted"]]
    flagged = torch.tensor([row["flagged"] for row in counted], dtype=torch.bool).numpy()
    success = [row["success"] for row in counted if row["success"] is not None]
    right = [row["found"] == row["target"] for row in counted if row["flagged"] and row["target"] is not None]
    area = None if rows[0]["role"] == "clean" else auc(every, kind)
    share = rate(flagged) if len(flagged) else None
    left_out = f" ({len(rows) - len(counted)} left out)" if len(counted) < len(rows) else ""
    return [
        kind,
        f"{len(counted)}{left_out}",
        f"{100 * sum(row['accuracy'] for row in counted) / max(len(counted), 1):.1f}",
        f"{100 * min(success):.0f}-{100 * max(success):.0f}" if success else "-",
        "-" if share is None else f"{share.hits} of {share.count}",
        "-" if share is None else f"{100 * share.low:.0f}-{100 * share.high:.0f} %",
        f"{sum(right)} of {len(right)}" if right else "-",
        "-" if area is None else f"{area:.2f}",
    ]
