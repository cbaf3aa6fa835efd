"""How often do the null models' p-values accuse an innocent model, and how often do they find a copy?

python benchmarks/null_calibration.py --out docs/results/null_calibration.csv     # about ten minutes on one core

A row is a family of innocent models and a number N of nulls.  ``--sets`` times N nulls are drawn, and the smallest
count found that is accused at each level; the same 20,000 further models of the family are the innocent suspects of
every set, so that the standard error is that over the sets.  Copies answer ``--trials`` questions independently at
40 % or 80 %.  ``queries`` are of the sequential test at the median bound, both together at the first level.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from hallmark import artifacts
from hallmark.verification import nulls
from hallmark.verification.sequential import BOUND_SHARE, Sequential

Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]
LEVELS = {"1": 0.01, "01": 0.001}
"""By the column's ending."""
COPIES = {"40": 0.4, "80": 0.8}
INNOCENTS = 20_000


def normal(center: float, spread: float) -> Draw:
    """Rates whose log-odds are normal around those of ``center``."""
    return lambda rng, count: special.expit(special.logit(center) + spread * rng.standard_normal(count))


def mixture(share: float, rare: Draw, common: Draw) -> Draw:
    """Each model is of the rare kind with chance ``share``."""
    return lambda rng, count: np.where(rng.random(count) < share, rare(rng, count), common(rng, count))


FAMILIES: dict[str, Draw] = {
    "all alike, 1 %": normal(0.01, 0),
    "almost never": normal(0.00003, 1),
    "Beta(1, 60)": lambda rng, count: rng.beta(1, 60, count),
    "logit-normal, 1 %, sd 1": normal(0.01, 1),
    "logit-t with 3 degrees, 1 %": lambda rng, count: special.expit(
        special.logit(0.01) + 0.7 * rng.standard_t(3, count)
    ),
    "30 % at 20 %, rest 1 %": mixture(0.3, normal(0.2, 0.3), normal(0.01, 0.5)),
    "10 % at 20 %, rest 1 %": mixture(0.1, normal(0.2, 0.3), normal(0.01, 0.5)),
    "3 % at 30 %, rest 1 %": mixture(0.03, normal(0.3, 0.3), normal(0.01, 0.5)),
}
COLUMNS = (
    ["family", "nulls", "sets", "refused"]
    + [f"{what}_{level}" for level in LEVELS for what in ("accused", "accused_se", "found_40", "found_80")]
    + ["median_bound", "queries_40", "queries_80"]
)


def row(draw: Draw, count: int, sets: int, trials: int, rng: np.random.Generator) -> dict[str, Any]:
    """One family with ``count`` nulls."""
    innocents = np.sort(rng.binomial(trials, draw(rng, INNOCENTS)))
    drawn = rng.binomial(trials, draw(rng, sets * count)).reshape(sets, count)
    figures: dict[str, Any] = {"nulls": count, "sets": sets}
    share = BOUND_SHARE * LEVELS["1"]
    refused, *bounds = np.array(  # set by set, for the last fits are kept
        [
            [nulls.predictive_p(own, trials, 0).method == nulls.RANK]
            + [nulls.innocent_bound(own, trials, level) for level in (*LEVELS.values(), share)]
            for own in drawn
        ]
    ).T
    figures["refused"] = refused.mean()
    for name, own in zip(LEVELS, bounds, strict=False):
        least = np.rint(own * trials) + 1  # one more than all where nothing can be shown: nobody reaches it
        accused = 1 - np.searchsorted(innocents, least) / INNOCENTS
        figures[f"accused_{name}"] = accused.mean()
        figures[f"accused_se_{name}"] = accused.std(ddof=1) / np.sqrt(sets)
        for copy, rate in COPIES.items():
            figures[f"found_{copy}_{name}"] = stats.binom.sf(least - 1, trials, rate).mean()
    bound = float(np.median(bounds[-1]))
    figures["median_bound"] = bound
    for copy, rate in COPIES.items():
        test = Sequential(bound, LEVELS["1"] - share, trials) if bound < rate else None
        figures[f"queries_{copy}"] = test.power(rate, trials).queries if test else np.nan
    return figures


def main(words: Sequence[str] | None = None) -> None:
    """Simulate, write one row a family and number of nulls."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nulls", type=int, nargs="+", default=[20, 50, 99, 200])
    parser.add_argument("--sets", type=int, default=300)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(words)
    rows = []
    for family, draw in FAMILIES.items():
        for count in given.nulls:
            rng = np.random.default_rng([given.seed, count])
            rows.append({"family": family} | row(draw, count, given.sets, given.trials, rng))
            rows[-1] = {name: float(v) if isinstance(v, np.floating) else v for name, v in rows[-1].items()}
            print(artifacts.rounded(rows[-1]), flush=True)
            artifacts.write_csv(given.out, rows, COLUMNS)


if __name__ == "__main__":
    main()
