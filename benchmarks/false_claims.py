"""How often does verify_ownership accuse an innocent model?

python benchmarks/false_claims.py --data data/clean --models 10 --out docs/results/false_claims.csv

Trains clean models that never met any key (other seeds, halves of the data, plain and mixup/cutmix,
two widths), and tries every false key on them: each ordered pair of source classes, each way to
combine, each target class fixed beforehand.  Every model is judged in turn, with four others as its
controls, by the pipeline's own rule and by the paper's fixed 30 % threshold.  The verdicts share models and
images and are not independent: the table counts, and claims no interval.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
import torch

from hallmark import artifacts, config, models, runtime, training
from hallmark.config import Architecture, RuntimeConfig, Training, TrainUnmarked, VerifyOwnership
from hallmark.data.dataset import ImageDataset
from hallmark.progress import progress
from hallmark.verification.decision import STOLEN, decide
from hallmark.verification.measure import Answers
from hallmark.watermark.ways import ways

COLUMNS = ("way", "false_keys", "verdicts", "above_30_percent", "accused", "no_verdict", "largest_excess")


def train_innocents(
    data: ImageDataset, count: int, base: TrainUnmarked, started: runtime.Runtime
) -> list[models.Network]:
    """Clean models that differ in seed, data half, width and mixing."""
    networks = []
    for k in range(count):
        half = torch.randperm(len(data), generator=started.generator(f"half {k // 2}"))
        part = data.subset(half[k % 2 :: 2])
        width = base.architecture.width * (2 if k % 3 == 2 else 1)
        architecture = Architecture(**{**base.architecture.model_dump(), "width": width})
        how = Training(**{**base.training.model_dump(), "mix": "mixup_cutmix" if k % 4 == 3 else "none"})
        network = models.build(architecture, part.images, part.classes, started, f"innocent {k}")
        training.train_classifier(network, part.images, part.labels, how, started, purpose=f"innocent {k}")
        networks.append(network)
    return networks


def main() -> None:
    """Train, try all false keys, write one row a way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--data", type=Path, default=Path("data/clean"))
    parser.add_argument("--models", type=int, default=10)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    params = config.read_params(arguments.params)
    base = config.section(params, "train_watermarked", TrainUnmarked, arguments.params)
    rule = config.section(params, "verify_ownership", VerifyOwnership, arguments.params)
    started = runtime.start(config.section(params, "runtime", RuntimeConfig, arguments.params))
    test = ImageDataset.load(arguments.data / "test.safetensors")
    networks = train_innocents(
        ImageDataset.load(arguments.data / "queries.safetensors"), arguments.models, base, started
    )

    def predict(images: torch.Tensor) -> np.ndarray:
        return np.stack([models.logits(n, images, started).argmax(1).numpy() for n in networks])

    generator = started.generator("false keys")
    classes = range(len(test.classes))
    per_class = min(int((test.labels == c).sum()) for c in classes)
    by_class = [test.of_class(c)[:per_class] for c in classes]
    plain = [predict(images) for images in by_class]
    correct = np.stack([p == c for c, p in enumerate(plain)]).transpose(1, 0, 2).reshape(len(networks), -1)

    rows = []
    with progress(len(ways.names()) * len(classes) * (len(classes) - 1), "false keys", "pair") as advance:
        for way in ways.names():
            module = ways.get(way)
            accused = paper = invalid = total = 0
            largest = -1.0
            for i, j in itertools.permutations(classes, 2):
                mixed = predict(module.combine(by_class[i], by_class[j], module.Params(), generator))
                for target in set(classes) - {i, j}:
                    answers = [
                        Answers(
                            mixed[m] == target,
                            (plain[i][m] == target) | (plain[j][m] == target),
                            mixed[m] == target,
                            correct[m],
                            np.concatenate([plain[i][m], plain[j][m]]) == target,
                        )
                        for m in range(len(networks))
                    ]
                    for m in range(len(networks)):
                        others = {str(k % len(networks)): answers[k % len(networks)] for k in range(m + 1, m + 5)}
                        # A suspect that fires no more often than any margin allows needs no tests.
                        strongest = max(a.hits.mean() for a in others.values())
                        excess = answers[m].hits.mean() - strongest
                        largest = max(largest, float(excess))
                        total += 1
                        paper += int(answers[m].hits.mean() > 0.3)
                        invalid += int(strongest > rule.max_control_wsr)
                        if excess <= rule.min_excess or strongest > rule.max_control_wsr:
                            continue
                        verdict = decide({"s": answers[m]}, others, float(correct.mean()), rule)[0]
                        accused += int(verdict.decision == STOLEN)
                advance(1)
            rows.append(
                {
                    "way": way,
                    "false_keys": total // len(networks),
                    "verdicts": total,
                    "above_30_percent": paper,
                    "accused": accused,
                    "no_verdict": invalid,
                    "largest_excess": largest,
                }
            )
            print({k: artifacts.rounded(v) for k, v in rows[-1].items()}, flush=True)
    artifacts.write_csv(arguments.out, rows, COLUMNS)


if __name__ == "__main__":
    main()
