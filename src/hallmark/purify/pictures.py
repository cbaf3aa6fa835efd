"""Pictures of a purification."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from hallmark import plots
from hallmark.data.dataset import ImageDataset
from hallmark.purify.result import ACTIONS, DROPPED, KEPT, Purification

EACH = 6
"""Images that are shown of the flagged and of the kept."""


def rounds(result: Purification, data: ImageDataset) -> Figure:
    """The image as received, the end of each round, and what stands in the purified set; flagged, then kept ones."""
    flagged = (result.actions != KEPT).nonzero()[:, 0]
    kept = (result.actions == KEPT).nonzero()[:, 0]
    chosen = torch.cat([_spread(flagged, EACH), _spread(kept, EACH)])
    shown = result.rounds.shape[1]
    rows = [("as received", data.images[chosen])]
    rows += [(f"round {r + 1}", result.rounds[chosen, r]) for r in range(shown)]
    final = result.images[chosen].clone()
    final[result.actions[chosen] == DROPPED] = 255
    rows.append(("purified", final))
    given = [_short(data.classes[c]) for c in data.labels[chosen].tolist()]
    new = [
        ACTIONS[a] if a != 1 else _short(data.classes[c])
        for a, c in zip(result.actions[chosen].tolist(), result.labels[chosen].tolist(), strict=True)
    ]
    captions = [given, *[[""] * len(chosen)] * shown, new]
    title = f"purification: {len(flagged):,} flagged (left), {len(kept):,} kept (right)"
    return plots.image_grid(rows, title, captions)


def class_scores(result: Purification, classes: tuple[str, ...]) -> Figure:
    """The target detection: one bar a class and the threshold."""
    figure, axis = plt.subplots(figsize=(7.2, 1.4 + 0.28 * len(classes)), layout="constrained")
    values = result.class_scores.nan_to_num(0.0).numpy()
    colors = ["tab:red" if c in result.targets else "tab:blue" for c in range(len(classes))]
    axis.barh(np.arange(len(classes)), values, color=colors)
    axis.axvline(result.threshold, color="gray", linestyle="--", linewidth=1, label="threshold")
    axis.set_yticks(np.arange(len(classes)), classes)
    axis.invert_yaxis()
    axis.set_xlabel("score")
    found = ", ".join(classes[c] for c in result.targets) or "none"
    axis.set_title(f"target classes found: {found}", fontsize=11)
    axis.grid(axis="x", alpha=0.3)
    axis.legend(fontsize=8)
    return figure


def evidence(result: Purification) -> Figure:
    """How the evidence against the images is distributed."""
    figure, axis = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    edges = [k / 40 for k in range(41)]
    kept = result.actions == KEPT
    for name, mask, color in (("kept", kept, "tab:blue"), ("flagged", ~kept, "tab:red")):
        axis.hist(result.scores[mask].clamp(0, 1).numpy(), bins=edges, color=color, alpha=0.7, label=name)
    axis.set_yscale("symlog")
    axis.set_xlabel("evidence against the given label")
    axis.set_ylabel("images")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    return figure


def _spread(rows: torch.Tensor, count: int) -> torch.Tensor:
    """At most ``count`` of ``rows``, evenly spaced."""
    if len(rows) <= count:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, count).long()]


def _short(name: str) -> str:
    return name if len(name) <= 10 else name[:9] + "."
