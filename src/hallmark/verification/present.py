"""Verdicts as table rows, metrics, lines of text and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hallmark import plots
from hallmark.verification import power
from hallmark.verification.answers import LEAN, STATISTICS, Answers
from hallmark.verification.decision import PAPER_THRESHOLD, STOLEN, Nulls, Verdict
from hallmark.verification.questions import Questions

COLUMNS = (
    "model",
    "role",
    "decision",
    "by",
    "queries",
    "accuracy",
    "wsr",
    "wsr_low",
    "wsr_high",
    "wfpr",
    "plain_to_target",
    *(
        f"{statistic}_{figure}"
        for statistic in STATISTICS
        for figure in ("value", "needed", "p_value", "p_method", "strongest_control", "control_value", "control_p")
    ),
    "inconsistent",
    "queries_needed",
    "detectable",
    "paper_says",
    "reasons",
)
"""Of verdicts.csv.

by: the statistics that called it stolen.  queries: watermark queries asked.  STATISTIC_value: a share of the
watermark queries, or the lean.  STATISTIC_needed: the value above which it is significant (with stop_early: the
innocents' bound, which the sequential test compares with).  STATISTIC_p_value: against the nulls, corrected;
STATISTIC_p_method: how.  STATISTIC_control_p: that the key's value is no higher than that of the strongest negative
control on the same model.
queries_needed: watermark queries after which the sequential test would have ended.  detectable: the hit rate from which
on a suspect is significant with a chance of 95 %; empty: no rate is.
"""


def rows(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """One row a model, under :data:`COLUMNS`."""
    found = []
    for v in verdicts:
        row: dict[str, Any] = {
            **dict.fromkeys(COLUMNS),
            "model": v.name,
            "role": v.role,
            "decision": v.decision,
            "by": " ".join(v.by),
            "queries": v.wsr.count,
            "accuracy": v.accuracy.rate,
            "wsr": v.wsr.rate,
            "wsr_low": v.wsr.low,
            "wsr_high": v.wsr.high,
            "wfpr": v.wfpr.rate,
            "plain_to_target": v.plain.rate,
            "inconsistent": v.inconsistent,
            "queries_needed": v.queries_needed,
            "detectable": detectable(v),
            "paper_says": v.paper_says,
            "reasons": "; ".join(v.reasons),
        }
        for name, test in v.tests.items():
            row |= {
                f"{name}_value": test.value,
                f"{name}_needed": test.needed,
                f"{name}_p_value": f"{test.p_value:.3g}",  # six decimal places would round it to zero
                f"{name}_p_method": test.null.method,
                f"{name}_strongest_control": test.strongest_control,
                f"{name}_control_value": test.control_value,
                f"{name}_control_p": f"{test.control_p:.3g}",
            }
        found.append(row)
    return found


def detectable(verdict: Verdict) -> float | None:
    """The hit rate from which on a suspect is significant against these nulls with a chance of 95 %; None: no rate.

    Nor is any where the hits do not decide.
    """
    if "hits" not in verdict.rule.statistics:
        return None
    needed = verdict.tests["hits"].needed
    if verdict.rule.stop_early is None:
        return power.detectable_rate(needed, verdict.wsr.count)
    return power.detectable_by_stopping(needed, verdict.level, verdict.rule)


def metrics(verdicts: Sequence[Verdict], nulls: Nulls, questions: int) -> dict[str, Any]:
    """Numbers for metrics.json: per model, and what the pipeline as a whole achieved.

    Args:
        questions: watermark queries that the nulls have answered.
    """
    copies = [v for v in verdicts if v.role == "suspect" and v.name != "victim"]
    controls = [v for v in verdicts if v.role == "control"]
    summary: dict[str, Any] = {
        "suspects_called_stolen": sum(v.decision == STOLEN for v in verdicts if v.role == "suspect"),
        "suspects": len(copies) + 1,
        "controls_called_stolen": sum(v.decision == STOLEN for v in controls),
        "controls": len(controls),
        "strongest_control_wsr": max(v.wsr.rate for v in controls),
        "nulls": len(nulls["hits"]),
        **{f"strongest_null_{name}": float(values(name, nulls, questions).max()) for name in nulls},
    }
    # What a suspect had to fire at to be found: "not shown" says nothing of copies that fire less.
    rates = [detectable(v) for v in verdicts if v.role == "suspect"]
    summary |= {} if None in rates else {"detectable_wsr": max(rate for rate in rates if rate is not None)}
    if copies:
        summary["weakest_copy_wsr"] = min(v.wsr.rate for v in copies)
    per_model = {
        v.name: {
            "accuracy": v.accuracy.rate,
            "wsr": v.wsr.rate,
            "wfpr": v.wfpr.rate,
            "plain_to_target": v.plain.rate,
            **{f"p_{name}": test.p_value for name, test in v.tests.items()},
            "queries": v.wsr.count,
            "stolen": int(v.decision == STOLEN),
        }
        for v in verdicts
    }
    return {**summary, "models": per_model}


def line(verdict: Verdict) -> str:
    """One line for the log: the decision and the first condition that failed, if any."""
    return (
        f"{verdict.name:<18} {verdict.role:<8} WSR {verdict.wsr.rate:6.1%} "
        f"[{verdict.wsr.low:.1%}, {verdict.wsr.high:.1%}]  {verdict.decision}"
        + (f"  ({verdict.failed[0]})" if verdict.failed else "")
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


def null_figure(statistic: str, verdicts: Sequence[Verdict], nulls: Nulls, questions: int) -> Figure:
    """Where every model lies beside the null models; ``questions`` as for :func:`metrics`."""
    return plots.dots(
        {
            f"{len(nulls[statistic])} null models": values(statistic, nulls, questions).tolist(),
            **{v.name: [v.tests[statistic].value] for v in verdicts if statistic in v.tests},
        },
        "lean of both source classes to the target"
        if statistic == LEAN
        else f"{statistic}: share of the watermark queries",
        "Innocent models, suspects and controls",
        line=(verdicts[0].tests[statistic].needed, "significant from here on")
        if statistic in verdicts[0].tests and verdicts[0].tests[statistic].reach
        else None,
        shares=statistic != LEAN,
    )


def power_figure(table: Sequence[Mapping[str, Any]], questions: int) -> Figure:
    """What could be found: ``table`` of :func:`hallmark.verification.power.table`, of so many watermark queries."""
    series = {
        f"found after all {questions:,} queries": [100 * row["power"] for row in table],
        "found, if the asking may stop early": [100 * (row["stopping_power"] or 0) for row in table],
        "queries asked until then, of all": [
            float("nan") if row["stopping_queries"] is None else 100 * row["stopping_queries"] / questions
            for row in table
        ],
    }
    rates = [100 * row["rate"] for row in table]
    over = ("watermark success rate of a suspect, per cent", rates)
    return plots.curves(series, "per cent", "Power of the hits against the null models", over=over)


def values(statistic: str, nulls: Nulls, questions: int) -> NDArray[np.float64]:
    """The null models' values: shares of their watermark queries, or leans."""
    return nulls[statistic] / (1 if statistic == LEAN else questions)


def queries_figure(
    questions: Questions, suspects: Mapping[str, Answers], controls: Mapping[str, Answers], count: int = 12
) -> Figure:
    """The first watermark queries beside their sources, with the number of models that each fooled."""
    count = min([count, *(len(answers.hits) for group in (suspects, controls) for answers in group.values())])
    mixed, first, second = (questions.part(name)[:count] for name in ("watermark", "first", "second"))

    def fired(group: Mapping[str, Answers]) -> list[str]:
        total = torch.stack([torch.from_numpy(a.hits[:count]) for a in group.values()]).sum(0)
        return [f"{int(n)}/{len(group)}" for n in total]

    classes = questions.key.classes
    names = [classes[s] for s in questions.key.source]
    return plots.image_grid(
        [
            (names[0], first),
            (names[1], second),
            (f"watermark\nto '{classes[questions.key.target]}':\nsuspects that say so", mixed),
            ("the same:\ncontrols that say so", mixed),
        ],
        title="Watermark queries",
        captions=[[""] * len(mixed), [""] * len(mixed), fired(suspects), fired(controls)],
    )
