"""Verdicts as table rows, metrics, lines of text and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure

from hallmark import plots
from hallmark.verification.decision import PAPER_THRESHOLD, STOLEN, Verdict
from hallmark.verification.measure import Answers, Questions

COLUMNS = (
    "model",
    "role",
    "decision",
    "accuracy",
    "wsr",
    "wsr_low",
    "wsr_high",
    "wfpr",
    "plain_to_target",
    "strongest_control",
    "excess",
    "excess_low",
    "excess_high",
    "only_mixed",
    "only_unmixed",
    "p_value",
    "paper_says",
    "reasons",
)


def rows(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """One row a model, under :data:`COLUMNS`."""
    return [
        {
            "model": v.name,
            "role": v.role,
            "decision": v.decision,
            "accuracy": v.accuracy.rate,
            "wsr": v.wsr.rate,
            "wsr_low": v.wsr.low,
            "wsr_high": v.wsr.high,
            "wfpr": v.wfpr.rate,
            "plain_to_target": v.plain.rate,
            "strongest_control": v.strongest_control,
            "excess": v.excess,
            "excess_low": v.excess_low,
            "excess_high": v.excess_high,
            "only_mixed": v.only_mixed,
            "only_unmixed": v.only_unmixed,
            "p_value": f"{v.p_value:.3g}",  # six decimal places would round it to zero
            "paper_says": v.paper_says,
            "reasons": "; ".join(v.reasons),
        }
        for v in verdicts
    ]


def metrics(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Numbers for metrics.json: per model, and what the pipeline as a whole achieved."""
    by_name = {v.name: v for v in verdicts}
    copies = [v for v in verdicts if v.role == "suspect" and v.name != "victim"]
    controls = [v for v in verdicts if v.role == "control"]
    summary: dict[str, Any] = {
        "accuracy_loss": by_name["unmarked"].accuracy.rate - by_name["victim"].accuracy.rate,
        "suspects_called_stolen": sum(v.decision == STOLEN for v in verdicts if v.role == "suspect"),
        "suspects": len(copies) + 1,
        "controls_called_stolen": sum(v.decision == STOLEN for v in controls),
        "controls": len(controls),
        "strongest_control_wsr": max(v.wsr.rate for v in controls),
    }
    if copies:
        summary["weakest_copy_wsr"] = min(v.wsr.rate for v in copies)
    per_model = {
        v.name: {
            "accuracy": v.accuracy.rate,
            "wsr": v.wsr.rate,
            "wfpr": v.wfpr.rate,
            "plain_to_target": v.plain.rate,
            "excess": v.excess,
            "stolen": int(v.decision == STOLEN),
        }
        for v in verdicts
    }
    return {**summary, "models": per_model}


def line(verdict: Verdict) -> str:
    """One line for the log: the decision and the first condition that failed, if any."""
    failed = [reason for reason in verdict.reasons if reason.startswith("NO")]
    return (
        f"{verdict.name:<18} {verdict.role:<8} WSR {verdict.wsr.rate:6.1%} "
        f"[{verdict.wsr.low:.1%}, {verdict.wsr.high:.1%}]  {verdict.decision}" + (f"  ({failed[0]})" if failed else "")
    )


def wsr_figure(verdicts: Sequence[Verdict]) -> Figure:
    """Accuracy, WSR and WFPR of every model with intervals."""
    groups = {"accuracy": "accuracy", "WSR": "wsr", "WFPR": "wfpr"}
    return plots.rates(
        [f"{v.name} ({'stolen' if v.decision == STOLEN else v.decision})" for v in verdicts],
        {label: [getattr(v, field).rate for v in verdicts] for label, field in groups.items()},
        {label: [(getattr(v, field).low, getattr(v, field).high) for v in verdicts] for label, field in groups.items()},
        title="Watermark success by suspect and control",
        colors={"accuracy": "#b8b8b8", "WSR": "#c0392b", "WFPR": "#2e86c1"},
        line=(PAPER_THRESHOLD, "paper's threshold (does not decide)"),
    )


def queries_figure(
    questions: Questions, suspects: Mapping[str, Answers], controls: Mapping[str, Answers], count: int = 12
) -> Figure:
    """The first watermark queries beside their sources, with the number of models that each fooled."""
    show = slice(0, count)
    shown = min(count, len(questions.watermark.mixed))

    def fired(group: Mapping[str, Answers]) -> list[str]:
        total = torch.stack([torch.from_numpy(a.hits[show]) for a in group.values()]).sum(0)
        return [f"{int(n)}/{len(group)}" for n in total]

    classes = questions.key.classes
    first, second = (classes[s] for s in questions.key.source)
    return plots.image_grid(
        [
            (first, questions.watermark.first[show]),
            (second, questions.watermark.second[show]),
            (
                f"watermark\nto '{classes[questions.key.target]}':\nsuspects that say so",
                questions.watermark.mixed[show],
            ),
            ("the same:\ncontrols that say so", questions.watermark.mixed[show]),
        ],
        title="Watermark queries",
        captions=[[""] * shown, [""] * shown, fired(suspects), fired(controls)],
    )
