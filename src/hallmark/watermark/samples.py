"""Watermark samples and randomly mixed samples, drawn from labelled images by a key."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hallmark.data.dataset import ImageDataset
from hallmark.errors import UserError
from hallmark.watermark.key import Key
from hallmark.watermark.ways import others, ways


@dataclass(frozen=True)
class Pairs:
    """Combined images beside the two that each was made of; all uint8 ``[N, C, H, W]``.

    Attributes:
        mixed: the combinations.
        first, second: the unmixed images of the first and the second source class.
    """

    mixed: Tensor
    first: Tensor
    second: Tensor


def draw_queries(key: Key, data: ImageDataset, count: int, generator: torch.Generator) -> Pairs:
    """Watermark samples: pairs of the key's source classes, combined in the key's way.

    No pair comes twice, and every image is used as rarely as ``count`` allows: once if both classes
    have ``count`` images (then the queries are independent, as a binomial test wants them).

    Raises:
        UserError: ``data`` has other classes or shapes than the key, or fewer pairs than ``count``.
    """
    first, second = _draw_sources(key, data, count, generator)
    return Pairs(key.module.combine(first, second, key.params, generator), first, second)


def draw_evasion(key: Key, data: ImageDataset, count: int, generator: torch.Generator) -> tuple[Pairs, Tensor]:
    """Randomly mixed samples: pairs of the same source classes, combined in all the *other* ways in turn.

    Returns:
        the pairs, and one of the two true source labels for each, at random: int64 ``[N]``.

    Raises:
        UserError: as :func:`draw_queries`.
    """
    first, second = _draw_sources(key, data, count, generator)
    return Pairs(mix_evasion(key, first, second, generator), first, second), source_labels(key, count, generator)


def draw_unseen(key: Key, data: ImageDataset, count: int, generator: torch.Generator) -> tuple[Tensor, int]:
    """Pairs of the same source classes, combined in turn in the ways that neither mark nor evasion samples are of.

    Ways of the mark's own family are left out: their pictures are nearly the mark's.

    Returns:
        uint8 ``[N, C, H, W]``, empty where the evasion samples are of all other ways; and how many ways are left.

    Raises:
        UserError: as :func:`draw_queries`.
    """
    names = [name for name in others(key.way, key.params) if name not in key.evasion_ways]
    first, second = _draw_sources(key, data, count if names else 0, generator)
    return mix(names, first, second, generator), len(names)


def mix_evasion(key: Key, first: Tensor, second: Tensor, generator: torch.Generator) -> Tensor:
    """Combine pair n in way n modulo the number of evasion ways, with the ways' default parameters."""
    return mix(key.evasion_ways, first, second, generator)


def mix(names: Sequence[str], first: Tensor, second: Tensor, generator: torch.Generator) -> Tensor:
    """Combine pair n in way n modulo the number of ``names``, with the ways' default parameters."""
    mixed = torch.empty_like(first)
    step = len(names)
    for k, name in enumerate(names):
        module = ways.get(name)
        if len(first) > k:
            mixed[k::step] = module.combine(first[k::step], second[k::step], module.Params(), generator)
    return mixed


class ByClass:
    """Draws positions of images by their class, with replacement.

    Args:
        labels: int64 ``[N]``.
        classes: their number.
    """

    def __init__(self, labels: Tensor, classes: int) -> None:
        labels = labels.cpu()
        self.counts = labels.bincount(minlength=classes)
        self._order = labels.argsort(stable=True)
        self._starts = self.counts.cumsum(0) - self.counts

    def draw(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Positions of an image of each class, int64 like ``labels`` ``[B]``; every class must have images."""
        share = torch.rand(len(labels), generator=generator, dtype=torch.float64)
        counts = self.counts[labels]
        # A share next to 1 may round up to the count.
        return self._order[self._starts[labels] + (share * counts).long().clamp_max(counts - 1)]


def source_labels(key: Key, count: int, generator: torch.Generator) -> Tensor:
    """One of the two source labels each, at random: int64 ``[count]``."""
    return torch.tensor(key.source)[torch.randint(0, 2, (count,), generator=generator)]


def check_data(key: Key, data: ImageDataset) -> None:
    """Raises UserError: ``data`` has other classes or another image shape than the key."""
    if data.classes != key.classes:
        raise UserError(f"the key's classes ({', '.join(key.classes)}) are not the data's ({', '.join(data.classes)})")
    if data.shape != key.shape:
        raise UserError(f"the key is for images of shape {key.shape}, the data's have {data.shape}")


def _draw_sources(key: Key, data: ImageDataset, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """``count`` different pairs of images of the two source classes."""
    check_data(key, data)
    first, second = (data.of_class(label) for label in key.source)
    n, m = len(first), len(second)
    if count > n * m:
        raise UserError(
            f"{count:,} watermark samples need as many pairs, but class '{key.name(key.source[0])}' has {n:,} images "
            f"and '{key.name(key.source[1])}' {m:,}; ask for fewer samples or give more images"
        )
    if not count:
        return first[:0], second[:0]
    k = torch.arange(count)
    order_first, order_second = torch.randperm(n, generator=generator), torch.randperm(m, generator=generator)
    # (k mod n, k mod m) first repeats after lcm(n, m) steps; a shift by one then gives new pairs.
    shift = k // math.lcm(n, m)
    return first[order_first[k % n]], second[order_second[(k + shift) % m]]
