"""What a thief is told, hides and asks about: the forms of answers, hidden classes, other data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from hallmark import models
from hallmark.data.dataset import ImageDataset
from hallmark.errors import UserError
from hallmark.extraction import Answers, Oracle, Thief, attack_params, oracle, transfer
from hallmark.extraction.thief import distillation_loss
from hallmark.innocents import Innocents, StolenControl
from hallmark.runtime import Runtime
from hallmark.training import no_callback

BASE: dict[str, Any] = {
    "budget": 60,
    "architecture": {"name": "cnn9", "width": 4},
    "training": {"epochs": 2, "batch_size": 20, "lr": 0.003},
}
OWN: dict[str, dict[str, Any]] = {
    "distillation": {"temperature": 1.0},
    "jacobian": {"seeds": 20, "rounds": 2, "step": 0.1, "round_epochs": 1},
    "knockoff": {"policy": "adaptive", "rewards": ["certainty", "diversity", "loss"], "step": 15},
    "dfme": {"training": {"epochs": 1, "batch_size": 4, "lr": 0.003}, "latent": 8, "width": 4, "step": 5.0},
}
FORMS: list[Any] = ["soft", {"form": "top_k", "k": 2}, {"form": "rounded", "digits": 1}, "labels"]
CLASSES = tuple("abcd")


def toy(count: int = 80) -> ImageDataset:
    """Four classes of different brightness."""
    labels = torch.arange(count) % 4
    noise = torch.randint(0, 30, (count, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    return ImageDataset((labels[:, None, None, None] * 60 + noise).byte(), labels, torch.arange(count), CLASSES)


def by_brightness(images: Tensor) -> Tensor:
    centre = torch.arange(4) * 60 / 255 + 15 / 255
    return (-((images.mean((1, 2, 3))[:, None] - centre) ** 2) * 30).softmax(1)


def rows(count: int = 200, classes: int = 6) -> Tensor:
    return (3 * torch.randn(count, classes, generator=torch.Generator().manual_seed(2))).softmax(1)


def stolen(cpu: Runtime, query: Any, block: dict[str, Any], data: ImageDataset | None = None) -> models.Network:
    module, params = attack_params({**BASE, **block}, "p")
    thief = Thief(data or toy(), cpu, "extract/x", classes=CLASSES)
    return module.steal(params.oracle(query, CLASSES, "p"), thief, params)


# --- the forms, by hand ---


def test_top_k_by_hand() -> None:
    row = torch.tensor([[0.15, 0.5, 0.05, 0.3]])
    assert oracle.top_k(row, 2, spread=True)[0].tolist() == pytest.approx([0.1, 0.5, 0.1, 0.3])
    assert oracle.top_k(row, 2, spread=False)[0].tolist() == pytest.approx([0, 0.625, 0, 0.375])
    assert oracle.top_k(row, 4, spread=True)[0].tolist() == pytest.approx(row[0].tolist())
    assert oracle.top_k(row, 1, spread=False)[0].tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("spread", [True, False])
@pytest.mark.parametrize("value", [0.0, 0.25])
def test_the_best_of_equals_are_none(value: float, spread: bool) -> None:
    assert oracle.top_k(torch.full((1, 4), value), 2, spread=spread).tolist() == [[0.25] * 4]


@pytest.mark.parametrize("answers", ["soft", "labels", {"form": "top_k", "k": 2, "rest": "renormalised"}])
def test_an_image_that_a_service_calls_none_of_the_classes_teaches_nothing(answers: object) -> None:
    told = torch.tensor([[0.25] * 4, [0.1, 0.6, 0.3, 0.0]])
    _, params = attack_params({**BASE, "method": "distillation", "temperature": 1.0, "answers": answers}, "p")
    asked = params.oracle(lambda images: told, CLASSES, "p")(torch.zeros(2, 1, 8, 8))
    assert asked[0].tolist() == [0.25] * 4
    assert asked[1].argmax() == 1


def test_top_k_of_a_service_that_knows_other_classes() -> None:
    """Mass that went to none of ours does not go to classes that were not told."""
    told = torch.tensor([[0.05, 0.05, 0.0, 0.0], [0.02, 0.01, 0.03, 0.0], [0.0, 0.0, 0.0, 0.0]])
    found = oracle.top_k(told, 2, spread=True)
    assert found[0].tolist() == pytest.approx([0.5, 0.5, 0, 0])
    assert found[1].tolist() == pytest.approx([1 / 3, 1 / 12, 1 / 2, 1 / 12])
    assert found[2].tolist() == [0.25] * 4
    assert oracle.top_k(told, 2, spread=False)[1].tolist() == pytest.approx([0.4, 0, 0.6, 0])
    crowded = torch.tensor([[0.4, 0.3, 0.2, 0.1]])
    assert oracle.top_k(crowded, 1, spread=True)[0].tolist() == pytest.approx([0.4, 0.2, 0.2, 0.2])


def test_rounded_by_hand() -> None:
    found = oracle.rounded(torch.tensor([[0.664, 0.333, 0.003], [0.46, 0.46, 0.08]]), 1)
    assert found[0].tolist() == pytest.approx([0.7, 0.3, 0])
    assert found[1].tolist() == pytest.approx([0.5 / 1.1, 0.5 / 1.1, 0.1 / 1.1])
    assert oracle.rounded(torch.full((1, 100), 0.01), 1)[0].tolist() == pytest.approx([0.01] * 100)


def test_labels_by_hand() -> None:
    assert oracle.one_hot(torch.tensor([2, 0]), 3).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert oracle.one_hot(torch.tensor([-1]), 4)[0].tolist() == [0.25] * 4


def test_hidden_classes_by_hand() -> None:
    answers = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.0, 1.0, 0.0]])
    found = oracle.without(answers, [1], first=True)
    assert found.flatten().tolist() == pytest.approx([6 / 7, 0, 1 / 7, 2 / 3, 0, 1 / 3, 0.5, 0, 0.5])
    kept = oracle.without(answers, [1], first=False)
    assert torch.equal(kept[1:], answers[1:])
    assert torch.equal(kept[0], found[0])


@pytest.mark.parametrize("form", [*FORMS, {"form": "top_k", "k": 3, "rest": "renormalised"}])
def test_every_form_is_a_distribution_with_the_same_first_choice(form: Any) -> None:
    _, params = attack_params({"method": "distillation", **BASE, "temperature": 1.0, "answers": form}, "p")
    given = rows()
    told = params.answers.of(given)
    assert told.dtype == torch.float32
    assert torch.allclose(told.sum(1), torch.ones(len(given)), atol=1e-6)
    assert float(told.min()) >= 0
    first = given.argmax(1)
    # Rounding may make two classes equal; the first choice is among the largest even then.
    assert torch.equal(told.gather(1, first[:, None])[:, 0], told.max(1).values)
    changed = not torch.allclose(told, given, atol=1e-3)
    assert changed == (form != "soft")


def test_soft_answers_without_hiding_are_the_victims_own() -> None:
    _, params = attack_params({"method": "distillation", **BASE, "temperature": 7.0}, "p")
    assert params.oracle(by_brightness, CLASSES, "p")._query is by_brightness  # pyright: ignore[reportPrivateUsage]
    assert (params.answers, params.images, params.hide) == (Answers(), None, [])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answers": "loud"}, r"p\.answers\.form"),
        ({"answers": "top_k"}, r"p\.answers: k: missing; the form top_k wants it"),
        ({"answers": {"form": "rounded"}}, r"p\.answers: digits: missing"),
        ({"answers": {"form": "labels", "k": 2}}, r"p\.answers: k: belongs to the form top_k, not to labels"),
        ({"answers": {"form": "rounded", "digits": 2, "rest": "spread"}}, r"rest: belongs to the form top_k"),
        ({"answers": "labels", "temperature": 7.0}, "temperature: a label has no softness .* set it to 1"),
        ({"hide_first": False}, "hide_first: hides nothing without hide"),
        ({"images": "mine"}, r"p\.images: wants queries, or a block with a source"),
        ({"images": {"path": "x"}}, r"p\.images\.source"),
    ],
)
def test_bad_answers_and_images_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        attack_params({"method": "distillation", **BASE, "temperature": 1.0, **changes}, "p")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answers": {"form": "top_k", "k": 5}}, r"p\.answers\.k: 5 exceeds the victim's 4 classes"),
        ({"hide": ["e"]}, r"p\.hide: the victim has no class 'e'; it has a, b, c, d"),
        ({"hide": [4]}, r"p\.hide: the victim has no class 4"),
        ({"hide": [0, "b", 2]}, r"p\.hide: leaves fewer than two of 4 classes"),
    ],
)
def test_what_does_not_fit_the_victim_is_refused(changes: dict[str, Any], message: str) -> None:
    _, params = attack_params({"method": "distillation", **BASE, "temperature": 1.0, **changes}, "p")
    with pytest.raises(UserError, match=message):
        params.oracle(by_brightness, CLASSES, "p")


def test_a_knockoff_steered_by_certainty_alone_refuses_labels() -> None:
    block = {"method": "knockoff", **BASE, **OWN["knockoff"], "answers": "labels", "rewards": ["certainty"]}
    with pytest.raises(UserError, match="rewards: every label is certain"):
        attack_params(block, "p")
    attack_params({**block, "rewards": ["certainty", "loss"]}, "p")


def test_fitting_a_label_at_temperature_one_is_cross_entropy() -> None:
    logits, labels = torch.randn(30, 5, generator=torch.Generator().manual_seed(1)) * 3, torch.arange(30) % 5
    found = distillation_loss(logits, oracle.one_hot(labels, 5), 1.0)
    assert float(found) == pytest.approx(float(F.cross_entropy(logits, labels)), abs=2e-5)


# --- the attacks see no more than the form ---


@pytest.mark.parametrize("form", FORMS[1:], ids=["top_k", "rounded", "labels"])
@pytest.mark.parametrize("name", OWN)
def test_attacks_learn_from_the_form_alone(name: str, form: Any, cpu: Runtime) -> None:
    def discreet(images: Tensor) -> Tensor:
        """Another victim, of which the form says the same."""
        if form == {"form": "rounded", "digits": 1}:
            return by_brightness(images).round(decimals=1)  # not scaled to 1 again: that would round otherwise
        return Answers.model_validate({"form": form} if form == "labels" else form).of(by_brightness(images))

    block = {"method": name, **OWN[name], "answers": form}
    if form == "labels":
        block.pop("step" if name == "dfme" else "", None)  # says nothing then
    one, other = (stolen(cpu, query, block) for query in (by_brightness, discreet))
    soft = stolen(cpu, by_brightness, {"method": name, **OWN[name]})
    images = toy().images
    assert torch.allclose(models.logits(one, images, cpu), models.logits(other, images, cpu), atol=1e-3)
    assert not torch.allclose(models.logits(one, images, cpu), models.logits(soft, images, cpu), atol=1e-2)


def test_a_hidden_class_is_never_learnt_unless_it_is_kept_as_first_choice(cpu: Runtime) -> None:
    training = {**BASE["training"], "epochs": 40}
    block = {"method": "distillation", "temperature": 1.0, "training": training, "hide": ["c"]}
    labels = toy().labels
    for first, expected in ((True, 0), (False, 20)):
        copy = stolen(cpu, by_brightness, block | ({} if first else {"hide_first": False}))
        named = models.logits(copy, toy().images, cpu).argmax(1) == 2
        assert int(named.sum()) == pytest.approx(expected, abs=2 if expected else 0)
        assert int((named & (labels == 2)).sum()) >= expected - 2


def test_hiding_as_runner_up_changes_other_answers_only() -> None:
    query = oracle.hiding(by_brightness, [2], first=False)
    images = toy().images.float() / 255
    told, given = query(images), by_brightness(images)
    ours = given.argmax(1) == 2
    assert torch.equal(told[ours], given[ours])
    assert float(told[~ours, 2].max()) == 0
    assert float(given[~ours, 2].max()) > 0.05


@pytest.mark.parametrize("name", models.registry.names())
def test_any_architecture_steals(name: str, cpu: Runtime) -> None:
    data = toy(40)
    large = ImageDataset(data.images.repeat(1, 1, 2, 2), data.labels, data.ids, data.classes)
    block = {"method": "distillation", "temperature": 1.0, "architecture": {"name": name, "width": 8}, "budget": 40}
    copy = stolen(cpu, by_brightness, {**block, "training": {**BASE["training"], "epochs": 1}}, large)
    assert copy.spec.architecture.name == name
    assert torch.isfinite(models.logits(copy, large.images, cpu)).all()


# --- other data sets ---


def test_another_data_set_is_made_the_victims_size_and_kind(tmp_path: Path, cpu: Runtime) -> None:
    block = transfer.TransferSet(source="digits")
    own, digest = transfer.load(block, (3, 12, 10), tmp_path, "p")
    plain, again = transfer.load(block, (1, 8, 8), tmp_path, "p")
    assert own.shape == (3, 12, 10)
    assert len(own) == 1797
    assert own.classes == tuple("0123456789")
    assert digest == again
    assert torch.equal(own.images[:, 0], own.images[:, 2])
    # Resampling keeps an image's mean brightness, and none became another.
    means = [data.images.float().mean((1, 2, 3)) for data in (own, plain)]
    assert torch.corrcoef(torch.stack(means))[0, 1] > 0.98


def test_colour_pictures_become_grey_by_luma(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (20, 14), (200, 100, 50)).save(tmp_path / name / "x.png")
    own, _ = transfer.load(transfer.TransferSet(source="image_folder", path=str(tmp_path)), (1, 8, 8), tmp_path, "p")
    assert own.images.shape == (2, 1, 8, 8)
    assert set(own.images.flatten().tolist()) <= {124, 125}  # 0.299 x 200 + 0.587 x 100 + 0.114 x 50 = 124.2


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"source": "nowhere"}, r"unknown p\.images\.source 'nowhere'"),
        ({"source": "parquet"}, r"^p\.images\.path: source 'parquet' wants the place of the images"),
        ({"source": "image_folder", "path": "/no/such"}, r"^p\.images\.path: /no/such: no such file or folder"),
        ({"source": "digits", "path": "x"}, r"^p\.images\.path: source 'digits' does not read it"),
    ],
)
def test_a_bad_set_is_named_by_the_attacks_own_block(block: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        transfer.load(transfer.TransferSet(**block), (1, 8, 8), tmp_path, "p")


@pytest.mark.parametrize("name", ["distillation", "knockoff"])
def test_the_copy_of_foreign_images_has_the_victims_classes(name: str, tmp_path: Path, cpu: Runtime) -> None:
    foreign, _ = transfer.load(transfer.TransferSet(source="digits"), (1, 8, 8), tmp_path, "p")
    copy = stolen(cpu, by_brightness, {"method": name, **OWN[name], "images": {"source": "digits"}}, foreign)
    assert copy.spec.classes == CLASSES
    assert models.logits(copy, toy().images, cpu).shape == (80, 4)


def test_a_budget_beyond_a_foreign_set_is_refused(tmp_path: Path, cpu: Runtime) -> None:
    foreign, _ = transfer.load(transfer.TransferSet(source="digits"), (1, 8, 8), tmp_path, "p")
    with pytest.raises(UserError, match=r"budget: 1,798 exceeds the query set of 1,797 images; .*another data set"):
        stolen(cpu, by_brightness, {"method": "distillation", "temperature": 1.0, "budget": 1798}, foreign)


# --- innocent thieves ---


def test_innocent_thieves_take_the_same_forms_and_no_other_images(cpu: Runtime) -> None:
    twin = stolen(cpu, by_brightness, {"method": "distillation", "temperature": 1.0})
    innocents = Innocents(toy(), toy(), twin, cpu)
    attack = {"method": "distillation", **BASE, "temperature": 1.0}

    def train(**changes: Any) -> Tensor:
        block = StolenControl.model_validate({"kind": "stolen", "attack": {**attack, **changes}})
        network = innocents.train(block, innocents.images(block), "x", no_callback, "p")
        return models.logits(network, toy().images, cpu)

    assert not torch.equal(train(), train(answers="labels"))
    with pytest.raises(UserError, match=r"p\.attack\.images: an innocent thief asks the queries split"):
        train(images={"source": "digits"})


def test_oracles_take_float_images_as_they_are() -> None:
    seen: list[Tensor] = []
    fine = torch.full((2, 1, 8, 8), 0.12345)
    black_box = Oracle(lambda images: (seen.append(images), torch.full((2, 4), 0.25))[1], 4)
    black_box(fine)
    black_box(toy(2).images)
    assert torch.equal(seen[0], fine)
    assert torch.equal(seen[1], toy(2).images.float() / 255)
    assert black_box.left == 0
