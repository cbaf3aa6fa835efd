"""What WaNet and Input-Aware lose as data poisoning, beside an attacker who controls the training as in their papers.

python benchmarks/controlled_training.py --holdout 10000 --seeds 101 102 --out docs/results/controlled_training.csv

Three attackers with the same trigger, rate, network, number of steps and order of the images:

* *poisoned set*: poisons and covers are drawn once, and the set is delivered (what ``poison_data`` does);
* *drawn anew*: they are drawn anew for every epoch, which takes control of the training (the papers: for every batch);
* *trained together* (Input-Aware): the classifier with which the generator was trained, delivered as the paper does,
  after as many steps as the others have; its trigger is that of the longer training.

WaNet also has the paper's noise of half a pixel, with which the delivered set teaches little (docs/attacks.md).
Held-out training images decide, as in ``attacks.py``, whose options these are.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import attacks
from torch import Tensor
from torch.nn import functional as F

from hallmark import artifacts, config, models, runtime, training
from hallmark.config import PoisonData
from hallmark.contest.purification.plan import Plan
from hallmark.contest.purification.run import draw_target
from hallmark.data import ImageDataset
from hallmark.data.dataset import to_float
from hallmark.errors import UserError
from hallmark.models import Network
from hallmark.poison import Covers, Poisoned, Trigger, deliver, input_aware, registry, wanet
from hallmark.runtime import Runtime, derive_seed

BLOCKS: Mapping[str, Mapping[str, Any]] = {
    "wanet": {},
    "wanet, noise 0.5": {"noise": 0.5},
    "input_aware": {},
}
"""The attack before the comma, with these of its parameters."""
COLUMNS = ("attack", "attacker", "rate", "target", "seed", "accuracy", "asr")
MODE = "all_to_one"
NAME = "purify/suspect"
"""Of the random streams of the contest's first model."""


def train_anew(plan: Plan, sets: Sequence[ImageDataset], run: Runtime) -> Network:
    """The contest's classifier, trained on another set in every epoch, of which all have as many images.

    With equal sets it is what :func:`hallmark.purify.preparation.train_suspect` trains, where nothing is augmented.
    """
    network = models.build(plan.purify_data.architecture, sets[0].images, sets[0].classes, run, NAME)
    images = [each.images.to(run.device) for each in sets]
    labels = [F.one_hot(each.labels, len(each.classes)).float().to(run.device) for each in sets]
    epoch = 0

    def losses(index: Tensor) -> Mapping[str, Tensor]:
        answers = network(to_float(images[epoch][index])).float()
        return {"cross_entropy": F.cross_entropy(answers, labels[epoch][index])}

    def next_set(number: int, _: Mapping[str, float]) -> None:
        nonlocal epoch
        epoch = min(number, len(sets) - 1)  # epochs count from 1

    training.fit(network, len(sets[0]), losses, plan.purify_data.training, run, purpose=NAME, callback=next_set)
    return network


def attackers(
    plan: Plan, data: tuple[ImageDataset, ImageDataset], block: PoisonData, run: Runtime
) -> Iterator[tuple[str, Network, ImageDataset]]:
    """Each attacker's model and triggered test images."""
    train, test = data
    params: Any = registry.parameters(block.attack, block.model_extra or {}, "poison_data")
    target, epochs = train.class_index(block.target, "poison_data.target"), plan.purify_data.training.epochs
    steps = epochs * math.ceil(len(train) / plan.purify_data.training.batch_size)

    def delivered(trigger: Trigger, covers: Covers, draw: int) -> Poisoned:
        own = replace(run, seed=derive_seed(run.seed, f"draw {draw}")) if draw else run
        return deliver(train, test, block, own, modes=(MODE,), trigger=trigger, covers=covers)

    if block.attack == "wanet":
        trigger, covers = wanet.draw(train, params, run)
    else:
        generator, _ = input_aware.train_generator(train, params, run, mode=MODE, target=target)
        trigger, covers = input_aware.triggers(generator, train, params, run)
    sets = [delivered(trigger, covers, draw) for draw in range(epochs)]
    triggered = sets[0].triggered
    assert triggered is not None
    yield "poisoned set", train_anew(plan, [sets[0].train] * epochs, run), triggered
    yield "drawn anew", train_anew(plan, [each.train for each in sets], run), triggered
    if block.attack == "input_aware":
        own = params.model_copy(update={"steps": steps, "architecture": plan.purify_data.architecture})
        generator, classifier = input_aware.train_generator(train, own, run, mode=MODE, target=target)
        triggered = delivered(*input_aware.triggers(generator, train, own, run), 0).triggered
        assert triggered is not None
        yield "trained together", classifier, triggered


def main(words: Sequence[str] | None = None) -> None:
    """Attack, measure, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--holdout", type=int, default=10000, metavar="N", help="held-out training images that decide")
    parser.add_argument("--raw", type=Path, default=Path("data/raw"), help="downloaded data sets")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="the attacks' parameters")
    parser.add_argument("--contest", type=Path, default=Path("contest/params.yaml"), help="data, networks, trainings")
    parser.add_argument("--set", action="append", default=[], dest="changes", help="change a parameter of --contest")
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102])
    parser.add_argument("--out", type=Path, help="CSV to write")
    given = parser.parse_args(words)
    given.data, rows = None, []
    plan = Plan.read(given.contest, given.changes)
    values = config.read_params(given.params)["poison_data"]
    for seed in given.seeds:
        plan = plan.at(seed)
        run = runtime.start(plan.runtime)
        data = attacks.load(given, plan, run)
        for name, changes in BLOCKS.items():
            attack = name.partition(",")[0]
            target = draw_target(attack, len(data[0].classes), run)
            own = {"attack": attack, "label_mode": MODE, "rate": given.rate, "target": target}
            own |= {attack: {**values.get(attack, {}), **changes}}
            block = config.parse(PoisonData, {**values, **own}, "poison_data")
            for attacker, network, triggered in attackers(plan, data, block, run):
                row = {"attack": name, "attacker": attacker, "rate": block.rate, "target": target, "seed": seed}
                row |= {"accuracy": training.accuracy(network, data[1], run)}
                rows.append({**row, "asr": training.accuracy(network, triggered, run)})
                print(", ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
                if given.out:
                    artifacts.write_csv(given.out, rows, COLUMNS)  # after each one: the next may be stopped


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
