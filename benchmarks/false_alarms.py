"""How often does the sanitizer call a clean data set poisoned?

python benchmarks/false_alarms.py --sets 26 --out docs/results/false_alarms.csv

Each set has its own split of the *training* images, given and trusted ones, and its own diffusion model (trained on
the trusted ones), judges and witness.  The sets are draws from one pool and overlap, so that what is counted holds for
this pool, and the bounds are a little too tight.  Nothing is poisoned, so every alarm is a false one.  The smallest
corrected p-value of a set should be below a level no more often than the level says; at levels other than the one in
use (`false_alarm`), on which a few corrections depend, this is approximate.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from purify import own_params
from scipy.stats import binomtest

from hallmark import artifacts, runtime
from hallmark.contest.purification.base import no_epochs
from hallmark.contest.purification.plan import Plan
from hallmark.data import sources, splits
from hallmark.diffusion.training import train_ddpm
from hallmark.errors import UserError
from hallmark.purify import preparation
from hallmark.purify.alarms import KINDS
from hallmark.purify.methods import hallmark

COLUMNS = ("seed", "images", "reserve", "p", *KINDS, "flagged")
"""p: the smallest corrected p-value of a class.  KINDS: classes with an alarm of that kind.  flagged: images."""
LEVELS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)


def judged(plan: Plan, raw: Path) -> dict[str, Any]:
    """The row of one clean set."""
    run = runtime.start(plan.runtime)
    # The official test images stay out of it: the test set, which nobody looks at, is drawn from the training part.
    source = replace(sources.load(plan.prepare_data, raw), test=None)
    sets = splits.split(source, plan.prepare_data, run).sets
    given, reserve = sets["train"], sets["reserve"]
    diffusion = train_ddpm(reserve.images, plan.train_diffusion, run)
    material = preparation.prepare(given, reserve, diffusion, plan.purify_data, run, epochs=no_epochs)
    found = hallmark.detect(material, own_params(plan))
    assert found.class_scores is not None
    # A class that could not be tested has no score and gives no alarm.
    scores = found.class_scores.nan_to_num(0.0)
    return {
        "seed": plan.runtime.seed,
        "images": len(given),
        "reserve": len(reserve),
        "p": 10.0 ** -float(scores.max()),
        **{kind: found.metrics[f"alarms_by_{kind}"] for kind in KINDS},
        "flagged": int(found.flagged.sum()),
    }


def summary(p: Sequence[float]) -> Iterator[str]:
    """For each level: how many sets are below, and how likely so many are if the level is kept."""
    for level in LEVELS:
        below = sum(value <= level for value in p)
        chance = binomtest(below, len(p), level, alternative="greater").pvalue
        yield f"p <= {level:<4g}: {below} of {len(p)} clean sets ({below / len(p):.1%}); so many or more: {chance:.2f}"


def main(words: Sequence[str] | None = None) -> None:
    """Judge clean sets, write the table, print how often there was an alarm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=Path("contest/params.yaml"))
    parser.add_argument("--set", action="append", default=[], dest="changes", metavar="NAME=VALUE")
    parser.add_argument("--sets", type=int, default=40)
    parser.add_argument("--first-seed", type=int, default=200)
    parser.add_argument("--images", type=int, default=2000, help="given, of each set")
    parser.add_argument("--reserve", type=int, default=500, help="trusted, of each set")
    parser.add_argument("--raw", type=Path, default=Path("data/raw"))
    parser.add_argument("--out", type=Path, help="CSV to write")
    given = parser.parse_args(words)
    sizes = [f"prepare_data.train={given.images}", f"prepare_data.reserve={given.reserve}"]
    plan = Plan.read(given.params, [*sizes, *given.changes])
    rows: list[dict[str, Any]] = []
    for seed in range(given.first_seed, given.first_seed + given.sets):
        rows.append(judged(plan.at(seed), given.raw))
        print(", ".join(f"{key} {value:g}" for key, value in rows[-1].items()), flush=True)
        if given.out:
            artifacts.write_csv(given.out, rows, COLUMNS)  # after each one: the next may be stopped
    print("\n".join(summary([row["p"] for row in rows])))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
