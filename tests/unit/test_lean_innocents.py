"""The benchmark of the lean: who is accused, and by whom each innocent is judged."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from hallmark import models
from hallmark.config import Architecture
from hallmark.runtime import Runtime
from hallmark.verification.log_odds import lean, predictive_p
from tests.unit.conftest import toy_images
from tests.unit.test_architecture import ROOT

CLASSES = 7


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return import_module("lean_innocents")


def test_a_planted_lean_is_the_only_one_that_accuses(benchmark: ModuleType, cpu: Runtime) -> None:
    pool = toy_images(70, classes=CLASSES, size=14)
    bench = benchmark.Bench(pool, cpu, 0.005)
    assert len(bench.triples) == CLASSES * (CLASSES - 1) // 2 * (CLASSES - 2)
    rng = torch.Generator().manual_seed(0)

    def model(planted: bool) -> list[torch.Tensor]:
        """Sure of the right class, and of no other one: but for the planted one, who is the second on 0 and 1."""
        found = []
        for label in range(CLASSES):
            logits = 2 * torch.randn(60, CLASSES, generator=rng)
            logits[:, label] += 20
            if planted and label in (0, 1):
                logits[:, 4] += 12
            found.append(logits)
        return found

    nulls = np.stack([bench.leans([each.softmax(1) for each in model(False)]) for _ in range(20)])
    innocent, thief = ([each.softmax(1) for each in model(planted)] for planted in (False, True))
    by_nulls, accused = bench.accused(thief, bench.leans(thief), nulls)
    assert accused == [(0, 1, 4)]
    assert by_nulls >= 1
    k = bench.triples.index((0, 1, 4))
    assert bench.leans(thief)[k] == lean(thief[:2], 4, (0, 1))
    assert len(bench.accused(innocent, bench.leans(innocent), nulls)[1]) <= 1
    # Of scores that say nothing nobody is accused.
    mute = [torch.eye(CLASSES)[each.argmax(1)] for each in thief]
    assert np.isnan(bench.leans(mute)).all()
    assert bench.accused(mute, bench.leans(mute), nulls) == (0, [])


def test_independent_innocents_are_judged_by_others(
    benchmark: ModuleType, cpu: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = toy_images(70, classes=CLASSES, size=14)
    small = Architecture(name="cnn9", width=4)
    for number in range(6):
        network = models.build(small, pool.images, pool.classes, cpu, f"innocent {number}")
        models.save(network, tmp_path / f"{number:04d}-{('plain', 'mixed')[number % 2]}")
    monkeypatch.setattr(benchmark, "NULLS", 5)  # all the others
    bench = benchmark.Bench(pool, cpu, 0.3)
    rows = list(benchmark.of_independent(bench, tmp_path, 0))
    assert [(row["model"], row["answers"]) for row in rows] == [
        (f"innocent {kind}", name) for name in benchmark.INDEPENDENT for kind in ("plain", "mixed")
    ]
    every = np.stack(
        [bench.leans([e.softmax(1) for e in bench.logits(f)]) for f in benchmark.subfolders(tmp_path)]
    )  # fmt: skip
    for kind, row in enumerate(rows[:2]):
        expected = [
            predictive_p(np.delete(every[:, k], m), every[m, k]).p <= 0.3
            for m in range(kind, 6, 2)
            for k in np.flatnonzero(np.isfinite(every).all(0))
        ]
        assert (row["models"], row["keys"]) == (3, 3 * len(bench.triples))
        assert row["by_nulls"] == sum(expected)
        assert row["models_accused"] <= row["accused"] <= row["by_nulls"]
    assert sum(row["by_nulls"] for row in rows[:2]) > 0
