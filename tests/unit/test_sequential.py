"""The sequential test: its level under any stopping, its power by another road, futility."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from hallmark.verification.nulls import innocent_bound
from hallmark.verification.sequential import BOUND_SHARE, Sequential, against_nulls, anytime_p

BOUND, LEVEL, POOL = 0.1, 0.05, 200


def test_the_e_value_by_hand() -> None:
    test = Sequential(0.5, 0.05)
    test.update(np.array([True, True, False]))
    rates = 0.5 + 0.5 * (np.arange(32) + 0.5) / 32
    assert test.e_value == pytest.approx(np.mean(rates**2 * (1 - rates) / 0.5**3))
    assert test.p_value == pytest.approx(1 / np.mean(rates**2 / 0.5**2))  # it was larger after two
    assert (test.asked, test.hits, test.rejected) == (3, 2, False)


def test_the_e_value_of_a_pool_by_hand() -> None:
    test = Sequential(0.5, 0.05, pool=4)  # two hits of four, against three or four
    test.update(np.array([True]))
    assert test.e_value == pytest.approx(((3 / 4) / (2 / 4) + 1 / (2 / 4)) / 2)
    test.update(np.array([True]))
    assert test.e_value == pytest.approx((3 * 2 / (2 * 1) + 4 * 3 / (2 * 1)) / 2)
    test.update(np.array([True]))
    assert test.e_value == math.inf
    assert test.p_value == 0
    assert test.rejected
    with pytest.raises(ValueError, match="5 answers to 4 questions"):
        test.update(np.array([False, False]))


@pytest.mark.parametrize("pool", [None, POOL])
def test_no_factor_has_a_mean_above_one_at_or_below_the_bound(pool: int | None) -> None:
    """What makes it an e-process, of every history and every innocent rate."""
    mixture = Sequential(BOUND, LEVEL, pool)._mixture
    for hits, asked in [(0, 0), (1, 3), (5, 10), (2, 40), (15, 60), (19, 100), (0, 150), (3, 199)]:
        now, miss, hit = mixture.log_e(np.array([hits, hits, hits + 1]), np.array([asked, asked + 1, asked + 1]))
        for rate in (0.0, 0.05, BOUND):
            chance = rate if pool is None else (round(rate * pool) - hits) / (pool - asked)
            if 0 <= chance <= 1:  # else this history is impossible at this rate
                after = (1 - chance) * np.exp(miss) + (chance * np.exp(hit) if chance > 0 else 0)
                assert after <= np.exp(now) * (1 + 1e-9)


@pytest.mark.parametrize("pool", [None, POOL])
@pytest.mark.parametrize("rate", [0.0, 0.05, BOUND])
def test_whoever_stops_when_he_likes_keeps_the_level(rate: float, pool: int | None) -> None:
    assert Sequential(BOUND, LEVEL, pool).power(rate, POOL).power <= LEVEL


@pytest.mark.parametrize("pool", [None, POOL])
@pytest.mark.parametrize("rate", [BOUND, 0.15, 0.3])
def test_the_power_is_that_of_simulated_tests(rate: float, pool: int | None) -> None:
    rng, paths, limit = np.random.default_rng(0), 400, 100
    test = Sequential(BOUND, LEVEL, pool, least=0.25, miss=0.1)
    expected = test.power(rate, limit)
    if pool is None:
        answers = rng.random((paths, limit)) < rate
    else:
        answers = rng.permuted(np.tile(np.arange(pool) < round(rate * pool), (paths, 1)), axis=1)
    asked, hits = np.arange(1, limit + 1), answers[:, :limit].cumsum(1)
    rejects = test._mixture.log_e(hits, asked) >= -math.log(LEVEL)
    assert test._opposite is not None
    gives_up = test._opposite.log_e(asked - hits, asked) >= -math.log(0.1)
    first, last = (np.where(x.any(1), x.argmax(1), limit) for x in (rejects, gives_up))
    queries = np.minimum(np.minimum(first, last) + 1, limit)
    for found, chance in ((first <= last) & (first < limit), expected.power), (last < first, expected.futile):
        assert stats.binomtest(int(found.sum()), paths, min(chance, 1.0)).pvalue > 1e-3
    assert queries.mean() == pytest.approx(expected.queries, abs=float(3.3 * queries.std() / math.sqrt(paths)))


def test_queries_are_paid_for_in_blocks_and_no_more_than_there_are() -> None:
    idle = Sequential(0.1, 0.01)  # never gives up
    assert [idle.power(0.0, 70, block=block).queries for block in (1, 50, 70, 100)] == [70] * 4
    assert [idle.power(1.0, 100, block=block).queries for block in (50, 70)] == [50, 70]


def test_copies_are_found_with_few_queries() -> None:
    test = Sequential(0.1, 0.001, pool=1000)
    strong, weak = test.power(0.8, 1000), test.power(0.4, 1000)
    assert strong.power > 0.999999
    assert weak.power > 0.9999
    assert strong.queries < 8
    assert weak.queries < 30
    # An exact binomial test of that many queries, fixed before, misses a fifth of the weak copies.
    least = stats.binom.isf(0.001, 30, 0.1) + 1
    assert stats.binom.sf(least - 1, 30, 0.4) < 0.85


def test_giving_up_spares_queries_and_seldom_misses() -> None:
    idle, quick = Sequential(0.1, 0.01), Sequential(0.1, 0.01, least=0.4, miss=0.05)
    assert quick.power(0.03, 500).queries < 15 < idle.power(0.03, 500).queries
    assert idle.power(0.4, 500).power - quick.power(0.4, 500).power <= 0.05
    assert quick.power(0.1, 500).power <= idle.power(0.1, 500).power <= 0.01
    assert Sequential(0.1, 0.01).power(0.4, 500).futile == 0
    quick.update(np.zeros(20, dtype=bool))
    assert (quick.futile, quick.rejected) == (True, False)
    strong = Sequential(0.1, 0.01, least=0.4)
    strong.update(np.ones(20, dtype=bool))
    assert (strong.futile, strong.rejected) == (False, True)


def test_once_rejected_always_rejected_and_batches_do_not_matter() -> None:
    answers = np.arange(100) < 20  # twenty hits, then none
    at_once, one_by_one = Sequential(BOUND, LEVEL, least=0.3), Sequential(BOUND, LEVEL, least=0.3)
    at_once.update(answers)
    for answer in answers:
        one_by_one.update(np.array([answer]))
    assert one_by_one.update(np.array([], dtype=bool))
    assert at_once.rejected
    assert at_once.e_value < 1 / LEVEL
    assert (at_once.asked, at_once.futile) == (one_by_one.asked, one_by_one.futile)
    assert (at_once.log_e, at_once.log_largest) == pytest.approx((one_by_one.log_e, one_by_one.log_largest))


def test_a_bound_of_no_hits_falls_with_the_first() -> None:
    for pool in (None, POOL):
        test = Sequential(0.0, LEVEL, pool)
        assert not test.update(np.array([False, False]))
        assert test.update(np.array([True]))


def test_of_a_bound_made_from_a_count_the_count_comes_back() -> None:
    for pool in (100, 1000):  # 0.29 * 100 is less than 29
        assert [Sequential(k / pool, LEVEL, pool)._mixture.hits for k in range(pool)] == list(range(pool))


def test_bound_and_test_together_keep_the_level() -> None:
    """Innocents from the same family as the nulls, asked the same questions in random order."""
    rng, level, accused = np.random.default_rng(1), 0.2, []
    for _ in range(30):
        rates = rng.beta(1, 20, 41)
        counts = rng.binomial(POOL, rates)
        bound = innocent_bound(counts[:40], POOL, BOUND_SHARE * level)
        test = Sequential(bound, (1 - BOUND_SHARE) * level, POOL)
        accused.append(test.power(counts[40] / POOL, POOL).power)
    assert np.mean(accused) <= level


@pytest.mark.parametrize(
    "arguments",
    [
        {"bound": 1.0},
        {"bound": -0.1},
        {"bound": 1.0, "pool": 10},
        {"level": 0.0},
        {"level": 1.0},
        {"miss": 0.0},
        {"least": 0.05},
        {"least": 1.1},
    ],
)
def test_numbers_out_of_range_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"bound|between"):
        Sequential(**{"bound": BOUND, "level": LEVEL, **arguments})  # pyright: ignore[reportArgumentType]


def test_a_power_beyond_the_pool_is_refused() -> None:
    with pytest.raises(ValueError, match="11 queries of 10"):
        Sequential(BOUND, LEVEL, pool=10).power(0.5, 11)


def test_the_p_value_is_that_of_the_test() -> None:
    rng = np.random.default_rng(4)
    counts = rng.binomial(1000, 0.02, 40)
    test = against_nulls(counts, 1000, 0.01)
    assert test is not None
    for rate in (0.0, 0.05, 0.1, 0.3, 1.0):
        outcomes = rng.random(200) < rate
        again = Sequential(test.bound, (1 - BOUND_SHARE) * 0.01, pool=1000)
        again.update(outcomes)
        p = anytime_p(counts, 1000, outcomes, 0.01)
        assert (p.p <= 0.01) == again.rejected
        assert p.p == pytest.approx(min(1.0, 0.009 + again.p_value))
    assert anytime_p(counts[:5], 1000, np.ones(200, dtype=bool), 0.01).p == 1  # five nulls show nothing


def test_a_rate_that_innocents_have_is_not_looked_for() -> None:
    counts = np.random.default_rng(4).binomial(1000, 0.02, 40)
    bound = innocent_bound(counts, 1000, BOUND_SHARE * 0.01)
    assert 0.03 < bound < 0.1
    for least, futile in ((bound / 2, False), (0.2, True), (None, False)):
        test = against_nulls(counts, 1000, 0.01, least)
        assert test is not None
        test.update(np.zeros(500, dtype=bool))
        assert test.futile == futile
