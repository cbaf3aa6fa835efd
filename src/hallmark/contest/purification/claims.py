"""What is claimed of a sanitizer, checked row by row."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hallmark.contest.purification.plan import NONE
from hallmark.contest.rows import Row

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
        asr_holds: attack success is at most the floor + :data:`EXCESS`.
        accuracy_holds: at most :data:`LOSS` of the clean model's accuracy is lost.
    """

    name: str
    row: Row
    raw_asr: float
    asr_holds: bool
    accuracy_holds: bool


@dataclass(frozen=True)
class Duel:
    """One row of ours against the baselines' rows of the same set.

    Attributes:
        best: the baseline of the highest accuracy - attack success.
        lost_to: names of the baselines that ours does not beat; all of them if ours failed.
    """

    row: Row
    best: Row
    lost_to: tuple[str, ...]

    @property
    def won(self) -> bool:
        """No baseline is better."""
        return not self.lost_to


def claims(rows: Sequence[Row]) -> list[Claim]:
    """The two claims on every row but the raw ones; a row without figures (an error) holds neither."""
    raw = {_set(row): row["asr"] for row in rows if row["sanitizer"] == NONE}
    found = []
    for row in rows:
        before = raw.get(_set(row))
        if row["sanitizer"] == NONE or before is None or before < RAW_ASR:
            continue
        known = row["asr"] is not None and row["accuracy"] is not None
        gone = known and row["asr"] <= row["floor"] + EXCESS + _SLACK
        kept = known and row["clean_accuracy"] - row["accuracy"] <= LOSS + _SLACK
        found.append(Claim(f"{row['sanitizer']}/{row['repair']}", row, before, gone, kept))
    return found


def duels(rows: Sequence[Row], ours: str) -> list[Duel]:
    """Ours against the baselines on every attacked set where both have run and a baseline has figures.

    Args:
        ours: ``SANITIZER/REPAIR``; the sanitizer's other repairs and the raw set are no baselines.
    """
    sanitizer = ours.partition("/")[0]
    rivals: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row["sanitizer"] not in (NONE, sanitizer) and row["asr"] is not None:
            rivals.setdefault(_set(row), []).append(row)
    found = []
    for row in rows:
        others = rivals.get(_set(row), [])
        if f"{row['sanitizer']}/{row['repair']}" != ours or not others:
            continue
        best = max(others, key=lambda other: other["accuracy"] - other["asr"])
        lost = tuple(f"{other['sanitizer']}/{other['repair']}" for other in others if not beats(row, other))
        found.append(Duel(row, best, lost))
    return found


def beats(row: Row, other: Row) -> bool:
    """Attack success is not higher, or accuracy is higher by more than the attack success is."""
    if row["asr"] is None or row["accuracy"] is None:
        return False
    higher = row["asr"] - other["asr"]
    return higher <= _SLACK or row["accuracy"] - other["accuracy"] > higher + _SLACK


def averages(rows: Sequence[Row]) -> list[Row]:
    """The means over the seeds, where there are several: rows as the others, of seed None.

    A figure that one of the seeds lacks has no mean, nor has what is not measured at all seeds of the set.  Besides
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
            error = statistics.stdev(row["asr"] - row["floor"] for row in group) / math.sqrt(len(group))
        found.append({**group[0], **means, "seed": None, "seeds": len(group), "excess_se": error})
    return found


def _set(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("dataset", "attack", "label_mode", "rate", "seed"))
