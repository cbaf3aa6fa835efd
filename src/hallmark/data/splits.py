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


@dataclass(frozen=True)
class Splits:
    """What :func:`split` returns.

    Attributes:
        sets: the data sets named in :data:`NAMES`; every one in random order.
        dropped: images of the training part left out because their pixels occur elsewhere.
        conflicting: groups of equal images in the source that bear different labels.
    """

    sets: Mapping[str, ImageDataset]
    dropped: int
    conflicting: int


def split(source: Source, config: PrepareData, runtime: Runtime) -> Splits:
    """Draw the splits: ``test`` from the source's test part, the others from its training part.

    A source without a test part gives ``test`` from the whole.  With ``duplicates: drop`` every image
    content is used once: the training part loses images that occur in the test part or earlier in
    itself *before* the draw, so that sizes are met.  The draw of a split does not depend on the size
    of a later one (test, reserve, queries, train), so changing ``train`` keeps the others.

    Raises:
        UserError: more images wanted than there are, or a class is missing from a split.
    """
    pool, test = source.train, source.test
    group, labels = _groups(source)
    kept = torch.ones(len(pool), dtype=torch.bool)
    if config.duplicates == "drop":
        first = torch.arange(len(group)) == group
        kept = first[: len(pool)]
        if test is not None:
            kept = kept & ~torch.isin(group[: len(pool)], group[len(pool) :])
    dropped = int((~kept).sum())
    pool = pool.subset(kept)
    sizes = {"reserve": config.reserve, "queries": config.queries, "train": config.train}
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
    return Splits({name: drawn[name] for name in NAMES}, dropped, conflicting)


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


def _groups(source: Source) -> tuple[Tensor, Tensor]:
    """First occurrence and label of every image, the training part before the test part."""
    if source.test is None:
        return first_occurrence(source.train.images), source.train.labels
    images = torch.cat([source.train.images, source.test.images])
    return first_occurrence(images), torch.cat([source.train.labels, source.test.labels])
