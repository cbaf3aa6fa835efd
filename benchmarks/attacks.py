"""What each attack looks like, and how well it works against a plain model.

python benchmarks/attacks.py --data data/clean --out docs/results/attacks.csv --picture docs/images/triggers.png

Parameters are those of params.yaml; --data holds train.safetensors and test.safetensors as prepare_data leaves them.
Every attack poisons the training set at its own rate below; a model trained on that is asked about the triggered test
images, and so is one trained on the clean set: its answer is the floor, which no defence can be expected to undercut.
--picture alone (no --out) trains no models but those that the attacks need.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from hallmark import artifacts, config, models, plots, poison, runtime
from hallmark.config import Architecture, PoisonData, RuntimeConfig, Training
from hallmark.data import ImageDataset
from hallmark.models import Network
from hallmark.poison import Poisoned
from hallmark.runtime import Runtime
from hallmark.training import accuracy, train_classifier

RATES = {"sig": 0.08, "label_consistent": 0.08, "narcissus": 0.08}
"""Clean-label attacks: 80 % of a class of ten; all others 10 % of the set."""
COLUMNS = ("attack", "label_mode", "rate", "target", "seed", "accuracy", "asr", "floor", "psnr_db", "seconds")
EACH = 3


def poisoned(data: tuple[ImageDataset, ImageDataset], block: dict[str, Any], run: Runtime) -> tuple[Poisoned, float]:
    """The attack's result on the training and test set, and the seconds it took."""
    begin = time.monotonic()
    result, _ = poison.apply(*data, config.parse(PoisonData, block, "poison_data"), run)
    return result, time.monotonic() - begin


def classifier(data: ImageDataset, run: Runtime) -> Network:
    """The plain model that is attacked."""
    network = models.build(
        Architecture(name="cnn9", width=16, unshuffle=2), data.images, data.classes, run, "benchmark/attacks"
    )
    training = Training(epochs=6, batch_size=100, lr=0.002)
    train_classifier(network, data.images, data.labels, training, run, purpose="benchmark/attacks")
    return network


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


def main() -> None:
    """Poison, train, measure, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.safetensors and test.safetensors")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--attacks", nargs="+", help="only these")
    parser.add_argument("--targets", type=int, nargs="+", default=[3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, help="table of success rates")
    parser.add_argument("--picture", type=Path, help="PNG of all triggers")
    arguments = parser.parse_args()
    train, test = (ImageDataset.load(arguments.data / f"{name}.safetensors") for name in ("train", "test"))
    params = config.read_params(arguments.params)
    names = arguments.attacks or [name for name in poison.registry.names() if name != "none"]
    rows, shown = [], {}
    for seed in arguments.seeds:
        run = runtime.start(config.parse(RuntimeConfig, {**params["runtime"], "seed": seed}, "runtime"))
        clean = classifier(train, run) if arguments.out else None
        for name in names:
            for target in arguments.targets:
                block = {**params["poison_data"], "attack": name, "rate": RATES.get(name, 0.1), "target": target}
                result, seconds = poisoned((train, test), block, run)
                shown.setdefault(name, result)
                if clean is None or result.triggered is None:
                    continue
                attacked = classifier(result.train, run)
                measured = poison.measure(train, result)
                mode = poison.registry.get(name).LABEL_MODES[0]
                rates = (accuracy(attacked, test, run), accuracy(attacked, result.triggered, run))
                floor = accuracy(clean, result.triggered, run)
                cells = (name, mode, block["rate"], target, seed, *rates, floor, measured["psnr_db"], seconds)
                rows.append(dict(zip(COLUMNS, cells, strict=True)))
                print(f"{name:<18} target {target}  accuracy {rates[0]:.3f}  ASR {rates[1]:.3f}  floor {floor:.3f}")
    if arguments.out:
        artifacts.write_csv(arguments.out, rows, COLUMNS)
    if arguments.picture:
        plots.save(picture(train, shown), arguments.picture)


if __name__ == "__main__":
    main()
