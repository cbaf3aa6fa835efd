"""Every architecture, on several shapes; files that strangers may have written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import nn
from torchvision.models import vgg16

from hallmark import artifacts, models
from hallmark.config import Architecture
from hallmark.data.dataset import ImageDataset
from hallmark.errors import UserError
from hallmark.models import _network
from hallmark.runtime import Runtime

NAMES = models.registry.names()


def test_the_papers_architectures_are_there() -> None:
    assert {"vgg_like", "cnn9", "alexnet", "resnet18", "preact_resnet18", "vggface"} <= set(NAMES)


def vggface(classes: int, shape: tuple[int, int, int], **architecture: Any) -> nn.Module:
    """Trunk and head, without memory for weights."""
    c = shape[0]
    spec = models.ModelSpec(
        Architecture(name="vggface", **architecture),
        shape,
        tuple(str(k) for k in range(classes)),
        (0.5,) * c,
        (0.25,) * c,
    )
    with torch.device("meta"):
        return nn.Sequential(*models.registry.get("vggface").build(spec))


def test_vggface_has_the_published_networks_size() -> None:
    """2,622 identities of 224x224 pixels; the same convolutions and hidden layers as torchvision's VGG-16."""
    network = vggface(2622, (3, 224, 224))
    assert sum(p.numel() for p in network.parameters()) == 145_002_878
    with torch.device("meta"):
        reference = vgg16(num_classes=2622)
    kinds = (nn.Conv2d, nn.Linear)
    ours, theirs = ([m for m in net.modules() if isinstance(m, kinds)] for net in (network, reference))
    assert [tuple(m.weight.shape) for m in ours] == [tuple(m.weight.shape) for m in theirs]
    assert sum(isinstance(m, nn.MaxPool2d) for m in network.modules()) == 5


@pytest.mark.parametrize(("side", "unshuffle", "pools"), [(64, 1, 4), (32, 1, 3), (28, 2, 2), (11, 1, 1), (8, 2, 0)])
def test_vggface_pools_no_further_than_three_pixels(side: int, unshuffle: int, pools: int) -> None:
    network = vggface(5, (1, side, side), width=8, unshuffle=unshuffle)
    assert sum(isinstance(m, nn.MaxPool2d) for m in network.modules()) == pools
    left = side // unshuffle >> pools
    assert left >= 3
    first = next(m for m in network.modules() if isinstance(m, nn.Linear))
    assert (first.in_features, first.out_features) == (64 * left * left, 512)
    assert [m.p for m in vggface(5, (1, 8, 8), dropout=0.5).modules() if isinstance(m, nn.Dropout)] == [0.5, 0.5]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 28, 28), (3, 24, 40)], ids=str)
def test_any_channels_and_size(cpu: Runtime, name: str, shape: tuple[int, int, int]) -> None:
    images = torch.randint(0, 256, (4, *shape), dtype=torch.uint8)
    network = models.build(Architecture(name=name, width=8), images, ("a", "b", "c"), cpu, "x")
    out = models.logits(network, images, cpu)
    assert out.shape == (4, 3)
    assert out.isfinite().all()
    head = network.head
    assert isinstance(head, nn.Linear)
    assert torch.allclose(head(models.features(network, images, cpu)), out, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_saved_and_loaded_gives_the_same_answers(cpu: Runtime, tmp_path: Path, name: str) -> None:
    images = torch.randint(0, 256, (6, 1, 16, 16), dtype=torch.uint8)
    architecture = Architecture(name=name, width=8, dropout=0.5, unshuffle=2)
    network = models.build(architecture, images, ("a", "b"), cpu, "x")
    models.save(network, tmp_path / "m")
    back = models.load(tmp_path / "m", cpu)
    assert back.spec == network.spec
    assert torch.equal(models.logits(back, images, cpu), models.logits(network, images, cpu))
    assert torch.equal(models.logits(back, images.float() / 255, cpu), models.logits(back, images, cpu))


def test_initialisation_is_named_by_seed_and_purpose(cpu: Runtime, toy: ImageDataset) -> None:
    def weights(purpose: str) -> torch.Tensor:
        network = models.build(Architecture(name="cnn9", width=4), toy.images, toy.classes, cpu, purpose)
        return network.state_dict()["head.weight"]

    assert torch.equal(weights("a"), weights("a"))
    assert not torch.equal(weights("a"), weights("b"))


def test_an_image_size_that_does_not_fold_is_one_line(cpu: Runtime) -> None:
    images = torch.zeros(2, 1, 9, 9, dtype=torch.uint8)
    with pytest.raises(UserError, match="unshuffle: 2 does not divide the image size 9x9"):
        models.build(Architecture(name="cnn9", unshuffle=2), images, ("a", "b"), cpu, "x")


@pytest.mark.parametrize(("name", "unshuffle"), [("alexnet", 2), ("alexnet", 4), ("vgg_like", 4)])
def test_an_image_too_small_for_the_poolings_is_one_line(name: str, unshuffle: Literal[2, 4], cpu: Runtime) -> None:
    images = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    with pytest.raises(UserError, match=r"architecture: \dx\d pixels after unshuffling are too few for its poolings"):
        models.build(Architecture(name=name, width=8, unshuffle=unshuffle), images, ("a", "b"), cpu, "n")


def test_no_images_have_no_answers(cpu: Runtime, toy: ImageDataset) -> None:
    network = models.build(Architecture(name="cnn9", width=8), toy.images, toy.classes, cpu, "n").train()
    with pytest.raises(ValueError, match="no images"):
        models.logits(network, toy.images[:0], cpu)
    assert network.training


def test_an_unknown_architecture_lists_those_there_are(cpu: Runtime, toy: ImageDataset) -> None:
    with pytest.raises(UserError, match="unknown architecture 'resnet19': choose one of alexnet, cnn9"):
        models.build(Architecture(name="resnet19"), toy.images, toy.classes, cpu, "x")


@pytest.mark.parametrize("name", ["resnet18", "preact_resnet18"])
def test_a_residual_network_too_narrow_for_the_backend_is_refused(name: str, toy: ImageDataset, cpu: Runtime) -> None:
    with pytest.raises(UserError, match="wants at least 8, not 4"):
        models.build(Architecture(name=name, width=4), toy.images, toy.classes, cpu, "x")


@pytest.mark.parametrize("change", ["width", "shape", "classes", "missing field", "huge", "huge network", "unfolded"])
def test_a_description_that_does_not_fit_the_weights_is_one_line(
    cpu: Runtime, tmp_path: Path, toy: ImageDataset, change: str
) -> None:
    network = models.build(Architecture(name="cnn9", width=4), toy.images, toy.classes, cpu, "x")
    models.save(network, tmp_path / "m")
    path = tmp_path / "m" / "model.json"
    value = artifacts.read_json(path)
    if change == "width":
        value["architecture"]["width"] = 8
    elif change == "shape":
        value["shape"] = [3, 8, 8]
    elif change == "classes":
        value["classes"].append("d")
    elif change == "huge network":  # 2 TiB of weights
        value["architecture"]["width"], value["shape"] = 1024, [1, 1024, 1024]
    elif change == "unfolded":
        value["architecture"]["unshuffle"], value["shape"] = 2, [1, 9, 9]
    elif change == "missing field":
        del value["mean"]
    else:
        value["shape"] = [1, 1 << 20, 1 << 20]
    artifacts.write_json(path, value)
    with pytest.raises(UserError, match=str(tmp_path / "m")):
        models.load(tmp_path / "m", cpu)


def test_loading_draws_no_random_numbers(cpu: Runtime, tmp_path: Path, toy: ImageDataset) -> None:
    models.save(models.build(Architecture(name="cnn9", width=4), toy.images, toy.classes, cpu, "x"), tmp_path / "m")
    before = torch.get_rng_state()
    models.load(tmp_path / "m", cpu)
    assert torch.equal(torch.get_rng_state(), before)


def test_data_that_do_not_fit_a_network_are_one_line(toy: ImageDataset) -> None:
    path = Path("d/test.safetensors")
    models.check_images(toy, path, toy)
    for data, message in (
        (toy.subset(torch.arange(0)), "holds no images"),
        (replace(toy, images=toy.images[..., :7]), r"shape \(1, 8, 7\) .* where \(1, 8, 8\)"),
        (replace(toy, classes=(*toy.classes, "d")), "4 classes where 3 are expected"),
        (replace(toy, classes=("x", *toy.classes[1:])), "class 0 is 'x' where 'band 0'"),
    ):
        with pytest.raises(UserError, match=rf"^d/test\.safetensors: .*{message}") as caught:
            models.check_images(data, path, toy)
        assert "\n" not in str(caught.value)


def test_the_normalisation_is_that_of_the_pixels() -> None:
    images = torch.randint(0, 256, (50, 3, 6, 7), generator=torch.Generator().manual_seed(0)).byte()
    images[:, 1] = 77
    mean, std = _network.normalisation(images)
    pixels = images.double() / 255
    assert mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=1e-6)
    assert std == pytest.approx([float(pixels[:, 0].std()), 1e-3, float(pixels[:, 2].std())], abs=1e-6)
