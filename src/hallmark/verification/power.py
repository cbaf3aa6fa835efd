"""What the questions can show: which hit rate of a copy would be found, and how many queries that takes.

All of it is of the hits against the null models, at the level of a single test in Holm's first and strictest step, and
of rates in the long run, of which the judge's questions are a draw.  A suspect has to beat its own controls as well,
which may ask for more, and hangs on the suspect: to be significant is not yet to be called stolen.
"""

from __future__ import annotations

import bisect
import functools
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from hallmark.config import VerifyOwnership
from hallmark.statistics import Bools
from hallmark.verification import nulls
from hallmark.verification.sequential import MISS, above, against_nulls

FOUND = 0.95
"""Chance with which a copy of :func:`detectable_rate` is found."""
STEPS = 1000
"""Rates from 0 to 1 among which it is sought where the asking may stop early."""
COLUMNS = ("rate", "power", "stopping_power", "stopping_queries")
"""Of :func:`table`.

rate: of the watermark queries that a suspect answers with the target, in the long run.  power: chance that it is
significant after all questions.  stopping_power, stopping_queries: the same, and the mean number of watermark queries,
if the sequential test may stop (after each, or as the rule's ``stop_early`` has it); nothing if these nulls can show
nothing.
"""


def significant(rate: ArrayLike, bound: float, queries: int) -> NDArray[np.float64]:
    """Chance that more than ``bound`` of the answers are hits: binomial.

    Args:
        rate: the suspect's, 0-1, ``[...]``.
        bound: of :func:`hallmark.verification.nulls.innocent_bound`, with its ``queries``.
    """
    return np.asarray(stats.binom.sf(round(bound * queries), queries, rate))


def detectable_rate(bound: float, queries: int) -> float | None:
    """The lowest rate with a chance of :data:`FOUND` to be significant after all questions.

    In closed form: ``Bin(n, r) > k`` has the chance of ``Beta(k + 1, n - k) <= r``.

    Returns:
        None: no rate has, for these nulls can show nothing.
    """
    most = round(bound * queries)
    return None if most >= queries else float(stats.beta.ppf(FOUND, most + 1, queries - most))


def detectable_by_stopping(bound: float, level: float, rule: VerifyOwnership) -> float | None:
    """The same where the asking may stop early.

    Args:
        bound: of the innocents, at :data:`~hallmark.verification.sequential.BOUND_SHARE` of ``level``.
        level: of a single test.
    """
    return _detectable_by_stopping(bound, level, rule.queries, *_giving_up(rule)) if bound < 1 else None


@functools.lru_cache(maxsize=32)
def _detectable_by_stopping(bound: float, level: float, trials: int, least: float | None, miss: float) -> float | None:
    """Kept, for all who are judged together have the same."""
    test = above(bound, trials, level, least, miss)

    def found(step: int) -> bool:
        return test.power(step / STEPS, trials, drawn=False).power >= FOUND

    step = bisect.bisect_left(range(STEPS), True, key=found)
    return step / STEPS if found(step) else None


def queries_needed(hits: Bools, null_hits: NDArray[np.int64], level: float, trials: int) -> int | None:
    """Watermark queries after which the sequential test would have stopped and called a model stolen; None: never.

    Args:
        hits: outcomes of the watermark queries in the order in which they were asked, ``[N]``.
        level, trials: as for :func:`hallmark.verification.sequential.against_nulls`.
    """

    def rejected(count: int) -> bool:
        test = against_nulls(null_hits, trials, level)
        return test is not None and test.update(hits[:count])

    if not rejected(len(hits)):
        return None
    # Once rejected is rejected for good, so that bisection finds the first time without a step for every query.
    return bisect.bisect_left(range(len(hits)), True, key=rejected)


def table(null_hits: NDArray[np.int64], rule: VerifyOwnership, level: float, points: int = 50) -> list[dict[str, Any]]:
    """Power and queries by the suspect's rate, under :data:`COLUMNS`.

    Args:
        level: of a single test.
        points: rates above 0, evenly up to 1.
    """
    bound = nulls.innocent_bound(null_hits, rule.queries, level)
    test = against_nulls(null_hits, rule.queries, level, *_giving_up(rule))
    block = 1 if rule.stop_early is None else rule.stop_early.block
    rows = []
    for rate in (np.arange(points + 1) / points).tolist():
        stopped = None if test is None else test.power(rate, rule.queries, drawn=False, block=block)
        rows.append(
            {
                "rate": rate,
                "power": float(significant(rate, bound, rule.queries)),
                "stopping_power": None if stopped is None else stopped.power,
                "stopping_queries": None if stopped is None else stopped.queries,
            }
        )
    return rows


def _giving_up(rule: VerifyOwnership) -> tuple[float | None, float]:
    """``least`` and ``miss`` of the sequential test."""
    return (None, MISS) if rule.stop_early is None else (rule.stop_early.least, rule.stop_early.miss)
