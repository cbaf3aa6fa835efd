"""One victim's work: the encoder and an unmarked one are made once and kept, then every thief, then the cells' rows."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hallmark import artifacts, models
from hallmark.contest import cells
from hallmark.contest.common import kept, network_name, prefixed
from hallmark.contest.marks import Victim
from hallmark.contest.ssl.plan import COLUMNS, Plan
from hallmark.contest.watermark.run import data_folder, load_base
from hallmark.data.dataset import ImageDataset
from hallmark.errors import UserError
from hallmark.extraction import Oracle, Thief, transfer
from hallmark.models import Network
from hallmark.progress import Advance, silent
from hallmark.runtime import Runtime
from hallmark.ssl import probes, simclr
from hallmark.ssl.measures import Panel
from hallmark.ssl.schemes import Mark, Stage, schemes

PURPOSE, CONTROL = "victim", "control"
"""Of the random streams: of every victim, marked or not, so that they differ by the mark alone; and of the encoder that
is the control.  That has its own: a scheme may teach its mark to keep silent on the victim's very twin."""


@dataclass(frozen=True)
class Base:
    """What all victims of a seed share; no two sets have an image in common."""

    train: ImageDataset
    pool: ImageDataset
    """The thief's images."""
    panel: Panel
    runtime: Runtime


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
    common = {
        **dict.fromkeys(COLUMNS),
        "seed": each.seed,
        "dataset": plan.dataset,
        "scheme": each.scheme,
        "method": plan.contest.schemes[each.scheme].scheme,
        "victim_architecture": network_name(plan.contest.architectures[each.architecture].model_dump()),
        "queries": plan.contest.queries,
    }
    base = load(plan, each.seed, raw, work)
    cells.fill(
        plan,
        each,
        todo,
        out,
        row=lambda thief: common | plan.thief_row(thief),
        play=lambda: _strike(plan, each, base, raw, work),
        measure=_rob,
        advance=advance,
    )


def needs(plan: Plan, each: Victim, work: Path) -> set[Path]:
    """Folders that a victim's cells share with those of other victims."""
    copies = {_copy_folder(plan, each, thief, work) for thief in each.thieves}
    return {data_folder(plan, each.seed, work), _unmarked_folder(plan, each, work), *copies}


def load(plan: Plan, seed: int, raw: Path, work: Path) -> Base:
    """A seed's splits, and the panel's images out of the split ``queries``.

    Raises:
        UserError: the data cannot be read or split, or the panel leaves the thief no image.
    """
    base, contest = load_base(plan, seed, raw, work), plan.contest
    taken = contest.user + contest.judge
    if taken >= len(base.queries):
        raise UserError(
            f"{plan.path}: ssl_contest: user and judge take {taken:,} of {len(base.queries):,} images of the split "
            "queries; lower them, or raise prepare_data.queries"
        )
    order = torch.randperm(len(base.queries), generator=base.runtime.generator("ssl_contest/panel"))
    user, judge, pool = (
        base.queries.subset(part) for part in order.split([contest.user, contest.judge, len(order) - taken])
    )
    for name, part in (("user", user), ("judge", judge)):
        missing = set(range(len(part.classes))) - set(part.labels.tolist())
        if missing:
            raise UserError(
                f"{plan.path}: ssl_contest.{name}: {len(part):,} images hold none of class "
                f"'{part.classes[min(missing)]}'; raise it"
            )
    return Base(base.train, pool, Panel(user, judge, base.test, contest.mlp), base.runtime)


def victim_folder(plan: Plan, each: Victim, base: Base, work: Path) -> Path:
    """The folder of a victim, made if it is not in the work folder: ``model``, ``mark.json`` and ``victim.json``.

    The marked encoder is stored with a linear probe of its user as its head: ``model`` is encoder and classifier.

    Raises:
        UserError: the mark does not suit the images, or a loss stopped being finite.
    """
    params, contest, runtime = plan.scheme_params(each.scheme), plan.contest, base.runtime
    module = schemes.get(contest.schemes[each.scheme].scheme)

    def make(folder: Path) -> None:
        train = base.train
        network = models.build(contest.architectures[each.architecture], train.images, train.classes, runtime, PURPOSE)
        started = time.perf_counter()
        mark: Mark = module.strike(network, train, params, Stage(contest.simclr, contest.training, runtime, PURPOSE))
        seconds = time.perf_counter() - started
        probes.attach(network, base.panel.user, runtime)
        models.save(network, folder / "model")
        artifacts.write_json(folder / "mark.json", mark.to_json())
        artifacts.write_json(folder / "victim.json", {"seconds": seconds})

    return kept(work / f"victim-{plan.victim_hash(each)}", make)


def steal(plan: Plan, base: Base, network: Network, thief: str, raw: Path) -> Network:
    """A thief's copy of a victim, by the thief's own images.

    Args:
        raw: folder of downloaded data sets.

    Raises:
        UserError: the thief's block is invalid, its data set cannot be read, or its budget exceeds its images.
    """
    where, runtime = plan.thief_place(thief), base.runtime
    module, params = plan.thief_params(thief)
    pool = base.pool if params.images is None else transfer.load(params.images, base.pool.shape, raw, where)[0]
    oracle = Oracle(lambda images: models.features(network, images, runtime), params.budget)
    own = Thief(pool, runtime, f"thief/{params.method}", where=where, classes=network.spec.classes)
    return module.steal(oracle, own, params)


@dataclass(frozen=True)
class Cast:
    """The victim, an encoder without a mark, and what they and their copies are asked."""

    plan: Plan
    each: Victim
    base: Base
    raw: Path
    work: Path
    victim: Network
    unmarked: Network
    mark: Mark

    def asked(self, model: str, network: Network) -> dict[str, Any]:
        """An encoder's figures as columns ``MODEL_NAME``."""
        encode, runtime = probes.encoder(network, self.base.runtime), self.base.runtime
        return prefixed(model, self.mark.rates(encode, self.base.panel, self.plan.contest.queries, runtime))


def _unmarked(plan: Plan, each: Victim, base: Base, work: Path) -> Network:
    """An encoder trained by SimCLR alone."""
    contest, train = plan.contest, base.train

    def make(folder: Path) -> None:
        architecture = contest.architectures[each.architecture]
        network = models.build(architecture, train.images, train.classes, base.runtime, CONTROL)
        simclr.train(network, train.images, contest.simclr, contest.training, base.runtime, purpose=CONTROL)
        models.save(network, folder / "model")

    return models.load(kept(_unmarked_folder(plan, each, work), make) / "model", base.runtime)


def _strike(plan: Plan, each: Victim, base: Base, raw: Path, work: Path) -> tuple[Cast, dict[str, Any]]:
    """Make the cast, and what all of the victim's rows have in common."""
    module, runtime = schemes.get(plan.contest.schemes[each.scheme].scheme), base.runtime
    folder = victim_folder(plan, each, base, work)
    mark: Mark = module.read_mark(artifacts.read_json(folder / "mark.json"), str(folder / "mark.json"))
    victim, unmarked = models.load(folder / "model", runtime), _unmarked(plan, each, base, work)
    cast = Cast(plan, each, base, raw, work, victim, unmarked, mark)
    seconds = artifacts.read_json(folder / "victim.json")["seconds"]
    return cast, {
        **cast.asked("victim", victim),
        **cast.asked("unmarked", unmarked),
        "train_seconds": seconds,
    }


def _rob(cast: Cast, thief: str) -> dict[str, Any]:
    """One thief's figures."""
    plan, base = cast.plan, cast.base

    def make(folder: Path) -> None:
        models.save(steal(plan, base, cast.unmarked, thief, cast.raw), folder / "model")

    unmarked = models.load(kept(_copy_folder(plan, cast.each, thief, cast.work), make) / "model", base.runtime)
    started = time.perf_counter()
    copy = steal(plan, base, cast.victim, thief, cast.raw)
    return {
        "steal_seconds": time.perf_counter() - started,
        **cast.asked("copy", copy),
        **cast.asked("unmarked_copy", unmarked),
    }


def _unmarked_folder(plan: Plan, each: Victim, work: Path) -> Path:
    return work / f"unmarked-{plan.unmarked_hash(each)}"


def _copy_folder(plan: Plan, each: Victim, thief: str, work: Path) -> Path:
    """Of what a thief makes of the encoder without a mark."""
    return work / f"copy-{plan.unmarked_hash(each)}-{plan.thief_hash(thief)}"
