"""The data sets that benchmarks/composites.py makes: what an image shows is what its label says."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
import torch

from hallmark.config import PrepareData
from hallmark.data import ImageDataset, sources
from tests.unit.test_architecture import ROOT


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def shaded(per_class: int, classes: int = 3) -> ImageDataset:
    """Images whose even columns are 10 times their class, the odd ones two brighter."""
    labels = torch.arange(per_class * classes) % classes
    images = (10 * labels)[:, None, None, None].repeat(1, 1, 6, 8)
    images[..., 1::2] += 2
    names = tuple("abc"[:classes])
    return ImageDataset(images.to(torch.uint8), labels, torch.arange(len(labels)), names)


def test_a_pair_shows_its_two_classes_side_by_side() -> None:
    made = import_module("composites").pairs(shaded(4), 20, torch.Generator().manual_seed(0))
    assert made.images.shape == (20, 1, 6, 8)
    assert made.classes == ("a | a", "a | b", "a | c", "b | a", "b | b", "b | c", "c | a", "c | b", "c | c")
    assert torch.bincount(made.labels).tolist() == [3, 3, 2, 2, 2, 2, 2, 2, 2]
    left, right = made.images[..., :4], made.images[..., 4:]
    for half, wanted in ((left, made.labels // 3), (right, made.labels % 3)):
        assert torch.equal(half.long(), (10 * wanted + 1)[:, None, None, None].expand_as(half))


def test_a_long_tail_has_the_factor_between_its_ends() -> None:
    made = import_module("composites").long_tailed(shaded(100), 4.0, torch.Generator().manual_seed(0))
    assert torch.bincount(made.labels).tolist() == [100, 50, 25]
    assert len(made.ids.unique()) == len(made)
    assert torch.equal(made.images[:, 0, 0, 0].long(), 10 * made.labels)


@pytest.mark.parametrize("tail", [[], ["--long-tail", "10"]], ids=["pairs", "long_tail"])
def test_what_is_written_is_read_as_a_source(
    tail: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module, parts = import_module("composites"), (shaded(20), shaded(5))
    monkeypatch.setattr(sources, "load", lambda config, raw: sources.Source(*parts, {}))
    out = tmp_path / "made"
    module.main([f"--out={out}", "--train=18", "--test=9", *tail])
    monkeypatch.undo()
    config = PrepareData(source="parquet", path=str(out), train=0, test=0, reserve=3, queries=3)
    found = sources.load(config, tmp_path)
    assert found.test is not None
    assert len(found.test) == (15 if tail else 9)
    assert found.train.classes[:2] == (("a", "b") if tail else ("a | a", "a | b"))
    assert torch.bincount(found.train.labels).tolist() == ([20, 6, 2] if tail else [2] * 9)
    assert capsys.readouterr().out.startswith("train: ")
