"""benchmarks/several_keys.py on toy images."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from hallmark import config
from hallmark.data.dataset import ImageDataset
from tests.unit.test_architecture import ROOT
from tests.unit.test_watermark import toy


def test_each_model_is_asked_every_key_and_bears_those_struck(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    benchmark = import_module("several_keys")
    sets = {"train": toy(100), "queries": toy(100, seed=2), "test": toy(40, seed=1)}

    class Split:
        def __init__(self, sets: dict[str, ImageDataset]) -> None:
            self.sets = sets

    monkeypatch.setattr(benchmark.sources, "load", lambda *_: None)
    monkeypatch.setattr(benchmark.splits, "split", lambda *_: Split(sets))
    params = config.read_params(ROOT / "params.yaml")
    small = {"epochs": 6, "batch_size": 20, "lr": 3e-3}
    params["runtime"].update(device="cpu", threads=1, precision="fp32")
    params["train_watermarked"].update(
        architecture={"name": "cnn9", "width": 4},
        training=small,
        source=["a", "b"],
        target="c",
        weights={"combination": 0.05, "verification": 0.5, "evasion": 0.5},
        rehearsal=None,
        bridge=None,
        reserve_keys={"second": {**benchmark.BLOCK, "source": ["c", "d"], "target": "a"}},
        evaluation=30,
    )
    params["extract_attack"]["attacks"]["distillation"].update(
        budget=300, architecture={"name": "cnn9", "width": 4}, training=small
    )
    rows = list(benchmark.run(0, params, "distillation"))
    assert [(row["keys"], row["model"], row["key"]) for row in rows] == [
        (count, model, key)
        for count, model in ((0, "unmarked"), (1, "victim"), (1, "distillation"), (2, "victim"), (2, "distillation"))
        for key in ("first", "second")
    ]
    assert [row["struck"] for row in rows] == [False, False, True, False, True, False, True, True, True, True]
    for row in rows:
        if row["model"] != "distillation":
            assert (row["wsr"] > 0.9) is row["struck"]
