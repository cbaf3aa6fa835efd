"""The score statistic: by hand, and its chance among innocents."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from hallmark.verification.log_odds import (
    LEAST,
    LEAST_SPREAD,
    innocent_bound,
    leads,
    lean,
    predictive_p,
    target_log_odds,
)
from hallmark.verification.nulls import PREDICTIVE, RANK


def test_log_odds_by_hand() -> None:
    rows = torch.tensor([[0.4, 0.3, 0.2, 0.1]])
    first, second, third = (math.log(p) for p in (0.3, 0.2, 0.1))
    expected = first - (second + third) / 2
    assert target_log_odds(rows, 1, [0]).tolist() == pytest.approx([expected], abs=1e-5)
    assert target_log_odds(rows, torch.tensor([1]), [0]).tolist() == pytest.approx([expected], abs=1e-5)
    assert target_log_odds(rows, 3, [0, 1]).tolist() == pytest.approx([third - second], abs=1e-5)
    two = target_log_odds(rows.repeat(2, 1), torch.tensor([2, 3]), [0, 1]).tolist()
    assert two == pytest.approx([second - third, third - second], abs=1e-5)
    # A model that knows nothing prefers no class; a colder one says the same, more strongly.
    assert target_log_odds(torch.full((1, 4), 0.25), 2).tolist() == pytest.approx([0.0], abs=1e-9)
    colder = (rows.log() * 2).softmax(1)
    assert target_log_odds(colder, 1, [0]).tolist() == pytest.approx([2 * expected], abs=1e-5)
    # An impossible class is as unlikely as the least that is told, and no infinity.
    assert target_log_odds(torch.tensor([[0.5, 0.5, 0.0]]), 2, [0]).tolist() == pytest.approx([math.log(LEAST / 0.5)])
    with pytest.raises(ValueError, match="no class is left"):
        target_log_odds(rows, 1, [0, 2, 3])


def made(*logs: list[float], scale: float = 1.0) -> torch.Tensor:
    """Probabilities of rows of log-probabilities, up to their sum."""
    return (torch.tensor(logs, dtype=torch.float64) * scale).softmax(1)


def test_the_lean_by_hand() -> None:
    """Classes a, b (sources), c (target), d, e, f, g: of steps of 2 the spread of d, e, f, g is sqrt(5)."""
    first = made([9, 0, 4, 1, 3, 5, 7], [9, 0, 8, 7, 5, 3, 1.5])
    second = made([0, 9, 5, 1, 3, 5.5, 7])
    spread = [float(np.std(each)) for each in ([1, 3, 5, 7], [7, 5, 3, 1.5], [1, 3, 5.5, 7])]
    one = ((4 - 4) + (8 - 4.125)) / (spread[0] + spread[1])
    two = (5 - 4.125) / spread[2]
    assert lean([first, first], 2, (0, 1)) == pytest.approx(one)
    assert lean([second, second], 2, (0, 1)) == pytest.approx(two)
    assert lean([first, second], 2, (0, 1)) == pytest.approx(min(one, two))  # the source that leans less
    assert lean([second, first], 3, (0, 1)) == pytest.approx((1 - 5.125) / float(np.std([5, 3, 5.5, 7])))


@pytest.mark.parametrize("width", [1.0, 3.0])
def test_the_lean_does_not_hang_on_the_temperature(width: float) -> None:
    """Neither of soft models nor of those so sure that the other classes are below a millionth."""
    logits = torch.randn(2, 200, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 * width
    values = [lean(list((scale * logits).softmax(2).float()), 2, (0, 1)) for scale in (0.7, 1.0, 1.5)]
    assert values == pytest.approx([values[0]] * 3, rel=1e-3)


def test_a_sure_innocent_that_takes_its_sources_for_the_target_by_nature() -> None:
    """Of a triple like pullover, coat and shirt: being surer, or smoothed, it leans no more."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 300, 10, generator=generator, dtype=torch.float64) * 3
    logits[0, :, 0] += 30
    logits[1, :, 1] += 30
    logits[:, :, 2] += 8
    plain = lean(list(logits.softmax(2).float()), 2, (0, 1))
    assert plain is not None
    for scale in (0.5, 1.5):
        assert lean(list((scale * logits).softmax(2).float()), 2, (0, 1)) == pytest.approx(plain, rel=0.02)
    for smoothing in (0.01, 0.1):
        smoothed = lean(list((1 - smoothing) * logits.softmax(2) + smoothing / 10), 2, (0, 1))
        assert smoothed is not None
        assert smoothed < plain
        # In single precision the smallest become equal, and say nothing.
        assert lean(list(((1 - smoothing) * logits.softmax(2) + smoothing / 10).float()), 2, (0, 1)) is None


def test_scores_that_say_nothing_of_the_lean() -> None:
    sure = made([9, 0, 4, 1, 2, 3, 5]).repeat(100, 1)
    assert lean([sure[:, :6], sure[:, :6]], 2, (0, 1)) is None  # three other classes have hardly a spread
    for digits in (1, 2, 3):
        assert lean([sure, sure.mul(10**digits).round().div(10**digits)], 2, (0, 1)) is None
    missing = sure.clone()
    missing[:, 5] = 0  # a class that the suspect does not have
    assert lean([missing, sure], 2, (0, 1)) is None
    refused = torch.cat([sure, torch.zeros(900, 7)])  # most images are not answered: the others say what they say
    assert lean([refused, sure], 2, (0, 1)) == lean([sure, sure], 2, (0, 1))
    assert lean([refused[100:], sure], 2, (0, 1)) is None
    tied = sure.clone()
    tied[:5, 3] = tied[:5, 4]
    assert lean([tied, sure], 2, (0, 1)) is not None
    tied[5, 3] = tied[5, 4]  # six of a hundred
    assert lean([tied, sure], 2, (0, 1)) is None
    # Hardly any spread does not make a little lean a great one.
    flat = made([1, 0, 0.02, 0.001, 0.002, 0.003, 0.004])
    assert lean([flat, flat], 2, (0, 1)) == pytest.approx(0.0175 / LEAST_SPREAD)
    with pytest.raises(ValueError, match="no images"):
        lean([sure, sure[:0]], 2, (0, 1))


def test_a_rival_that_leans_as_far_is_not_led() -> None:
    generator = torch.Generator().manual_seed(3)

    def images(*means: float) -> torch.Tensor:
        """Log-probabilities, up to a sum, of 50 images; classes 0 and 1 are the sources, 2 the target, 4 the rival."""
        return torch.tensor([0.0, 0.0, *means]) + torch.randn(50, 7, generator=generator, dtype=torch.float64)

    logs = [images(2, 0, 0.5, 0, 0), images(1, 0, 3, 0, 0)]
    parts = [each.softmax(1) for each in logs]

    def odds(label: int) -> list[np.ndarray]:
        others = [c for c in range(2, 7) if c != label]
        found = [(x[:, label] - x[:, others].mean(1), x[:, others].std(1, correction=0).mean()) for x in logs]
        return [(mean / max(1.0, float(spread))).numpy() for mean, spread in found]

    # On the second source the rival is likelier; on the first it leans less than the target does on either.
    target, rival = odds(2), odds(4)
    related: Any = stats.ttest_rel(target[0], rival[0], alternative="greater")  # scipy's types know no p-value
    welch: Any = stats.ttest_ind(target[1], rival[0], equal_var=False, alternative="greater")
    paired, across = related.pvalue, welch.pvalue
    assert target[1].mean() < rival[1].mean()
    found = leads(parts, 2, 4, (0, 1))
    assert found == pytest.approx(2 * max(paired, across)) and found < 0.05
    assert leads(parts, 4, 2, (0, 1)) > 0.5
    # An image that is drawn again is no new one, one answer is no test, and what is not answered does not count.
    assert leads([part.repeat(20, 1) for part in parts], 2, 4, (0, 1)) == pytest.approx(found)
    noisy = [(part.repeat(20, 1).log() + 1e-9 * torch.randn(1000, 7, generator=generator)).softmax(1) for part in parts]
    again = [torch.arange(50).repeat(20)] * 2
    assert leads(noisy, 2, 4, (0, 1), again) == pytest.approx(found, rel=1e-3)
    assert leads(noisy, 2, 4, (0, 1)) < found / 100  # what the places of the images are for
    assert leads([torch.cat([part, torch.zeros(9, 7)]) for part in parts], 2, 4, (0, 1)) == pytest.approx(found)
    same = made([9, 0, 4, 1, 2, 3, 5]).repeat(5, 1)
    assert leads([same, same], 2, 4, (0, 1)) == 1


def test_rivals_that_lean_as_far_are_led_no_oftener_than_the_level_says() -> None:
    generator = torch.Generator().manual_seed(4)
    found = []
    for _ in range(400):
        # The target and the rival are alike on the first source, and the rival leads on the second, or they change
        # places: the leans are the same, the smaller mean of each.
        parts = [torch.randn(40, 7, generator=generator, dtype=torch.float64) for _ in range(2)]
        parts[0][:, [2, 4]] += 1
        parts[1][:, 4] += 3
        parts[1][:, 2] += 1.9
        found.append(leads([part.softmax(1) for part in parts], 2, 4, (0, 1)))
    assert np.mean(np.array(found) <= 0.05) <= 0.05


@pytest.mark.parametrize("count", [4, 9, 10, 40, 150])
@pytest.mark.parametrize("level", [0.3, 0.1, 0.02, 0.0008])
@pytest.mark.parametrize("outlier", [False, True])
def test_the_bound_is_where_p_reaches_the_level(count: int, level: float, outlier: bool) -> None:
    nulls = np.random.default_rng(count).normal(-1, 0.5, count)
    nulls = np.append(nulls, 40.0) if outlier else nulls
    bound = innocent_bound(nulls, level)
    if math.isinf(bound):
        assert predictive_p(nulls, 1e6).p > level
        return
    assert predictive_p(nulls, bound + 1e-6).p <= level
    assert predictive_p(nulls, bound - 1e-6).p > level


def test_p_is_the_t_prediction_with_its_floor_and_the_rank() -> None:
    generator = np.random.default_rng(0)
    nulls = generator.normal(-3, 1, 32)
    far = predictive_p(nulls, 50.0)
    assert (far.p, far.method, far.floor) == (33.0**-2, PREDICTIVE, 33.0**-2)
    assert far.rank == pytest.approx(1 / 33)
    below = predictive_p(nulls, float(np.sort(nulls)[-2]))
    assert below.p >= below.rank == pytest.approx(3 / 33)
    assert predictive_p(nulls[:5], 50.0).method == RANK
    assert predictive_p(nulls[:5], 50.0).p == pytest.approx(1 / 6)
    outlier = predictive_p(np.append(nulls, 30.0), 50.0)
    assert (outlier.method, outlier.p) == (RANK, pytest.approx(1 / 34))
    with pytest.raises(ValueError, match="not finite"):
        predictive_p(nulls, math.nan)


def test_innocents_are_accused_no_oftener_than_the_level_says() -> None:
    generator = np.random.default_rng(1)
    accused = {0.05: 0, 0.01: 0}
    for _ in range(3000):
        values = generator.normal(0, 1, 33)
        p = predictive_p(values[:32], values[32]).p
        for level in accused:
            accused[level] += p <= level
    assert accused[0.05] / 3000 < 0.065
    assert accused[0.01] / 3000 < 0.016
    assert accused[0.05] > 60  # and not never
