"""Is an innocent called stolen by its lean, whatever it does to its scores?

python benchmarks/lean_innocents.py --models models --innocents /tmp/innocents --data data/clean \\
    --out docs/results/lean_innocents.csv

The pipeline's unmarked model and controls under every key (all pairs of source classes with every target), 200 test
images of each class, against the pipeline's null models as they are, at the level of one suspect and two statistics,
``--level``: how many keys the nulls accuse by, and how many are left when the other classes in the target's place are
beaten as well, where the model answers as it is, at other temperatures, smoothed, or rounded.  ``silent``: keys of
which its scores say nothing.  Row ``null``: each null model by the others.  Rows of copies: the lean of the pipeline's
own key.

Rows ``innocent KIND``, with ``--innocents`` (models of false_claims.py's ``--work``): independent models under every
key, each by 40 others of all kinds, dealt once at random; ``models_accused`` of ``models`` for any of its keys.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from hallmark import artifacts, models, runtime
from hallmark.config import RuntimeConfig
from hallmark.data.dataset import ImageDataset
from hallmark.detection.judging import kind_of
from hallmark.errors import UserError
from hallmark.ownership import keyfile
from hallmark.progress import progress
from hallmark.runtime import Runtime
from hallmark.verification.log_odds import leads, lean, predictive_p

COLUMNS = (
    "model",
    "answers",
    "models",
    "keys",
    "silent",
    "by_nulls",
    "accused",
    "models_accused",
    "which",
    "lean_of_the_key",
    "p_of_the_key",
)
IMAGES = 200
"""Of each class."""
ALPHA = 0.01
"""Of the controls on the model itself, which a verdict does not correct for the number of tests."""
NULLS = 40
"""Of each independent innocent."""


def softer(temperature: float) -> Callable[[Tensor], Tensor]:
    return lambda logits: (logits / temperature).softmax(1)


def smoothed(share: float) -> Callable[[Tensor], Tensor]:
    return lambda logits: (1 - share) * logits.softmax(1) + share / logits.shape[1]


def rounded(digits: int) -> Callable[[Tensor], Tensor]:
    return lambda logits: logits.softmax(1).mul(10**digits).round().div(10**digits)


INDEPENDENT = ("as it is", "temperature 0.6", "temperature 3", "smoothed by 0.001", "smoothed by 0.01")
"""Of :data:`ANSWERS`, what the independent innocents do."""
ANSWERS: dict[str, Callable[[Tensor], Tensor]] = {
    "as it is": softer(1.0),
    **{f"temperature {t:g}": softer(t) for t in (0.25, 0.4, 0.6, 0.8, 3.0)},
    **{f"smoothed by {share:g}": smoothed(share) for share in (0.001, 0.01, 0.1)},
    **{f"{digits} decimals": rounded(digits) for digits in (6, 4)},
}


Triple = tuple[int, int, int]


class Bench:
    """Every key put to models that have said what they say of every class."""

    def __init__(self, pool: ImageDataset, run: Runtime, level: float) -> None:
        self.run, self.level = run, level
        self.parts = [pool.of_class(label)[:IMAGES] for label in range(len(pool.classes))]
        labels = range(len(self.parts))
        self.triples = [(i, j, t) for i, j in itertools.combinations(labels, 2) for t in labels if t not in (i, j)]

    def logits(self, folder: Path) -> list[Tensor]:
        """Of each class's images, ``[IMAGES, K]`` each."""
        network = models.load(folder, self.run)
        return [models.logits(network, part, self.run) for part in self.parts]

    def leans(self, said: Sequence[Tensor]) -> np.ndarray:
        """By triple, nan where the scores say nothing."""
        found = [lean([said[i], said[j]], t, (i, j)) for i, j, t in self.triples]
        return np.array([np.nan if value is None else value for value in found])

    def significant(self, values: np.ndarray, nulls: np.ndarray) -> list[int]:
        """Triples by which null models ``[N, triples]`` accuse."""
        told = np.isfinite(values) & np.isfinite(nulls).all(0)
        return [k for k in np.flatnonzero(told).tolist() if predictive_p(nulls[:, k], values[k]).p <= self.level]

    def specific(self, said: Sequence[Tensor], triple: Triple) -> bool:
        """Does the key beat every other class in the target's place?"""
        i, j, target = triple
        rivals = (label for label in range(len(said)) if label not in triple)
        return all(leads([said[i], said[j]], target, rival, (i, j)) <= ALPHA for rival in rivals)

    def accused(self, said: Sequence[Tensor], values: np.ndarray, nulls: np.ndarray) -> tuple[int, list[Triple]]:
        """By how many triples the nulls accuse, and by which the model is accused."""
        found = self.significant(values, nulls)
        return len(found), [self.triples[k] for k in found if self.specific(said, self.triples[k])]


def subfolders(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_dir()]


def of_the_pipeline(bench: Bench, folder: Path, classes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Rows of the pipeline's innocents, null models and copies."""
    nulls = np.stack([bench.leans([each.softmax(1) for each in bench.logits(f)]) for f in subfolders(folder / "nulls")])
    for model in [folder / "unmarked", *subfolders(folder / "controls")]:
        own = bench.logits(model)
        for name, told in ANSWERS.items():
            said = [told(each) for each in own]
            values = bench.leans(said)
            by_nulls, accused = bench.accused(said, values, nulls)
            which = "; ".join(f"{classes[i]}, {classes[j]} = {classes[t]}" for i, j, t in accused)
            yield {"model": model.name, "answers": name, "keys": len(values), "silent": int(np.isnan(values).sum()),
                   "by_nulls": by_nulls, "accused": len(accused), "which": which}  # fmt: skip
    alone = [len(bench.significant(nulls[m], np.delete(nulls, m, 0))) for m in range(len(nulls))]
    keys = len(nulls) * int(np.isfinite(nulls).all(0).sum())
    silent = int(np.isnan(nulls).sum())
    yield {"model": "null", "answers": "as it is", "keys": keys, "silent": silent, "by_nulls": sum(alone)}
    key = keyfile.load(folder / "victim_key.age")
    own_key = bench.triples.index((min(key.source), max(key.source), key.target))
    for model in [folder / "victim", *subfolders(folder / "extracted"), *subfolders(folder / "removed")]:
        own = bench.logits(model)
        for name, told in ANSWERS.items():
            value = lean([told(own[label]) for label in key.source], key.target, key.source)
            p = "" if value is None else f"{predictive_p(nulls[:, own_key], value).p:.3g}"
            yield {"model": model.name, "answers": name, "keys": 1, "silent": int(value is None),
                   "lean_of_the_key": value, "p_of_the_key": p}  # fmt: skip


def of_independent(bench: Bench, folder: Path, seed: int, most: int | None = None) -> Iterator[dict[str, Any]]:
    """Rows of independent innocents, the first ``most`` or all, by kind."""
    folders = subfolders(folder)[:most]
    if len(folders) <= NULLS:
        raise UserError(f"{folder}: {len(folders)} models; give more than {NULLS}: none may be its own null model")
    kinds = [kind_of(path.name) for path in folders]
    with progress(len(folders), "innocent models", "model") as advance:
        own = []
        for path in folders:
            own.append(bench.logits(path))
            advance(1)
    as_they_are = np.stack([bench.leans([each.softmax(1) for each in logits]) for logits in own])
    order = np.random.default_rng(seed).permutation(len(folders))
    # The next ones in a random circle are nobody's own.
    nulls = {int(m): as_they_are[np.take(order, range(k + 1, k + 1 + NULLS), mode="wrap")]
             for k, m in enumerate(order)}  # fmt: skip
    for name in INDEPENDENT:
        found: dict[str, list[tuple[int, int, int]]] = {kind: [] for kind in kinds}
        with progress(len(folders), f"innocent models, {name}", "model") as advance:
            for m, logits in enumerate(own):
                said = [ANSWERS[name](each) for each in logits]
                values = bench.leans(said)
                by_nulls, accused = bench.accused(said, values, nulls[m])
                found[kinds[m]].append((int(np.isnan(values).sum()), by_nulls, len(accused)))
                advance(1)
        for kind, counts in found.items():
            silent, by_nulls, accused = (sum(part) for part in zip(*counts, strict=True))
            yield {"model": f"innocent {kind}", "answers": name, "models": len(counts),
                   "keys": len(counts) * len(bench.triples), "silent": silent, "by_nulls": by_nulls,
                   "accused": accused, "models_accused": sum(each[2] > 0 for each in counts)}  # fmt: skip


def main(words: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, help="folder of the pipeline's models")
    parser.add_argument("--data", type=Path, default=Path("data/clean"))
    parser.add_argument("--innocents", type=Path, help="folder of independent innocent models")
    parser.add_argument("--most", type=int, help="of the independent models, the first so many; left out: all")
    parser.add_argument("--level", type=float, default=0.005)
    parser.add_argument("--seed", type=int, default=0, help="deals the independent innocents")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(words)
    run = runtime.start(RuntimeConfig(device="auto", threads=1, precision="fp32", seed=0))
    pool = ImageDataset.load(options.data / "test.safetensors")
    bench, rows, parts = Bench(pool, run, options.level), [], []
    if options.models is not None:
        parts.append(of_the_pipeline(bench, options.models, pool.classes))
    if options.innocents is not None:
        parts.append(of_independent(bench, options.innocents, options.seed, options.most))
    for values in itertools.chain.from_iterable(parts):
        rows.append({**dict.fromkeys(COLUMNS), **values})
        print(values, flush=True)
    artifacts.write_csv(options.out, rows, COLUMNS)


if __name__ == "__main__":
    main()
