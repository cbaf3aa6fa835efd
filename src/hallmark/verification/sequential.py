"""A test of one suspect that may stop after every query: does its rate exceed what innocent models have?

:func:`hallmark.verification.nulls.innocent_bound` says what they have, and that bound is exceeded by some: an
accusation is wrong with chance at most the sum of its level and the test's.  :data:`BOUND_SHARE` splits them.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from hallmark.statistics import Bools
from hallmark.verification import nulls
from hallmark.verification.nulls import NullP

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BOUND_SHARE = 0.9
"""Of the level of an accusation, what ``innocent_bound`` gets; :class:`Sequential` gets the rest.  A tenth costs the
test only log(10) more evidence, a few queries; for the bound it would cost ten times the nulls by rank."""
SEQUENTIAL = "sequential"
"""The method of :func:`anytime_p`."""
ALTERNATIVES = 32
"""Rates among which the sequential test spreads its bets evenly."""
MISS = 0.05
"""Chance to give up on a suspect who is worth finding, unless another is asked for."""


@dataclass(frozen=True)
class Power:
    """What a sequential test does to a suspect of a known rate.

    Attributes:
        power: chance to reject within the queries allowed.
        futile: chance to give up before.
        queries: mean number asked until it rejects, gives up, or has asked all that are allowed.
        queries_to_reject: the same, of those tests that reject; nan if none does.
    """

    power: float
    futile: float
    queries: float
    queries_to_reject: float


@dataclass
class Sequential:
    """An e-process against "the suspect's rate is at most ``bound``": one may look after every query, and stop.

    The mean of the likelihood ratios of :data:`ALTERNATIVES` rates above the bound to the bound itself.
    Every factor, given the past, has mean at most 1 under every rate up to the bound, so that by Ville's
    inequality the chance that it *ever* reaches ``1 / level`` is at most ``level`` for an innocent within
    the bound.

    Args:
        bound: 0 to below 1.
        level: of this test alone.
        pool: questions are drawn from this many without repetition, and ``bound`` is of the answers to all
            of them (that of ``innocent_bound``, with its trials).  None: independent questions.
        least: the lowest rate worth finding, above the bound; :attr:`futile` once an e-process against
            "at least this rate" reaches ``1 / miss``.  None: never futile.
        miss: chance to give up on a suspect of rate ``least`` or more, at most.

    Attributes:
        asked, hits: so far.
        log_e, log_largest: natural logarithms of the e-process now and at its largest.
        futile: sticky, like :attr:`rejected`.

    Raises:
        ValueError: a number outside its range: with a bound of 1 there is nothing to reject.
    """

    bound: float
    level: float
    pool: int | None = None
    least: float | None = None
    miss: float = MISS
    asked: int = field(default=0, init=False)
    hits: int = field(default=0, init=False)
    log_e: float = field(default=0.0, init=False)
    log_largest: float = field(default=0.0, init=False)
    futile: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if not (0 < self.level < 1 and 0 < self.miss < 1):
            raise ValueError("level and miss must be between 0 and 1")
        if self.least is not None and not self.bound < self.least <= 1:
            raise ValueError(f"least {self.least} is not above the bound {self.bound}")
        self._mixture = _Mixture(self.bound, self.pool)
        # "At least this rate of hits" is "at most the rest of misses".
        self._opposite = None if self.least is None else _Mixture(1 - self.least, self.pool)

    @property
    def e_value(self) -> float:
        """Now; infinite once the bound is broken with certainty."""
        return float(np.exp(self.log_e)) if self.log_e < 700 else math.inf

    @property
    def p_value(self) -> float:
        """1 over the largest e-value, at most 1: valid at every time, also one chosen by looking."""
        return math.exp(-self.log_largest)

    @property
    def rejected(self) -> bool:
        return self.log_largest >= -math.log(self.level)

    def update(self, outcomes: Bools) -> bool:
        """Take the next answers ``[k]`` in the order in which they came, k at least 0; return :attr:`rejected`.

        Raises:
            ValueError: more answers than questions in the pool.
        """
        if not len(outcomes):
            return self.rejected
        asked = self.asked + np.arange(1, len(outcomes) + 1)
        hits = self.hits + np.cumsum(outcomes, dtype=np.int64)
        if self.pool is not None and asked[-1] > self.pool:
            raise ValueError(f"{asked[-1]} answers to {self.pool} questions")
        path = self._mixture.log_e(hits, asked)
        self.asked, self.hits, self.log_e = int(asked[-1]), int(hits[-1]), float(path[-1])
        self.log_largest = max(self.log_largest, float(path.max()))
        if self._opposite is not None:
            self.futile |= bool((self._opposite.log_e(asked - hits, asked) >= -math.log(self.miss)).any())
        return self.rejected

    def power(self, rate: float, limit: int, *, drawn: bool = True, block: int = 1) -> Power:
        """What comes of at most ``limit`` queries to a suspect of this rate (0-1), asked from the start: exact.

        Args:
            drawn: with a pool: ``rate`` is its share of hits.  False: the suspect's in the long run, of which the pool
                is a draw itself, so that its answers are independent.
            block: queries are paid for in blocks of so many.
        """
        if self.pool is not None and limit > self.pool:
            raise ValueError(f"{limit} queries of {self.pool}")
        accepts = _boundary(self.bound, self.pool, limit, self.level)
        gives_up = np.full(limit, -1)
        if self._opposite is not None:
            gives_up = np.arange(1, limit + 1) - _boundary(self._opposite.bound, self.pool, limit, self.miss)
        state = np.zeros(limit + 2)  # chance of each number of hits, of the tests that go on
        state[0] = 1
        count = np.arange(limit + 2)
        power = futile = queries = queries_to_reject = 0.0
        for k in range(limit):
            if k % block == 0:
                queries += state.sum() * min(block, limit - k)
            hit = (
                rate
                if self.pool is None or not drawn
                else np.clip((round(rate * self.pool) - count) / (self.pool - k), 0, 1)
            )
            rising = state * hit
            state -= rising
            state[1:] += rising[:-1]
            rejects = state[accepts[k] :].sum()
            power += rejects
            queries_to_reject += min(limit, -(-(k + 1) // block) * block) * rejects
            state[accepts[k] :] = 0
            futile += state[: gives_up[k] + 1].sum()
            state[: gives_up[k] + 1] = 0
        mean = queries_to_reject / power if power > 0 else math.nan
        return Power(float(power), float(futile), float(queries), float(mean))


def against_nulls(
    counts: ArrayLike, trials: int, level: float, least: float | None = None, miss: float = MISS
) -> Sequential | None:
    """The sequential test of one suspect against null models; None: these nulls can show nothing at this level.

    Args:
        counts: hits of the null models, each in ``trials`` questions, of which the suspect is asked some or all.
        level: of an accusation; the bound of the innocents and the test share it (a union bound).
        least, miss: of :class:`Sequential`; a ``least`` that innocents may have as well is not looked for.
    """
    bound = nulls.innocent_bound(counts, trials, BOUND_SHARE * level)
    return None if bound >= 1 else above(bound, trials, level, least, miss)


def above(bound: float, trials: int, level: float, least: float | None = None, miss: float = MISS) -> Sequential:
    """The same, of a bound (below 1) that has been found already."""
    worth = least if least is not None and least > bound else None
    return Sequential(bound, (1 - BOUND_SHARE) * level, pool=trials, least=worth, miss=miss)


def anytime_p(counts: ArrayLike, trials: int, outcomes: Bools, level: float) -> NullP:
    """A p-value that holds whenever the asking stopped; at most ``level`` if and only if the test at it has rejected.

    ``BOUND_SHARE * level + 1 / (largest e-value)``: an innocent is above the bound with a chance of at most the first
    term, and otherwise the second is at most x with a chance of at most x (Ville).  1 if nothing can be shown.

    Args:
        counts, trials, level: as for :func:`against_nulls`; ``level`` is fixed before the suspect is asked.
        outcomes: in the order in which they came, ``[k]``.
    """
    test = against_nulls(counts, trials, level)
    p = 1.0
    if test is not None:
        test.update(outcomes)
        # Compared as the test does: a sum of floats must not undo what it decided.
        p = min(1.0, BOUND_SHARE * level + test.p_value)
        p = min(p, level) if test.rejected else max(p, math.nextafter(level, 1))
    return NullP(p, SEQUENTIAL, *(math.nan,) * 5, nulls=len(np.asarray(counts)))


class _Mixture:
    """Likelihood ratios of rates above ``bound`` to ``bound``, averaged."""

    def __init__(self, bound: float, pool: int | None) -> None:
        # A bound made from a count comes back as that count, whatever the floats.
        self.pool, self.bound, self.hits = pool, bound, math.floor(bound * (pool or 0) + 1e-9)
        if not 0 <= bound < 1 or self.hits == pool:
            raise ValueError(f"bound {bound} leaves no rate above it")
        if pool is None:
            self.above = bound + (1 - bound) * (np.arange(ALTERNATIVES) + 0.5) / ALTERNATIVES
        else:
            self.above = np.unique(np.linspace(self.hits + 1, pool, ALTERNATIVES).round())

    def log_e(self, hits: Ints, asked: Ints) -> Floats:
        """After ``hits`` of ``asked``, ``[...]`` each; infinite where the bound is impossible."""
        hits, misses = hits[..., None], (asked - hits)[..., None]
        with np.errstate(divide="ignore"):  # a logarithm of 0 is meant
            if self.pool is None:
                ratios = special.xlogy(hits, self.above / np.float64(self.bound))
                ratios += special.xlogy(misses, (1 - self.above) / (1 - self.bound))
            else:
                ratios = _log_draws(self.above, self.pool, hits, misses)
                given = _log_draws(np.float64(self.hits), self.pool, hits, misses)
                # More misses than the bound leaves are possible only below it, and no rate above has them either.
                ratios -= np.where(np.isneginf(given), 0, given)
                ratios = np.where(hits > self.hits, np.inf, ratios)
            total: Any = special.logsumexp(ratios, axis=-1)  # typed as a pair with signs, which it is on request
            return total - math.log(len(self.above))


@functools.lru_cache(maxsize=16)
def _boundary(bound: float, pool: int | None, limit: int, level: float) -> Ints:
    """After each of 1 to ``limit`` queries, the fewest hits that reach ``1 / level``, or one more than possible."""
    mixture = _Mixture(bound, pool)
    asked = np.arange(1, limit + 1)
    low, high = np.zeros(limit, dtype=np.int64), asked + 1
    while (low < high).any():  # bisection: the e-value grows with the hits
        middle = (low + high) // 2
        reached = (middle > asked) | (mixture.log_e(np.minimum(middle, asked), asked) >= -math.log(level))
        low, high = np.where(reached, low, middle + 1), np.where(reached, middle, high)
    return high


def _log_draws(total: Floats | np.float64, pool: int, hits: Ints, misses: Ints) -> Floats:
    """Log of the ways to draw these hits and misses, in order, from a pool of which ``total`` are hits."""
    ways = special.gammaln(total + 1) - special.gammaln(total - hits + 1)
    rest = pool - total
    return np.asarray(ways + special.gammaln(rest + 1) - special.gammaln(rest - misses + 1))
