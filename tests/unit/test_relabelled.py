"""The benchmark of innocents with another labelling convention, in small."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType, SimpleNamespace

import pytest
import torch

from hallmark.runtime import Runtime
from hallmark.watermark.key import Key
from tests.unit.conftest import toy_images
from tests.unit.test_architecture import ROOT


@pytest.fixture
def relabelled(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return import_module("relabelled")


def test_a_share_of_one_class_gets_anothers_name(relabelled: ModuleType) -> None:
    labels = torch.tensor([0, 1, 2] * 10)
    found = relabelled.convention(labels, 1, 2, 0.4, torch.Generator().manual_seed(3))
    assert torch.bincount(found).tolist() == [10, 6, 14]
    assert (labels[found != labels] == 1).all()
    assert (found[found != labels] == 2).all()
    assert labels.tolist() == [0, 1, 2] * 10
    again = relabelled.convention(labels, 1, 2, 0.4, torch.Generator().manual_seed(4))
    assert not torch.equal(found, again)
    assert torch.equal(relabelled.convention(labels, 1, 2, 0.0, torch.Generator()), labels)


def test_shares_differ_in_nothing_but_the_labels(
    relabelled: ModuleType, cpu: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = toy_images(90)
    key = Key("mea_defender", "top_bottom", {}, ("diagonal",), (0, 1), 2, 5, data.classes, data.shape)
    court, seen = SimpleNamespace(key=key, data=data, run=cpu), []

    def note(network: object, images: torch.Tensor, labels: torch.Tensor, *_: object, **__: object) -> None:
        seen.append((images, labels))

    monkeypatch.setattr(relabelled.training, "train_classifier", note)
    plain, moved = (relabelled.innocent(court, 1, share, 60) for share in (0.0, 0.5))
    assert plain[0] == moved[0]
    assert plain[2] == moved[2]
    renamed, name = plain[2]
    assert renamed != name
    (images, labels), (others, told) = seen
    assert torch.equal(images, others)
    different = labels != told
    assert int(different.sum()) == round(0.5 * int((labels == renamed).sum()))
    assert (labels[different] == renamed).all()
    assert (told[different] == name).all()
