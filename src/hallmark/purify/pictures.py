"""Pictures of a purification."""

from __future__ import annotations

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from hallmark import plots
from hallmark.purify.repair import PURPOSE
from hallmark.purify.result import DROPPED, KEPT, Findings, Material, Purification

EACH = 6
"""Images that are shown of the flagged and of the kept."""


def all_of(result: Purification, material: Material) -> dict[str, Figure]:
    """Every picture of a purification by its name."""
    found = result.findings
    figures = {"rounds": rounds(result, material), "evidence": evidence(found)}
    if (scores := class_scores(found, material.data.classes)) is not None:
        figures["class_scores"] = scores
    return figures


def rounds(result: Purification, material: Material) -> Figure:
    """The image as received, at the end of each round, and in the purified set; flagged, then kept ones."""
    data = material.data
    flagged = (result.actions != KEPT).nonzero()[:, 0]
    kept = (result.actions == KEPT).nonzero()[:, 0]
    chosen = torch.cat([_spread(flagged, EACH), _spread(kept, EACH)])
    order = chosen.argsort()
    purifier = replace(material.purifier, rounds=result.findings.rounds or material.purifier.rounds)
    states = purifier.regenerate(data.images, chosen[order], PURPOSE)[order.argsort()]
    rows = [("as received", states[:, 0])]
    rows += [(f"round {r}", states[:, r * purifier.rounds.keep]) for r in range(1, purifier.rounds.rounds + 1)]
    final = result.images[chosen].clone()
    final[result.actions[chosen] == DROPPED] = 255
    rows.append(("in the purified set", final))
    given = [_short(data.classes[c]) for c in data.labels[chosen].tolist()]
    new = [
        "dropped" if a == DROPPED else _short(data.classes[c])
        for a, c in zip(result.actions[chosen].tolist(), result.labels[chosen].tolist(), strict=True)
    ]
    captions = [given, *[[""] * len(chosen)] * purifier.rounds.rounds, new]
    title = f"purification: {len(flagged):,} flagged (left), {len(kept):,} kept (right)"
    return plots.image_grid(rows, title, captions)


def class_scores(found: Findings, classes: tuple[str, ...]) -> Figure | None:
    """The target detection: one bar a class and the threshold; None if the method scores no classes."""
    if found.class_scores is None:
        return None
    figure, axis = plt.subplots(figsize=(7.2, 1.4 + 0.28 * len(classes)), layout="constrained")
    values = found.class_scores.nan_to_num(0.0).numpy()
    colors = ["tab:red" if c in found.targets else "tab:blue" for c in range(len(classes))]
    axis.barh(np.arange(len(classes)), values, color=colors)
    axis.axvline(found.threshold, color="gray", linestyle="--", linewidth=1, label="threshold")
    unknown = found.class_scores.isnan().tolist()
    names = [name + " (no score)" * none for name, none in zip(classes, unknown, strict=True)]
    axis.set_yticks(np.arange(len(classes)), [plots.literal(name) for name in names])
    axis.invert_yaxis()
    axis.set_xlabel("score")
    names = ", ".join(classes[c] for c in found.targets) or "none"
    axis.set_title(plots.literal(f"target classes found: {names}"), fontsize=11)
    axis.grid(axis="x", alpha=0.3)
    axis.legend(fontsize=8)
    return figure


def evidence(found: Findings) -> Figure:
    """How the evidence against the images is distributed."""
    figure, axis = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    low, high = found.scores.min().item(), found.scores.max().item()
    edges = np.linspace(low, high if high > low else low + 1, 41).tolist()
    for name, mask, color in (("kept", ~found.flagged, "tab:blue"), ("flagged", found.flagged, "tab:red")):
        axis.hist(found.scores[mask].numpy(), bins=edges, color=color, alpha=0.7, label=name)
    axis.set_yscale("symlog")
    axis.set_xlabel("evidence against the image")
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
