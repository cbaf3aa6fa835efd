"""What is claimed of a sanitizer, checked row by row."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from hallmark.contest.common import BUG
from hallmark.contest.purification.cells import runs
from hallmark.contest.purification.plan import NONE
from hallmark.contest.rows import Row
from hallmark.errors import UserError

RAW_ASR = 0.5
"""Sets with at least this raw attack success are backdoored in earnest."""
EXCESS = 0.03
"""Attack success above the floor that still counts as gone."""
LOSS = 0.02
"""Benign accuracy that may be lost."""
_SLACK = 1e-9
"""Rates are rounded to six places when stored; a bound that is met exactly is met."""


@dataclass(frozen=True)
class Claim:
    """One row of a set whose raw attack success is :data:`RAW_ASR` or more.

    Attributes:
        name: ``SANITIZER/REPAIR``.
        raw_asr: None: the set as given has no figures, and nothing holds.
        asr_holds: attack success is at most the floor + :data:`EXCESS`.
        accuracy_holds: at most :data:`LOSS` of the clean model's accuracy is lost.
    """

    name: str
    row: Row
    raw_asr: float | None
    asr_holds: bool
    accuracy_holds: bool


@dataclass(frozen=True)
class Duel:
    """One row against its rivals' rows of the same set.

    Attributes:
        best: the rival of the highest accuracy - attack success.
        rivals: how many have figures; missing: names of those that have none yet.
        failed: names of those that cannot have any: they refused the set, or left nothing of it.
        lost_to: the rivals' rows that it does not beat; all of them if it failed.
        mutual: those of the others that would beat it as well, if they were asked.
        took_hold: the raw attack success is :data:`RAW_ASR` or more; None: it is not known yet.
    """

    row: Row
    best: Row
    rivals: int
    missing: tuple[str, ...]
    failed: tuple[str, ...]
    lost_to: tuple[Row, ...]
    mutual: tuple[Row, ...]
    took_hold: bool | None

    @property
    def result(self) -> str:
        """A rival that is better decides; won is only what was fought out with all that could."""
        if self.took_hold is False:
            return "no attack"
        if self.took_hold and self.lost_to:
            return "lost"
        return "won" if self.took_hold and not self.missing else "open"


@dataclass(frozen=True)
class Difference:
    """One sanitizer and repair minus another one, 0-1, over the sets that have figures of both.

    Attributes:
        sets: how many; took_hold: those of them whose raw attack success is :data:`RAW_ASR` or more.
        accuracy, accuracy_se: mean over ``sets`` and its standard error over them (None of less than two).
        asr, asr_se: the same of attack success, over ``took_hold``; None where there is none.
    """

    sets: int
    accuracy: float
    accuracy_se: float | None
    took_hold: int
    asr: float | None
    asr_se: float | None


def name(row: Row) -> str:
    """``SANITIZER/REPAIR``; of the set as given :data:`NONE`."""
    return NONE if row["sanitizer"] == NONE else f"{row['sanitizer']}/{row['repair']}"


def claims(rows: Sequence[Row]) -> list[Claim]:
    """The two claims on every row but the raw ones; a row without figures (an error) holds neither."""
    raw = {_set(row): row for row in rows if row["sanitizer"] == NONE}
    found = []
    for row in rows:
        given = raw.get(_set(row))
        if row["sanitizer"] == NONE or given is None or (given["asr"] is None and given["error"] is None):
            continue
        before = given["asr"]
        if before is not None and before < RAW_ASR:
            continue
        known = before is not None and row["asr"] is not None and row["accuracy"] is not None
        gone = known and row["asr"] <= row["floor"] + EXCESS + _SLACK
        kept = known and row["clean_accuracy"] - row["accuracy"] <= LOSS + _SLACK
        found.append(Claim(name(row), row, before, gone, kept))
    return found


def duels(
    rows: Sequence[Row], one: str, is_rival: Callable[[Row], bool], planned: Callable[[Row], Collection[str]]
) -> list[Duel]:
    """One sanitizer and repair against rivals on every attacked set where it has run and a rival has figures.

    Args:
        is_rival: of rows that are not the raw set's.
        planned: names of the rivals that the plan has for the row's set.
    """
    raw = {_set(row): row["asr"] for row in rows if row["sanitizer"] == NONE}
    rivals: dict[tuple[Any, ...], list[Row]] = {}
    failures: dict[tuple[Any, ...], list[str]] = {}
    for row in rows:
        if row["sanitizer"] != NONE and name(row) != one and is_rival(row):
            if row["asr"] is not None:
                rivals.setdefault(_set(row), []).append(row)
            elif row["error"] is not None and not row["error"].startswith(BUG):
                failures.setdefault(_set(row), []).append(name(row))
    found = []
    for row in rows:
        others = rivals.get(_set(row), [])
        if name(row) != one or not others:
            continue
        best = max(others, key=lambda other: other["accuracy"] - other["asr"])
        lost = tuple(other for other in others if not beats(row, other))
        mutual = tuple(other for other in others if beats(row, other) and beats(other, row))
        failed = tuple(sorted(failures.get(_set(row), [])))
        missing = tuple(sorted({*planned(row)} - {name(other) for other in others} - {*failed}))
        before = raw.get(_set(row))
        took_hold = None if before is None else before >= RAW_ASR
        found.append(Duel(row, best, len(others), missing, failed, lost, mutual, took_hold))
    return found


def beats(row: Row, other: Row) -> bool:
    """Attack success is not higher, or accuracy is higher by more than the attack success is."""
    if row["asr"] is None or row["accuracy"] is None:
        return False
    higher = row["asr"] - other["asr"]
    return higher <= _SLACK or row["accuracy"] - other["accuracy"] > higher + _SLACK


def difference(rows: Sequence[Row], one: str, other: str) -> Difference | None:
    """Pairwise, over attacked sets; None where none has figures of both.

    The sets count as independent, which those of one seed are not quite: they share the clean images.
    """
    by_set: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in rows:
        if row["attack"] != NONE:
            by_set.setdefault(_set(row), {})[name(row)] = row
    accuracy, asr = [], []
    for own in by_set.values():
        a, b = own.get(one), own.get(other)
        if a is None or b is None or a["accuracy"] is None or b["accuracy"] is None:
            continue
        accuracy.append(a["accuracy"] - b["accuracy"])
        before = own[NONE]["asr"] if NONE in own else None
        if before is not None and before >= RAW_ASR and a["asr"] is not None and b["asr"] is not None:
            asr.append(a["asr"] - b["asr"])
    if not accuracy:
        return None
    mean = statistics.fmean(asr) if asr else None
    own = _standard_error(accuracy), len(asr), mean, _standard_error(asr)
    return Difference(len(accuracy), statistics.fmean(accuracy), *own)


def _standard_error(values: Sequence[float]) -> float | None:
    """Of the mean; None of less than two values."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def averages(rows: Sequence[Row]) -> list[Row]:
    """The means over the seeds, where there are several: rows as the others, of seed None.

    A figure that one of the seeds lacks has no mean, nor has what is not measured at all seeds of the set; there is an
    error if all seeds have one.  Besides
    there are ``seeds``, how many there are, and ``excess_se``, the standard error over them of attack success above
    the floor.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    seeds: dict[tuple[Any, ...], set[int]] = {}
    for row in rows:
        each = _set({**row, "seed": None})
        groups.setdefault((each, row["sanitizer"], row["repair"]), []).append(row)
        seeds.setdefault(each, set()).add(row["seed"])
    found = []
    for (each, *_), group in groups.items():
        if len(group) < 2 or len(group) < len(seeds[each]):
            continue
        means = {
            name: None if any(row[name] is None for row in group) else statistics.fmean(row[name] for row in group)
            for name in ("accuracy", "asr", "clean_accuracy", "floor", "tpr", "fpr", "auc")
        }
        error = None
        if means["asr"] is not None and means["floor"] is not None:
            error = _standard_error([row["asr"] - row["floor"] for row in group])
        errors = sorted((row["error"] for row in group if row["error"] is not None), key=lambda e: e.startswith(BUG))
        failed = errors[-1] if len(errors) == len(group) else None
        own = {"seed": None, "seeds": len(group), "excess_se": error, "error": failed}
        found.append({**group[0], **means, **own})
    return found


def check_one_run(rows: Sequence[Row]) -> None:
    """Refuse sets whose rows come from different runs of it: another machine makes other models, and other poisons.

    Raises:
        UserError: clean accuracy or floor differ between rows of a set.
    """
    sets: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        sets.setdefault(_set(row), []).append(row)
    for own in sets.values():
        if len(bases := sorted(runs(own), key=str)) > 1:
            row = own[0]
            raise UserError(
                f"contest: the cells of {row['attack']}, rate {row['rate']}, seed {row['seed']} come from different "
                f"runs (clean accuracy, floor, target: {bases[0]} and {bases[1]}); run that set again, which measures "
                "all of its cells anew"
            )


def _set(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("dataset", "attack", "rate", "seed"))
