"""Backdoor metrics by hand."""

from __future__ import annotations

import numpy as np
import pytest

from hallmark import evaluation
from hallmark.errors import UserError


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


def test_covers_are_neither_hits_nor_mistakes() -> None:
    truth = [
        {"id": "1", "poisoned": "1", "cover": "0"},
        {"id": "2", "poisoned": "0", "cover": "1"},
        {"id": "3", "poisoned": "0", "cover": "0"},
    ]
    found = evaluation.detection(truth, rows({1: "dropped", 2: "dropped", 3: "kept"}, "action"))
    assert found is not None
    assert (found.tpr, found.fpr, found.ids.tolist()) == (1.0, 0.0, [1, 3])


def test_a_clean_set_has_a_false_alarm_rate_but_no_hit_rate() -> None:
    found = evaluation.detection(rows({1: "0", 2: "0"}, "poisoned"), rows({1: "kept", 2: "dropped"}, "action"))
    assert found is not None
    assert (found.tpr, found.fpr) == (None, 0.5)
    assert evaluation.metrics([], found)["detection"] == {"fpr": 0.5}


@pytest.mark.parametrize(
    ("truth", "decided", "message"),
    [
        (rows({1: "0"}, "poisoned"), rows({2: "kept"}, "action"), r"^d\.csv: not the images of t\.csv .*purify_data"),
        (rows({1: ""}, "poisoned"), rows({2: "kept"}, "action"), r"^d\.csv: not the images of t\.csv"),
        (rows({1: "0", 2: ""}, "poisoned"), rows({1: "kept", 2: "kept"}, "action"), r"^t\.csv: poisoned of image 2 is"),
        (rows({1: "x"}, "poisoned"), rows({1: "kept"}, "action"), r"^t\.csv: poisoned of image 1 is 'x'"),
        ([{"id": "9" * 30, "poisoned": "1"}], rows({1: "kept"}, "action"), r"^t\.csv: id '9+' is no whole number"),
        ([{"id": "a", "poisoned": "1"}], rows({1: "kept"}, "action"), r"^t\.csv: id 'a' is no whole number"),
        (rows({1: "0"}, "poisoned"), rows({1: "kept"}, "action") * 2, r"^d\.csv: id 1 comes twice"),
    ],
)
def test_manifests_that_make_no_sense_are_refused_by_name(truth: list, decided: list, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        evaluation.detection(truth, decided, ("t.csv", "d.csv"))
    assert "\n" not in str(caught.value)
