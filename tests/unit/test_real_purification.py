"""Sanitizers with a diffusion model that was really trained, on digits: a backdoor is found, a clean set is left alone.

Elsewhere a stand-in takes the trigger away; here the purifier has learnt from the trusted images alone what digits are.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_contest import PARAMS, call, rows_of

TRAINING = {"epochs": 12, "batch_size": 50, "lr": 0.004}
DIGITS: dict[str, Any] = {
    **PARAMS,
    "runtime": {**PARAMS["runtime"], "seed": 0},
    "prepare_data": {"source": "digits", "train": 1000, "test": 400, "reserve": 300, "queries": 50},
    "train_diffusion": {
        **PARAMS["train_diffusion"],
        "channels": [16, 32],
        "training": {"epochs": 40, "batch_size": 50, "lr": 0.002},
    },
    "purify_data": {
        **PARAMS["purify_data"],
        "architecture": {"name": "cnn9", "width": 8},
        "training": TRAINING,
        "rounds": {"start": 100, "rounds": 2, "sampler": "ddim", "steps": 1},
        "restore": {"confidence": 0.7, "percentile": 0.8},
        "hallmark": {"reserve_training": TRAINING},
        "dataelixir": {"rounds": {"start": 150, "rounds": 5, "sampler": "ddim", "steps": 6, "keep": 1}, "tau": 1},
    },
    "contest": {
        "seeds": [1],
        "ours": "hallmark/restore",
        "attacks": {
            "none": {"attack": "none"},
            "patch": {"attack": "badnets", "rates": [0.1], "params": {"size": 2}},
        },
        "sanitizers": {"hallmark": ["restore"], "dataelixir": ["restore"]},
    },
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, str]]:
    """Of the contest, by attack and sanitizer."""
    folder = tmp_path_factory.mktemp("digits")
    path: Path = folder / "contest.yaml"
    path.write_text(json.dumps(DIGITS), encoding="utf-8")
    call(path, folder / "out")
    return {(row["attack"], row["sanitizer"]): row for row in rows_of(folder / "out")}


def test_ours_finds_the_backdoor_and_nothing_else(rows: dict[tuple[str, str], dict[str, str]]) -> None:
    raw, ours, clean = rows["patch", "none"], rows["patch", "hallmark"], rows["none", "hallmark"]
    assert float(raw["asr"]) >= 0.9  # there is something to find
    assert ours["targets_found"] == raw["target"]
    assert float(ours["tpr"]) >= 0.9
    assert float(ours["fpr"]) <= 0.02
    assert float(ours["asr"]) <= float(ours["floor"]) + 0.03
    assert float(ours["accuracy"]) >= float(ours["clean_accuracy"]) - 0.05  # three standard errors of 400 images
    assert (float(clean["fpr"]), clean["targets_found"]) == (0, "")
    assert float(ours["evaluations_per_image"]) < 5


def test_the_authors_rule_finds_the_target_by_its_own_test(rows: dict[tuple[str, str], dict[str, str]]) -> None:
    """KL and the two-sided MAD test over all ten classes, which toy sets of three cannot show."""
    raw, theirs = rows["patch", "none"], rows["patch", "dataelixir"]
    assert raw["target"] in theirs["targets_found"].split()
    assert float(theirs["tpr"]) >= 0.8
    assert float(theirs["fpr"]) <= 0.3
    assert float(theirs["asr"]) <= 0.5 * float(raw["asr"])
    assert float(theirs["evaluations_per_image"]) >= 30
