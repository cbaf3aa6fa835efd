"""One victim's work: what is shared is made once and kept, then every thief, then the cells' rows.

The work folder holds safetensors and JSON alone: for each seed the splits, for each network the twin without a mark and
its copies, and the victims with their marks.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from hallmark import artifacts, extraction, models, runtime, training
from hallmark.config import Architecture, PrepareData, RuntimeConfig, Training
from hallmark.contest import cells
from hallmark.contest.common import kept, network_name, prefixed
from hallmark.contest.marks import Victim
from hallmark.contest.watermark.plan import COLUMNS, NONE, Plan, SchemePlan
from hallmark.data import sources, splits
from hallmark.data.dataset import ImageDataset
from hallmark.errors import UserError
from hallmark.models import Network
from hallmark.progress import Advance, silent
from hallmark.runtime import Runtime
from hallmark.watermark.schemes import Mark, Queries, rates, schemes, unseen_rate

PURPOSE, CONTROL = "victim", "control"
"""Of the random streams: of every victim and of its twin, which differ by the mark alone; and of a victim that bears no
mark, which would be the twin otherwise and is a second innocent model so."""


class Splits(Protocol):
    """The part of a contest's plan that says how the images are split."""

    @property
    def runtime(self) -> RuntimeConfig: ...

    @property
    def prepare_data(self) -> PrepareData: ...

    def at(self, seed: int) -> Splits: ...

    @property
    def held_out(self) -> int | None: ...

    def data_hash(self, seed: int) -> str: ...


@dataclass(frozen=True)
class Base:
    """What all victims of a seed share."""

    train: ImageDataset
    test: ImageDataset
    queries: ImageDataset
    """The thief's images."""
    runtime: Runtime


@dataclass(frozen=True)
class Struck:
    """A marked network.

    Attributes:
        seconds: of its training.
    """

    network: Network
    mark: Mark
    seconds: float


def run_victim(plan: Plan, each: Victim, *, raw: Path, out: Path, work: Path, advance: Advance = silent) -> None:
    """Measure what is not finished of a victim's cells; every cell is written as soon as it is measured.

    Args:
        raw: folder of downloaded data sets.
        out: folder of the results, of which the folder ``cells`` is written.
        work: folder of what can be made again.
        advance: told of every cell that is finished now.
    """
    if not (todo := cells.left(plan, each, out)):
        return
    scene = Scene(plan, each, load_base(plan, each.seed, raw, work), raw, work)
    common = {
        **dict.fromkeys(COLUMNS),
        "seed": each.seed,
        "dataset": plan.dataset,
        "scheme": each.name,
        "method": scene.scheme.scheme,
        "victim_architecture": network_name(scene.architecture.model_dump()),
    }
    cells.fill(
        plan,
        each,
        todo,
        out,
        row=lambda thief: common | plan.thief_row(thief),
        play=lambda: _play(scene),
        measure=lambda cast, thief: _rob(scene, cast, thief),
        advance=advance,
    )


def needs(plan: Plan, each: Victim, work: Path) -> set[Path]:
    """Folders that a victim's cells share with those of other victims."""
    copies = {_copy_folder(plan, each, thief, work) for thief in each.thieves}
    return {data_folder(plan, each.seed, work), _twin_folder(plan, each, work), *copies}


@dataclass(frozen=True)
class Scene:
    """Where a victim is struck and robbed: what is made is kept in the work folder."""

    plan: Plan
    each: Victim
    base: Base
    raw: Path
    """Folder of downloaded data sets."""
    work: Path

    @property
    def scheme(self) -> SchemePlan:
        """The victim's block, complete."""
        return self.plan.contest.resolved(self.each.name)

    @property
    def architecture(self) -> Architecture:
        """The victim's and its twin's."""
        assert self.scheme.architecture is not None  # resolved() sees to it
        return self.scheme.architecture

    @property
    def training(self) -> Training:
        """The victim's and its twin's."""
        assert self.scheme.training is not None  # resolved() sees to it
        return self.scheme.training

    def fresh(self, purpose: str = PURPOSE) -> Network:
        """The network that victim and twin begin with."""
        train = self.base.train
        return models.build(self.architecture, train.images, train.classes, self.base.runtime, purpose)

    def twin(self) -> Network:
        """The victim's twin without a mark, trained as ``train_unmarked`` trains it."""

        def make(folder: Path) -> None:
            network, train = self.fresh(), self.base.train
            training.train_classifier(
                network, train.images, train.labels, self.training, self.base.runtime, purpose=PURPOSE
            )
            models.save(network, folder / "model")

        folder = kept(_twin_folder(self.plan, self.each, self.work), make)
        return models.load(folder / "model", self.base.runtime)

    def victim(self) -> Struck:
        """The marked network and its mark.

        Raises:
            UserError: no such scheme, or its parameters do not fit.
        """
        params = self.plan.scheme_params(self.each.scheme)
        module = schemes.get(self.scheme.scheme or "")

        purpose = CONTROL if self.scheme.scheme == NONE else PURPOSE

        def make(folder: Path) -> None:
            network = self.fresh(purpose)
            started = time.perf_counter()
            mark: Mark = module.strike(
                network, self.base.train, params, self.training, self.base.runtime, purpose=purpose
            )
            seconds = time.perf_counter() - started
            models.save(network, folder / "model")
            artifacts.write_json(folder / "mark.json", mark.to_json())
            artifacts.write_json(folder / "victim.json", {"seconds": seconds})

        folder = kept(self.work / f"victim-{self.plan.victim_hash(self.each)}", make)
        network = models.load(folder / "model", self.base.runtime)
        mark = module.read_mark(artifacts.read_json(folder / "mark.json"), str(folder / "mark.json"))
        return Struck(network, mark, float(artifacts.read_json(folder / "victim.json")["seconds"]))

    def steal(self, thief: str, victim: Network) -> Network:
        """A copy of a network.

        The random streams are the attack's, and bear no name of a thief or a victim: thieves that differ in one
        parameter differ by it alone, and so do the copies of a victim and of its twin.

        Raises:
            UserError: the thief's block is invalid, or wants more images than there are.
        """
        module, block = self.plan.thief_params(thief)
        where, classes = self.plan.thief_place(thief), victim.spec.classes
        own = extraction.Thief(
            self.base.queries, self.base.runtime, f"thief/{block.method}", where=where, classes=classes
        )
        ask = extraction.black_box(victim, self.base.runtime)
        return extraction.steal(module, block, ask, own, raw=self.raw).network

    def twin_copy(self, thief: str, twin: Network) -> Network:
        """What a thief makes of the twin."""

        def make(folder: Path) -> None:
            models.save(self.steal(thief, twin), folder / "model")

        folder = kept(_copy_folder(self.plan, self.each, thief, self.work), make)
        return models.load(folder / "model", self.base.runtime)


@dataclass(frozen=True)
class Cast:
    """The victim, its twin, and what they and their copies are asked."""

    victim: Network
    twin: Network
    asked: Queries


def _play(scene: Scene) -> tuple[Cast, dict[str, Any]]:
    """Make the cast; and what all of the victim's rows have in common."""
    base, twin, struck = scene.base, scene.twin(), scene.victim()
    generator = base.runtime.generator("contest/queries")
    asked = struck.mark.queries(base.test, scene.plan.contest.queries, generator)
    victim_accuracy, twin_accuracy = (training.accuracy(n, base.test, base.runtime) for n in (struck.network, twin))
    return Cast(struck.network, twin, asked), {
        "queries": len(asked.images),
        "victim_accuracy": victim_accuracy,
        "unmarked_accuracy": twin_accuracy,
        "accuracy_loss": twin_accuracy - victim_accuracy,
        "train_seconds": struck.seconds,
        **prefixed("victim", _rates(struck.network, asked, base.runtime)),
        **prefixed("unmarked", _rates(twin, asked, base.runtime)),
    }


def _rob(scene: Scene, cast: Cast, thief: str) -> dict[str, Any]:
    """One thief's figures."""
    base, unmarked = scene.base, scene.twin_copy(thief, cast.twin)
    started = time.perf_counter()
    copy = scene.steal(thief, cast.victim)
    victim_labels = models.logits(cast.victim, base.test.images, base.runtime).argmax(1)
    return {
        "steal_seconds": time.perf_counter() - started,
        "copy_accuracy": training.accuracy(copy, base.test, base.runtime),
        "copy_agreement": extraction.agreement(copy, victim_labels, base.test.images, base.runtime),
        "unmarked_copy_accuracy": training.accuracy(unmarked, base.test, base.runtime),
        **prefixed("copy", _rates(copy, cast.asked, base.runtime)),
        **prefixed("unmarked_copy", _rates(unmarked, cast.asked, base.runtime)),
    }


def _rates(network: Network, asked: Queries, runtime: Runtime) -> dict[str, float | None]:
    """Under the names of :data:`hallmark.contest.watermark.plan.RATES`."""
    return {**rates(network, asked, runtime), "unseen": unseen_rate(network, asked, runtime)}


def load_base(plan: Splits, seed: int, raw: Path, work: Path) -> Base:
    """A seed's splits, made if they are not in the work folder.

    Raises:
        UserError: the data cannot be read or split.
    """
    started = runtime.start(plan.at(seed).runtime)

    def make(folder: Path) -> None:
        sets = dict(splits.split(sources.load(plan.prepare_data, raw), plan.prepare_data, started).sets)
        if plan.held_out is not None:
            sets |= hold_out(sets["queries"], plan.held_out, started.generator("contest/held_out"))
        for name in ("train", "test", "queries"):
            sets[name].save(folder / f"{name}.safetensors")

    folder = kept(data_folder(plan, seed, work), make)
    train, test, queries = (ImageDataset.load(folder / f"{name}.safetensors") for name in ("train", "test", "queries"))
    return Base(train, test, queries, started)


def hold_out(queries: ImageDataset, count: int, generator: torch.Generator) -> dict[str, ImageDataset]:
    """``count`` of the split ``queries``, drawn, as ``test``, and the others as ``queries``.

    Raises:
        UserError: there are no more than ``count``.
    """
    if count >= len(queries):
        raise UserError(
            f"held_out: {count:,} of the {len(queries):,} images of the split queries leaves the thief none; lower it, "
            "or raise prepare_data.queries"
        )
    order = torch.randperm(len(queries), generator=generator)
    return {"test": queries.subset(order[:count]), "queries": queries.subset(order[count:])}


def data_folder(plan: Splits, seed: int, work: Path) -> Path:
    """Where a seed's splits are kept."""
    return work / f"data-{plan.data_hash(seed)}"


def _twin_folder(plan: Plan, each: Victim, work: Path) -> Path:
    return work / f"twin-{plan.twin_hash(each)}"


def _copy_folder(plan: Plan, each: Victim, thief: str, work: Path) -> Path:
    return work / f"copy-{plan.twin_hash(each)}-{plan.thief_hash(thief)}"
