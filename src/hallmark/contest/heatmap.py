"""A table of numbers as coloured squares."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from hallmark import plots

assert plots  # chooses the backend that needs no screen


def heatmap(
    values: Sequence[Sequence[float | None]], rows: Sequence[str], columns: Sequence[str], title: str
) -> Figure:
    """Values written into their squares, darker is more; None leaves a square grey.

    Args:
        values: ``[R][C]`` in points; the colours end at 0 and at the greatest value, 10 or more.
    """
    table = np.array([[np.nan if v is None else v for v in line] for line in values], dtype=float)
    size = (2.6 + 0.85 * len(columns), 1.8 + 0.3 * len(rows))
    figure, axis = plt.subplots(figsize=size, layout="constrained")
    top = max(10.0, float(np.nanmax(table)))
    axis.imshow(np.ma.masked_invalid(table), cmap="Reds", vmin=0, vmax=top, aspect="auto")
    axis.set_facecolor("#dcdcdc")
    for r, c in np.argwhere(~np.isnan(table)):
        color = "white" if table[r, c] > 0.6 * top else "black"
        text = f"{table[r, c]:.1f}".replace("-0.0", "0.0")
        axis.text(c, r, text, ha="center", va="center", fontsize=7, color=color)
    axis.set_xticks(
        range(len(columns)), [name.replace("/", "\n") for name in columns], fontsize=7, rotation=35, ha="right"
    )
    axis.set_yticks(range(len(rows)), rows, fontsize=8)
    axis.set_title(title, fontsize=10)
    axis.tick_params(length=0)
    return figure
