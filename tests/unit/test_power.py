"""What a verdict could have found, against simulation and closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from hallmark.config import StopEarly, VerifyOwnership
from hallmark.statistics import Bools
from hallmark.verification import nulls, panel, power, present
from hallmark.verification.answers import OTHER_WAYS, UNMIXED, Answers, Outcomes
from hallmark.verification.decision import decide
from hallmark.verification.sequential import BOUND_SHARE, against_nulls
from tests.unit.conftest import decision_rule

QUERIES, LEVEL = 1000, 0.005
COUNTS = np.array([0, 1, 3, 5, 8, 8, 10, 12, 12, 15, 18, 20, 24, 30, 31, 36, 40, 2, 4, 6, 9, 11, 13, 14, 16])
RULE = decision_rule(decoys=4, judge_seed=0, statistics=["hits"])
EARLY = RULE.model_copy(update={"stop_early": StopEarly(block=50, least=0.2, miss=0.05)})


def test_power_is_the_share_of_suspects_that_are_significant() -> None:
    bound = nulls.innocent_bound(COUNTS, QUERIES, LEVEL)
    rate = bound + 0.005
    hits = np.random.default_rng(0).binomial(QUERIES, rate, size=20_000)
    significant = np.array([nulls.predictive_p(COUNTS, QUERIES, k).p <= LEVEL for k in range(QUERIES + 1)])[hits]
    expected = float(power.significant(rate, bound, QUERIES))
    assert 0.1 < expected < 0.9
    assert float(significant.mean()) == pytest.approx(expected, abs=4 * 0.5 / 20_000**0.5)


def test_the_detectable_rate_is_found_nineteen_times_in_twenty() -> None:
    for bound in (0.0, 0.073, 0.5, 0.998):
        rate = power.detectable_rate(bound, QUERIES)
        assert rate is not None
        assert bound < rate <= 1
        assert float(power.significant(rate, bound, QUERIES)) == pytest.approx(power.FOUND, abs=1e-9)
    # All 1,000 of 1,000 with a chance of 95 %: 0.95 to the power of 1/1000.
    assert power.detectable_rate(0.999, QUERIES) == pytest.approx(0.95**0.001)
    assert power.detectable_rate(1.0, QUERIES) is None


def test_the_rate_that_is_found_by_stopping_as_trials_find_it() -> None:
    bound = nulls.innocent_bound(COUNTS, QUERIES, BOUND_SHARE * LEVEL)

    def is_found(outcomes: Bools, *giving_up: float) -> bool:
        test = against_nulls(COUNTS, QUERIES, LEVEL, *giving_up)
        assert test is not None
        for start in range(0, QUERIES, 25):
            test.update(outcomes[start : start + 25])
            if test.rejected or test.futile:
                break
        return test.rejected

    patient = RULE.model_copy(update={"stop_early": StopEarly(block=50, least=None)})
    for rule, giving_up in ((EARLY, (0.2, 0.05)), (patient, ())):
        rate = power.detectable_by_stopping(bound, LEVEL, rule)
        assert rate is not None
        rng = np.random.default_rng(1)
        found = {less: sum(is_found(rng.random(QUERIES) < rate - less, *giving_up) for _ in range(120))
                 for less in (0.0, 0.015)}  # fmt: skip
        assert stats.binom.ppf(0.001, 120, power.FOUND) <= found[0.0] < 120
        assert found[0.015] < stats.binom.ppf(0.01, 120, power.FOUND)
    # To stop early costs power, and asks for no more than there is.
    whole = power.detectable_rate(nulls.innocent_bound(COUNTS, QUERIES, LEVEL), QUERIES)
    assert whole is not None
    assert power.detectable_by_stopping(bound, LEVEL, patient) > whole  # pyright: ignore[reportOptionalOperand]
    assert power.detectable_by_stopping(1.0, LEVEL, EARLY) is None


def rows(counts: Any, rule: VerifyOwnership, suspects: int = 1) -> list[dict[str, Any]]:
    """Of so many suspects, as the stage has it."""
    names = dict.fromkeys(panel.PANEL_COLUMNS)
    table = [{**names, "hits": k, "runner_up": k, "lean": None} for k in counts]
    never, right = np.zeros(QUERIES, dtype=bool), np.ones(QUERIES, dtype=bool)
    quiet = Answers({"hits": Outcomes(never, {UNMIXED: never, OTHER_WAYS: never})}, right, never)
    models = {str(k): quiet for k in range(suspects)}
    return panel.power_table(table, decide(models, panel.null_counts(table), 1.0, rule, role="suspect"))


def test_a_table_of_rates() -> None:
    table = rows(COUNTS, RULE)
    assert [row["rate"] for row in table] == pytest.approx(np.arange(51) / 50)
    for name in ("power", "stopping_power"):
        values = [row[name] for row in table]
        assert values[0] == pytest.approx(0, abs=1e-12)
        assert values[-1] == pytest.approx(1)
        assert (np.diff(values) >= -1e-12).all()
    asked = [row["stopping_queries"] for row in table]
    assert asked[0] == QUERIES
    assert asked[-1] < 20
    # At the level of one test: no suspect is found more often by stopping than after all questions.
    assert all(row["stopping_power"] <= row["power"] + 0.02 for row in table)
    single = nulls.innocent_bound(COUNTS, QUERIES, 0.01)
    assert [row["power"] for row in table] == pytest.approx(power.significant(np.arange(51) / 50, single, QUERIES))
    # Who may give up does not ask an innocent everything, and finds all the same what is worth finding.
    giving_up = rows(COUNTS, EARLY)
    assert giving_up[0]["stopping_queries"] < 100
    assert giving_up[-1]["stopping_queries"] == pytest.approx(50)  # the first look is after a block
    assert all(row["stopping_power"] >= 0.95 for row in giving_up if row["rate"] >= 0.24)
    # More suspects want more of each; a statistic that they do not tell, here the runner-up, costs nothing.
    six = nulls.innocent_bound(COUNTS, QUERIES, 0.01 / 6)
    both = RULE.model_copy(update={"statistics": ["hits", "runner_up"]})
    for rule in (RULE, both):
        powers = [row["power"] for row in rows(COUNTS, rule, 6)]
        assert powers == pytest.approx(power.significant(np.arange(51) / 50, six, QUERIES))
        assert sum(powers) < sum(row["power"] for row in table)
    present.power_figure(table, QUERIES)


def test_null_models_that_can_show_nothing_have_no_power() -> None:
    table = rows(COUNTS[:9], RULE)
    assert {row["power"] for row in table} == {0.0}
    assert {row["stopping_power"] for row in table} == {row["stopping_queries"] for row in table} == {None}
    figure = present.power_figure(table, QUERIES)
    assert all(np.nan_to_num(line.get_ydata()).max() == 0 for line in figure.axes[0].lines)


def test_binomial_at_the_ends() -> None:
    assert power.significant([0.0, 1.0], 0.5, 10).tolist() == [0.0, 1.0]
    assert float(power.significant(0.5, 0.5, 2)) == pytest.approx(float(stats.binom.pmf(2, 2, 0.5)))
