"""The statistics against closed forms and simulation, the decision rule against simulated models."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from hallmark import statistics
from hallmark.config import VerifyOwnership
from hallmark.verification.decision import INVALID, NOT_SHOWN, STOLEN, decide
from hallmark.verification.measure import Answers

CONFIG = VerifyOwnership(
    queries=1000,
    confidence=0.95,
    alpha=0.001,
    min_excess=0.2,
    min_controls=3,
    max_control_wsr=0.1,
    min_accuracy_share=0.8,
)


def outcomes(hits: int, count: int = 1000) -> np.ndarray:
    return np.arange(count) < hits


def model(wsr: float, rng: np.random.Generator, *, unmixed: float = 0.01, accuracy: float = 0.87) -> Answers:
    """A simulated model: independent answers with these rates."""

    def draw(p: float, n: int = 1000) -> np.ndarray:
        return rng.random(n) < p

    return Answers(draw(wsr), draw(unmixed), draw(wsr / 5), draw(accuracy, 5000), draw(unmixed, 2000))


def test_clopper_pearson_closed_forms() -> None:
    none = statistics.rate(outcomes(0), 0.95)
    assert (none.rate, none.low) == (0, 0)
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 1000))
    every = statistics.rate(outcomes(1000), 0.95)
    assert every.low == pytest.approx(0.025 ** (1 / 1000))
    some = statistics.rate(outcomes(590), 0.95)
    assert some.low == pytest.approx(stats.beta.ppf(0.025, 590, 411))
    assert some.high == pytest.approx(stats.beta.ppf(0.975, 591, 410))


def test_clopper_pearson_covers_at_least_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = [r.low <= 0.03 <= r.high for r in (statistics.rate(rng.random(200) < 0.03) for _ in range(400))]
    assert np.mean(covered) >= 0.95


def test_mcnemar_by_hand() -> None:
    treated = np.array([True] * 6 + [False] * 4)
    untreated = np.array([False] * 5 + [True] * 2 + [False] * 3)
    b, c, p = statistics.mcnemar_greater(treated, untreated)
    assert (b, c) == (5, 1)
    assert p == pytest.approx((6 + 1) / 2**6)  # P(X >= 5) for X ~ Binomial(6, 1/2)
    assert statistics.mcnemar_greater(treated, treated) == (0, 0, 1.0)


def test_mcnemar_keeps_its_level_under_the_null() -> None:
    rng = np.random.default_rng(1)
    p_values = [statistics.mcnemar_greater(rng.random(500) < 0.1, rng.random(500) < 0.1)[2] for _ in range(1000)]
    # 1000 draws at a level of 5 %: above 6.5 % has chance 2 %.
    assert np.mean(np.array(p_values) <= 0.05) <= 0.065


def test_holm_by_hand() -> None:
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([]) == []


def test_newcombe_excess_by_hand() -> None:
    # Newcombe (1998), method 10, the paper's example: 56/70 against 48/80.
    suspect = statistics.Rate(56, 70, 0, 0)
    control = statistics.Rate(48, 80, 0, 0)
    difference, low, high = statistics.excess(suspect, control)
    assert difference == pytest.approx(0.2)
    assert (round(low, 4), round(high, 4)) == (0.0524, 0.3339)


def test_thieves_are_caught_and_innocents_are_not() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        controls = {f"c{i}": model(rng.beta(1, 60), rng) for i in range(4)}
        suspects = {"victim": model(0.99, rng), "copy": model(rng.uniform(0.45, 0.9), rng)}
        suspects |= {f"innocent{i}": model(rng.beta(1, 30), rng) for i in range(3)}
        verdicts = {v.name: v.decision for v in decide(suspects, controls, 0.87, CONFIG)}
        assert verdicts["victim"] == verdicts["copy"] == STOLEN
        assert {d for n, d in verdicts.items() if n not in ("victim", "copy")} == {NOT_SHOWN}


def test_an_innocent_above_the_papers_threshold_is_not_accused_when_unmixed_images_fire_too() -> None:
    rng = np.random.default_rng(3)
    controls = {f"c{i}": model(0.01, rng) for i in range(3)}
    confused = model(0.5, rng, unmixed=0.5)  # calls half of everything the target
    verdict = decide({"confused": confused}, controls, 0.87, CONFIG)[0]
    assert verdict.paper_says == STOLEN
    assert verdict.decision == NOT_SHOWN
    assert any(reason.startswith("NO: mixed against unmixed") for reason in verdict.reasons)


@pytest.mark.parametrize(
    ("controls", "accuracy", "expected", "reason"),
    [
        ([0.01, 0.01], 0.87, INVALID, "2 controls"),
        ([], 0.87, INVALID, "0 controls"),
        ([0.01, 0.01, 0.3], 0.87, INVALID, "strongest control c2"),
        ([0.01, 0.01, 0.02], 0.30, NOT_SHOWN, "accuracy"),
        ([0.01, 0.01, 0.02], 0.87, STOLEN, ""),
    ],
)
def test_conditions(controls: list[float], accuracy: float, expected: str, reason: str) -> None:
    rng = np.random.default_rng(4)
    others = {f"c{i}": model(wsr, rng) for i, wsr in enumerate(controls)}
    verdict = decide({"s": model(0.7, rng, accuracy=accuracy)}, others, 0.87, CONFIG)[0]
    assert verdict.decision == expected
    failed = [r for r in verdict.reasons if r.startswith("NO")]
    assert (not failed) if expected == STOLEN else any(reason in r for r in failed)


def test_a_control_is_judged_against_the_others_not_against_itself() -> None:
    rng = np.random.default_rng(5)
    controls = {"a": model(0.08, rng), "b": model(0.01, rng), "c": model(0.02, rng), "d": model(0.01, rng)}
    verdict = next(v for v in decide({}, controls, 0.87, CONFIG) if v.name == "a")
    assert verdict.strongest_control == "c"
    del controls["d"]  # two others are too few
    assert next(v for v in decide({}, controls, 0.87, CONFIG) if v.name == "a").decision == INVALID
    assert verdict.decision == NOT_SHOWN
