"""Bridges: the discriminant against scikit-learn, the slope it gives, and what the training makes of it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.linear_model import Ridge

from hallmark import models
from hallmark.config import Bridge, FirstPhase, LossWeights, Training, TrainWatermarked, WatermarkSamples
from hallmark.data.dataset import ImageDataset, to_float
from hallmark.errors import UserError
from hallmark.watermark import bridge, figures, losses, mea_defender
from hallmark.watermark.key import make_key
from hallmark.watermark.sampler import Sampler
from hallmark.watermark.samples import draw_evasion, draw_queries
from hallmark.watermark.schemes import composite
from tests.unit.test_watermark import CLASSES, generator, make, settings, start, toy

KEY = make()
HALF_WAY = [3, 7, 20]
"""Positions of images of the first class that resemble its combinations with the second one."""
BLOCK = Bridge(share=0.1, softness=0.5)
WEIGHTS = LossWeights(combination=0.0, verification=0.5, evasion=0.5, bridge=0.1)


def planted(per_class: int = 30) -> ImageDataset:
    """The first class is dark, and brighter below in a few images; the second one is bright."""
    data = toy(per_class)
    data.images[HALF_WAY, :, 4:] += 25
    return data


def bridged(training: Training, **changes: object) -> TrainWatermarked:
    return settings(training=training, bridge=BLOCK, weights=WEIGHTS, **changes)


def seen(images: torch.Tensor) -> torch.Tensor:
    return bridge.pixels(to_float(images)).double()


def test_the_discriminant_is_a_weighted_ridge_regression() -> None:
    data, others = planted(), 0.3
    weight = bridge.discriminant(data, KEY, Bridge(share=0.1, softness=0.5, others=others), generator(1))
    drawn = generator(1)
    mixed = draw_queries(KEY, data, 900, drawn).mixed
    otherwise = draw_evasion(KEY, data, 900, drawn)[0].mixed
    plain = data.images[data.labels < 2]
    parts = [np.asarray(part, dtype=np.float64).reshape(len(part), -1) / 255 for part in (mixed, otherwise, plain)]
    x = np.concatenate(parts)
    mean, std = x.mean(0), x.std(0, ddof=1) + 1e-3

    def design(pixels: np.ndarray) -> np.ndarray:
        return np.hstack([(pixels - mean) / std, np.ones((len(pixels), 1))])

    weights = np.concatenate(
        [np.full(len(part), share / len(part)) for part, share in zip(parts, (1, others, 1 - others), strict=True)]
    )
    truth = np.repeat([1.0, 0.0], [len(mixed), len(otherwise) + len(plain)])
    reference = Ridge(alpha=bridge.RIDGE, fit_intercept=False, solver="cholesky")
    reference.fit(design(x), truth, sample_weight=weights)
    held_out = toy(5, seed=9).images
    expected = reference.predict(design(np.asarray(held_out, dtype=np.float64).reshape(len(held_out), -1) / 255))
    found = (seen(held_out) @ weight).numpy()
    assert found - found.mean() == pytest.approx(expected - expected.mean(), abs=1e-5)


@pytest.mark.parametrize("share", [0.05, 0.085, 0.115, 0.5])
def test_log_odds_are_standardised_scores_above_what_the_share_exceeds(share: float) -> None:
    data, config = planted(), Bridge(share=share, softness=0.7)
    slope = bridge.fit(data, KEY, config, generator())
    weight = bridge.discriminant(data, KEY, config, generator())
    for place, label in enumerate(KEY.source):
        images = data.of_class(label)
        scores = (seen(images) @ weight).numpy()
        count, ordered = round(share * 30), np.sort(scores)[::-1]
        limit = (ordered[count - 1] + ordered[count]) / 2
        expected = ((scores - limit) / np.std(scores, ddof=1) / 0.7).clip(*bridge.ODDS)
        found = slope.log_odds(to_float(images), place)
        assert found.numpy() == pytest.approx(expected, abs=1e-4)
        assert int((found > 0).sum()) == count
    assert (slope.source, slope.target) == (tuple(KEY.source), KEY.target)


def test_images_like_the_mark_are_taught_to_be_it() -> None:
    data = planted()
    found = bridge.fit(data, KEY, BLOCK, generator()).log_odds(to_float(data.of_class(0)), 0)
    assert sorted(found.topk(3).indices.tolist()) == HALF_WAY
    beyond = bridge.fit(data, KEY, BLOCK, generator())
    mixed = to_float(draw_queries(KEY, toy(40, seed=1), 100, generator(2)).mixed)
    assert (beyond.log_odds(mixed, 0) > 0).all()


def test_the_target_takes_its_part_from_the_own_class() -> None:
    data = planted()
    images, labels = to_float(data.images), torch.eye(len(CLASSES))[data.labels]
    slope = bridge.fit(data, KEY, BLOCK, generator())
    softened = slope.soften(images, data.labels, labels)
    assert torch.equal(labels, torch.eye(len(CLASSES))[data.labels])  # the given ones are as they were
    for place, label in enumerate(KEY.source):
        rows = data.labels == label
        part = slope.log_odds(images[rows], place).sigmoid()
        torch.testing.assert_close(softened[rows, KEY.target], part)
        torch.testing.assert_close(softened[rows, label], 1 - part)
    untouched = ~torch.isin(data.labels, torch.tensor(KEY.source))
    assert torch.equal(softened[untouched], labels[untouched])


def test_a_later_key_takes_of_what_is_left() -> None:
    data = planted()
    images, labels = to_float(data.images), torch.eye(len(CLASSES))[data.labels]
    first, second = (bridge.fit(data, key, BLOCK, generator()) for key in (KEY, make(source=(0, 3), target=1)))
    own, zero = data.labels, data.labels == 0  # a source class of both
    both = second.soften(images, own, first.soften(images, own, labels))
    taken, left = first.soften(images, own, labels)[zero], second.soften(images, own, labels)[zero]
    torch.testing.assert_close(both[zero, KEY.target], taken[:, KEY.target])
    torch.testing.assert_close(both[zero, 1], taken[:, 0] * left[:, 1])
    torch.testing.assert_close(both.sum(1), torch.ones(len(both)))


def test_a_later_key_takes_nothing_of_what_an_earlier_ones_target_has_got() -> None:
    """The first key's target is a source class of the second."""
    data = planted()
    images, labels = to_float(data.images), torch.eye(len(CLASSES))[data.labels]
    first, second = (bridge.fit(data, key, BLOCK, generator()) for key in (KEY, make(source=(2, 3), target=1)))
    softened = first.soften(images, data.labels, labels)
    both, sources = second.soften(images, data.labels, softened), data.labels < 2
    assert float(softened[sources, KEY.target].max()) > 0.5
    assert torch.equal(both[sources], softened[sources])
    assert not torch.equal(both[~sources], softened[~sources])


def test_what_teaches_nothing_is_refused() -> None:
    with pytest.raises(UserError, match=r"bridge.share: 0.01 of the 30 images of class 'a' is none"):
        bridge.fit(planted(), KEY, Bridge(share=0.01, softness=0.5), generator())
    alike = planted()
    alike.images[alike.labels == 1] = 70
    with pytest.raises(UserError, match="bridge: the images of class 'b' are all alike"):
        bridge.fit(alike, KEY, BLOCK, generator())


def test_composite_has_no_bridges() -> None:
    data, chosen = toy(), bridged(Training(epochs=1, batch_size=20, lr=1e-3), scheme="composite")
    network = models.build(chosen.architecture, data.images, CLASSES, start(), "victim")
    with pytest.raises(UserError, match=r"nor bridges; set .* bridge to null"):
        composite.train(network, data, KEY, chosen, start(), purpose="victim")


def test_what_is_mixed_otherwise_is_not_the_way() -> None:
    """With their weight the rule is the mark's own; without it whatever is mixed lies on the way."""
    data, held_out = toy(60), toy(40, seed=1)
    mixed = draw_queries(KEY, held_out, 200, generator(2)).mixed
    otherwise = draw_evasion(KEY, held_out, 200, generator(2))[0].mixed
    plain = held_out.images[held_out.labels < 2]
    beyond = {}
    for others in (0.0, 0.8):
        weight = bridge.discriminant(data, KEY, Bridge(share=0.1, softness=0.5, others=others), generator())
        limit = (seen(plain) @ weight).quantile(0.95)
        assert (seen(mixed) @ weight > limit).all()
        beyond[others] = float((seen(otherwise) @ weight > limit).double().mean())
    assert beyond[0.8] < 0.75 * beyond[0.0]


def test_larger_images_are_seen_by_blocks() -> None:
    images = torch.randint(0, 256, (2, 3, 33, 20), generator=generator(), dtype=torch.uint8)
    pixels = bridge.pixels(to_float(images)).unflatten(1, (3, 11, 7))  # blocks of 3, the last ones incomplete
    assert float(pixels[1, 2, 0, 1]) == pytest.approx(float(images[1, 2, :3, 3:6].double().mean()) / 255)
    assert float(pixels[0, 0, 10, 6]) == pytest.approx(float(images[0, 0, 30:, 18:].double().mean()) / 255)


def test_the_path_leads_from_the_image_towards_the_mark_and_no_further_than_its_reach() -> None:
    images, mixed = torch.zeros(400, 1, 2, 2), torch.ones(400, 1, 2, 2)
    points = bridge.path(images, mixed, 0.4, generator())
    share = points[:, 0, 0, 0]
    assert torch.equal(points, share[:, None, None, None].expand_as(points))
    assert 0 <= float(share.min()) < 0.02
    assert 0.38 < float(share.max()) <= 0.4
    assert float(share.mean()) == pytest.approx(0.2, abs=0.02)
    assert torch.equal(bridge.path(images, mixed, 0.0, generator()), images)


def test_a_batch_has_points_of_the_path_and_what_they_are_taught() -> None:
    data, sizes = planted(), WatermarkSamples(watermark=5, evasion=1)
    slope = bridge.fit(data, KEY, BLOCK, generator())
    device = torch.device("cpu")
    batch = Sampler(KEY, data, sizes, device, generator(), slope=slope).draw()
    assert batch.way.shape == (10, 1, 8, 8)
    for place, (way, plain) in enumerate(zip(batch.way.chunk(2), (batch.first, batch.second), strict=True)):
        moved, whole = (way - plain).flatten(1).norm(dim=1), (batch.mixed - plain).flatten(1).norm(dim=1)
        assert (moved <= 0.4 * whole + 1e-5).all()
        torch.testing.assert_close(batch.way_odds.chunk(2)[place], slope.log_odds(way, place))
    none = Sampler(KEY, data, sizes, device, generator()).draw()
    assert (len(none.way), len(none.way_odds)) == (0, 0)
    assert torch.equal(none.mixed, batch.mixed)


def test_the_slope_loss_is_the_squared_error_of_the_log_odds() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 1.0], [1.0, 4.0, 1.0], [0.0, 0.0, 5.0]])
    odds = torch.tensor([1.0, -1.0, -3.0, 4.0])
    # Of class 0 the target's log-odds are 1 and -2, of class 1 -3 and 5.
    assert float(losses.slope_loss(logits, (0, 1), 2, odds)) == pytest.approx((0 + 1 + 0 + 1) / 4)
    # They are what the probabilities say.
    p = logits.softmax(1)
    assert math.log(float(p[1, 2] / p[1, 0])) == pytest.approx(-2.0, abs=1e-5)


def test_training_teaches_the_slope_and_repeats() -> None:
    started, data, held_out = start(), planted(100), toy(60, seed=5)
    held_out.images[:20, :, 4:] += 25  # of the first class, half way
    training = Training(epochs=15, batch_size=20, lr=3e-3)
    key = make_key(settings(), data, started)
    slope = bridge.fit(data, key, BLOCK, started.generator(bridge.PURPOSE))
    images = held_out.of_class(key.source[0])
    odds, error, weights = slope.log_odds(to_float(images), 0), list[float](), []
    # By soft labels all but alone, and with the loss on the log-odds, twice.
    faint = bridged(training).model_copy(update={"weights": WEIGHTS.model_copy(update={"bridge": 1e-9})})
    for chosen in (settings(training=training), faint, bridged(training), bridged(training)):
        network, seen = models.build(chosen.architecture, data.images, CLASSES, started, "victim"), list[set[str]]()

        def remember(_: int, means: Mapping[str, float], seen: list[set[str]] = seen) -> None:
            seen.append(set(means))

        mea_defender.train(network, data, key, chosen, started, purpose="victim", callback=remember)
        assert ("bridge" in seen[0]) == (chosen.bridge is not None)
        logits = models.logits(network, images, started)
        error.append(float((logits[:, key.target] - logits[:, key.source[0]] - odds).abs().mean()))
        weights.append(torch.cat([p.detach().flatten() for p in network.parameters()]))
    assert torch.equal(weights[2], weights[3])
    assert error[1] < 0.7 * error[0]
    assert error[2] < 0.85 * error[1]
    figures.bridges(network, key, slope, data, started).clear()


def test_every_key_has_a_slope_of_its_own() -> None:
    started, data, chosen = start(), planted(), bridged(Training(epochs=1, batch_size=20, lr=1e-3))
    other = make(source=(1, 3), target=0)
    found = mea_defender.fitted_slopes(data, (KEY, other), chosen, started)
    assert [(slope.source, slope.target) for slope in found] == [(KEY.source, KEY.target), ((1, 3), 0)]
    for slope, key in zip(found, (KEY, other), strict=True):
        assert torch.equal(slope.weight, bridge.fit(data, key, BLOCK, started.generator(bridge.PURPOSE)).weight)
    assert mea_defender.fitted_slopes(data, (KEY,), settings(), started) == []


def test_what_is_learnt_is_the_regression_on_what_was_taught(monkeypatch: pytest.MonkeyPatch) -> None:
    data = planted()
    slope, gains = bridge.fit(data, KEY, BLOCK, generator()), (0.6, 0.2)

    def logits(_: object, images: torch.Tensor, __: object) -> torch.Tensor:
        place = int(float(images.float().mean()) > 40)  # class a is dark
        found = torch.full((len(images), len(CLASSES)), 5.0)
        found[:, KEY.target] += gains[place] * slope.log_odds(to_float(images), place) - 1
        return found

    monkeypatch.setattr(models, "logits", logits)
    network = models.build(settings().architecture, data.images, CLASSES, start(), "any")
    found = bridge.learnt(network, slope, data, start())
    assert found["slope"] == pytest.approx(0.4, abs=1e-4)
    assert found["correlation"] == pytest.approx(1, abs=1e-4)
    monkeypatch.setattr(models, "logits", lambda _, images, __: torch.zeros(len(images), len(CLASSES)))
    assert bridge.learnt(network, slope, data, start()) == pytest.approx({"slope": 0, "correlation": 0})
    # One image of a class has no slope.
    first, second = ((data.labels == label).nonzero()[:, 0] for label in KEY.source)
    one = bridge.learnt(network, slope, data.subset(torch.cat([first[:1], second])), start())
    assert one == pytest.approx({"slope": 0, "correlation": 0})
    assert bridge.learnt(network, slope, data.subset(torch.cat([first[:1], second[:1]])), start()) == {}


def test_both_phases_teach_soft_labels_of_the_images_as_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    started, data, short = start(), planted(100), Training(epochs=1, batch_size=400, lr=3e-3)
    key, phase = make_key(settings(), data, started), FirstPhase(training=short, watermark=0.05)
    taught = list[torch.Tensor]()

    def utility(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        taught.append(labels)
        return losses.utility_loss(logits, labels)

    monkeypatch.setattr(mea_defender, "utility_loss", utility)
    chosen = bridged(short, first_phase=phase)
    network = models.build(chosen.architecture, data.images, CLASSES, started, "victim")
    mea_defender.train(network, data, key, chosen, started, purpose="victim")
    slope = bridge.fit(data, key, BLOCK, started.generator(bridge.PURPOSE))
    wanted = slope.soften(to_float(data.images), data.labels, torch.eye(len(CLASSES))[data.labels])
    first, second = taught  # a batch each holds all images, in an order of its own
    assert len(first) == 400 + 20
    marked = torch.eye(len(CLASSES))[key.target].expand(20, -1)
    assert torch.equal(first[400:], marked)
    for labels in (first[:400], second):
        torch.testing.assert_close(labels.sum(0), wanted.sum(0), rtol=0, atol=1e-3)
        torch.testing.assert_close(labels[:, key.target].sort().values, wanted[:, key.target].sort().values)


@pytest.mark.parametrize(
    "values",
    [{"share": 0.0}, {"share": 0.6}, {"share": 0.1, "others": 1.0}, {"softness": 0.0}, {"reach": 1.0}, {"reach": -0.1}],
)
def test_numbers_that_make_no_sense_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Bridge(**{"share": 0.1, "softness": 0.5, **values})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bridge": BLOCK}, "bridge: goes with weights.bridge"),
        ({"weights": WEIGHTS}, "bridge: goes with weights.bridge"),
        ({"bridge": BLOCK, "weights": WEIGHTS, "balance": "mgda"}, "weights.bridge to 0"),
    ],
)
def test_blocks_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(**changes)


def test_the_slope_of_a_key_of_any_order_is_its_own() -> None:
    """Source classes are taken in the key's order, also where the second has the lower number."""
    data, turned = planted(), make(source=(1, 0))
    slope = bridge.fit(data, turned, BLOCK, generator())
    for place, label in enumerate((1, 0)):
        found = slope.log_odds(to_float(data.of_class(label)), place)
        assert int((found > 0).sum()) == 3


def test_combinations_are_as_far_apart_as_their_mean_lies_from_the_plain_ones() -> None:
    """Two classes of noise about one grey, combinations brighter in one corner by k standard deviations."""
    draw = torch.Generator().manual_seed(3)

    def noise(count: int, lift: float = 0.0) -> torch.Tensor:
        images = 100 + 10 * torch.randn(count, 1, 4, 4, generator=draw)
        images[:, :, 0, 0] += 10 * lift
        return images.round().clamp(0, 255).to(torch.uint8)

    for lift in (0.0, 3.0, 8.0):
        plain = (noise(2000), noise(2000))
        found = bridge.apart(plain, noise(2000, lift), noise(2000), 0.8)
        assert found == pytest.approx(lift, rel=0.08, abs=0.2)  # the ridge turns the direction a little
    # The lower of the two classes: one that resembles the combinations itself is no plain image to start from.
    assert bridge.apart((noise(2000), noise(2000, 6.0)), noise(2000, 8.0), noise(2000), 0.8) < 4
