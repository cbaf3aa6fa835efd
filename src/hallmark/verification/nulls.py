"""How often does an innocent *model* reach a rate? P-values and bounds against null models.

A key fires ``observed`` of ``trials`` times on a suspect, and so and so often on each of N independent
models that never met it.  Queries of one model share that model's quirks; the models are the replicates.
All counts, of nulls and suspect, are of the same ``trials`` questions.  docs/verification.md tells the
whole and how well it is calibrated.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SURPRISE = 0.05
"""Chance, among all N nulls, below which the highest one refutes the models of the nulls."""
FEWEST_TO_FIT = 10
"""With fewer nulls a misfit could not show, and nothing is fitted."""
LARGEST_CONCENTRATION = 1e5
CONCENTRATIONS = 24
"""The Beta-binomial's a + b is log-uniform on 1 to the largest: from rates all over 0-1 to hardly any spread."""

LARGEST_TABLE = 1 << 24
"""Numbers held at once: of many questions and widely spread nulls there would be gigabytes."""

PREDICTIVE, RANK = "predictive", "rank"


@dataclass(frozen=True)
class NullP:
    """The chance that a new innocent model reaches what was observed.

    Attributes:
        p: by ``method``; in 0-1.
        method: ``predictive``, or ``rank`` where the fit was refused, which depends on the nulls alone; or
            ``sequential`` (:func:`hallmark.verification.sequential.anytime_p`), which has only p and nulls.
        rank: :func:`rank_p`.
        student_t, beta_binomial: the two predictive chances, before the floor; nan if nothing was fitted.
        floor: no predictive p is below it, ``(N + 1) ** -2``.
        fit_p: the larger of the two chances of the highest null given the others, times N, at most 1; the
            fit is refused below :data:`SURPRISE`.  nan if nothing was fitted.
        nulls: their number, N.
    """

    p: float
    method: str
    rank: float
    student_t: float
    beta_binomial: float
    floor: float
    fit_p: float
    nulls: int


def rank_p(nulls: ArrayLike, observed: float) -> float:
    """``(1 + number of nulls that reach observed) / (1 + N)``: exact if suspect and nulls are exchangeable.

    Args:
        nulls: any statistic of the N null models, ``[N]``.
        observed: the suspect's.

    Raises:
        ValueError: fewer than two nulls.
    """
    values = np.asarray(nulls)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError("at least two null models are needed, one number each")
    return (1 + int((values >= observed).sum())) / (1 + len(values))


def predictive_p(nulls: ArrayLike, trials: int, observed: int) -> NullP:
    """The chance that a *new innocent model* reaches ``observed``, also below the rank's least, 1 / (N + 1).

    The larger of a Student-t prediction on the log-odds and a Beta-binomial prediction with its
    parameters integrated out; at least :attr:`NullP.floor`; and where any null reaches ``observed``, at
    least the rank p.  Hence, of whatever shape the nulls, if only suspect and nulls are exchangeable,
    ``P(p <= level) <= max(level, 1 / (N + 1))``; the models are trusted below 1 / (N + 1) alone.

    Args:
        nulls: counts of the N null models, ``[N]``, each in 0 to ``trials``.
        observed: the suspect's count.

    Raises:
        ValueError: fewer than two nulls, a count outside 0 to ``trials``, or one that is not whole.
    """
    counts = _counts(nulls, trials)
    if int(observed) != observed or not 0 <= observed <= trials:
        raise ValueError(f"observed {observed} of {trials}")
    curve, k = _curve(counts, trials), int(observed)
    return NullP(
        p=float(curve.p[k]),
        method=curve.method,
        rank=float(curve.rank[k]),
        student_t=float(curve.student_t[k]),
        beta_binomial=float(curve.beta_binomial[k]),
        floor=curve.floor,
        fit_p=curve.fit_p,
        nulls=len(counts),
    )


def nulls_needed(level: float, tests: int = 1) -> int:
    """The number of null models with which the rank p can reach ``level / tests``, Holm's smallest step.

    The predictive p, where its fit is not refused, needs about the square root: its floor is (N + 1) ** -2.
    """
    # Rounded, for 1 / 0.01 must not come out as 100.00000000000001.
    return max(2, math.ceil(round(tests / level, 6)) - 1)


def innocent_bound(nulls: ArrayLike, trials: int, level: float) -> float:
    """The rate (0-1) that a new innocent model exceeds, on these questions, with a chance of at most ``level``.

    The inverse of :func:`predictive_p`: every count above ``bound * trials`` has p at most ``level`` and
    that count itself has not.  1.0 if no count has: then nothing can be shown at this level.

    Raises:
        ValueError: as :func:`predictive_p`, or a level outside 0 to 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level {level} is not between 0 and 1")
    reached = _curve(_counts(nulls, trials), trials).p <= level
    return (int(reached.argmax()) - 1) / trials if reached[-1] else 1.0


@dataclass(frozen=True)
class _Curve:
    """What :class:`NullP` tells, for every count, ``[trials + 1]`` each."""

    p: Floats
    rank: Floats
    student_t: Floats
    beta_binomial: Floats
    method: str
    floor: float
    fit_p: float


def _counts(nulls: ArrayLike, trials: int) -> tuple[int, ...]:
    values = np.asarray(nulls)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError("at least two null models are needed, one count each")
    if trials < 1 or not ((values >= 0) & (values <= trials) & (values == np.floor(values))).all():
        raise ValueError(f"the nulls must be whole numbers from 0 to {trials}")
    return tuple(sorted(int(value) for value in values))


@functools.lru_cache(maxsize=32)
def _curve(sorted_nulls: tuple[int, ...], trials: int) -> _Curve:
    """Kept, for many suspects are judged by the same nulls."""
    nulls, count = np.array(sorted_nulls), len(sorted_nulls)
    every = np.arange(trials + 1)
    rank = (1 + count - np.searchsorted(nulls, every)) / (1 + count)
    floor = (count + 1.0) ** -2
    if count < FEWEST_TO_FIT:
        unknown = np.full(trials + 1, np.nan)
        return _Curve(rank, rank, unknown, unknown, RANK, floor, math.nan)
    others, highest = nulls[:-1], nulls[-1:]
    surprise = max(float(f(others, trials, highest)[0]) for f in (_student_t, _beta_binomial))
    fit_p = min(1.0, count * surprise)
    student_t, beta_binomial = _student_t(nulls, trials, every), _beta_binomial(nulls, trials, every)
    predictive = np.maximum(np.maximum(student_t, beta_binomial), floor)
    predictive = np.where(every <= nulls[-1], np.maximum(predictive, rank), predictive)
    refused = fit_p < SURPRISE
    return _Curve(
        rank if refused else predictive, rank, student_t, beta_binomial, RANK if refused else PREDICTIVE, floor, fit_p
    )


def _log_odds(hits: Floats | Ints, trials: int) -> Floats:
    return np.log((hits + 0.5) / (trials - hits + 0.5))


def _student_t(nulls: Ints, trials: int, hits: Ints) -> Floats:
    """P(a new model's log-odds reach those of ``hits``), ``[...]`` like ``hits``, if they are normal over models."""
    odds, mean = _log_odds(nulls, trials), nulls.mean()
    # Models that happen to agree do not spread less than the counts of one and the same model.
    sampling = 1 / (mean + 0.5) + 1 / (trials - mean + 0.5)
    spread = math.sqrt(max(odds.var(ddof=1), sampling) * (1 + 1 / len(nulls)))
    return np.asarray(stats.t.sf((_log_odds(hits, trials) - odds.mean()) / spread, len(nulls) - 1))


def _beta_binomial(nulls: Ints, trials: int, hits: Ints) -> Floats:
    """P(a new model's count reaches ``hits``), ``[...]`` like ``hits``, if rates are Beta over models."""
    a, b = _grid(trials)
    values, times = np.unique(nulls, return_counts=True)
    likelihood = sum(n * _log_likelihood(int(k), trials) for k, n in zip(values, times, strict=True))
    weights = special.softmax(likelihood)
    # All that is left out weighs less than a millionth of the floor.
    keep = weights > 1e-6 / (len(weights) * (len(nulls) + 1.0) ** 2)
    counts = np.arange(hits.min(), trials + 1)
    chosen, chances = np.flatnonzero(keep), np.zeros(len(counts))
    for part in np.array_split(chosen, math.ceil(len(chosen) * len(counts) / LARGEST_TABLE)):
        chances += weights[part] @ np.exp(_log_pmf(counts, trials, a[part, None], b[part, None]))
    reach = np.minimum(np.cumsum(chances[::-1])[::-1], 1.0)
    return reach[hits - hits.min()]


@functools.lru_cache(maxsize=8)
def _grid(trials: int) -> tuple[Floats, Floats]:
    """The Beta's parameters a and b, ``[G]`` each, all of the same prior weight.

    Even in arcsin(sqrt(mean)), which is Jeffreys's prior of a binomial rate, at a quarter of the
    binomial's own deviation; and even in log(a + b).
    """
    steps = max(100, math.ceil(2 * math.pi * math.sqrt(trials)))
    mean = np.sin((np.arange(steps) + 0.5) / steps * math.pi / 2) ** 2
    total = np.geomspace(1, LARGEST_CONCENTRATION, CONCENTRATIONS)
    return np.outer(mean, total).ravel(), np.outer(1 - mean, total).ravel()


@functools.lru_cache(maxsize=256)
def _log_likelihood(hits: int, trials: int) -> Floats:
    return _log_pmf(np.int64(hits), trials, *_grid(trials))


def _log_pmf(hits: Ints | np.int64, trials: int, a: Floats, b: Floats) -> Floats:
    """scipy.stats.betabinom.logpmf without the checks, which take three times as long as the rest."""
    choose = -np.log(trials + 1) - special.betaln(trials - hits + 1, hits + 1)
    return choose + special.betaln(hits + a, trials - hits + b) - special.betaln(a, b)
