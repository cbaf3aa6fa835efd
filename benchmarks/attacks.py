"""What each attack looks like, and how well it works against a plain model.

python benchmarks/attacks.py --holdout 10000 --seeds 101 102 --out docs/results/attacks.csv
python benchmarks/attacks.py --data data/clean --targets 3 --picture docs/images/triggers.png

Every attack poisons the training set at its own rate below, with its parameters in params.yaml; a model trained on that
is asked about the triggered test images, and so is one trained on the clean set: its answer is the floor, which no
defence can be expected to undercut.  Networks and trainings are those of the contest's parameter file, and without
--targets the target of each attack and seed is drawn as the contest draws it.

--data holds train.safetensors and test.safetensors as prepare_data leaves them.  --holdout N is for trials that must
not see the official test images: both sets are drawn for each seed from the *training* images that the contest's
parameter file names, N for the measurements.  --picture alone (no --out) trains no models but those that the attacks
need.  What other parameters give: --rates, and --set poison_data.NAME=VALUE.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from hallmark import artifacts, config, plots, poison, runtime
from hallmark.config import PoisonData
from hallmark.contest.parameters import override
from hallmark.contest.purification.base import train_model
from hallmark.contest.purification.plan import Plan
from hallmark.contest.purification.run import draw_target
from hallmark.data import ImageDataset, sources, splits
from hallmark.errors import UserError
from hallmark.models import Network
from hallmark.poison import Poisoned
from hallmark.runtime import Runtime
from hallmark.training import accuracy

ATTACKS = {
    **{name: {"attack": name} for name in poison.registry.names() if name != "none"},
    "badnets_all_to_all": {"attack": "badnets", "label_mode": "all_to_all"},
}
"""Under the contest's names, for which it draws the targets."""
RATES = {"sig": 0.08, "label_consistent": 0.08, "narcissus": 0.08}
"""Clean-label attacks: 80 % of a class of ten; all others 10 % of the set."""
COLUMNS = ("attack", "label_mode", "rate", "target", "seed", "accuracy", "asr", "floor", "psnr_db", "alike", "seconds")
"""alike: see :func:`likeness`.  seconds: of the poisoning.  target: empty for all_to_all."""
EACH = 3
POISON = "poison_data."
"""Begins changes of --params; all others are of --contest."""


def load(arguments: argparse.Namespace, plan: Plan, run: Runtime) -> tuple[ImageDataset, ImageDataset]:
    """The set to poison and the one to measure on; with ``--holdout`` disjoint parts of the training images."""
    if arguments.data:
        train, test = (ImageDataset.load(arguments.data / f"{name}.safetensors") for name in ("train", "test"))
        return train, test
    source = replace(sources.load(plan.prepare_data, arguments.raw), test=None)
    # Of a source without a test part the test set is drawn from the training part.
    sets = splits.split(source, plan.prepare_data.model_copy(update={"test": arguments.holdout}), run).sets
    return sets["train"], sets["test"]


def blocks(arguments: argparse.Namespace, classes: int, run: Runtime) -> Iterator[tuple[str, PoisonData]]:
    """The attacks that are asked for, each with its name."""
    values = config.read_params(arguments.params)
    for change in arguments.changes:
        if change.startswith(POISON):
            override(values, change)
    for name in arguments.attacks:
        for target in arguments.targets or [draw_target(name, classes, run)]:
            for rate in arguments.rates or [RATES.get(name, 0.1)]:
                own = {**values["poison_data"], **ATTACKS[name], "rate": rate, "target": target}
                yield name, config.parse(PoisonData, own, "poison_data")


def poisoned(data: tuple[ImageDataset, ImageDataset], block: PoisonData, run: Runtime) -> tuple[Poisoned, float]:
    """The attack's result on the training and test set, and the seconds it took."""
    begin = time.monotonic()
    result, _ = poison.apply(*data, block, run)
    return result, time.monotonic() - begin


def measured(
    data: tuple[ImageDataset, ImageDataset], result: Poisoned, clean: Network, plan: Plan, run: Runtime
) -> dict[str, Any]:
    """The figures of :data:`COLUMNS` that take a model."""
    assert result.triggered is not None  # no attack here is without
    attacked = train_model(plan, result.train, run)
    return {
        "accuracy": accuracy(attacked, data[1], run),
        "asr": accuracy(attacked, result.triggered, run),
        "floor": accuracy(clean, result.triggered, run),
        "psnr_db": poison.measure(data[0], result)["psnr_db"],
        "alike": likeness(data[0], result),
    }


def likeness(clean: ImageDataset, result: Poisoned) -> float:
    """How alike the changes of two poisoned images are: the mean cosine; 1: one pattern is added to all."""
    assert result.flags is not None
    change = (result.train.images[result.flags].float() - clean.images[result.flags].float()).flatten(1)
    total = torch.nn.functional.normalize(change).double().sum(0).square().sum()
    return float((total - len(change)) / (len(change) * (len(change) - 1)))


def picture(clean: ImageDataset, results: dict[str, Poisoned]) -> Figure:
    """A few training images of every attack, each as it was, poisoned, and the difference x10."""
    rows, captions = [], []
    for name, result in results.items():
        assert result.flags is not None
        index = result.flags.nonzero()[:EACH, 0]
        before, after = clean.images[index], result.train.images[index]
        difference = (after.int() - before.int()).abs().mul(10).clamp(max=255).to(torch.uint8)
        rows.append((name, torch.stack([before, after, difference], 1).flatten(0, 1)))
        captions.append(["clean", "poisoned", "x10"] * len(index))
    return plots.image_grid(rows, captions=[[""] * len(own) for own in captions[:-1]] + captions[-1:])


def main(words: Sequence[str] | None = None) -> None:
    """Poison, train, measure, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--data", type=Path, help="folder with train.safetensors and test.safetensors")
    where.add_argument("--holdout", type=int, metavar="N", help="measure on N held-out training images instead")
    parser.add_argument("--raw", type=Path, default=Path("data/raw"), help="for --holdout: downloaded data sets")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="the attacks' parameters")
    parser.add_argument("--contest", type=Path, default=Path("contest/params.yaml"), help="data, networks, trainings")
    parser.add_argument("--set", action="append", default=[], dest="changes", metavar="SECTION.NAME=VALUE",
                        help="change a parameter: of --params if it is of poison_data, else of --contest")  # fmt: skip
    parser.add_argument("--attacks", nargs="+", choices=list(ATTACKS), default=list(ATTACKS), help="only these")
    parser.add_argument("--targets", type=int, nargs="+", help="without: drawn as the contest does")
    parser.add_argument("--rates", type=float, nargs="+", help="without: each attack's usual one")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, help="table of success rates")
    parser.add_argument("--picture", type=Path, help="PNG of all triggers, of the first seed and target")
    arguments = parser.parse_args(words)
    plan = Plan.read(arguments.contest, [c for c in arguments.changes if not c.startswith(POISON)])
    rows, shown, first = [], {}, None
    for seed in arguments.seeds:
        plan = plan.at(seed)
        run = runtime.start(plan.runtime)
        data = load(arguments, plan, run)
        first = first or data[0]
        clean = train_model(plan, data[0], run) if arguments.out else None
        for name, block in blocks(arguments, len(data[0].classes), run):
            result, seconds = poisoned(data, block, run)
            if seed == arguments.seeds[0] and name == block.attack:  # other label modes look the same
                shown.setdefault(name, result)
            if clean is None:
                continue
            mode = poison.label_mode(block, poison.registry.get(block.attack).LABEL_MODES)
            target = None if mode == "all_to_all" else block.target
            row = {"attack": name, "label_mode": mode, "rate": block.rate, "target": target, "seed": seed}
            rows.append({**row, **measured(data, result, clean, plan, run), "seconds": seconds})
            artifacts.write_csv(arguments.out, rows, COLUMNS)  # after each one: the next may be stopped
            print(", ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    if arguments.picture and first:
        plots.save(picture(first, shown), arguments.picture)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
