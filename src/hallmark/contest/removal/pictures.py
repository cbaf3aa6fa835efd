"""The thief's price list: what is left of the mark, over the accuracy that its removal costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from hallmark import plots
from hallmark.contest.common import mean_of

assert plots  # chooses the backend that needs no screen

Found = Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]
PANELS = (("wsr", "WSR, per cent", 100.0, "null_wsr"), ("log_odds", "log-odds of the target", 1.0, "null_log_odds"))
MARKERS = "osD^vP*X"


def price_list(scheme: str, found: Found) -> Figure:
    """WSR and log-odds of every target and removal over the change of accuracy; means over the seeds.

    Args:
        found: the scheme's rows with figures, by target and removal.
    """
    figure, axes = plt.subplots(1, 2, figsize=(12.5, 5.2), layout="constrained")
    targets = list(dict.fromkeys(target for target, _ in found))
    for axis, (name, label, scale, null) in zip(axes, PANELS, strict=True):
        for k, target in enumerate(targets):
            points = [
                (100 * mean_of(rows, "accuracy_change"), scale * mean_of(rows, name), removal)
                for (own, removal), rows in found.items()
                if own == target
            ]
            axis.plot(
                [x for x, _, _ in points],
                [y for _, y, _ in points],
                MARKERS[k % len(MARKERS)],
                color=f"C{k}",
                label="the victim" if target == "victim" else f"copy by {target}",
            )
            for x, y, removal in points:
                axis.annotate(removal, (x, y), xytext=(3, 3), textcoords="offset points", fontsize=6, color=f"C{k}")
        highest = scale * max(row[null] for rows in found.values() for row in rows)
        axis.axhline(highest, color="black", linestyle="--", linewidth=1, label="highest null model")
        axis.set_xlabel("change of accuracy, points")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_ylim(-3, 103)
    axes[0].legend(fontsize=8)
    figure.suptitle(f"The thief's price list: {scheme}", fontsize=11)
    return figure
