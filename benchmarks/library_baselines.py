"""Would a maintained library's baselines do?  ART's spectral signatures and activation clustering beside ours.

pip install --target FOLDER --no-deps adversarial-robustness-toolbox==1.20.1 six
PYTHONPATH=FOLDER python benchmarks/library_baselines.py --out docs/results/library_baselines.csv

The features that a model of the contest's poisoned set gives to the images of the attack's target are handed to both.
Activation clustering runs with three seeds; ART's draws from NumPy's global generator, which is seeded for it here.
The library is no part of the environment, for what this shows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from hallmark import artifacts, models
from hallmark.contest.purification.base import load_base
from hallmark.contest.purification.plan import Plan
from hallmark.contest.purification.run import load_suspect
from hallmark.errors import UserError
from hallmark.outliers import Array, Mask, spectral_scores, two_clusters

PLACE = "art.defences.detector.poison"
COLUMNS = ("attack", "rate", "seed", "target", "method", "code", "run", "auc", "smaller", "poisons_in_it", "poisons")
"""run: the seed.  auc: of spectral scores, in the target class.  smaller: images of the smaller cluster."""
SETS = ("low_frequency:0.05", "wanet:0.02")
RUNS = 3


def library() -> tuple[Any, Any]:
    """ART's scores and its clustering.

    Raises:
        UserError: it is not installed.
    """
    try:
        spectral = import_module(f"{PLACE}.spectral_signature_defense").SpectralSignatureDefense
        return spectral.spectral_signature_scores, import_module(f"{PLACE}.activation_defence").cluster_activations
    except ImportError as error:
        raise UserError(f"library_baselines: ART cannot be imported ({error}); see --help") from None


def smaller(numbers: Array) -> Mask:
    """bool ``[n]``: the smaller of two clusters, given by number."""
    return numbers == (0 if 2 * (numbers == 0).sum() <= len(numbers) else 1)


def compared(features: Array, flags: Mask) -> Iterator[dict[str, Any]]:
    """Both codes' figures of one class: float64 ``[n, D]``, and bool ``[n]``, which are poisoned."""
    theirs, cluster = library()
    for code, scores in (("ours", spectral_scores(features)), ("ART", theirs(features)[:, 0])):
        yield {"method": "spectral_signatures", "code": code, "run": 0, "auc": float(roc_auc_score(flags, scores))}
    for run in range(RUNS):
        np.random.seed(run)  # the library draws from the global generator
        both = {
            "ours": two_clusters(features, 10, run)[1],
            "ART": smaller(cluster([features], nb_clusters=2, nb_dims=10, reduce="FastICA")[0][0]),
        }
        for code, found in both.items():
            own = {"smaller": int(found.sum()), "poisons_in_it": int(flags[found].sum())}
            yield {"method": "activation_clustering", "code": code, "run": run, **own}


def main(words: Sequence[str] | None = None) -> None:
    """Compare, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=Path("contest/params.yaml"))
    parser.add_argument("--set", action="append", default=[], dest="changes", metavar="NAME=VALUE")
    parser.add_argument("--sets", nargs="+", default=SETS, metavar="ATTACK:RATE")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--raw", type=Path, default=Path("data/raw"))
    parser.add_argument("--work", type=Path, default=Path(".hallmark/benchmarks"))
    parser.add_argument("--out", type=Path, help="CSV to write")
    given = parser.parse_args(words)
    library()  # before anything is trained
    plan, rows = Plan.read(given.params, given.changes).at(given.seed), []
    base = load_base(plan, given.seed, given.raw, given.work)
    for attack, _, rate in (name.partition(":") for name in given.sets):
        each = plan.sets([given.seed], [attack], [float(rate)])[0]
        suspect = load_suspect(plan, each, base, given.work / f"set-{plan.set_hash(each)}")
        train, flags = suspect.poisoned.train, suspect.poisoned.flags
        assert flags is not None  # every set here is attacked
        target = train.class_index(suspect.config.target, "library_baselines")
        own = train.labels == target
        features = models.features(suspect.network, train.images[own], base.runtime).double().numpy()
        common = {
            "attack": attack,
            "rate": rate,
            "seed": given.seed,
            "target": target,
            "poisons": int(flags[own].sum()),
        }
        for row in compared(features, np.asarray(flags[own])):
            rows.append({**dict.fromkeys(COLUMNS), **common, **row})
            print(", ".join(f"{key} {value}" for key, value in rows[-1].items() if value is not None), flush=True)
    if given.out:
        artifacts.write_csv(given.out, rows, COLUMNS)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
