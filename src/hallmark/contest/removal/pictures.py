"""The thief's price list: what is left of the mark, over the accuracy that its removal costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hallmark import plots
from hallmark.contest.common import mean_of

assert plots  # chooses the backend that needs no screen

Found = Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]
PANELS = (("wsr", "WSR, per cent", 100.0, "null_wsr"), ("score", "score", 1.0, "null_score"))
MARKERS = "osD^vP*X"
DEAREST = 12.0
"""Points of accuracy; see :func:`price_list`."""


def price_list(scheme: str, found: Found) -> Figure:
    """WSR and score of every target and removal over the change of accuracy; means over the seeds.

    Removals that cost more than :data:`DEAREST` points are left out: what they leave is no copy of use.

    Args:
        found: the scheme's rows with figures, by target and removal.
    """
    figure, axes = plt.subplots(1, 2, figsize=(13, 6.5), layout="constrained")
    targets = list(dict.fromkeys(target for target, _ in found))
    for axis, (name, label, scale, null) in zip(axes, PANELS, strict=True):
        labels = []
        for k, target in enumerate(targets):
            points = [
                (100 * mean_of(rows, "accuracy_change"), scale * mean_of(rows, name), removal)
                for (own, removal), rows in found.items()
                if own == target
            ]
            points = [point for point in points if point[0] >= -DEAREST and math.isfinite(point[1])]
            text = "the victim" if target == "victim" else f"copy by {target}"
            places = [x for x, _, _ in points], [y for _, y, _ in points]
            axis.plot(*places, MARKERS[k % len(MARKERS)], color=f"C{k}", label=text)
            labels += [(y, x, removal, f"C{k}") for x, y, removal in points]
        if nulls := [row[null] for rows in found.values() for row in rows if row[null] is not None]:
            axis.axhline(scale * max(nulls), color="black", linestyle="--", linewidth=1, label="highest null model")
        axis.set_xlim(-DEAREST, DEAREST)
        _write(axis, labels)
        axis.set_xlabel(f"change of accuracy, points (dearer than {DEAREST:g}: left out)")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8, loc="center left")
    figure.suptitle(f"The thief's price list: {scheme}", fontsize=11)
    return figure


def _write(axis: Axes, labels: Sequence[tuple[float, float, str, str]]) -> None:
    """Names of points (y, x, name, color) at the right edge, one above the other, each with a line to its point."""
    low, high = axis.get_ylim()
    gap, last = (high - low) / max(32, len(labels) + 2), -float("inf")
    for y, x, name, color in sorted(labels):
        last = max(y, last + gap)
        axis.annotate(
            name,
            (x, y),
            xytext=(0.45 * DEAREST, last),
            fontsize=6.5,
            color=color,
            va="center",
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.4, "alpha": 0.5},
        )
    axis.set_ylim(low, max(high, last + gap))
