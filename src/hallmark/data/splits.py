"""Disjoint, stratified splits, and images that occur more than once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hallmark.config import PrepareData
from hallmark.data.dataset import ImageDataset
from hallmark.data.sources import Source
from hallmark.errors import UserError
from hallmark.runtime import Runtime

NAMES = ("train", "test", "reserve", "queries")
TRAIN, TEST, RESERVE = range(3)
"""Parts of a source."""


@dataclass(frozen=True)
class Splits:
    """What :func:`split` returns.

    Attributes:
        sets: the data sets named in :data:`NAMES`; every one in random order.
        dropped: images of the training and the reserve part left out because their pixels occur elsewhere.
        conflicting: groups of equal images in the source that bear different labels.
    """

    sets: Mapping[str, ImageDataset]
    dropped: int
    conflicting: int


def split(source: Source, config: PrepareData, runtime: Runtime) -> Splits:
    """Draw the splits: ``test`` and ``reserve`` from the source's parts of these names, the others from ``train``.

    A part that the source lacks is drawn from its training part.  With ``duplicates: drop`` every image
    content is used once: *before* the draw, so that sizes are met, the training part loses images that
    occur in the test part, the reserve part or earlier in itself, and the reserve part those that occur
    in the test part or earlier in itself.  The draw of a split does not depend on the size
    of a later one (test, reserve, queries, train), so changing ``train`` keeps the others.

    Raises:
        UserError: more images wanted than there are, or a class is missing from a split.
    """
    pool, test, reserve = source.train, source.test, source.reserve
    group, labels, part = _groups(source)
    kept = torch.ones(len(group), dtype=torch.bool)
    if config.duplicates == "drop":
        # Of equal images the test part keeps its own (all of them), then the reserve, then the training part.
        for own, above in ((RESERVE, (TEST,)), (TRAIN, (TEST, RESERVE))):
            own_rows = (part == own).nonzero()[:, 0]
            held = torch.isin(group[own_rows], group[torch.isin(part, torch.tensor(above))])
            kept[own_rows] = ~held & _first(group[own_rows])
    lost = {own: int((~kept[part == own]).sum()) for own in (TRAIN, RESERVE)}
    dropped = lost[TRAIN]
    pool = pool.subset(kept[part == TRAIN])
    sizes = {"reserve": config.reserve, "queries": config.queries, "train": config.train}
    trusted: dict[str, ImageDataset] = {}
    if reserve is not None:
        reserve = reserve.subset(kept[part == RESERVE])
        trusted = draw(reserve, {"reserve": sizes.pop("reserve")}, runtime, lost[RESERVE])
    if zeros := [name for name, size in sizes.items() if size == 0][1:]:
        raise UserError(
            f"prepare_data.{zeros[0]}: is 0 like another size, but without a reserve part "
            "only one can have all that is left; set a size"
        )
    if test is None:
        if config.test == 0:
            raise UserError(
                f"prepare_data.test: source '{config.source}' has no test part to take whole; "
                "say how many images to draw from it"
            )
        drawn = draw(pool, {"test": config.test, **sizes}, runtime, dropped)
    else:
        drawn = draw(pool, sizes, runtime, dropped) | draw(test, {"test": config.test}, runtime)
    conflicting = len(torch.unique(group[labels != labels[group]]))
    drawn |= trusted
    return Splits({name: drawn[name] for name in NAMES}, sum(lost.values()), conflicting)


def draw(pool: ImageDataset, sizes: Mapping[str, int], runtime: Runtime, dropped: int = 0) -> dict[str, ImageDataset]:
    """Disjoint stratified draws, in the order of ``sizes``; a size of 0 takes, last, all that is left.

    Every draw has the class shares of what is left of ``pool``, rounded to whole images (largest
    remainders).

    Args:
        dropped: images that ``pool`` lost as duplicates, for the message.

    Raises:
        UserError: as :func:`split`.
    """
    wanted, there = sum(sizes.values()), len(pool)
    if wanted > there or (wanted == there and 0 in sizes.values()):
        names = " + ".join(f"prepare_data.{name}" for name in sizes)
        parts = " + ".join(f"{size:,}" if size else "all that is left" for size in sizes.values())
        total = f" = {wanted:,}" if len(sizes) > 1 and 0 not in sizes.values() else ""
        after = f", after {dropped:,} duplicates were dropped," if dropped else ""
        raise UserError(
            f"{names}: {parts}{total} images wanted, but the source has{after} {there:,} for them; lower a size"
        )
    order = torch.randperm(there, generator=runtime.generator("prepare_data/classes"))
    order = order[torch.argsort(pool.labels[order], stable=True)]
    left = torch.bincount(pool.labels, minlength=len(pool.classes))
    start = left.cumsum(0) - left
    drawn: dict[str, ImageDataset] = {}
    for name, size in sorted(sizes.items(), key=lambda item: item[1] == 0):
        counts = allocate(left, size or int(left.sum()))
        if int(counts.min()) == 0:
            empty = int(counts.argmin())
            samples = int((pool.labels == empty).sum())
            remedy = "raise this size" if samples > len(sizes) else "add images of the class or remove it"
            raise UserError(
                f"prepare_data.{name}: {int(counts.sum()):,} images leave none for class '{pool.classes[empty]}', "
                f"of which the source has {samples:,} for {' + '.join(sizes)}; {remedy}"
            )
        picked = torch.cat([order[s : s + n] for s, n in zip(start.tolist(), counts.tolist(), strict=True)])
        shuffle = torch.randperm(len(picked), generator=runtime.generator(f"prepare_data/{name}"))
        drawn[name] = pool.subset(picked[shuffle])
        start, left = start + counts, left - counts
    return drawn


def allocate(available: Tensor, size: int) -> Tensor:
    """Whole numbers proportional to ``available`` that sum to ``size`` and do not exceed it.

    Args:
        available: int64 ``[K]``, images left of each class; ``size`` is at most their sum.
    """
    total = int(available.sum())
    counts = available * size // total
    remainder = available * size - counts * total
    # Ties go to the lower class number.  A remainder above 0 means that the class is not exhausted.
    most = torch.argsort(remainder, descending=True, stable=True)[: size - int(counts.sum())]
    counts[most] += 1
    return counts


def first_occurrence(images: Tensor) -> Tensor:
    """For each image the position of the first one with the same pixels, int64 ``[N]``."""
    flat = np.ascontiguousarray(images.numpy()).reshape(len(images), -1)
    rows = flat.view(np.dtype((np.void, flat.shape[1]))).ravel()
    _, first, inverse = np.unique(rows, return_index=True, return_inverse=True)
    return torch.from_numpy(first[inverse])


def duplicates(sets: Mapping[str, ImageDataset]) -> list[dict[str, Any]]:
    """How many images of each split occur (again, in the same split) in each split.

    Returns:
        Rows ``split, other, images``: for ``split == other`` the images beyond the first of their kind.
    """
    group = first_occurrence(torch.cat([data.images for data in sets.values()]))
    groups = dict(zip(sets, group.split([len(data) for data in sets.values()]), strict=True))
    return [
        {
            "split": one,
            "other": two,
            "images": len(a) - len(torch.unique(a)) if one == two else int(torch.isin(a, b).sum()),
        }
        for one, a in groups.items()
        for two, b in groups.items()
    ]


def balance(sets: Mapping[str, ImageDataset]) -> list[dict[str, Any]]:
    """Rows ``split, class, images, share``."""
    rows = []
    for name, data in sets.items():
        counts: Sequence[int] = torch.bincount(data.labels, minlength=len(data.classes)).tolist()
        rows += [
            {"split": name, "class": label, "images": count, "share": count / len(data)}
            for label, count in zip(data.classes, counts, strict=True)
        ]
    return rows


def _groups(source: Source) -> tuple[Tensor, Tensor, Tensor]:
    """First occurrence, label and part of every image of the source, in the order of the parts."""
    parts = {TRAIN: source.train, TEST: source.test, RESERVE: source.reserve}
    there = {part: data for part, data in parts.items() if data is not None}
    labels = torch.cat([data.labels for data in there.values()])
    part = torch.cat([torch.full((len(data),), number) for number, data in there.items()])
    # One part is not copied: it may be most of the memory.
    images = [data.images for data in there.values()]
    return first_occurrence(images[0] if len(images) == 1 else torch.cat(images)), labels, part


def _first(group: Tensor) -> Tensor:
    """Whether an image is the first of its group, bool ``[N]``."""
    _, first = np.unique(group.numpy(), return_index=True)
    mask = torch.zeros(len(group), dtype=torch.bool)
    mask[torch.from_numpy(first)] = True
    return mask
