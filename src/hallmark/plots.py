"""Pictures: grids of images, training curves, rates with intervals.  PNG files are byte-deterministic."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from hallmark import artifacts

MANY_CLASSES = 100
"""More are drawn as a curve, without their names, which nobody could read."""


def save(figure: Figure, path: Path) -> None:
    """Write a PNG without the date or version that matplotlib would put into it, and close the figure."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Said after a second of looking for the best place: it hangs on how busy the machine is, and changes nothing.
        warnings.filterwarnings("ignore", message="Creating legend with loc")
        # A box stands where the font lacks a letter of a class's name.
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    plt.close(figure)
    artifacts.write_bytes(path, buffer.getvalue())


def literal(text: str) -> str:
    """``text`` as it is: between two dollar signs of a class's name matplotlib would look for a formula."""
    return text.replace("$", r"\$")


def image_grid(
    rows: Sequence[tuple[str, Tensor]], title: str = "", captions: Sequence[Sequence[str]] | None = None
) -> Figure:
    """Rows of images with a label at the left of each.

    Args:
        rows: (label, uint8 ``[N, C, H, W]``); a row with fewer images than another one ends with free places.
        captions: a short text under each image, ``captions[row][column]``.
    """
    columns = max(len(images) for _, images in rows)
    height = 1.1 if captions is None else 1.2
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(1.6 + columns, 0.45 + height * len(rows)), squeeze=False, layout="constrained"
    )
    for r, (label, images) in enumerate(rows):
        for c in range(columns):
            axis = axes[r][c]
            axis.set_xticks([])
            axis.set_yticks([])
            if c < len(images):
                pixels = images[c].permute(1, 2, 0).cpu().numpy()
                axis.imshow(pixels.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
                if captions is not None:
                    axis.set_xlabel(literal(captions[r][c]), fontsize=7, labelpad=2)
            else:
                axis.axis("off")
        axes[r][0].set_ylabel(literal(label), rotation=0, ha="right", va="center", fontsize=9)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def curves(
    series: Mapping[str, Sequence[float]],
    ylabel: str,
    title: str = "",
    log: bool = False,
    *,
    over: tuple[str, Sequence[float]] | None = None,
) -> Figure:
    """One line a name.

    Args:
        over: the horizontal axis's name and values; None: epochs 1, 2, ...
    """
    figure, axis = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    for name, values in series.items():
        axis.plot(np.arange(1, len(values) + 1) if over is None else over[1], values, marker=".", label=name)
    axis.set_xlabel("epoch" if over is None else over[0])
    axis.set_ylabel(ylabel)
    if log:
        axis.set_yscale("log")
    axis.set_title(title, fontsize=11)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    return figure


def rates(
    names: Sequence[str],
    values: Mapping[str, Sequence[float]],
    intervals: Mapping[str, Sequence[tuple[float, float]]],
    *,
    title: str = "",
    colors: Mapping[str, str] | None = None,
    line: tuple[float, str] | None = None,
) -> Figure:
    """Horizontal bars of rates (0-1, drawn in per cent), groups side by side, with intervals.

    Args:
        names: one a model, from the top.
        values: group name to one rate a model; NaN draws nothing.
        intervals: group name to (low, high) a model; groups without intervals may be missing.
        line: a vertical reference line (rate, label).
    """
    figure, axis = plt.subplots(figsize=(7.6, 1.2 + 0.28 * len(names) * (len(values) + 0.6)), layout="constrained")
    thickness = 0.8 / len(values)
    position = np.arange(len(names))
    for k, (group, rates_) in enumerate(values.items()):
        y = position + (k - (len(values) - 1) / 2) * thickness
        widths = 100 * np.asarray(rates_, dtype=float)
        axis.barh(y, widths, thickness * 0.92, label=group, color=(colors or {}).get(group))
        if group in intervals:
            low, high = (100 * np.asarray(side, dtype=float) for side in zip(*intervals[group], strict=True))
            errors = np.clip(np.stack([widths - low, high - widths]), 0, None)
            axis.errorbar(widths, y, xerr=errors, fmt="none", ecolor="black", elinewidth=1, capsize=2)
    if line is not None:
        axis.axvline(100 * line[0], color="gray", linestyle="--", linewidth=1, label=line[1])
    axis.set_yticks(position, names)
    axis.invert_yaxis()
    axis.set_xlim(0, 100)
    axis.set_xlabel("per cent")
    axis.grid(axis="x", alpha=0.3)
    # Long titles and legends lie outside: on the bars there is no free place.
    figure.suptitle(textwrap.fill(title, 80), fontsize=11)
    figure.legend(fontsize=8, loc="outside lower center", ncols=4)
    return figure


def class_shares(counts: Mapping[str, Sequence[int]], classes: Sequence[str], title: str = "") -> Figure:
    """Bars of each class's share of each split, splits side by side; a curve a split of more than
    :data:`MANY_CLASSES` classes.

    Args:
        counts: split name to one number of images a class.
    """
    many = len(classes) > MANY_CLASSES
    width = max(6.4, min(24.0, 0.22 * len(classes) * len(counts)))
    figure, axis = plt.subplots(figsize=(width, 3.8), layout="constrained")
    thickness = 0.8 / len(counts)
    position = np.arange(len(classes))
    for k, (name, numbers) in enumerate(counts.items()):
        shares = 100 * np.asarray(numbers, dtype=float) / max(sum(numbers), 1)
        label = f"{name} ({sum(numbers):,})"
        if many:
            axis.plot(position, shares, linewidth=0.8, label=label)
        else:
            axis.bar(position + (k - (len(counts) - 1) / 2) * thickness, shares, thickness * 0.92, label=label)
    rotated = len(classes) > 6
    if many:
        axis.set_xlabel("number of the class")
    else:
        sideways = {"rotation": 40, "ha": "right"} if rotated else {}
        axis.set_xticks(position, [literal(name) for name in classes], fontsize=8, **sideways)
    axis.set_ylabel("per cent of the split")
    axis.grid(axis="y", alpha=0.3)
    axis.set_title(title, fontsize=11)
    axis.legend(fontsize=8, ncols=len(counts), loc="upper center", bbox_to_anchor=(0.5, -0.28 if rotated else -0.1))
    return figure


def dots(
    groups: Mapping[str, Sequence[float]],
    xlabel: str,
    title: str = "",
    *,
    line: tuple[float, str] | None = None,
    shares: bool = True,
) -> Figure:
    """One row a group, one dot a value.

    Args:
        groups: name to values, from the top.
        line: a vertical reference line (value, label).
        shares: the values are 0-1, and drawn in per cent; otherwise any numbers.
    """
    factor = 100 if shares else 1
    figure, axis = plt.subplots(figsize=(7.6, 1.2 + 0.32 * len(groups)), layout="constrained")
    for row, values in enumerate(groups.values()):
        axis.plot(factor * np.asarray(values, dtype=float), np.full(len(values), row), "o", alpha=0.5, markersize=5)
    if line is not None:
        axis.axvline(factor * line[0], color="gray", linestyle="--", linewidth=1, label=line[1])
        axis.legend(fontsize=8)
    axis.set_yticks(np.arange(len(groups)), list(groups))
    axis.invert_yaxis()
    if shares:
        axis.set_xlim(-2, 102)
    axis.set_xlabel(f"{xlabel}, per cent" if shares else xlabel)
    axis.grid(axis="x", alpha=0.3)
    axis.set_title(title, fontsize=11)
    return figure


@dataclass(frozen=True)
class Scatters:
    """A row of panels of points on the same axes.

    Attributes:
        panels: group name to points ``[N, 2]``; all panels have the same groups.
    """

    name: str
    xlabel: str
    ylabel: str
    panels: Sequence[Mapping[str, np.ndarray]]


def scatters(rows: Sequence[Scatters], titles: Sequence[str], title: str = "") -> Figure:
    """Rows of panels of points; within a row both axes have one scale, the same in all panels: distances compare.

    Args:
        rows: their groups are the same; the last one is drawn above the others, as crosses.
        titles: of the columns.
    """
    columns = len(titles)
    size = (1.0 + 3.3 * max(columns, 2), 1.1 + 3.3 * len(rows))
    figure, axes = plt.subplots(
        len(rows), columns, figsize=size, sharex="row", sharey="row", squeeze=False, layout="constrained"
    )
    for row, line in zip(rows, axes, strict=True):
        every = np.concatenate([points for groups in row.panels for points in groups.values()])
        centre, half = (every.max(0) + every.min(0)) / 2, max(0.54 * float(np.ptp(every, 0).max()), 1e-6)
        for axis, groups in zip(line, row.panels, strict=True):
            for k, (group, points) in enumerate(groups.items()):
                crosses = {"marker": "x", "color": "black", "linewidths": 0.6}
                style = crosses if k == len(groups) - 1 else {"linewidths": 0}
                axis.scatter(points[:, 0], points[:, 1], s=12, alpha=0.5, label=group, **style)
            axis.set_xlim(centre[0] - half, centre[0] + half)
            axis.set_ylim(centre[1] - half, centre[1] + half)
            axis.set_box_aspect(1)
            axis.set_xlabel(row.xlabel, fontsize=8)
            axis.tick_params(labelsize=7)
            axis.grid(alpha=0.3)
        line[0].set_ylabel(f"{row.name}\n{row.ylabel}", fontsize=8)
    for axis, name in zip(axes[0], titles, strict=True):
        axis.set_title(name, fontsize=9)
    handles, labels = axes[0][0].get_legend_handles_labels()
    legend = figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=9, markerscale=1.6)
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1)
    figure.suptitle(title, fontsize=11)
    return figure
