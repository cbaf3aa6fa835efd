"""DataElixir's rule by hand: five images whose states, and what two models call them, are written down."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor

from hallmark.config import Rounds, Training
from hallmark.data.dataset import ImageDataset
from hallmark.diffusion import model as diffusion
from hallmark.errors import UserError
from hallmark.models import Network
from hallmark.purify import pictures, relabel, repair, targets
from hallmark.purify.methods import dataelixir
from hallmark.purify.purifier import Purifier
from hallmark.purify.result import KEPT, PURIFIED, RELABELLED, Material
from hallmark.runtime import Runtime
from hallmark.training import no_callback
from tests.unit.test_purify import SECTION, SHAPE

TARGET = 1
ROUNDS = Rounds(start=100, rounds=2, sampler="ancestral", steps=5, keep=5)
SUSPECT = [
    [1] * 10,  # unanimous
    [0] * 10,  # agree: replaced
    [0] * 6 + [2] * 4,  # the second label is seldom: the majority's alone count, and agree
    [0] * 5 + [2] * 5,  # disagree: suspicious, and the benign model says 0 as the majority does
    [0] * 5 + [2] * 5,  # suspicious, and the benign model says 2
    [2] * 10,  # changes, but bears no target's label
]
"""What the suspect model calls the ten states of each image."""
BENIGN = [[1] * 11, [0] * 11, [0] * 11, [0] + [0, 2] * 5, [2] + [2, 0, 0, 0, 0] * 2, [0] * 11]
"""What the benign model calls each image and its states."""
GIVEN = torch.tensor([1, 1, 1, 1, 1, 0])
LABEL, OPINION, DISTANCE = 0, 1, 2
"""Pixels of the first row that tell what the models say, and how far a state is from the raw image."""


class Scripted(Purifier):
    """Gives the states that are written down: the k-th is k away from the raw image."""

    def _purify(self, raw: Tensor, index: Tensor, purpose: str) -> Tensor:
        states = raw[:, None].repeat(1, 10, 1, 1, 1)
        states[..., 0, 0, LABEL] = torch.tensor(SUSPECT, dtype=torch.uint8)[index]
        states[..., 0, 0, OPINION] = torch.tensor(BENIGN, dtype=torch.uint8)[index, 1:]
        states[..., 0, 0, DISTANCE] = torch.arange(1, 11, dtype=torch.uint8)
        return states


class Told(Material):
    """Trains nothing and keeps what would have been trained on."""

    def train(self, name: str, images: Tensor, labels: Tensor) -> Network:
        TRAINED.append((name, images, labels, self.training))
        return cast(Network, "benign")

    def tune(self, network: Network, name: str, images: Tensor, labels: Tensor, training: Training) -> None:
        assert network == "benign"
        TRAINED.append((name, images, labels, training))


TRAINED = list[tuple[str, Tensor, Tensor, Training]]()


@pytest.fixture
def material(cpu: Runtime, monkeypatch: pytest.MonkeyPatch) -> Material:
    def called(network: object, candidates: Tensor, runtime: Runtime) -> Tensor:
        return candidates[..., 0, 0, OPINION if network == "benign" else LABEL].long()

    def away(raw: Tensor, candidates: Tensor, network: object, runtime: Runtime) -> Tensor:
        assert network == "suspect"
        return candidates[..., 0, 0, DISTANCE].float()

    def told(*arguments: Any) -> targets.TargetScores:
        return targets.TargetScores(torch.zeros(3).double(), (TARGET,))

    for module in (dataelixir, relabel):
        monkeypatch.setattr(module, "predict_candidates", called)
        monkeypatch.setattr(module, "distances", away)
    monkeypatch.setattr(dataelixir, "mad_outliers", told)
    monkeypatch.setattr(dataelixir, "weights", lambda **networks: {})
    images = torch.full((6, *SHAPE), 9, dtype=torch.uint8)
    images[..., 0, DISTANCE] = 0
    images[:, 0, 0, LABEL] = GIVEN.byte()
    images[:, 0, 0, OPINION] = torch.tensor([row[0] for row in BENIGN]).byte()
    data = ImageDataset(images, GIVEN, torch.arange(6), ("a", "b", "c"))
    purifier = Scripted(diffusion.new(SHAPE, (8,), 1, 2, 150), SECTION.rounds, cpu)
    TRAINED.clear()
    suspect = cast(Network, "suspect")
    return Told(data, data, purifier, suspect, SECTION.architecture, SECTION.training, cpu, lambda _: no_callback)


def test_every_image_gets_the_label_and_the_state_that_the_seven_steps_give_it(material: Material) -> None:
    findings = dataelixir.detect(material, dataelixir.Params(rounds=ROUNDS))
    result = repair.repair(material, findings, "restore", SECTION.restore)
    assert result.labels.tolist() == [1, 0, 0, 0, 2, 0]
    assert result.actions.tolist() == [KEPT, *[RELABELLED] * 4, KEPT]
    # The 80th percentile: of eleven the ninth, the raw image the first; of the raw image and six the sixth; of the raw
    # image and five that the benign model calls 0 (the first, third ... ninth state) the fifth; of the raw image and
    # two that it calls 2 (the first and the sixth) the last.
    assert result.images[:, 0, 0, DISTANCE].tolist() == [0, 8, 5, 7, 6, 0]
    assert findings.metrics["suspicious"] == 2
    assert findings.metrics["consensus_confirmed"] == 1
    assert findings.scores.tolist() == pytest.approx([0, 1, 1, 1, 1, 1])


def test_the_benign_model_sees_no_suspicious_image_but_those_it_confirms(material: Material) -> None:
    result = repair.repair(
        material, dataelixir.detect(material, dataelixir.Params(rounds=ROUNDS)), "restore", SECTION.restore
    )
    (first, images, labels, _), (second, more, more_labels, training) = TRAINED
    assert (first, second) == ("benign", "benign_consensus")
    assert torch.equal(images, result.images[[0, 1, 2, 5]])
    assert labels.tolist() == [1, 0, 0, 0]
    assert torch.equal(more, torch.cat([images, result.images[[3]]]))
    assert more_labels.tolist() == [1, 0, 0, 0, 0]
    assert training.lr == pytest.approx(0.2 * SECTION.training.lr)


def test_an_image_that_changes_under_its_old_label_is_purified(
    material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.SUSPECT", [*SUSPECT[:1], [1] * 5 + [0] * 5, *SUSPECT[2:]])
    monkeypatch.setattr(f"{__name__}.BENIGN", [*BENIGN[:1], [1] * 11, *BENIGN[2:]])
    material.data.images[1, 0, 0, OPINION] = 1
    findings = dataelixir.detect(material, dataelixir.Params(rounds=ROUNDS))
    result = repair.repair(material, findings, "restore", SECTION.restore)
    assert result.labels[1] == 1
    assert result.actions[1] == PURIFIED


def test_with_nothing_left_to_trust_there_is_no_benign_model(material: Material) -> None:
    nothing = torch.zeros(6, dtype=torch.bool)
    with pytest.raises(UserError, match="6 of 6 images are suspicious"):
        relabel.train_benign(material, material.data.images, material.data.labels, nothing)


def test_the_picture_shows_the_end_of_each_of_its_own_rounds(
    material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = dict[str, Tensor]()
    monkeypatch.setattr(pictures.plots, "image_grid", lambda rows, title, captions: shown.update(rows))
    findings = dataelixir.detect(material, dataelixir.Params(rounds=ROUNDS))
    pictures.rounds(repair.repair(material, findings, "restore", SECTION.restore), material)
    assert list(shown) == ["as received", "round 1", "round 2", "in the purified set"]
    assert [int(shown[name][0, 0, 0, DISTANCE]) for name in shown] == [0, 5, 10, 8]
