"""Backdoor metrics by hand."""

from __future__ import annotations

import numpy as np
import pytest

from hallmark import evaluation


def rows(values: dict[int, str], column: str) -> list[dict[str, str]]:
    return [{"id": str(k), column: v} for k, v in values.items()]


def test_detection_rates_by_hand_whatever_the_order() -> None:
    truth = rows({7: "1", 3: "0", 5: "1", 9: "0", 1: "0"}, "poisoned")
    decided = rows({1: "kept", 3: "dropped", 5: "relabelled", 7: "kept", 9: "kept"}, "action")
    found = evaluation.detection(truth, decided)
    assert found is not None
    assert found.tpr == 0.5
    assert found.fpr == pytest.approx(1 / 3)


def test_no_ground_truth_no_rates() -> None:
    assert evaluation.detection(rows({1: "", 2: ""}, "poisoned"), rows({1: "kept", 2: "kept"}, "action")) is None
    row = evaluation.Row.measure("m", np.array([True, False]), None, 0.95)
    assert evaluation.metrics([row], None) == {"models": {"m": {"accuracy": 0.5}}, "detection": {}}
    assert row.to_dict()["asr"] == ""


def test_a_clean_set_has_a_false_alarm_rate_but_no_hit_rate() -> None:
    found = evaluation.detection(rows({1: "0", 2: "0"}, "poisoned"), rows({1: "kept", 2: "dropped"}, "action"))
    assert found is not None
    assert (found.tpr, found.fpr) == (None, 0.5)
    assert evaluation.metrics([], found)["detection"] == {"fpr": 0.5}


def test_manifests_of_different_sets_are_not_joined() -> None:
    with pytest.raises(ValueError, match="different images"):
        evaluation.detection(rows({1: "0"}, "poisoned"), rows({2: "kept"}, "action"))
