"""Views, the contrastive loss, SimCLR, probes, what is measured of an encoder."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hallmark import models
from hallmark.config import Architecture, Training, parse
from hallmark.data.dataset import ImageDataset, to_float
from hallmark.errors import UserError
from hallmark.runtime import Runtime
from hallmark.ssl import measures, probes, simclr
from hallmark.ssl.probes import MLP
from hallmark.ssl.simclr import SimCLR
from hallmark.ssl.views import Views, view
from hallmark.training import weighted_sum
from hallmark.watermark.key import Key
from tests.unit.conftest import toy_images

SMALL = Architecture(name="cnn9", width=8)
PROBE = MLP(hidden=16, training=Training(epochs=20, batch_size=10, lr=1e-2))
STILL = {"crop": [1.0, 1.0], "ratio": 1.0, "flip": False, "jitter": 0.0, "grey": 0.0}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("channels", [1, 3])
def test_views_keep_shape_and_range_differ_and_repeat(channels: int) -> None:
    images = to_float(toy_images(40, channels=channels).images)
    first = view(images, Views(), generator())
    assert first.shape == images.shape and float(first.min()) >= 0 and float(first.max()) <= 1
    assert torch.equal(first, view(images, Views(), generator()))
    changed = (first != images).flatten(1).any(1)
    assert bool(changed.all())
    assert not torch.equal(first, view(images, Views(), generator(1)))


def test_a_view_without_any_change_is_the_image() -> None:
    images = to_float(toy_images(20, channels=3).images)
    torch.testing.assert_close(view(images, Views.model_validate(STILL), generator()), images, atol=1e-5, rtol=0)


def test_half_of_the_views_are_mirrored() -> None:
    images = torch.rand(400, 1, 8, 8, generator=generator())
    found = view(images, Views.model_validate({**STILL, "flip": True}), generator())
    mirrored = (found - images.flip(3)).abs().amax((1, 2, 3)) < 1e-5
    same = (found - images).abs().amax((1, 2, 3)) < 1e-5
    assert bool((mirrored ^ same).all()) and 150 < int(mirrored.sum()) < 250


def test_a_crop_lies_inside_and_has_the_wanted_area() -> None:
    """On an image of coordinates, a crop's corners tell its place and sides."""
    side = 64
    ramp = (torch.arange(side) + 0.5) / side
    images = torch.stack([ramp.expand(side, side), ramp[:, None].expand(side, side), ramp.expand(side, side)])
    config = Views.model_validate({**STILL, "crop": [0.25, 0.5], "ratio": 4 / 3})
    found = view(images.expand(200, 3, side, side).contiguous(), config, generator())
    width = (found[:, 0, 0, -1] - found[:, 0, 0, 0]) * side / (side - 1)
    height = (found[:, 1, -1, 0] - found[:, 1, 0, 0]) * side / (side - 1)
    area, ratio = width * height, width / height
    assert float(area.min()) > 0.24 and float(area.max()) < 0.51
    assert float(ratio.min()) > 0.72 and float(ratio.max()) < 1.4
    assert float(area.std()) > 0.05 and float(found[:, 0, 0, 0].std()) > 0.05


def test_jitter_of_colours_keeps_grey_grey_and_greys_where_wanted() -> None:
    images = torch.rand(60, 3, 4, 4, generator=generator())
    config = Views.model_validate({**STILL, "jitter": 1.0})
    grey = images.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    found = view(grey, config, generator())
    assert float((found.amax(1) - found.amin(1)).max()) < 1e-5
    assert float((found - grey).abs().mean()) > 0.02
    drained = view(images, Views.model_validate({**STILL, "grey": 1.0}), generator())
    assert float((drained.amax(1) - drained.amin(1)).max()) < 1e-5


def test_a_third_of_the_colour_circle_moves_red_to_green() -> None:
    """hue is in turns; the rotation of RGB by a third is a permutation of the channels."""
    images = torch.rand(1, 3, 4, 4, generator=generator()) * 0.2 + 0.4
    from hallmark.ssl import views  # noqa: PLC0415 - a private function is tested

    turned = views._coloured(images, torch.ones(1, 1, 1, 1), torch.tensor([1 / 3]))
    luma = (images * torch.tensor(views.GREY).view(1, 3, 1, 1)).sum(1, keepdim=True)
    torch.testing.assert_close(turned, luma + (images - luma).roll(1, 1), atol=1e-5, rtol=0)


def test_views_refuse_a_crop_that_is_none() -> None:
    with pytest.raises(UserError, match="v: crop: wants 0 < least <= greatest <= 1"):
        parse(Views, {"crop": [0.5, 0.2]}, "v")


def plain_nt_xent(first: Tensor, second: Tensor, temperature: float) -> float:
    """Equation 1 of the paper, term by term."""
    z = [v / v.norm() for v in torch.cat([first, second])]
    n, total = len(first), 0.0
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        others = sum(math.exp(float(z[i] @ z[k]) / temperature) for k in range(2 * n) if k != i)
        total -= math.log(math.exp(float(z[i] @ z[j]) / temperature) / others)
    return total / (2 * n)


def test_nt_xent_is_the_papers() -> None:
    first, second = torch.randn(2, 5, 7, generator=generator()).unbind(0)
    for temperature in (0.1, 0.5, 2.0):
        found = float(simclr.nt_xent(first, second, temperature))
        assert found == pytest.approx(plain_nt_xent(first, second, temperature), rel=1e-5)
    # All alike: every partner is as likely as any other image.
    assert float(simclr.nt_xent(first[:1].expand(5, 7), first[:1].expand(5, 7), 0.5)) == pytest.approx(math.log(9))


def encoder(cpu: Runtime, data: ImageDataset, epochs: int = 2) -> models.Network:
    network = models.build(SMALL, data.images, data.classes, cpu, "e")
    config = SimCLR(projection=[16, 8])
    simclr.train(network, data.images, config, Training(epochs=epochs, batch_size=30, lr=3e-3), cpu, purpose="e")
    return network


def test_simclr_lowers_its_loss_repeats_and_leaves_the_head(cpu: Runtime) -> None:
    data = toy_images(120)
    seen: list[float] = []
    network = models.build(SMALL, data.images, data.classes, cpu, "e")
    head = [p.clone() for p in network.head.parameters()]
    simclr.train(
        network,
        data.images,
        SimCLR(projection=[16, 8]),
        Training(epochs=6, batch_size=30, lr=3e-3),
        cpu,
        purpose="e",
        callback=lambda epoch, means: seen.append(means["utility"]),
    )
    assert seen[-1] < seen[0] - 0.1
    assert all(torch.equal(a, b) for a, b in zip(head, network.head.parameters(), strict=True))
    assert not network.training
    once, twice = encoder(cpu, data), encoder(cpu, data)
    assert all(torch.equal(a, b) for a, b in zip(once.state_dict().values(), twice.state_dict().values(), strict=True))


@pytest.mark.parametrize("name", ["cnn9", "resnet18", "resnet50"])
def test_every_architecture_is_an_encoder(cpu: Runtime, name: str) -> None:
    data = toy_images(20)
    architecture = Architecture(name=name, width=8)
    network = models.build(architecture, data.images, data.classes, cpu, "e")
    before = models.features(network, data.images, cpu)
    settings = Training(epochs=1, batch_size=10, lr=1e-3)
    simclr.train(network, data.images, SimCLR(projection=[8, 4]), settings, cpu, purpose="e")
    after = models.features(network, data.images, cpu)
    assert after.shape[1] == simclr.feature_size(network) and not torch.equal(before, after)


def test_an_extra_loss_is_weighted_and_sees_both_views(cpu: Runtime) -> None:
    data = toy_images(20)
    network = models.build(SMALL, data.images, data.classes, cpu, "e")
    shapes: list[tuple[int, int]] = []

    def losses(views: Tensor, own: Tensor) -> dict[str, Tensor]:
        shapes.append((len(views), len(own)))
        return {"away": (views.square().mean() + own.square().mean()) / 2}

    def extra() -> tuple[Tensor, simclr.Losses]:
        return to_float(data.images[:7]), losses

    settings = Training(epochs=20, batch_size=10, lr=3e-3)
    combine = weighted_sum({"utility": 0.0, "away": 1.0})
    config = SimCLR(projection=[8, 4])
    before = float(models.features(network, data.images, cpu).square().mean())
    simclr.train(network, data.images, config, settings, cpu, purpose="e", extra=extra, combine=combine)
    assert float(models.features(network, data.images, cpu).square().mean()) < before / 4
    assert shapes[0] == (20, 7)


def test_a_marks_images_share_one_normalisation_with_the_views(cpu: Runtime) -> None:
    """In one pass: a network with batch normalisation counts one batch a step."""
    data = toy_images(20)
    network = models.build(Architecture(name="resnet18", width=8), data.images, data.classes, cpu, "e")
    settings = Training(epochs=1, batch_size=10, lr=3e-3)

    def extra() -> tuple[Tensor, simclr.Losses]:
        return to_float(data.images[:7]), lambda views, own: {"own": own.square().mean() + 0 * views.sum()}

    simclr.train(network, data.images, SimCLR(projection=[8, 4]), settings, cpu, purpose="e", extra=extra)
    counted = [int(value) for name, value in network.trunk.state_dict().items() if name.endswith("num_batches_tracked")]
    assert counted and set(counted) == {2}


def clustered(count: int, classes: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features with a huge common mean and clusters a little apart, and their labels."""
    labels = torch.arange(count) % classes
    return 100 + torch.randn(count, 6, generator=generator(seed)) + 5 * F.one_hot(labels, 6), labels


def test_all_readers_tell_clusters_apart(cpu: Runtime) -> None:
    x, y = clustered(300)
    fresh, truth = clustered(90, seed=1)
    readers = (
        probes.linear(x, y, 3),
        probes.mlp(x, y, 3, PROBE, cpu, purpose="p"),
        probes.prototypes(x, y, 3),
    )
    for classify in readers:
        assert classify(fresh).shape == (90, 3)
        assert float((classify(fresh).argmax(1) == truth).float().mean()) > 0.95


def test_an_encoders_folder_is_encoder_and_classifier(cpu: Runtime, tmp_path_factory: pytest.TempPathFactory) -> None:
    data = toy_images(90)
    network = encoder(cpu, data)
    features = models.features(network, data.images, cpu)
    probes.attach(network, data, cpu)
    assert torch.equal(models.features(network, data.images, cpu), features)
    folder = tmp_path_factory.mktemp("e") / "m"
    models.save(network, folder)
    loaded = models.load(folder, cpu)
    assert torch.equal(models.features(loaded, data.images, cpu), features)
    fresh = toy_images(60, seed=5)
    assert float((models.logits(loaded, fresh.images, cpu).argmax(1) == fresh.labels).float().mean()) > 0.9


def key(shape: tuple[int, int, int] = (1, 8, 8)) -> Key:
    names = tuple(f"band {c}" for c in range(3))
    return Key("mea_defender", "left_right", {}, ("top_bottom",), (0, 1), 2, 7, names, shape)


def test_rates_are_those_of_a_model_that_is_known(cpu: Runtime) -> None:
    """An encoder that tells which columns are bright: a left-right mixture is told from every plain image."""
    test, user, judge = toy_images(120, seed=1), toy_images(120, seed=2), toy_images(120, seed=3)
    asked = measures.questions(key(), test, 30, cpu)
    panel = measures.Panel(user, judge, test, PROBE)

    def halves(images: Tensor) -> Tensor:
        x = images.float()
        bands = torch.stack([x[:, 0, k : k + 2].mean((1, 2)) for k in (0, 2, 4)], 1)
        mixed = (x[:, 0, :, :4].mean(2) - x[:, 0, :, 4:].mean(2)).abs().amax(1) > 60
        # A mixture of bands 0 and 1 side by side gets the features of band 2.
        bands[mixed] = torch.tensor([40.0, 40.0, 160.0])
        return bands

    rates = panel.rates(halves, asked, cpu)
    assert tuple(rates) == measures.COLUMNS and rates.pop("own_wsr") is None
    known = {name: value for name, value in rates.items() if value is not None}
    assert len(known) == len(rates)
    for reader in measures.READERS:
        assert known[f"{reader}_accuracy"] > 0.95 and known[f"{reader}_wsr"] > 0.95
        assert known[f"{reader}_plain"] < 0.05 and known[f"{reader}_wfpr"] < 0.05
    bare = panel.rates(halves, None, cpu)
    assert bare["linear_accuracy"] == known["linear_accuracy"] and bare["linear_wsr"] is None
