"""The score statistic: by hand, and its chance among innocents."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hallmark.verification.log_odds import LEAST, predictive_p, raised_target, target_log_odds
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


def test_the_statistic_is_the_mean_of_its_two_halves() -> None:
    queries, unmixed = torch.rand(5, 6).softmax(1), torch.rand(9, 6).softmax(1)
    halves = [float(target_log_odds(part, 2, [0, 4]).mean()) for part in (queries, unmixed)]
    assert raised_target(queries, unmixed, 2, [0, 4]) == pytest.approx(sum(halves) / 2)
    with pytest.raises(ValueError, match="no images"):
        raised_target(queries, unmixed[:0], 2, [0, 4])


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
