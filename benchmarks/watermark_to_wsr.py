"""Seconds of training until a mark takes hold, and how many times the default's the others need.

python benchmarks/watermark_to_wsr.py --data data/clean --out docs/results/watermark_to_wsr.csv

Every few steps the network is asked watermark queries and plain images, both held out, with the clock stopped; a run
ends where WSR *and* accuracy are high enough (a network that calls everything the target has a WSR of 100 % too), or at
the limit of seconds: then the time, and its ratio, are lower bounds.  With ``--copies distillation`` the network is
robbed instead by that attack of params.yaml, and its copy asked: what a mark is for is to be in copies.

python benchmarks/watermark_to_wsr.py --data data/clean --copies distillation --wsr 0.7 --every 100 --limit 700 \
    --without authors --out docs/results/watermark_to_copies.csv

Arms and network are those of watermark_speed.py.  ``authors`` is the released code's second phase from random weights,
``authors, both phases`` begins with its first, whose seconds and steps count: a run that reaches the level may do so
there.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from clock import Clock
from torch.optim.optimizer import register_optimizer_step_post_hook
from watermark_speed import both_phases, read_section, secure_training, settings_of, start

from hallmark import artifacts, config, extraction, models
from hallmark.config import ExtractAttack
from hallmark.data.dataset import ImageDataset
from hallmark.models import Network
from hallmark.progress import progress
from hallmark.runtime import Runtime
from hallmark.watermark import mea_defender
from hallmark.watermark.key import Key, make_key

ARMS = ("params.yaml", "four losses, fixed weights")
AUTHORS = {"authors": secure_training, "authors, both phases": both_phases}
RATES = ("wsr", "wfpr", "accuracy")
COLUMNS = ["arm", "seed", "reached", "seconds", "steps", *RATES, "times_default"]
Rates = Mapping[str, object]


class ReachedError(Exception):
    """Ends a training from within."""


class Watch:
    """Measures after every ``every``-th step of any optimizer and ends the training at the level or the limit.

    Args:
        measured: of the network, or of what a thief makes of it: :data:`RATES` at least.
    """

    def __init__(
        self, network: Network, measured: Callable[[Network], Rates], run: Runtime, options: argparse.Namespace
    ) -> None:
        self.network, self.measured, self.options = network, measured, options
        self.clock, self.begin, self.stopped = Clock(run.device), 0.0, 0.0
        self.steps, self.measuring, self.row = 0, False, dict[str, Any]()

    def follow(self, train: Callable[[], None]) -> dict[str, Any]:
        """Train until the level or the limit; what was measured last."""
        self.begin = self.clock.now()
        handle = register_optimizer_step_post_hook(self._stepped)
        try:
            train()
        except ReachedError:
            pass
        finally:
            handle.remove()
        return self.row

    def _stepped(self, *_: Any) -> None:
        if self.measuring:  # a thief's optimizer
            return
        self.steps += 1
        if self.steps % self.options.every:
            return
        now, options = self.clock.now(), self.options
        self.measuring = True
        found = self.measured(self.network)
        self.network.train()
        self.measuring = False
        rates = {name: float(str(found[name])) for name in RATES}
        reached = rates["wsr"] >= options.wsr and rates["accuracy"] >= options.accuracy
        seconds = now - self.begin - self.stopped
        self.row = {"reached": reached, "seconds": seconds, "steps": self.steps, **rates}
        self.stopped += self.clock.now() - now
        if reached or seconds > options.limit:
            raise ReachedError


Theft = tuple[ModuleType, extraction.AttackParams, ImageDataset]
"""An attack's module and block, and the thief's images."""


def read_theft(options: argparse.Namespace) -> Theft:
    """The attack ``--copies`` of params.yaml."""
    section = config.section(config.read_params(options.params), "extract_attack", ExtractAttack, options.params)
    where = f"{options.params}: extract_attack.attacks"
    block = config.named_block(section.attacks, options.copies, where)
    module, params = extraction.attack_params(block, f"{where}.{options.copies}")
    return module, params, ImageDataset.load(options.data / "queries.safetensors")


def stolen(network: Network, theft: Theft, run: Runtime) -> Network:
    """What the thief makes of a network."""
    module, params, images = theft
    thief = extraction.Thief(images, run, "benchmark/thief")
    return extraction.steal(module, params, extraction.black_box(network, run), thief).network


def main() -> None:
    """Train the arms in turn over the seeds and write a row each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--data", type=Path, default=Path("data/clean"))
    parser.add_argument("--device", default="cpu", help="cpu | cuda")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--copies", metavar="ATTACK", help="measure what this attack of --params makes of the network")
    parser.add_argument("--without", nargs="+", default=[], choices=[*ARMS[1:], *AUTHORS], help="arms to leave out")
    parser.add_argument("--wsr", type=float, default=0.98)
    parser.add_argument("--accuracy", type=float, default=0.8)
    parser.add_argument("--every", type=int, default=20, help="steps between two measurements")
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--limit", type=float, default=240.0, help="seconds of training an arm")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    base = read_section(options)
    data, held_out = (ImageDataset.load(options.data / f"{part}.safetensors") for part in ("train", "test"))
    arms = [arm for arm in (*ARMS, *AUTHORS) if arm not in options.without]
    theft = read_theft(options) if options.copies else None
    rows, known = list[dict[str, Any]](), settings_of(base)
    with progress(len(options.seeds) * len(arms), "arms", "run") as advance:
        for seed in options.seeds:
            run = start(options, seed=seed)
            key = make_key(base, data, run)
            for arm in arms:
                network = models.build(base.architecture, data.images, data.classes, run, "benchmark")

                def measured(of: Network, key: Key = key, run: Runtime = run) -> Rates:
                    of = of if theft is None else stolen(of, theft, run)
                    return mea_defender.evaluate(of, key, held_out, options.queries, run)

                watch = Watch(network, measured, run, options)
                if arm in AUTHORS:
                    row = watch.follow(partial(AUTHORS[arm], network, data, key, base, run))
                else:
                    how = known[arm]
                    row = watch.follow(partial(mea_defender.train, network, data, key, how, run, purpose="benchmark"))
                rows.append({"arm": arm, "seed": seed, **row})
                advance(1)
    for row in rows:
        default = next(each for each in rows if each["arm"] == ARMS[0] and each["seed"] == row["seed"])
        row["times_default"] = row["seconds"] / default["seconds"]
        print({column: artifacts.rounded(value) for column, value in row.items()}, flush=True)
    artifacts.write_csv(options.out, rows, COLUMNS)


if __name__ == "__main__":
    main()
