"""What is asked of each model: watermark queries, the same pairs otherwise, decoy keys, the main task.

The judge gives a pool of labelled images and, after the commitment, a seed; the owner's key gives the recipe and a
seed that was bound by the commitment.  The draws depend on both seeds, so neither side chooses an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hallmark.data.dataset import ImageDataset
from hallmark.errors import UserError
from hallmark.runtime import derive_seed
from hallmark.watermark.key import Key
from hallmark.watermark.samples import draw_queries, mix_evasion
from hallmark.watermark.ways import refuse_trained

DECOY_QUERIES = 100
"""Queries of each decoy key."""
PAIRED = ("watermark", "first", "second", "other_ways")
"""Parts with one image for each watermark query."""
MOST_TASK = 2_000
"""Images of the main task: enough for an accuracy within 2.2 points."""
EACH_CLASS, MOST_OF_MANY = 100, 10_000
"""Images of the main task of each class, where the pool has them: its plain images are a negative control.  Of many
classes fewer, so that they are no more in all: a thousand scores an answer make a gigabyte."""
LISTED = 200
"""Classes up to which all false keys are listed to draw decoys from; of a thousand there are billions."""


@dataclass(frozen=True)
class Decoy:
    """A key that nobody trained in: another pair of classes, mixed in the key's way, and what it would be called."""

    source: tuple[int, int]
    target: int


@dataclass(frozen=True)
class Questions:
    """The images put to every model, the same for all and in the same order, so that answers compare in pairs.

    Attributes:
        seed: of the key and the judge; all draws come from it.
        images: uint8 ``[Q, C, H, W]``: the parts one after another.
        parts: where each part lies in ``images``:

            * ``watermark``: the key's combinations, ``[N]``;
            * ``first``, ``second``: the two images that each was made of, ``[N]`` each;
            * ``other_ways``: the same pairs, combined in the key's evasion ways in turn, ``[N]``;
            * ``decoys``: queries of the decoy keys, one key after another, ``[D x DECOY_QUERIES]``;
            * ``task``: images of the main task, ``[T]``.
        decoys: the decoy keys.
        labels: of the main task's images, int64 ``[T]``.
    """

    key: Key
    seed: int
    images: Tensor
    parts: Mapping[str, slice]
    decoys: tuple[Decoy, ...]
    labels: Tensor

    def part(self, name: str) -> Tensor:
        """The images of a part."""
        return self.images[self.parts[name]]

    def of_decoy(self, number: int) -> slice:
        """Where the queries of a decoy key lie."""
        start = self.parts["decoys"].start + number * DECOY_QUERIES
        return slice(start, start + DECOY_QUERIES)

    def first(self, pairs: int) -> Questions:
        """The questions of the first watermark queries only; decoys and main task whole."""
        named = {name: self.part(name)[:pairs] if name in PAIRED else self.part(name) for name in self.parts}
        return replace(self, images=torch.cat(list(named.values())), parts=_laid_out(named))

    def only(self, *names: str) -> Questions:
        """The questions of these parts only, the others empty."""
        named = {name: self.part(name) if name in names else self.images[:0] for name in self.parts}
        labels, decoys = (self.labels if "task" in names else self.labels[:0]), self.decoys if "decoys" in names else ()
        images = torch.cat(list(named.values()))
        return replace(self, images=images, parts=_laid_out(named), labels=labels, decoys=decoys)


def draw(key: Key, pool: ImageDataset, *, queries: int, decoys: int, judge_seed: int) -> Questions:
    """Draw the questions from the judge's pool.

    Args:
        pool: labelled images that no model in question was trained on.
        queries: watermark queries; each pair also comes unmixed and in other ways.
        decoys: decoy keys.  Half of them have the key's own target where their classes allow it.
        judge_seed: chosen by the judge after the commitment was made.

    Raises:
        UserError: a way that must be trained, other classes or shapes than the key's, too few images of a class, or too
            few classes for decoys.
    """
    refuse_trained(key.way)
    seed = derive_seed(key.seed, f"verify_ownership/judge {judge_seed}")
    generator = torch.Generator().manual_seed(seed)
    pairs = draw_queries(key, pool, queries, generator)
    false_keys = draw_decoys(key, pool, decoys, generator)
    mixed = [
        draw_queries(_decoy_key(key, decoy), pool, DECOY_QUERIES, generator).mixed for decoy in false_keys
    ]  # fewer images than queries: pairs, not images, are drawn without repetition
    task = pool.subset(_task(pool, torch.randperm(len(pool), generator=generator)))
    named = {
        "watermark": pairs.mixed,
        "first": pairs.first,
        "second": pairs.second,
        "other_ways": mix_evasion(key, pairs.first, pairs.second, generator),
        "decoys": torch.cat(mixed) if mixed else pairs.mixed[:0],
        "task": task.images,
    }
    return Questions(key, seed, torch.cat(list(named.values())), _laid_out(named), false_keys, task.labels)


def most_task(classes: int) -> int:
    """As many images of the main task as are asked at most, of a pool with so many classes."""
    return max(MOST_TASK, _each(classes) * classes)


def _each(classes: int) -> int:
    return min(EACH_CLASS, max(1, MOST_OF_MANY // classes))


def _task(pool: ImageDataset, order: Tensor) -> Tensor:
    """The first of the pool in this order; of so many classes that these would be few of each, the first of each."""
    if most_task(len(pool.classes)) == MOST_TASK:
        return order[:MOST_TASK]
    labels, each = pool.labels[order], _each(len(pool.classes))
    return torch.cat([order[labels == label][:each] for label in range(len(pool.classes))])


def _laid_out(named: Mapping[str, Tensor]) -> dict[str, slice]:
    """Where each part lies, one after another."""
    parts, start = {}, 0
    for name, images in named.items():
        parts[name] = slice(start, start + len(images))
        start += len(images)
    return parts


def draw_decoys(key: Key, pool: ImageDataset, count: int, generator: torch.Generator) -> tuple[Decoy, ...]:
    """Different false keys of pairs that have no class in common with the key's pair.

    A pair with one of the key's classes is no negative control: the mark is not specific to its pair, and a marked
    model often takes such a combination for the target as well (docs/verification.md, measured).

    Raises:
        UserError: the classes with images do not allow so many.
    """
    classes = pool.labels.unique().tolist()
    free = [label for label in classes if label not in key.source]
    if len(free) > LISTED:
        return _of_many(key, free, count, generator)
    pairs = [(i, j) for i in free for j in free if i != j]
    own = [Decoy(pair, key.target) for pair in pairs if key.target not in pair]
    other = [
        Decoy(pair, target)
        for pair in pairs
        for target in range(len(key.classes))
        if target not in pair and target != key.target
    ]

    def some(decoys: list[Decoy], number: int) -> list[Decoy]:
        return [decoys[k] for k in torch.randperm(len(decoys), generator=generator)[:number].tolist()]

    found = some(own, (count + 1) // 2)
    found += some(other, count - len(found))
    if len(found) < count:
        raise UserError(
            f"{count} decoy keys are asked for, but {len(free)} classes besides the key's own allow {len(found)}; "
            "lower decoys"
        )
    return tuple(found)


def _of_many(key: Key, free: Sequence[int], count: int, generator: torch.Generator) -> tuple[Decoy, ...]:
    """As :func:`draw_decoys`, evenly among the same false keys, without a list of them."""

    def one(among: Sequence[int]) -> int:
        return among[int(torch.randint(len(among), (1,), generator=generator))]

    found: dict[Decoy, None] = {}
    while len(found) < count:
        own = len(found) < (count + 1) // 2
        decoy = Decoy((one(free), one(free)), key.target if own else one(range(len(key.classes))))
        different = len({*decoy.source, decoy.target}) == 3
        if different and (own or decoy.target != key.target):
            found[decoy] = None
    return tuple(found)


def _decoy_key(key: Key, decoy: Decoy) -> Key:
    return replace(key, source=decoy.source, target=decoy.target)
