"""Fixed weights or MGDA for marked encoders: WSR of the encoder and of a copy, through every reader; what it costs.

python benchmarks/encoder_balance.py --seeds 101 --out docs/results/encoder_balance.csv

Encoder, key, thief and readers by contest/ssl.yaml; ``--set`` changes it, beginning with ``SMALL``.  For development:
the deciding images come out of the split ``queries`` and are nobody's, the official test images are not touched.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch

from hallmark import artifacts, models
from hallmark.config import Balance
from hallmark.contest.common import prefixed
from hallmark.contest.marks import Victim
from hallmark.contest.ssl import run as contest
from hallmark.contest.ssl.plan import Plan
from hallmark.ssl import probes
from hallmark.ssl.measures import COLUMNS as RATES
from hallmark.ssl.schemes.mea_defender import read_mark

SMALL = ("prepare_data.train=6000", "ssl_contest.training.batch_size=100", "ssl_contest.training.epochs=7")
SMALL += ("ssl_contest.thief.budget=6000", "ssl_contest.thief.training.epochs=6")
HELD_OUT = 5000
"""Images of the split ``queries`` that decide."""
SCHEME, ARCHITECTURE, THIEF = "mea_defender", "cnn9", "regression"
COLUMNS = ("seed", "balance", *(f"{model}_{rate}" for model in ("victim", "copy") for rate in RATES), "train_seconds")


def measure(plan: Plan, seed: int, raw: Path, work: Path, held_out: int) -> dict[str, Any]:
    """Rates of encoder and copy, 0-1, None where a reader has none; seconds of the encoder's training."""
    base = contest.load(plan, seed, raw, work)
    pool, tested = base.pool.subset(torch.arange(len(base.pool))[held_out:]), base.pool.subset(torch.arange(held_out))
    base, each = (
        replace(base, pool=pool, panel=replace(base.panel, test=tested)),
        Victim(seed, SCHEME, (), ARCHITECTURE),
    )
    folder = contest.victim_folder(plan, each, base, work)
    network, mark = models.load(folder / "model", base.runtime), artifacts.read_json(folder / "mark.json")
    copy = contest.steal(plan, base, network, THIEF, raw)
    found: dict[str, Any] = {"train_seconds": artifacts.read_json(folder / "victim.json")["seconds"]}
    for name, encoder in (("victim", network), ("copy", copy)):
        encode = probes.encoder(encoder, base.runtime)
        measured = read_mark(mark, "mark.json").rates(encode, base.panel, plan.contest.queries, base.runtime)
        found |= prefixed(name, measured)
    return found


def main(words: Sequence[str] | None = None) -> None:
    """Write a row a seed and balance, as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--balances", nargs="+", choices=get_args(Balance), default=get_args(Balance))
    parser.add_argument("--held-out", type=int, default=HELD_OUT)
    parser.add_argument("--params", type=Path, default=Path("contest/ssl.yaml"), help="encoders and thieves")
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="SECTION.NAME=VALUE")
    parser.add_argument("--raw", type=Path, default=Path("data/raw"), help="downloaded data sets")
    parser.add_argument("--work", type=Path, default=Path(".hallmark/ssl"), help="encoders, kept")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(words)
    found: list[dict[str, Any]] = []
    for seed in given.seeds:
        for balance in given.balances:
            change = f"ssl_contest.schemes.{SCHEME}.params.balance={balance}"
            plan = Plan.read(given.params, [*SMALL, *given.changes, change])
            measured = measure(plan, seed, given.raw, given.work, given.held_out)
            found.append({"seed": seed, "balance": balance, **measured})
            artifacts.write_csv(given.out, [artifacts.rounded(row) for row in found], COLUMNS)
            print(found[-1], flush=True)


if __name__ == "__main__":
    main()
