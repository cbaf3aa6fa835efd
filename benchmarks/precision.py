"""Does the sanitizer decide in bf16 what it decides in fp32?

python benchmarks/precision.py --seeds 0 --out docs/results/precision.csv

The contest's sets (its parameter file: data, diffusion model, networks), each purified three times by hallmark, whose
own networks and purifier work in fp32, in bf16, and in fp32 again with other random streams: so much differs without
another precision.  The data and the diffusion model are the same.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from purify import material_of, own_params

from hallmark import artifacts
from hallmark.contest.purification.base import Base, load_base
from hallmark.contest.purification.plan import Plan, Set
from hallmark.contest.purification.run import load_suspect, rates
from hallmark.errors import UserError
from hallmark.purify.methods import hallmark
from hallmark.runtime import derive_seed

ARMS = {"fp32": (torch.float32, 0), "bf16": (torch.bfloat16, 0), "fp32, other streams": (torch.float32, 1)}
"""Precision, and number of the random streams."""
COLUMNS = ("seed", "attack", "rate", "arm", "flagged", "tpr", "fpr", "covers_changed", "auc", "decided_otherwise")
"""flagged: images.  decided_otherwise: images, than in fp32.  tpr, fpr, covers_changed: of the images flagged,
restored or not; auc: as in the contest."""


def compared(plan: Plan, each: Set, base: Base, work: Path) -> Iterator[dict[str, Any]]:
    """The rows of one set."""
    poisoned = load_suspect(plan, each, base, work / f"set-{plan.set_hash(each)}").poisoned
    first = None
    for name, (dtype, number) in ARMS.items():
        seed = derive_seed(base.runtime.seed, f"precision/{number}") if number else base.runtime.seed
        material = material_of(plan, base, poisoned.train, replace(base.runtime, dtype=dtype, seed=seed))
        findings = hallmark.detect(material, own_params(plan))
        first = findings.flagged if first is None else first
        row: dict[str, Any] = dict.fromkeys(COLUMNS)
        row |= {"seed": each.seed, "attack": each.name, "rate": each.rate, "arm": name}
        row |= {"flagged": int(findings.flagged.sum()), "decided_otherwise": int((findings.flagged != first).sum())}
        if poisoned.flags is None:
            yield {**row, "fpr": float(findings.flagged.float().mean())}
        else:
            yield {**row, **rates(poisoned.flags, poisoned.covers, findings.flagged, findings.scores)}


def main(words: Sequence[str] | None = None) -> None:
    """Purify, compare, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=Path("contest/params.yaml"))
    parser.add_argument("--set", action="append", default=[], dest="changes", metavar="NAME=VALUE")
    parser.add_argument(
        "--sets", nargs="+", default=["none", "badnets:0.05", "wanet:0.02", "sig:0.02"], metavar="ATTACK[:RATE]"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--raw", type=Path, default=Path("data/raw"))
    parser.add_argument("--work", type=Path, default=Path(".hallmark/benchmarks"))
    parser.add_argument("--out", type=Path, help="CSV to write")
    given = parser.parse_args(words)
    rows = []
    for seed in given.seeds:
        plan = Plan.read(given.params, given.changes).at(seed)
        base = load_base(plan, seed, given.raw, given.work)
        for attack, _, rate in (name.partition(":") for name in given.sets):
            each = plan.sets([seed], [attack], [float(rate)] if rate else [])[0]
            for row in compared(plan, each, base, given.work):
                rows.append(row)
                print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
                if given.out:
                    artifacts.write_csv(given.out, rows, COLUMNS)  # after each one: the next may be stopped


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
