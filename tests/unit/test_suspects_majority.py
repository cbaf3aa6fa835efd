"""A suspect whose answers are chance: several rounds, their commonest label, their mean probabilities, their price."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from hallmark import suspects
from hallmark.data.dataset import ImageDataset
from hallmark.errors import UserError
from hallmark.runtime import Runtime
from hallmark.suspects import Answer, Top
from hallmark.suspects.majority import TOGETHER, vote
from tests.unit import serving
from tests.unit.serving import Server
from tests.unit.test_suspects_http import LABELS, band


def answers(*labels: list[int]) -> list[Answer]:
    return [Answer(torch.tensor(each)) for each in labels]


def test_the_commonest_label() -> None:
    found = vote(answers([0, 1, 2, -1, 0], [0, 2, 1, -1, 0], [1, 2, 0, 0, 2]))
    assert found.labels.tolist() == [0, 2, -1, -1, 0]  # of three different ones none
    assert found.probabilities is None


def test_no_class_is_favoured_by_its_number() -> None:
    """Three rounds of 55 % one class, 25 % another, 20 % a third: each is called as often whatever its number."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.multinomial(torch.tensor([0.55, 0.25, 0.2]), 3 * 20_000, replacement=True, generator=generator)
    rates = []
    for names in ([4, 5, 0], [4, 5, 9], [0, 1, 2]):
        labels = torch.tensor(names)[drawn].view(3, -1)
        found = vote([Answer(row) for row in labels]).labels
        rates.append(float((found == names[2]).float().mean()))
    assert rates == [rates[0]] * 3
    assert rates[0] == pytest.approx(0.2**3 + 3 * 0.2**2 * 0.8, abs=0.01)


def test_the_mean_of_probabilities_that_all_rounds_have() -> None:
    rows = [torch.tensor([[0.8, 0.2]]), torch.tensor([[0.4, 0.6]])]
    rounds = [Answer(row.argmax(1), row) for row in rows]
    assert vote(rounds).probabilities == pytest.approx(torch.tensor([[0.6, 0.4]]))
    assert vote(rounds).labels.tolist() == [-1]  # one round each
    assert vote([*rounds, *answers([0])]).probabilities is None
    best = Answer(torch.tensor([0]), None, Top(torch.tensor([[0]]), torch.tensor([[0.9]])))
    assert vote([best, best]).top is None


@pytest.fixture
def moody(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that gives another class than its own to three images of ten, by chance."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    generator = torch.Generator().manual_seed(0)

    def tossed(body: dict[str, Any]) -> dict[str, Any]:
        labels = torch.tensor(band(body)["labels"])
        moved = torch.rand(len(labels), generator=generator) < 0.3
        return {"labels": torch.where(moved, (labels + 1) % 3, labels).tolist()}

    with serving.serving(tossed) as running:
        yield running


def test_a_service_that_tosses_coins(moody: Server, toy: ImageDataset, cpu: Runtime) -> None:
    def asked(times: int, **extra: Any) -> suspects.Suspect:
        block = {"kind": "http", "url": moody.url, **LABELS, "batch": 90, "times": times, **extra}
        return suspects.build("thief", block, toy.classes, toy.shape, cpu)

    generator = torch.Generator().manual_seed(1)
    once, often = (suspects.ask_twice(asked(times), toy.images, 1.0, generator) for times in (1, 41))
    assert once[1].share > 0.3
    assert often[1].share == 0
    assert torch.equal(often[0].labels, toy.labels)
    suspect = asked(5)
    suspect.predict(toy.images)
    assert suspect.budget is not None
    assert suspect.budget.used == 5 * 90
    assert suspect.describe()["times"] == 5
    with pytest.raises(UserError, match="450 images to send, 449"):
        asked(5, budget=449).predict(toy.images)
    assert suspect.budget.used == 5 * 90  # nothing was sent that could not be paid for to the end


def test_rounds_are_of_some_images_at_a_time() -> None:
    class Counted(suspects.Suspect):
        def __init__(self) -> None:
            self.batches: list[int] = []

        def describe(self) -> dict[str, Any]:
            return {}

        def ask(self, images: torch.Tensor, arrived: Any) -> None:
            self.batches.append(len(images))
            arrived(0, Answer(images[:, 0, 0, 0].long()))

    counted, images = Counted(), torch.arange(TOGETHER + 5).remainder(200).byte().reshape(-1, 1, 1, 1)
    found = suspects.Majority(counted, 3).scores(images)
    assert counted.batches == [TOGETHER] * 3 + [5] * 3
    assert torch.equal(found.labels, images[:, 0, 0, 0].long())
