"""P-values against null models: closed forms, the fit that is refused, and the level over families of innocents."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from scipy import integrate, special, stats

from hallmark.verification import nulls
from hallmark.verification.nulls import PREDICTIVE, RANK, innocent_bound, predictive_p, rank_p

Draw = Callable[[np.random.Generator, int], np.ndarray]
TRIALS = 200


def normal(center: float, spread: float) -> Draw:
    return lambda rng, count: special.expit(special.logit(center) + spread * rng.standard_normal(count))


def mixture(share: float, rare: float) -> Draw:
    """One architecture calls the target far more often than the rest, 2 %."""
    return lambda rng, count: np.where(
        rng.random(count) < share, normal(rare, 0.3)(rng, count), normal(0.02, 0.5)(rng, count)
    )


def drawn(rng: np.random.Generator, count: int, center: float = 0.02) -> np.ndarray:
    return rng.binomial(TRIALS, normal(center, 0.8)(rng, count))


def test_the_rank_by_hand() -> None:
    assert rank_p([1, 2, 3, 4], 5) == 1 / 5
    assert rank_p([1, 2, 3, 4], 3) == 3 / 5  # a null as high counts against the claim
    assert rank_p([0.0, 0.0], 0) == 1
    with pytest.raises(ValueError, match="two null models"):
        rank_p([1], 5)


def test_the_rank_is_exact_if_exchangeable() -> None:
    # Every arrangement of five values, the last of which is the suspect's: p is uniform on 1/5 ... 5/5.
    values = [0.1, 0.2, 0.3, 0.5, 0.9]
    p = [rank_p(order[:4], order[4]) for order in itertools.permutations(values)]
    assert {round(5 * x): p.count(x) for x in set(p)} == dict.fromkeys(range(1, 6), 24)
    tied = [rank_p(order[:4], order[4]) for order in itertools.permutations([0, 0, 0, 1, 1])]
    assert all(np.mean(np.array(tied) <= level) <= level for level in (0.2, 0.4, 0.6, 0.8))


def test_student_t_by_hand() -> None:
    own = np.array([10, 20, 12, 35, 18, 25, 14, 9, 22, 40])
    odds = [np.log((k + 0.5) / (200.5 - k)) for k in own]
    t = (np.log(60.5 / 140.5) - np.mean(odds)) / (np.std(odds, ddof=1) * np.sqrt(1 + 1 / 10))
    assert predictive_p(own, TRIALS, 60).student_t == pytest.approx(stats.t.sf(t, 9))
    # Models that agree more than one model's own counts would are not believed to.
    alike = predictive_p([20] * 10, TRIALS, 60)
    t = (np.log(60.5 / 140.5) - np.log(20.5 / 180.5)) / np.sqrt((1 / 20.5 + 1 / 180.5) * (1 + 1 / 10))
    assert alike.student_t == pytest.approx(stats.t.sf(t, 9))


def test_beta_binomial_by_quadrature() -> None:
    own, trials, observed = np.array([0, 1, 1, 2, 0, 3, 1, 0, 2, 5, 1, 0]), 40, 6

    # Over the arcsine of the mean by Simpson's rule in place of even steps, and over the a + b of the grid.
    angle = np.linspace(1e-3, 1.0, 120)[:, None]
    mean, total = np.sin(angle) ** 2, np.geomspace(1, nulls.LARGEST_CONCENTRATION, nulls.CONCENTRATIONS)
    a, b = mean * total, (1 - mean) * total
    likelihood = np.exp(sum(stats.betabinom.logpmf(k, trials, a, b) for k in own))
    reach = sum(stats.betabinom.pmf(k, trials, a, b) for k in range(observed, trials + 1))
    top, bottom = (
        np.sum(integrate.simpson(weight, x=angle[:, 0], axis=0)) for weight in (likelihood * reach, likelihood)
    )
    assert predictive_p(own, trials, observed).beta_binomial == pytest.approx(top / bottom, rel=1e-3)


def test_many_alike_nulls_leave_the_binomial() -> None:
    counts = stats.binom.ppf((np.arange(2000) + 0.5) / 2000, TRIALS, 0.2).astype(int)
    p = predictive_p(counts, TRIALS, 60).beta_binomial
    assert p == pytest.approx(stats.binom.sf(59, TRIALS, 0.2), rel=0.3)


def test_the_pmf_is_scipys() -> None:
    k, a, b = np.arange(31), np.array([[0.01], [3.0]]), np.array([[5.0], [1e4]])
    np.testing.assert_allclose(nulls._log_pmf(k, 30, a, b), stats.betabinom.logpmf(k, 30, a, b), rtol=1e-9)


@pytest.mark.parametrize("trials", [1, 7, 200])
@pytest.mark.parametrize("kind", ["zeros", "all", "some", "few"])
def test_p_falls_with_the_count_and_the_bound_inverts_it(kind: str, trials: int) -> None:
    rng = np.random.default_rng(3)
    own = {
        "zeros": np.zeros(30, int),
        "all": np.full(30, trials),
        "some": rng.binomial(trials, 0.1, 30),
        "few": rng.binomial(trials, 0.1, 5),  # too few to fit
    }[kind]
    found = [predictive_p(own, trials, k) for k in range(trials + 1)]
    p = np.array([one.p for one in found])
    assert p[0] == 1
    assert (np.diff(p) <= 1e-12).all()
    assert {one.method for one in found} == {RANK if kind == "few" else PREDICTIVE}
    if kind != "few":
        assert p[-1] >= found[0].floor == 1 / 31**2
        assert all(one.p >= one.rank for k, one in enumerate(found) if k <= own.max())
        assert all(one.p >= max(one.student_t, one.beta_binomial) for one in found)
    for level in (0.5, 0.2, 0.04, 0.01, 1e-5):
        bound = innocent_bound(own, trials, level)
        least = round(bound * trials) + 1
        assert (bound < 1) == (p[-1] <= level)
        if bound < 1:
            assert p[least] <= level < p[least - 1]


def test_what_cannot_be_is_refused() -> None:
    for bad in ([5], [], [1, 2, 201], [1, -1], [1, 2.5], [[1, 2], [3, 4]], [1, float("nan")]):
        with pytest.raises(ValueError, match="null"):
            predictive_p(bad, TRIALS, 10)
    for observed in (-1, 201):
        with pytest.raises(ValueError, match="observed"):
            predictive_p([1, 2, 3], TRIALS, observed)
    with pytest.raises(ValueError, match="level"):
        innocent_bound([1, 2, 3], TRIALS, 1.0)


def test_the_number_of_nulls_needed() -> None:
    assert [nulls.nulls_needed(level) for level in (0.05, 0.01, 0.001)] == [19, 99, 999]
    assert nulls.nulls_needed(0.05, tests=7) == 139
    assert nulls.nulls_needed(0.9) == 2
    # It can do with these, by rank alone, and not with one fewer.
    far = np.append(np.zeros(98, int), 150)
    assert predictive_p(far, TRIALS, TRIALS).method == RANK
    assert innocent_bound(far, TRIALS, 0.01) < 1
    assert innocent_bound(far[1:], TRIALS, 0.01) == 1
    assert innocent_bound(far, TRIALS, 0.005) == 1


def test_one_null_far_out_and_nothing_is_fitted() -> None:
    own = drawn(np.random.default_rng(4), 40)
    before, after = predictive_p(own, TRIALS, 150), predictive_p([*own[:-1], 120], TRIALS, 150)
    assert (before.method, after.method) == (PREDICTIVE, RANK)
    assert after.fit_p < nulls.SURPRISE < before.fit_p
    assert after.p == after.rank == 1 / 41
    assert before.p < 1 / 41


def test_the_fit_is_rarely_refused_where_it_is_right() -> None:
    rng = np.random.default_rng(5)
    refused = [predictive_p(drawn(rng, 30), TRIALS, 0).method == RANK for _ in range(100)]
    # 100 draws at 5 %: above 11 has chance 0.5 %.
    assert sum(refused) <= 11


FAMILIES: dict[str, Draw] = {
    "alike": normal(0.02, 0),
    "logit-normal": normal(0.02, 0.8),
    "beta": lambda rng, count: rng.beta(1, 40, count),
    "mixture 30 %": mixture(0.3, 0.2),
    "mixture 10 %": mixture(0.1, 0.2),
}


@pytest.mark.parametrize("count", [20, 50, 99])
@pytest.mark.parametrize("family", FAMILIES)
def test_innocents_are_accused_no_more_often_than_said(family: str, count: int) -> None:
    rng, sets, level = np.random.default_rng([6, count]), 40, 0.01
    innocents = np.sort(rng.binomial(TRIALS, FAMILIES[family](rng, 20_000)))
    own = rng.binomial(TRIALS, FAMILIES[family](rng, sets * count)).reshape(sets, count)
    least = np.array([round(innocent_bound(each, TRIALS, level) * TRIALS) + 1 for each in own])
    accused = 1 - np.searchsorted(innocents, least) / len(innocents)  # of each set of nulls
    # Two-component mixtures are outside both models: there only 1 / (N + 1) is promised, which is 1 % at 99 nulls.
    promised = max(level, 1 / (count + 1)) if "mixture" in family else level
    assert accused.mean() <= promised + 2.5 * accused.std() / np.sqrt(sets)


def test_copies_are_found_below_the_ranks_least() -> None:
    rng = np.random.default_rng(7)
    found = [predictive_p(drawn(rng, 50, 0.01), TRIALS, rng.binomial(TRIALS, 0.6)).p <= 0.005 for _ in range(40)]
    assert np.mean(found) > 0.8  # by rank none is: 1/51


def test_p_is_about_uniform_where_the_model_is_right() -> None:
    rng, spread, center = np.random.default_rng(8), 0.8, 0.1  # the counts are nearly log-odds of continuous rates
    p = []
    for _ in range(150):
        own, suspect = rng.binomial(TRIALS, normal(center, spread)(rng, 30)), normal(center, spread)(rng, 1)
        p.append(predictive_p(own, TRIALS, int(rng.binomial(TRIALS, suspect[0]))).student_t)
    assert stats.kstest(p, "uniform").pvalue > 0.01
