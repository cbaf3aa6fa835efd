"""A picture of each group of a contest of watermarks: how far the marks survive."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from hallmark import plots
from hallmark.contest.heatmap import heatmap
from hallmark.contest.watermark.plan import WatermarkGroup

Found = Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]
BARS = {
    "victim": ("victim_wsr", "tab:gray"),
    "copy": ("copy_wsr", "tab:red"),
    "copy, negatives": ("copy_wfpr", "tab:orange"),
    "copy of the unmarked twin": ("unmarked_copy_wsr", "tab:blue"),
}


def draw(group: WatermarkGroup, found: Found, thieves: Mapping[str, Mapping[str, Any]]) -> Figure | None:
    """The picture that the group asks for; None without rows.

    Args:
        found: rows with figures, by scheme and thief.
        thieves: the thieves' blocks by name.
    """
    if not found:
        return None
    if group.picture == "matrix":
        values = [[_mean(found.get((s, t), []), "copy_wsr") for t in group.thieves] for s in group.schemes]
        points = [[None if value is None else 100 * value for value in line] for line in values]
        return heatmap(points, group.schemes, group.thieves, "Copies' WSR, per cent")
    return _curve(group, found, thieves) if group.picture == "curve" else _bars(group, found)


def _bars(group: WatermarkGroup, found: Found) -> Figure:
    """Rates as bars with the range over the seeds."""
    values = {
        label: [_mean(rows, name) if _mean(rows, name) is not None else float("nan") for rows in found.values()]
        for label, (name, _) in BARS.items()
    }
    ranges = {label: [_range(rows, name) for rows in found.values()] for label, (name, _) in BARS.items()}
    return plots.rates(
        [f"{scheme} / {thief}" for scheme, thief in found],
        values,  # pyright: ignore[reportArgumentType] - None is NaN by now
        ranges,
        title=f"{group.title} (bars: range over seeds)",
        colors={label: color for label, (_, color) in BARS.items()},
    )


def _curve(group: WatermarkGroup, found: Found, thieves: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Success and accuracy of the copies over the thieves' budgets, one dot a seed."""
    figure, axes = plt.subplots(1, 2, figsize=(9.2, 3.8), layout="constrained")
    for axis, name, label in ((axes[0], "copy_wsr", "copy's WSR"), (axes[1], "copy_accuracy", "copy's accuracy")):
        for scheme in group.schemes:
            points = [(thieves[t].get("budget", 0), rows) for (s, t), rows in found.items() if s == scheme]
            points.sort(key=lambda point: point[0])
            known = [(budget, _mean(rows, name), rows) for budget, rows in points]
            line = [(budget, 100 * mean) for budget, mean, _ in known if mean is not None]
            (drawn,) = axis.plot([x for x, _ in line], [y for _, y in line], label=scheme)
            dots = [(budget, 100 * row[name]) for budget, _, rows in known for row in rows if row[name] is not None]
            axis.plot([x for x, _ in dots], [y for _, y in dots], "o", alpha=0.5, color=drawn.get_color())
        axis.set_xlabel("queries")
        axis.set_ylabel(f"{label}, per cent")
        axis.grid(alpha=0.3)
    axes[0].set_ylim(0, 102)
    axes[0].legend(fontsize=8)
    figure.suptitle(group.title, fontsize=11)
    return figure


def _known(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [row[name] for row in rows if row[name] is not None]


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = _known(rows, name)
    return statistics.fmean(values) if values else None


def _range(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[float, float]:
    values = _known(rows, name) or [float("nan")]
    return min(values), max(values)
