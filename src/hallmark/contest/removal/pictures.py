"""The thief's price list: what is left of the mark, over the accuracy that its removal costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hallmark import plots
from hallmark.contest.rows import mean_of

assert plots  # chooses the backend that needs no screen

Found = Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]
PANELS = (("wsr", "WSR, per cent", 100.0, "null_wsr"), ("score", "score", 1.0, "null_score"))
MARKERS = "osD^vP*X"
DEAREST = 12.0
"""Points of accuracy; see :func:`price_list`."""


def price_list(scheme: str, found: Found) -> Figure:
    """WSR and score of every removal over the change of accuracy, a row a target; means over the seeds.

    Removals that cost more than :data:`DEAREST` points are left out: what they leave is no copy of use.

    Args:
        found: the scheme's rows with figures, by target and removal.
    """
    targets = list(dict.fromkeys(target for target, _ in found))
    figure, axes = plt.subplots(
        len(targets), 2, figsize=(13, 0.8 + 4.7 * len(targets)), squeeze=False, layout="constrained"
    )
    for k, target in enumerate(targets):
        own = {removal: rows for (name, removal), rows in found.items() if name == target}
        for axis, (name, label, scale, null) in zip(axes[k], PANELS, strict=True):
            points = [
                (100 * mean_of(rows, "accuracy_change"), scale * mean_of(rows, name), removal)
                for removal, rows in own.items()
            ]
            points = [point for point in points if point[0] >= -DEAREST and math.isfinite(point[1])]
            axis.plot([x for x, _, _ in points], [y for _, y, _ in points], MARKERS[k % len(MARKERS)], color=f"C{k}")
            if nulls := [row[null] for rows in own.values() for row in rows if row[null] is not None]:
                axis.axhline(scale * max(nulls), color="black", linestyle="--", linewidth=1, label="highest null model")
                axis.legend(fontsize=8, loc="lower left")
            axis.set_xlim(-DEAREST, DEAREST)
            if name == "wsr":
                axis.set_ylim(-4, 104)
            _write(axis, points, f"C{k}")
            axis.set_xlabel(f"change of accuracy, points (dearer than {DEAREST:g}: left out)")
            axis.set_ylabel(label)
            axis.set_title("the victim" if target == "victim" else f"copy by {target}", fontsize=10)
            axis.grid(alpha=0.3)
    figure.suptitle(f"The thief's price list: {scheme}", fontsize=11)
    return figure


def _write(axis: Axes, points: Sequence[tuple[float, float, str]], color: str) -> None:
    """Names of points (x, y, name) at the right edge, none over another, each with a line to its point."""
    low, high = axis.get_ylim()
    gap = (high - low) / max(30, len(points) + 2)
    ordered = sorted(points, key=lambda point: (point[1], point[2]))
    for (x, y, name), place in zip(
        ordered, spaced([y for _, y, _ in ordered], low + gap, high - gap, gap), strict=True
    ):
        axis.annotate(
            name,
            (x, y),
            xytext=(0.45 * DEAREST, place),
            fontsize=7.5,
            va="center",
            # From the middle of the name's left edge, so that no line runs through a name.
            arrowprops={
                "arrowstyle": "-",
                "color": color,
                "linewidth": 0.5,
                "alpha": 0.6,
                "relpos": (0, 0.5),
                "shrinkA": 1,
            },
        )
    axis.set_ylim(low, high)


def spaced(wanted: Sequence[float], low: float, high: float, gap: float) -> list[float]:
    """Places near the ascending ``wanted`` ones, ``gap`` apart, not above ``high``, below ``low`` if room is short."""
    places: list[float] = []
    for each in wanted:
        places.append(max(each, low, places[-1] + gap if places else low))
    for k in reversed(range(len(places))):
        places[k] = min(places[k], high - gap * (len(places) - 1 - k))
    return places
