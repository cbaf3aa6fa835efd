"""An encoder as a suspect: the judge's probe, every kind of file, files and blocks that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hallmark import labelled, models, suspects
from hallmark.config import Architecture
from hallmark.data.dataset import ImageDataset
from hallmark.errors import UserError
from hallmark.models import Network
from hallmark.runtime import Runtime
from tests.unit.conftest import toy_images
from tests.unit.test_suspects_kinds import write_onnx, write_script


class Trunk(nn.Module):
    """A network's features as a module of their own, as an encoder's file holds them."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.features(images)


@pytest.fixture
def network(cpu: Runtime, toy: ImageDataset) -> Network:
    return models.build(Architecture(name="cnn9", width=8), toy.images, toy.classes, cpu, "x").eval()


@pytest.fixture
def block(network: Network, toy: ImageDataset, tmp_path: Path) -> dict[str, Any]:
    models.save(network, tmp_path / "model")
    toy.save(tmp_path / "labelled.safetensors")
    inner = {"kind": "safetensors", "path": str(tmp_path / "model")}
    return {"kind": "encoder", "encoder": inner, "images": str(tmp_path / "labelled.safetensors")}


def build(block: dict[str, Any], data: ImageDataset, cpu: Runtime) -> suspects.Suspect:
    return suspects.build("s", block, data.classes, data.shape, cpu)


def test_the_judges_probe_makes_an_untrained_encoder_a_classifier(
    cpu: Runtime, toy: ImageDataset, block: dict[str, Any]
) -> None:
    fresh = toy_images(60, seed=1)  # the class is told by a bright band, which random features keep
    suspect = build(block, toy, cpu)
    answer = suspect.scores(fresh.images)
    assert float((answer.labels == fresh.labels).float().mean()) > 0.9
    assert answer.probabilities is not None and answer.probabilities.shape == (60, 3)
    again = build(block, toy, cpu).scores(fresh.images)
    assert again.probabilities is not None and torch.equal(answer.probabilities, again.probabilities)
    described = suspect.describe()
    assert described["kind"] == "encoder" and described["images"]["count"] == 90
    assert set(described["encoder"]["sha256"]) == {"model.safetensors", "model.json"}


def test_wrong_labels_of_the_judge_give_a_wrong_probe(cpu: Runtime, toy: ImageDataset, block: dict[str, Any]) -> None:
    shuffled = ImageDataset(toy.images, (toy.labels + 1) % 3, toy.ids, toy.classes)
    shuffled.save(Path(block["images"]))
    fresh = toy_images(60, seed=1)
    labels = build(block, toy, cpu).predict(fresh.images)
    assert float((labels == (fresh.labels + 1) % 3).float().mean()) > 0.9


def test_every_kind_of_file_answers_alike(
    cpu: Runtime, toy: ImageDataset, network: Network, block: dict[str, Any], tmp_path: Path
) -> None:
    fresh = toy_images(60, seed=1).images
    expected = build(block, toy, cpu).scores(fresh).probabilities
    assert expected is not None
    write_onnx(Trunk(network), tmp_path / "e.onnx")
    write_onnx(Trunk(network), tmp_path / "fixed.onnx", fixed=True)
    write_script(Trunk(network), tmp_path / "e.pt")
    for inner in (
        {"kind": "onnx", "path": str(tmp_path / "e.onnx")},
        {"kind": "onnx", "path": str(tmp_path / "fixed.onnx")},
        {"kind": "torchscript", "path": str(tmp_path / "e.pt"), "trust": True},
    ):
        found = build({**block, "encoder": inner}, toy, cpu).scores(fresh).probabilities
        assert found is not None
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_an_encoder_of_other_images_is_adapted(
    cpu: Runtime, toy: ImageDataset, block: dict[str, Any], tmp_path: Path
) -> None:
    other = toy_images(30, size=12, channels=3)
    network = models.build(Architecture(name="resnet18", width=8), other.images, ("a", "b"), cpu, "x").eval()
    models.save(network, tmp_path / "other")
    block["encoder"]["path"] = str(tmp_path / "other")
    fresh = toy_images(60, seed=1)
    assert float((build(block, toy, cpu).predict(fresh.images) == fresh.labels).float().mean()) > 0.9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": {"kind": "http", "url": "http://x"}}, r"suspects.s.encoder.kind: wants one of .*, not 'http'"),
        ({"encoder": {"kind": "onnx", "path": "x", "scores": "logits"}}, "an encoder has no classes"),
        ({"encoder": {"kind": "onnx", "path": "x", "classes": ["a"]}}, "an encoder has no classes"),
        ({"encoder": {"kind": "safetensors", "path": "nowhere"}}, "nowhere"),
        ({"images": "nowhere.safetensors"}, "nowhere"),
        ({"count": 2}, "no image of class"),
        ({"count": 1}, "suspects.s.count"),
        ({"encoder": 3}, "suspects.s.encoder"),
    ],
)
def test_blocks_that_do_not_fit(
    cpu: Runtime, toy: ImageDataset, block: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        build({**block, **change}, toy, cpu)
    assert "\n" not in str(error.value)


def test_labelled_images_of_other_classes_or_shape(cpu: Runtime, toy: ImageDataset, block: dict[str, Any]) -> None:
    ImageDataset(toy.images, toy.labels, toy.ids, ("a", "b", "c")).save(Path(block["images"]))
    with pytest.raises(UserError, match="has the classes a, b, c, not ours"):
        build(block, toy, cpu)
    toy_images(90, size=12).save(Path(block["images"]))
    with pytest.raises(UserError, match="images of shape"):
        build(block, toy, cpu)


def test_no_image_of_the_probe_is_asked(cpu: Runtime, toy: ImageDataset, block: dict[str, Any]) -> None:
    fresh = toy_images(60, seed=1).images
    with pytest.raises(UserError, match=r"suspects\.s\.images: 2 of the 62 images that are asked") as error:
        build(block, toy, cpu).scores(torch.cat([fresh, toy.images[[3, 50]]]))
    assert "\n" not in str(error.value)
    # Only the images that the probe was trained on are refused, not all of the file.
    block["count"] = 60
    suspect = build(block, toy, cpu)
    refused = 0
    for image in toy.images:
        try:
            suspect.scores(image[None])
        except UserError:
            refused += 1
    assert refused == 60 == suspect.describe()["images"]["count"]


def test_an_encoder_is_compared_with_encoders_behind_the_same_probe(block: dict[str, Any]) -> None:
    given = {"thief": block, "server": {"kind": "http", "url": "http://x"}}
    probe = {"images": block["images"], "count": 5000}  # the default, which the suspect's block leaves out
    kinds = {"plain": {"kind": "trained"}, "encoder": {"kind": "encoder", "probe": probe}}
    labelled.refuse_other_probes(given, kinds, "p: suspects")
    labelled.refuse_other_probes({"server": given["server"]}, {}, "p: suspects")
    for other in ({**probe, "count": 60}, {**probe, "images": "other.safetensors"}):
        changed = {**kinds, "encoder": {"kind": "encoder", "probe": other}}
        with pytest.raises(UserError, match=r"p: suspects\.thief: no null model .* \(.*, count 5000\)") as error:
            labelled.refuse_other_probes(given, changed, "p: suspects")
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="no null model is an encoder"):
        labelled.refuse_other_probes(given, {"plain": {"kind": "trained"}}, "p: suspects")


class Bad(nn.Module):
    """An encoder that gives something else."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        if self.form == "nan":
            return flat / torch.zeros_like(flat)
        if self.form == "labels":
            return flat.argmax(1)
        if self.form == "map":
            return images
        return flat[:, :1] if self.form == "one" else flat.repeat(1, 1000)


@pytest.mark.parametrize(
    ("form", "message"),
    [("nan", "not finite"), ("labels", "float features"), ("map", "float features"), ("one", "D"), ("wide", "32,768")],
)
def test_encoders_that_give_no_features(
    cpu: Runtime, toy: ImageDataset, block: dict[str, Any], form: str, message: str
) -> None:
    path = write_script(Bad(form), Path(block["images"]).with_name("bad.pt"))
    inner = {"kind": "torchscript", "path": str(path), "trust": True}
    with pytest.raises(UserError, match=message) as error:
        build({**block, "encoder": inner}, toy, cpu)
    assert "\n" not in str(error.value) and "suspects.s.encoder" in str(error.value)


def test_features_of_any_scale_are_read(cpu: Runtime, toy: ImageDataset) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(90, 5, generator=generator) + 4 * torch.nn.functional.one_hot(toy.labels, 5)
    for scale, offset in ((1.0, 0.0), (1e-8, 0.0), (1e8, 0.0), (1.0, 1e4)):
        found = models.linear_probe(features * scale + offset, toy.labels, 3)(features * scale + offset)
        assert float((found.argmax(1) == toy.labels).float().mean()) > 0.95, (scale, offset)


def test_a_linear_probe_is_logistic_regression_with_its_penalty(toy: ImageDataset) -> None:
    """At the minimum the gradient of mean cross-entropy + |w|^2 / 2N (of standardised features) is zero."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(90, 4, generator=generator) + torch.nn.functional.one_hot(toy.labels, 4)
    probe = models.linear_probe(features, toy.labels, 3)
    mean, spread = models.standardisation(features)
    weight = (probe.weight * spread).double().requires_grad_()
    bias = (probe.bias + probe.weight @ mean).double().requires_grad_()
    x = ((features - mean) / spread).double()
    loss = nn.functional.cross_entropy(x @ weight.T + bias, toy.labels, reduction="sum") + weight.square().sum() / 2
    slopes = torch.autograd.grad(loss, [weight, bias])
    assert max(float(slope.abs().max()) for slope in slopes) < 0.05
    two = models.linear_probe(features[toy.labels < 2], toy.labels[toy.labels < 2], 3)
    assert not bool((two(features).argmax(1) == 2).any())
    with pytest.raises(ValueError, match="two classes"):
        models.linear_probe(features, torch.zeros_like(toy.labels), 3)
