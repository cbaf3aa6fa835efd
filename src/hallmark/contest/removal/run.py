"""One target's work: victim, copy and null models are made once and kept, then every removal, then the cells' rows.

The work folder holds safetensors and JSON alone, and is laid out like that of the contest of watermarks, with which
it may be shared.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from hallmark import extraction, models, training
from hallmark.contest import cells
from hallmark.contest.common import kept
from hallmark.contest.removal.judging import Judge, judge_of
from hallmark.contest.removal.plan import COLUMNS, NONE, VICTIM, Plan, Target
from hallmark.contest.watermark import run as watermark_run
from hallmark.contest.watermark.run import Scene, Struck, load_base
from hallmark.innocents import Innocents, control_block
from hallmark.models import Network
from hallmark.progress import Advance, silent
from hallmark.removal import Means
from hallmark.runtime import Runtime
from hallmark.watermark.schemes import Queries, rates


def run_target(plan: Plan, each: Target, *, raw: Path, out: Path, work: Path, advance: Advance = silent) -> None:
    """Measure what is not finished of a target's cells; every cell is written as soon as it is measured.

    Args:
        raw: folder of downloaded data sets.
        out: folder of the results, of which the folder ``cells`` is written.
        work: folder of what can be made again.
        advance: told of every cell that is finished now.
    """
    if not (todo := cells.left(plan, each, out)):
        return
    base = load_base(plan.marks, each.victim.seed, raw, work)
    stage = Play(plan, each, Scene(plan.marks, each.victim, base, raw, work))
    common = {
        **dict.fromkeys(COLUMNS),
        "seed": each.victim.seed,
        "dataset": plan.marks.dataset,
        "scheme": each.victim.name,
        "target": each.name,
    }
    cells.fill(
        plan,
        each,
        todo,
        out,
        row=lambda removal: {**common, "removal": removal, "method": plan.removal(removal).get("method")},
        play=lambda: (stage.cast(), {}),
        measure=stage.measure,
        advance=advance,
    )


def needs(plan: Plan, each: Target, work: Path) -> set[Path]:
    """Folders that a target's cells share with those of others."""
    shared = watermark_run.needs(plan.marks, replace(each.victim, thieves=()), work)
    victim = work / f"victim-{plan.marks.victim_hash(each.victim)}"
    return shared | {victim, nulls_folder(plan, each, work)}


@dataclass(frozen=True)
class Cast:
    """The victim, what is attacked, what they are asked, and who judges."""

    struck: Struck
    attacked: Network
    asked: Queries
    judge: Judge
    victim_accuracy: float


@dataclass(frozen=True)
class Play:
    """A target's cells."""

    plan: Plan
    each: Target
    scene: Scene

    @property
    def runtime(self) -> Runtime:
        """The seed's."""
        return self.scene.base.runtime

    def cast(self) -> Cast:
        """Make, or find, what all of the target's cells share."""
        struck, attacked = self.attacked()
        test, rule = self.scene.base.test, self.plan.contest.rule
        generator = self.runtime.generator("contest/queries")
        asked = struck.mark.queries(test, self.plan.marks.contest.queries, generator)
        reference = training.accuracy(struck.network, test, self.runtime)
        rule = rule.model_copy(update={"judge_seed": rule.judge_seed + self.each.victim.seed})
        judge = judge_of(
            struck.mark,
            self.innocents(),
            test=test,
            asked=asked,
            rule=rule,
            reference=reference,
            runtime=self.runtime,
        )
        return Cast(struck, attacked, asked, judge, reference)

    def attacked(self) -> tuple[Struck, Network]:
        """The victim, and the target."""
        struck = self.scene.victim()
        if self.each.name == VICTIM:
            return struck, struck.network
        folder = kept(
            copy_folder(self.plan, self.each, self.scene.work),
            lambda folder: models.save(self.scene.steal(self.each.name, struck.network), folder / "model"),
        )
        return struck, models.load(folder / "model", self.runtime)

    def innocents(self) -> list[Network]:
        """The seed's null models, and last the victim's twin without a mark, trained as long as the victim."""
        block = self.plan.contest.nulls
        folder = kept(nulls_folder(self.plan, self.each, self.scene.work), self._make_nulls)
        found = [models.load(folder / f"{k:04d}", self.runtime) for k in range(block.models)]
        return [*found, self.scene.twin()]

    def _make_nulls(self, folder: Path) -> None:
        block, base, where = self.plan.contest.nulls, self.scene.base, f"{self.plan.path}: removal_contest.nulls.kinds"
        blocks = [(f"{where}.{name}", control_block(own, f"{where}.{name}")) for name, own in block.kinds.items()]
        innocents = Innocents(base.train, base.queries, self.scene.twin(), self.runtime)
        for k in range(block.models):
            place, own = blocks[k % len(blocks)]
            images, purpose = innocents.images(own), f"null {k}"
            order = torch.randperm(len(images), generator=self.runtime.generator(f"{purpose}/images"))
            part = images.subset(order[: math.ceil(block.share * len(images))])
            models.save(innocents.train(own, part, purpose, training.no_callback, place), folder / f"{k:04d}")

    def measure(self, cast: Cast, removal: str) -> dict[str, Any]:
        """One removal's figures."""
        base, started = self.scene.base, time.perf_counter()
        made = self.remove(cast.struck, cast.attacked, removal)
        seconds = time.perf_counter() - started
        said = models.logits(cast.struck.network, base.test.images, self.runtime).argmax(1)
        before, after = (training.accuracy(network, base.test, self.runtime) for network in (cast.attacked, made))
        return {
            "victim_accuracy": cast.victim_accuracy,
            "accuracy_before": before,
            "accuracy": after,
            "accuracy_change": after - before,
            "fidelity": extraction.agreement(made, said, base.test.images, self.runtime),
            **rates(made, cast.asked, self.runtime),
            **cast.judge.says(made),
            "nulls": self.plan.contest.nulls.models + 1,
            "seconds": seconds,
        }

    def remove(self, struck: Struck, attacked: Network, removal: str) -> Network:
        """What a removal makes of the target.

        The random streams bear no name of a removal: those that differ in one parameter differ by it alone.

        Raises:
            UserError: the removal's block is invalid, or cannot be done.
        """
        if removal == NONE:
            return attacked
        where, (module, params) = self.plan.removal_place(removal), self.plan.removal_params(removal)
        ask = extraction.black_box(struck.network, self.runtime)
        purpose = f"remove/{params.method}"
        means = Means(self.scene.base.queries, ask, self.runtime, purpose, where=where, raw=self.scene.raw)
        return module.remove(attacked, means, params)


def copy_folder(plan: Plan, each: Target, work: Path) -> Path:
    """Of a thief's copy; of the victim itself nothing lies there."""
    return work / f"stolen-{plan.copy_hash(each.victim)}"


def nulls_folder(plan: Plan, each: Target, work: Path) -> Path:
    """Of a seed's null models."""
    return work / f"nulls-{plan.nulls_hash(each.victim)}"
