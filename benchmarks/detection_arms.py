"""What `precision.py`, `ablation.py` and `draws.py` share: the contest's sets, each judged by hallmark several times.

An arm is one way to judge; all arms of a set get the same images and the same diffusion model.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from purify import material_of, own_params

from hallmark import artifacts
from hallmark.config import Repair
from hallmark.contest.purification.base import Base, load_base
from hallmark.contest.purification.plan import Plan, Set
from hallmark.contest.purification.run import Judge, describe, load_suspect, rates
from hallmark.purify import preparation
from hallmark.purify import repair as repairs
from hallmark.purify.alarms import KINDS
from hallmark.purify.methods import hallmark
from hallmark.runtime import derive_seed

ALARMS = tuple(f"alarms_by_{kind}" for kind in KINDS)
COLUMNS = ("seed", "attack", "rate", "arm", "flagged", "tpr", "fpr", "covers_changed", "auc", *ALARMS,
           "decided_otherwise")  # fmt: skip
"""flagged: images.  tpr, fpr, covers_changed: of the images flagged, restored or not; auc: as in the contest.
alarms_by_...: classes with an alarm by this test; by doubt also the others together, as one more.
decided_otherwise: images, than in the first arm."""
OUTCOME = ("accuracy", "asr", "clean_accuracy", "floor")
"""As in the contest: of the repaired set's models, and of the set's before poisoning."""


@dataclass(frozen=True)
class Arm:
    """One way to judge a set.

    Attributes:
        dtype: of the sanitizer's own networks and purifier.
        streams: number of their random streams; 0: the seed's own.
        changes: to the parameters of method hallmark.
        around: a context in which the set is judged.
        needs: a kind of alarm without which, in the first arm, this arm is left out, for it could change nothing.
    """

    dtype: torch.dtype = torch.float32
    streams: int = 0
    changes: Mapping[str, Any] = field(default_factory=dict)
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    needs: str | None = None


def judged(
    plan: Plan, each: Set, base: Base, work: Path, arms: Mapping[str, Arm], *, outcome: bool
) -> Iterator[dict[str, Any]]:
    """The rows of one set.

    Args:
        outcome: whether the set is repaired, as the plan's ``ours`` says, and models are trained on it.
    """
    suspect = load_suspect(plan, each, base, work / f"set-{plan.set_hash(each)}")
    poisoned, judge, first = suspect.poisoned, Judge(plan, base, suspect), None
    common = describe(suspect, base) if outcome else {}
    for name, arm in arms.items():
        if first is not None and arm.needs is not None and not first.metrics[f"alarms_by_{arm.needs}"]:
            continue
        seed = derive_seed(base.runtime.seed, f"arms/{arm.streams}") if arm.streams else base.runtime.seed
        material = material_of(plan, base, poisoned.train, replace(base.runtime, dtype=arm.dtype, seed=seed))
        with arm.around():
            findings = hallmark.detect(material, own_params(plan).model_copy(update=dict(arm.changes)))
        first = findings if first is None else first
        row: dict[str, Any] = dict.fromkeys(COLUMNS)
        if outcome:
            repair = cast("Repair", plan.contest.ours.partition("/")[2])
            attacked = replace(material, suspect=suspect.network)
            result = repairs.repair(attacked, findings, repair, plan.purify_data.restore)
            measured = judge.measure(preparation.finish(result, material)) | common
            row |= {column: measured[column] for column in OUTCOME}
        row |= {"seed": each.seed, "attack": each.name, "rate": each.rate, "arm": name}
        row |= {column: findings.metrics[column] for column in ALARMS}
        row |= {
            "flagged": int(findings.flagged.sum()),
            "decided_otherwise": int((findings.flagged != first.flagged).sum()),
        }
        if poisoned.flags is None:
            yield {**row, "fpr": float(findings.flagged.float().mean())}
        else:
            yield {**row, **rates(poisoned.flags, poisoned.covers, findings.flagged, findings.scores)}


def main(
    words: Sequence[str] | None,
    about: str | None,
    arms: Mapping[str, Arm],
    sets: Sequence[str],
    seeds: Sequence[int],
    *,
    outcome: bool = False,
) -> None:
    """Judge, compare, write the table.

    Args:
        words: of the command line.
        about: the program's description.
        sets, seeds: what is judged unless the command line says something else.
        outcome: see :func:`judged`.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=Path("contest/params.yaml"))
    parser.add_argument("--set", action="append", default=[], dest="changes", metavar="NAME=VALUE")
    parser.add_argument("--sets", nargs="+", default=sets, metavar="ATTACK[:RATE]")
    parser.add_argument("--seeds", type=int, nargs="+", default=seeds)
    parser.add_argument("--raw", type=Path, default=Path("data/raw"))
    parser.add_argument("--work", type=Path, default=Path(".hallmark/benchmarks"))
    parser.add_argument("--out", type=Path, help="CSV to write")
    given = parser.parse_args(words)
    rows, columns = [], (*COLUMNS, *OUTCOME) if outcome else COLUMNS
    for seed in given.seeds:
        plan = Plan.read(given.params, given.changes).at(seed)
        base = load_base(plan, seed, given.raw, given.work)
        for attack, _, rate in (name.partition(":") for name in given.sets):
            each = plan.sets([seed], [attack], [float(rate)] if rate else [])[0]
            for row in judged(plan, each, base, given.work, arms, outcome=outcome):
                rows.append(row)
                print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
                if given.out:
                    artifacts.write_csv(given.out, rows, columns)  # after each one: the next may be stopped
