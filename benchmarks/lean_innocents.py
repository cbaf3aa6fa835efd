"""Is an innocent called stolen by its lean, whatever it does to its scores?

python benchmarks/lean_innocents.py --models models --data data/clean --out docs/results/lean_innocents.csv

The pipeline's unmarked model and controls under every key (all pairs of source classes with every target), 200 test
images of each class, against the pipeline's null models as they are, at the level of one suspect and two statistics,
``--level``: how many keys the nulls accuse by, and how many are left when the other classes in the target's place are
beaten as well, where the model answers as it is, at other temperatures, smoothed, or rounded.  ``silent``: keys of
which its scores say nothing.  Row ``null``: each null model by the others.  Rows of copies: the lean of the pipeline's
own key.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from hallmark import artifacts, models, runtime
from hallmark.config import RuntimeConfig
from hallmark.data.dataset import ImageDataset
from hallmark.ownership import keyfile
from hallmark.verification.log_odds import lean, likelier, predictive_p

COLUMNS = ("model", "answers", "keys", "silent", "by_nulls", "accused", "which", "lean_of_the_key", "p_of_the_key")
IMAGES = 200
"""Of each class."""


def softer(temperature: float) -> Callable[[Tensor], Tensor]:
    return lambda logits: (logits / temperature).softmax(1)


def smoothed(share: float) -> Callable[[Tensor], Tensor]:
    return lambda logits: (1 - share) * logits.softmax(1) + share / logits.shape[1]


def rounded(digits: int) -> Callable[[Tensor], Tensor]:
    return lambda logits: logits.softmax(1).mul(10**digits).round().div(10**digits)


ANSWERS: dict[str, Callable[[Tensor], Tensor]] = {
    "as it is": softer(1.0),
    **{f"temperature {t:g}": softer(t) for t in (0.25, 0.4, 0.6, 0.8, 3.0)},
    **{f"smoothed by {share:g}": smoothed(share) for share in (0.001, 0.01, 0.1)},
    **{f"{digits} decimals": rounded(digits) for digits in (6, 4)},
}


def main(words: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--data", type=Path, default=Path("data/clean"))
    parser.add_argument("--level", type=float, default=0.005)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(words)
    run = runtime.start(RuntimeConfig(device="auto", threads=1, precision="fp32", seed=0))
    key, pool = keyfile.load(options.models / "victim_key.age"), ImageDataset.load(options.data / "test.safetensors")
    parts = [pool.of_class(label)[:IMAGES] for label in range(len(pool.classes))]
    triples = [
        (i, j, t) for i, j in itertools.combinations(range(len(parts)), 2) for t in range(len(parts)) if t not in (i, j)
    ]

    def folders(name: str) -> list[Path]:
        return [path for path in sorted((options.models / name).iterdir()) if path.is_dir()]

    def logits(folder: Path) -> list[Tensor]:
        network = models.load(folder, run)
        return [models.logits(network, part, run) for part in parts]

    def leans(said: Sequence[Tensor]) -> np.ndarray:
        found = [lean([said[i], said[j]], t, (i, j)) for i, j, t in triples]
        return np.array([np.nan if value is None else value for value in found])

    nulls = np.stack([leans([each.softmax(1) for each in logits(folder)]) for folder in folders("nulls")])
    rows: list[dict[str, Any]] = []

    def add(**values: Any) -> None:
        rows.append({**dict.fromkeys(COLUMNS), **values})
        print(values, flush=True)

    for folder in [options.models / "unmarked", *folders("controls")]:
        own = logits(folder)
        for name, told in ANSWERS.items():
            said = [told(each) for each in own]
            values = leans(said)
            significant = [
                k for k, value in enumerate(values)
                if np.isfinite(value) and np.isfinite(nulls[:, k]).all()
                and predictive_p(nulls[:, k], value).p <= options.level
            ]  # fmt: skip
            accused = [triples[k] for k in significant if specific(said, triples[k], options.level)]
            which = "; ".join(
                f"{pool.classes[i]}, {pool.classes[j]} = {pool.classes[t]}" for i, j, t in accused
            )  # fmt: skip
            add(model=folder.name, answers=name, keys=len(triples), silent=int(np.isnan(values).sum()),
                by_nulls=len(significant), accused=len(accused), which=which)  # fmt: skip
    alone = [
        predictive_p(np.delete(nulls[:, k], m), nulls[m, k]).p <= options.level
        for m, k in itertools.product(range(len(nulls)), range(len(triples)))
        if np.isfinite(nulls[:, k]).all()
    ]
    add(model="null", answers="as it is", keys=len(alone), silent=int(np.isnan(nulls).sum()), by_nulls=sum(alone))
    own_key = triples.index((min(key.source), max(key.source), key.target))
    for folder in [options.models / "victim", *folders("extracted"), *folders("removed")]:
        own = logits(folder)
        for name, told in ANSWERS.items():
            value = lean([told(own[label]) for label in key.source], key.target, key.source)
            p = "" if value is None else f"{predictive_p(nulls[:, own_key], value).p:.3g}"
            add(
                model=folder.name,
                answers=name,
                keys=1,
                silent=int(value is None),
                lean_of_the_key=value,
                p_of_the_key=p,
            )
    artifacts.write_csv(options.out, rows, COLUMNS)


def specific(said: Sequence[Tensor], triple: tuple[int, int, int], level: float) -> bool:
    """Does the key beat every other class in the target's place?"""
    i, j, target = triple
    rivals = (label for label in range(len(said)) if label not in triple)
    return all(likelier([said[i], said[j]], target, rival) <= level for rival in rivals)


if __name__ == "__main__":
    main()
