"""How often does a key that is no better than its decoys beat them?  Simulated, for the rule and for two others.

python benchmarks/decoy_rule.py --out docs/results/decoy_rule.csv

On one model the rates at which the key and its ten decoys fire are drawn from the same Beta distribution, then the
answers: 1,000 of the key, 100 of each decoy.  ``average``: the decoys of a kind count together; ``all``: each of the
ten must be beaten; ``rule``: the strongest of each kind is spared, as in ``hallmark.verification.answers``.  The last
row is the worst case of the hypothesis that the rule tests: two decoys of a kind fire exactly as often as the key, the
others never; it passes with a chance of at most 2 alpha.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from hallmark import artifacts
from hallmark.verification.questions import DECOY_QUERIES

COLUMNS = ("rates", "trials", "average", "all", "rule", "rule_error")
QUERIES, KIND = 1000, 5
RATES = ((0.3, 3.0), (0.5, 10.0), (1.0, 60.0), (0.2, 1.0))


def exceeds(hits: NDArray[Any], fired: NDArray[Any], asked: int) -> Any:
    """p-values that the key fires more often: Fisher's exact test, as ``hallmark.verification.decision.beats``.

    Args:
        hits: of :data:`QUERIES` of the key, int64, any shape.
        fired: of ``asked`` queries otherwise, int64, a shape that broadcasts with it.
    """
    return stats.hypergeom.sf(hits - 1, QUERIES + asked, hits + fired, QUERIES)


def passes(hits: NDArray[Any], decoys: NDArray[Any], alpha: float) -> dict[str, NDArray[Any]]:
    """Does the key beat its decoys, by each rule?  bool ``[S]``.

    Args:
        hits: int64 ``[S]``.
        decoys: of :data:`DECOY_QUERIES` queries each, int64 ``[S, kinds, KIND]``.
    """
    ordered, count = np.sort(decoys, axis=2), decoys.shape[2]
    hits = hits[:, None]
    return {
        "average": (exceeds(hits, ordered.sum(2), count * DECOY_QUERIES) <= alpha).all(1),
        "all": (exceeds(hits, ordered[:, :, -1], DECOY_QUERIES) <= alpha).all(1),
        "rule": (exceeds(hits, ordered[:, :, -2], DECOY_QUERIES) <= alpha).all(1),
    }


def row(name: str, found: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """Shares that pass, and the standard error of the rule's."""
    share, trials = float(found["rule"].mean()), len(found["rule"])
    shares = {rule: float(passed.mean()) for rule, passed in found.items()}
    return {"rates": name, "trials": trials, **shares, "rule_error": (share * (1 - share) / trials) ** 0.5}


def main(words: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Simulate, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20_000)
    parser.add_argument("--alpha", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(words)
    rng, rows = np.random.default_rng(options.seed), []
    for a, b in RATES:
        rates = rng.beta(a, b, (options.trials, 1 + 2 * KIND))
        hits, decoys = rng.binomial(QUERIES, rates[:, 0]), rng.binomial(DECOY_QUERIES, rates[:, 1:])
        rows.append(row(f"Beta({a:g}, {b:g})", passes(hits, decoys.reshape(-1, 2, KIND), options.alpha)))
    rates = np.zeros((options.trials, 2, KIND))
    rates[:, 0, :2] = 0.5
    hits, decoys = rng.binomial(QUERIES, 0.5, options.trials), rng.binomial(DECOY_QUERIES, rates)
    rows.append(row("two as often as the key", passes(hits, decoys, options.alpha)))
    artifacts.write_csv(options.out, rows, COLUMNS)
    for each in rows:
        print(each)
    return rows


if __name__ == "__main__":
    main()
