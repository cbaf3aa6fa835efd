"""Neural Cleanse with all classes at once against class by class: how much faster, and do both find the same?

python benchmarks/neural_cleanse.py --model models/victim --trusted data/clean/reserve.safetensors \\
    --out docs/results/neural_cleanse.csv

Both arms take the parameters' images, steps and starting point; class by class is the same code with one class a call.
They take turns ``--rounds`` times after a warm-up.  A row an arm, for each number of threads: seconds of the fastest
round, times as fast as class by class; and of both the greatest relative difference of a class's norm, and the mean
absolute difference of the masks.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from hallmark import artifacts, config, models, runtime
from hallmark.config import RuntimeConfig
from hallmark.data.dataset import ImageDataset
from hallmark.detection.models import neural_cleanse
from hallmark.detection.models.neural_cleanse import Reversed
from hallmark.runtime import Runtime

COLUMNS = (
    "device",
    "threads",
    "classes",
    "steps",
    "batch_size",
    "arm",
    "seconds",
    "times",
    "norms_differ",
    "masks_differ",
)


def compared(options: argparse.Namespace, run: Runtime) -> list[dict[str, Any]]:
    """A row an arm, with as many threads as the process has now."""
    network, trusted = models.load(options.model, run), ImageDataset.load(options.trusted)
    params = neural_cleanse.Params(steps=options.steps, batch_size=options.batch_size)
    classes = list(range(len(trusted.classes)))

    def at_once() -> Reversed:
        return neural_cleanse.reverse(network, trusted, classes, params, run)

    def one_by_one() -> Reversed:
        each = [neural_cleanse.reverse(network, trusted, [label], params, run) for label in classes]
        names = ("mask", "pattern", "norms", "worked")
        return Reversed(*(torch.cat([getattr(one, name) for one in each]) for name in names))

    arms: dict[str, Callable[[], Reversed]] = {"class by class": one_by_one, "all at once": at_once}
    found: dict[str, Reversed] = {}
    seconds = dict.fromkeys(arms, float("inf"))
    neural_cleanse.reverse(network, trusted, classes, params.model_copy(update={"steps": 2}), run)
    for _ in range(options.rounds):
        for name, arm in arms.items():
            start = time.perf_counter()
            found[name] = arm()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    one, other = found.values()
    common = {
        "device": run.device.type,
        "threads": torch.get_num_threads(),
        "classes": len(classes),
        "steps": params.steps,
        "batch_size": params.batch_size,
        "norms_differ": float(((one.norms - other.norms).abs() / one.norms).max()),
        "masks_differ": float((one.mask - other.mask).abs().mean()),
    }
    slowest = seconds["class by class"]
    return [{**common, "arm": name, "seconds": value, "times": slowest / value} for name, value in seconds.items()]


def main(words: Sequence[str] | None = None) -> None:
    """Time both, compare, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--trusted", type=Path, required=True)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="its section runtime is read")
    parser.add_argument("--threads", type=int, nargs="+", help="one or more numbers, in place of runtime.threads")
    parser.add_argument("--steps", type=int, default=neural_cleanse.Params().steps)
    parser.add_argument("--batch-size", type=int, default=neural_cleanse.Params().batch_size)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(words)
    base = config.section(config.read_params(options.params), "runtime", RuntimeConfig, options.params)
    rows: list[dict[str, Any]] = []
    for threads in options.threads or [base.threads]:
        rows += compared(options, runtime.start(base.model_copy(update={"threads": threads})))
    artifacts.write_csv(options.out, rows, COLUMNS)
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
