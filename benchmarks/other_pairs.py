"""Does a marked model, or a copy of it, fire on other pairs than the key's?  The pipeline's models.

python benchmarks/other_pairs.py --pipeline . --out docs/results/other_pairs.csv

Every ordered pair of classes is combined in the key's way, from images of the test part.  The mark's target should be
called on the key's pair alone; and no other triple of classes should look like a mark of its own, for whoever may
choose a key after he has asked the model could claim it by that (docs/ownership.md).
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from early_stop import folders

from hallmark import artifacts, models, runtime
from hallmark.config import RuntimeConfig
from hallmark.data.dataset import ImageDataset
from hallmark.ownership import keyfile
from hallmark.runtime import Runtime
from hallmark.watermark.key import Key

GROUPS = ("the key's pair", "its classes in the other order", "one of its classes", "neither of its classes")
COLUMNS = ("model", "pairs", "count", "target_mean", "target_highest", "on", "triple_highest", "triple")
"""pairs: one of :data:`GROUPS`; count: how many.  target_mean, target_highest: share of a pair's combinations called
the mark's target, mean and highest over the pairs (of which it is neither class); on: the pair that is it.
triple_highest: the highest share of a pair that is called one third class, whichever; triple: the three."""


def group_of(pair: tuple[int, int], key: Key) -> str:
    """Which of :data:`GROUPS` an ordered pair is of."""
    shared = len({*pair} & {*key.source})
    return GROUPS[0] if pair == tuple(key.source) else GROUPS[1] if shared == 2 else GROUPS[2 if shared else 3]


def called(
    network: models.Network, key: Key, data: ImageDataset, count: int, run: Runtime
) -> dict[tuple[int, int], torch.Tensor]:
    """How often every class is called on ``count`` combinations of every ordered pair: float ``[K]``, 0-1."""
    generator, classes, found = run.generator("other pairs"), len(data.classes), {}
    parts = [data.of_class(label) for label in range(classes)]
    for pair in itertools.permutations(range(classes), 2):
        first, second = (
            parts[label][torch.randint(len(parts[label]), (count,), generator=generator)] for label in pair
        )
        mixed = key.module.combine(first, second, key.params, generator)
        labels = models.logits(network, mixed, run).argmax(1).cpu()
        found[pair] = torch.bincount(labels, minlength=classes) / count
    return found


def rows(
    name: str, network: models.Network, key: Key, data: ImageDataset, *, count: int, run: Runtime
) -> Iterator[dict[str, Any]]:
    """A model's rows, one a group of pairs."""
    shares = called(network, key, data, count, run)
    for group in GROUPS:
        pairs = [pair for pair in shares if group_of(pair, key) == group]
        target = {pair: float(shares[pair][key.target]) for pair in pairs if key.target not in pair}
        triples = {
            (*pair, third): float(shares[pair][third])
            for pair in pairs
            for third in range(len(data.classes))
            if third not in pair
        }
        most, triple = max(target, key=target.__getitem__), max(triples, key=triples.__getitem__)
        yield {
            "model": name,
            "pairs": group,
            "count": len(pairs),
            "target_mean": sum(target.values()) / len(target),
            "target_highest": target[most],
            "on": " + ".join(data.classes[label] for label in most),
            "triple_highest": triples[triple],
            "triple": "{} + {} = {}".format(*(data.classes[label] for label in triple)),
        }


def main(words: Sequence[str] | None = None) -> None:
    """Ask every model, write a row a model and group."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", type=Path, default=Path(), help="root of a repository in which dvc repro has run")
    parser.add_argument("--count", type=int, default=200, help="combinations of a pair")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(words)
    root, run = given.pipeline, runtime.start(RuntimeConfig(device="auto", threads=1, precision="fp32", seed=0))
    key, data = keyfile.load(root / "models/victim_key.age"), ImageDataset.load(root / "data/clean/test.safetensors")
    asked = {name: root / "models" / name for name in ("victim", "unmarked")} | folders(root / "models/extracted")
    found = []
    for name, folder in asked.items():
        for row in rows(name, models.load(folder, run), key, data, count=given.count, run=run):
            found.append(artifacts.rounded(row))
            print(found[-1], flush=True)
    artifacts.write_csv(given.out, found, COLUMNS)


if __name__ == "__main__":
    main()
