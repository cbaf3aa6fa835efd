"""Which keys are good ones: measured on clean models and plain images, before anything is marked.

A source pair, target and way make a good key if models that never met it do not call the combinations the target
(the issue of false claims: the lower the innocents' rate, the less a copy must fire), if the combinations are no
strangers among plain images, whom a thief's service could refuse (local outlier factor, docs/evasion.md), and if they
lie far beyond plain images along one direction, without which no bridge takes the mark into a copy (docs/watermark.md).
"""

from __future__ import annotations

import itertools
import json
import math
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hallmark import artifacts, models
from hallmark.config import Bridge, RuntimeConfig
from hallmark.data.dataset import ImageDataset
from hallmark.errors import UserError, naming
from hallmark.models import Network
from hallmark.outliers import Novelty
from hallmark.progress import Advance, progress, silent
from hallmark.runtime import Runtime, start
from hallmark.watermark import bridge
from hallmark.watermark.ways import others, refuse_trained, untrained, ways

COLUMNS = ("first", "second", "target", "way", "highest_rate", "mean_rate", "source_rate", "plain_rate", "strange",
           "apart")  # fmt: skip
"""Of the table, one row a key; what each is says :class:`Proposal`."""
FALSE_REFUSALS = 0.05
"""Share of plain images that count as strangers: what refusing costs the service."""
NEIGHBOURS = 20
"""scikit-learn's default."""
MOST_USUAL = 2000
"""Plain images among which strangers are sought, at most."""
LEAST_APART = 6.0
"""Of :attr:`Proposal.apart`, by default.  On the one pair that was stolen in many ways, copies bore the mark of those
far above, but for one (``corner``), and not of those far below (docs/watermark.md)."""
SAMPLES = 600
"""Combinations of a pair and way, and plain images of a class, at most, by which :attr:`Proposal.apart` is measured."""
OTHERS: float = Bridge.model_fields["others"].default
FEWEST_OF_CLASS = 20
"""Images of either class, without which :attr:`Proposal.apart` cannot be measured: minus infinity."""
FEWEST_PLAIN = 100
MOST_PLAIN = 0.03
"""Of :attr:`Proposal.plain_rate`: some way below the limit of a verdict, which asks other models and images."""


@dataclass(frozen=True)
class Proposal:
    """A key without its seed, and what was measured of it.

    Attributes:
        source: labels of the two source classes, in the order in which the way takes them.
        target: another label.
        way: with its default parameters.
        highest_rate, mean_rate: share of the combinations that a clean model calls the target; over the models.
        source_rate: share that they call one of the sources, on average; if high, the mark contradicts the task.
        plain_rate: share of a source class's images, as they are, that they call the target, on average; of the two
            classes the higher.  Above :data:`hallmark.verification.panel.ALIKE` no verdict rests on the key.
        strange: share of the combinations that are stranger than all but :data:`FALSE_REFUSALS` of plain images.
        apart: how far they lie from plain images along a bridge's direction (:func:`hallmark.watermark.bridge.apart`).
    """

    source: tuple[int, int]
    target: int
    way: str
    highest_rate: float
    mean_rate: float
    source_rate: float
    plain_rate: float
    strange: float
    apart: float

    def words(self, classes: Sequence[str]) -> str:
        """One line."""
        first, second = (classes[label] for label in self.source)
        return (
            f"{first} + {second} = {classes[self.target]} by {self.way}: clean models {self.highest_rate:.1%} at most, "
            f"{self.mean_rate:.1%} on average, a source {self.source_rate:.0%}; {self.strange:.0%} are strangers, "
            f"{self.apart:.1f} deviations apart"
        )

    def row(self, classes: Sequence[str]) -> dict[str, Any]:
        """Under :data:`COLUMNS`."""
        first, second = (classes[label] for label in self.source)
        named = {"first": first, "second": second, "target": classes[self.target], "way": self.way}
        return named | {name: getattr(self, name) for name in COLUMNS[len(named) :]}

    def block(self, classes: Sequence[str]) -> dict[str, object]:
        """As in section ``train_watermarked`` of params.yaml."""
        first, second = (classes[label] for label in self.source)
        return {"source": [first, second], "target": classes[self.target], "way": self.way}


def pairs(classes: int, most: int, generator: torch.Generator) -> list[tuple[int, int]]:
    """Ordered pairs of different classes: all, or ``most`` of them at random."""
    every = list(itertools.permutations(range(classes), 2))
    order = torch.randperm(len(every), generator=generator)[:most]
    return [every[k] for k in order.sort().values.tolist()]


def propose(
    clean: Sequence[Network],
    data: ImageDataset,
    runtime: Runtime,
    *,
    queries: int = 100,
    most_pairs: int = 200,
    names: Sequence[str] = (),
    advance: Advance = silent,
) -> list[Proposal]:
    """Every key of every pair (at most ``most_pairs``, drawn), measured; the least strange of the quiet ones first.

    Args:
        clean: models that never met a key, at least two.
        data: labelled images that no verdict will rest on.
        queries: combinations a pair and way.
        names: ways, with their default parameters; none: all that need no training.
        advance: is told of every pair.

    Raises:
        UserError: too few models, classes or images; an unknown way, one that must be trained, or that does not fit.
    """
    if len(clean) < 2:
        raise UserError(f"{len(clean)} clean model: how often innocents fire takes at least two; give more")
    if len(data) < FEWEST_PLAIN or len(data.classes) < 3:
        raise UserError(f"{len(data)} images of {len(data.classes)} classes; give {FEWEST_PLAIN} of three at least")
    chosen = list(names or untrained())
    for name in chosen:
        refuse_trained(name)
    generator = runtime.generator("propose/pairs")
    stranger = _strangers(data, runtime)
    parts = {label: data.of_class(label) for label in range(len(data.classes))}
    if empty := [data.classes[label] for label, part in parts.items() if not len(part)]:
        raise UserError(f"no image of class '{empty[0]}' among the data; give some of every class")
    found: list[Proposal] = []
    for source in pairs(len(parts), most_pairs, generator):
        first, second = (
            parts[label][torch.randint(len(parts[label]), (queries,), generator=generator)] for label in source
        )
        mixed = torch.cat([_combined(name, first, second, generator) for name in chosen])
        plain = _rates(clean, torch.cat([first, second]), 2, runtime)
        distances = _apart([parts[label] for label in source], chosen, generator)
        rates = _rates(clean, mixed, len(chosen), runtime)
        found += _of_pair(source, chosen, rates, plain, strange=stranger(mixed), distances=distances)
        advance(1)
    return sorted(found, key=lambda each: (each.strange, each.highest_rate, each.mean_rate))


def of_folder(
    folder: Path,
    data: Path,
    *,
    ways: Sequence[str],
    queries: int,
    most_pairs: int,
    seed: int,
    threads: int,
    table: Path,
) -> tuple[list[Proposal], tuple[str, ...]]:
    """:func:`propose` for models in a folder, one subfolder each; the table is written.

    Returns:
        the proposals, and the names of the classes.

    Raises:
        UserError: as :func:`propose`; a missing or damaged file, or models of other classes or images than the data.
    """
    runtime = start(RuntimeConfig(device="auto", threads=threads, precision="fp32", seed=seed))
    images = ImageDataset.load(data)
    places = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    clean = [models.load(place, runtime) for place in places]
    for place, network in zip(places, clean, strict=True):
        if network.spec.classes != images.classes or network.spec.shape != images.shape:
            raise UserError(f"{place}: a model of other classes or images than {data}; take it out")
    with (
        naming(f"{folder}, {data}"),
        progress(
            min(most_pairs, len(images.classes) * (len(images.classes) - 1)), "pairs of classes", "pair"
        ) as advance,
    ):
        found = propose(clean, images, runtime, queries=queries, most_pairs=most_pairs, names=ways, advance=advance)
    artifacts.write_csv(table, [each.row(images.classes) for each in found], COLUMNS)
    return found, images.classes


def draw(among: Sequence[Proposal], classes: Sequence[str], path: Path) -> None:
    """Draw one by the system's randomness and write its block of ``train_watermarked``, for its owner's eyes alone.

    Raises:
        UserError: none is left to be drawn, or the file exists.
    """
    if not among:
        raise UserError(
            f"{path}: no key is good enough to be drawn; allow a higher rate, less distance, more pairs or other ways"
        )
    block = secrets.choice(among).block(classes)
    lines = [f"  {name}: {json.dumps(value, ensure_ascii=False)}" for name, value in block.items()]  # JSON is YAML
    artifacts.write_secret(path, "\n".join(["train_watermarked:", *lines, ""]).encode())


def quiet(found: Sequence[Proposal], most_rate: float, least_apart: float) -> list[Proposal]:
    """Those on which no clean model fires more often, of classes that are not alike, that a bridge can carry."""
    return [
        each
        for each in found
        if each.highest_rate <= most_rate and each.plain_rate <= MOST_PLAIN and each.apart >= least_apart
    ]


def _combined(name: str, first: Tensor, second: Tensor, generator: torch.Generator) -> Tensor:
    module = ways.get(name)
    params = module.Params()
    if hasattr(module, "check"):
        module.check(params, tuple(first.shape[1:]))
    return module.combine(first, second, params, generator)


def _rates(clean: Sequence[Network], mixed: Tensor, count: int, runtime: Runtime) -> Tensor:
    """How often every model calls every class on every way's combinations: ``[M, W, K]``."""
    found = []
    for network in clean:
        labels = models.logits(network, mixed, runtime).argmax(1).cpu()
        said = F.one_hot(labels, len(network.spec.classes)).double()
        found.append(said.view(count, -1, said.shape[1]).mean(1))
    return torch.stack(found)


def _apart(sources: Sequence[Tensor], names: Sequence[str], generator: torch.Generator) -> list[float]:
    """:func:`hallmark.watermark.bridge.apart` of every way, each against all that could hide it."""
    if min(map(len, sources)) < FEWEST_OF_CLASS:
        return [-math.inf for _ in names]
    # bridge.apart fits to even places and measures on odd ones: so combinations of even places are of even images.
    turn = torch.arange(SAMPLES) % 2
    first, second = (
        images[2 * torch.randint(len(images) // 2, (SAMPLES,), generator=generator) + turn] for images in sources
    )
    mixed = {name: _combined(name, first, second, generator) for name in sorted({*names, *untrained()})}
    plain = [images[:SAMPLES] for images in sources]
    found = []
    for name in names:
        hiding = others(name, ways.get(name).Params())
        share = 2 * (SAMPLES // len(hiding))  # even: the next way's begin at an even place again
        otherwise = torch.cat([mixed[other][:share] for other in hiding])
        found.append(bridge.apart(plain, mixed[name], otherwise, OTHERS))
    return found


def _of_pair(
    source: tuple[int, int],
    names: Sequence[str],
    rates: Tensor,
    plain: Tensor,
    *,
    strange: Tensor,
    distances: Sequence[float],
) -> Iterator[Proposal]:
    """A pair's keys.

    Args:
        distances: :attr:`Proposal.apart`, way by way.
        rates, plain: of its combinations way by way, and of its two classes as they are: ``[M, W, K]``, ``[M, 2, K]``.
        strange: bool, of its combinations, way by way.
    """
    confused = plain.mean(0).max(0).values
    highest, mean = rates.max(0).values, rates.mean(0)
    own, shares = mean[:, list(source)].sum(1), strange.double().view(len(names), -1).mean(1)
    for w, name in enumerate(names):
        for target in set(range(rates.shape[2])) - set(source):
            measured = (highest[w, target], mean[w, target], own[w], confused[target], shares[w], distances[w])
            yield Proposal(source, target, name, *(float(value) for value in measured))


def _strangers(data: ImageDataset, runtime: Runtime) -> Callable[[Tensor], Tensor]:
    """A function of images: which are strangers?  Half of the plain images are what is usual, half set the bound."""
    order = torch.randperm(len(data), generator=runtime.generator("propose/usual"))[: 2 * MOST_USUAL]
    usual, others = data.images[order].flatten(1).float().chunk(2)
    novelty = Novelty(usual, NEIGHBOURS)
    threshold = novelty.scores(others).quantile(1 - FALSE_REFUSALS)
    return lambda images: novelty.scores(images.flatten(1).float()) > threshold
