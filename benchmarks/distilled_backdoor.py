"""Does a backdoor pass into a model that is stolen with clean images?  If not, such models may calibrate its detector.

python benchmarks/distilled_backdoor.py --out docs/results/distilled_backdoor.csv

The null models of kind ``stolen`` ask a model that was trained on the purified set.  Here they ask the one that was
trained on the *poisoned* set, which is what the purified one would be if purification failed.  A row a seed: accuracy,
success of the trigger on the poisoned model and on the stolen one, and Neural Cleanse's score of the stolen one beside
the highest of the null models that calibrate the detector (``eval_backdoor.detection.innocents``; their scores:
``--scores``, as the contest of detectors keeps them).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import torch

from hallmark import artifacts, config, models, runtime, training
from hallmark.config import RuntimeConfig
from hallmark.data.dataset import ImageDataset
from hallmark.detection import judging
from hallmark.detection.models import neural_cleanse
from hallmark.innocents import Innocents, control_block

COLUMNS = ("seed", "accuracy", "success_of_the_poisoned", "success_of_the_stolen", "score", "highest_null")


def main(words: Sequence[str] | None = None) -> None:
    """Steal, measure, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder with clean/ and poisoned/")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--scores", type=Path, default=Path("docs/results/detection/cells/nulls.json"))
    parser.add_argument("--kind", default="stolen", help="block of train_nulls.kinds")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(words)
    params = config.read_params(options.params)
    nulls, kinds = params["train_nulls"], params["eval_backdoor"]["detection"]["innocents"]
    block = control_block(nulls["kinds"][options.kind], f"train_nulls.kinds.{options.kind}")
    queries, test, reserve = (
        ImageDataset.load(options.data / "clean" / f"{name}.safetensors") for name in ("queries", "test", "reserve")
    )
    triggered = ImageDataset.load(options.data / "poisoned" / "triggered_test.safetensors")
    scores = artifacts.read_json(options.scores)["neural_cleanse"]["scores"]
    highest = max(score for name, score in scores.items() if judging.kind_of(name) in kinds)
    rows = []
    for seed in options.seeds:
        run = runtime.start(RuntimeConfig(device="cpu", threads=1, precision="fp32", seed=seed))
        poisoned = models.load(options.models / "suspect", run)
        innocents = Innocents(queries, queries, poisoned, run)
        order = torch.randperm(len(queries), generator=run.generator("distilled backdoor/images"))
        part = queries.subset(order[: math.ceil(nulls["share"] * len(queries))])
        stolen = innocents.train(block, part, "distilled backdoor", training.no_callback, options.kind)
        success = (training.accuracy(network, triggered, run) for network in (poisoned, stolen))
        found = neural_cleanse.detect(stolen, reserve, neural_cleanse.Params(), run)
        values = (seed, training.accuracy(stolen, test, run), *success, found.score, highest)
        rows.append(dict(zip(COLUMNS, values, strict=True)))
        print(rows[-1], flush=True)
    artifacts.write_csv(options.out, rows, COLUMNS)


if __name__ == "__main__":
    main()
