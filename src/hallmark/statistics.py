"""Rates with intervals, paired tests, corrections: thin, named wrappers around scipy and statsmodels.

Queries are replicates of one model's answer, not of "a model": intervals here describe how precisely
a rate was measured.  How often an innocent *model* reaches a rate is the controls' business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Rate:
    """``hits`` of ``count`` with an exact (Clopper-Pearson) interval; all of rate, low, high in 0-1."""

    hits: int
    count: int
    low: float
    high: float

    @property
    def rate(self) -> float:
        return self.hits / self.count


def rate(outcomes: Bools, confidence: float = 0.95) -> Rate:
    """Share of True in ``outcomes`` ``[N]``, N at least 1, with the exact binomial interval."""
    hits, count = int(outcomes.sum()), len(outcomes)
    if count == 0:
        raise ValueError("no outcomes")
    # statsmodels types its results as arrays or None; here and below they are two numbers.
    interval: Any = proportion_confint(hits, count, alpha=1 - confidence, method="beta")
    return Rate(hits, count, float(interval[0]), float(interval[1]))


def mcnemar_greater(treated: Bools, untreated: Bools) -> tuple[int, int, float]:
    """Exact one-sided McNemar test that pairs fire more often treated than untreated.

    Args:
        treated, untreated: outcomes ``[N]`` of the same N pairs.

    Returns:
        (pairs that fire only treated, only untreated, p-value).  Without discordant pairs p is 1.
    """
    only_treated = int((treated & ~untreated).sum())
    only_untreated = int((untreated & ~treated).sum())
    discordant = only_treated + only_untreated
    if discordant == 0:
        return 0, 0, 1.0
    p = stats.binomtest(only_treated, discordant, 0.5, alternative="greater").pvalue
    return only_treated, only_untreated, float(p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values: the chance of any false accusation among all is held."""
    p = np.array(p_values, dtype=float)
    order = np.argsort(p)
    # Not statsmodels's multipletests, which collects the garbage of the whole process at every call.
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted.tolist()
