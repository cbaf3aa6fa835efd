"""Bridges: the discriminant against scikit-learn, the soft labels, and what the training makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.linear_model import Ridge

from hallmark import models
from hallmark.config import Bridge, FirstPhase, LossWeights, Training
from hallmark.data.dataset import ImageDataset
from hallmark.errors import UserError
from hallmark.models import Network
from hallmark.watermark import bridge, figures, mea_defender
from hallmark.watermark.key import Key, make_key
from hallmark.watermark.samples import draw_evasion, draw_queries
from hallmark.watermark.schemes import composite
from tests.unit.test_watermark import CLASSES, generator, make, settings, start, toy

KEY = make()
HALF_WAY = [3, 7, 20]
"""Positions of images of the first class that resemble its combinations with the second one."""


def planted(per_class: int = 30) -> ImageDataset:
    """The first class is dark, and brighter below in a few images; the second one is bright."""
    data = toy(per_class)
    data.images[HALF_WAY, :, 4:] += 25
    return data


def taught(data: ImageDataset, keys: Sequence[Key], config: Bridge) -> torch.Tensor:
    return bridge.soft_labels(data, keys, config, generator)


def test_the_discriminant_is_a_weighted_ridge_regression() -> None:
    data, others = planted(), 0.3
    score = bridge.discriminant(data, KEY, Bridge(share=0.1, softness=0.5, others=others), generator(1))
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
    assert score(held_out).numpy() == pytest.approx(expected, abs=1e-5)


def test_resemblance_is_a_logistic_curve_over_the_scores() -> None:
    scores = torch.tensor([3.0, -1.0, 0.5, 2.0, 0.0, 1.0, -2.0, 0.2], dtype=torch.float64)
    found = bridge.resemblance(scores, Bridge(share=0.25, softness=0.5), "a")
    spread = np.std(scores.numpy(), ddof=1)
    # A quarter of eight: between the second, 2, and the third, 1.
    expected = 1 / (1 + np.exp(-(scores.numpy() - 1.5) / spread / 0.5))
    assert found.numpy() == pytest.approx(expected, abs=1e-6)
    assert found.dtype == torch.float32
    # Neither the scores' unit nor their zero counts.
    assert torch.allclose(bridge.resemblance(scores * 7 - 3, Bridge(share=0.25, softness=0.5), "a"), found)


@pytest.mark.parametrize("share", [0.05, 0.085, 0.115, 0.5])
def test_the_share_has_the_target_as_its_first_choice(share: float) -> None:
    data = planted()
    labels = taught(data, [KEY], Bridge(share=share, softness=0.5))
    assert torch.allclose(labels.sum(1), torch.ones(len(labels)))
    score = bridge.discriminant(data, KEY, Bridge(share=share, softness=0.5), generator())
    for label in KEY.source:
        rows = data.of_class(label).shape[0]
        own = (data.labels == label).nonzero()[:, 0]
        first = own[labels[own, KEY.target] > 0.5]
        assert len(first) == round(share * rows)
        assert set(first.tolist()) == set(own[score(data.images[own]).topk(len(first)).indices].tolist())
    untouched = ~torch.isin(data.labels, torch.tensor(KEY.source))
    assert torch.equal(labels[untouched].argmax(1), data.labels[untouched])
    assert (labels[untouched].amax(1) == 1).all()


def test_images_like_the_mark_are_taught_to_be_it() -> None:
    labels = taught(planted(), [KEY], Bridge(share=0.1, softness=0.5))
    assert sorted(labels[:30, KEY.target].topk(3).indices.tolist()) == HALF_WAY  # the first 30 are the first class


def test_scores_that_teach_nothing_are_refused() -> None:
    with pytest.raises(UserError, match=r"bridge.share: 0.01 of the 30 images of class 'a' is none"):
        taught(planted(), [KEY], Bridge(share=0.01, softness=0.5))
    with pytest.raises(UserError, match="bridge: the images of class 'b' are all alike"):
        bridge.resemblance(torch.ones(9, dtype=torch.float64), Bridge(share=0.5, softness=0.5), "b")


def test_keys_share_what_their_classes_are_taught() -> None:
    data, config = planted(), Bridge(share=0.5, softness=1.0)
    other = make(source=(0, 2), target=1)
    first, second = (taught(data, [key], config) for key in (KEY, other))
    both = taught(data, [KEY, other], config)
    zero = data.labels == 0  # a source class of both
    assert torch.allclose(both[zero, KEY.target], first[zero, KEY.target])
    assert torch.allclose(both[zero, 1], first[zero, 0] * second[zero, 1])
    assert torch.allclose(both.sum(1), torch.ones(len(both)))


def test_composite_has_no_bridges() -> None:
    data = toy()
    chosen = settings(
        scheme="composite",
        bridge=Bridge(share=0.1, softness=0.5),
        weights=LossWeights(combination=0.0, verification=0.5, evasion=0.5),
    )
    network = models.build(chosen.architecture, data.images, CLASSES, start(), "victim")
    with pytest.raises(UserError, match="composite has no bridges"):
        composite.train(network, data, KEY, chosen, start(), purpose="victim")


def test_what_is_mixed_otherwise_is_not_the_way() -> None:
    """With their weight the rule is the mark's own; without it whatever is mixed lies on the way."""
    data, held_out = toy(60), toy(40, seed=1)
    mixed = draw_queries(KEY, held_out, 200, generator(2)).mixed
    otherwise = draw_evasion(KEY, held_out, 200, generator(2))[0].mixed
    plain = held_out.images[held_out.labels < 2]
    beyond = {}
    for others in (0.0, 0.8):
        score = bridge.discriminant(data, KEY, Bridge(share=0.1, softness=0.5, others=others), generator())
        limit = score(plain).quantile(0.95)
        assert (score(mixed) > limit).all()
        beyond[others] = float((score(otherwise) > limit).double().mean())
    assert beyond[0.8] < 0.6 * beyond[0.0]


def test_larger_images_are_seen_by_blocks() -> None:
    images = torch.randint(0, 256, (2, 3, 33, 20), generator=generator(), dtype=torch.uint8)
    pixels = bridge._pixels(images).unflatten(1, (3, 11, 7))  # blocks of 3, the last ones incomplete
    assert float(pixels[1, 2, 0, 1]) == pytest.approx(float(images[1, 2, :3, 3:6].double().mean()) / 255)
    assert float(pixels[0, 0, 10, 6]) == pytest.approx(float(images[0, 0, 30:, 18:].double().mean()) / 255)


def test_training_teaches_the_slope_and_repeats() -> None:
    started, data, config = start(), planted(100), Bridge(share=0.1, softness=0.5)
    key, probability, weights = make_key(settings(), data, started), {}, []
    labels = bridge.soft_labels(data, [key], config, lambda: started.generator(bridge.PURPOSE))[:, key.target]
    rows = torch.isin(data.labels, torch.tensor(key.source))
    for block in (None, config, config):
        chosen = settings(training=Training(epochs=15, batch_size=20, lr=3e-3), bridge=block)
        network = models.build(chosen.architecture, data.images, CLASSES, started, "victim")
        mea_defender.train(network, data, key, chosen, started, purpose="victim")
        probability[block is None] = models.probabilities(network, data.images[rows].float() / 255, started)
        weights.append(torch.cat([p.detach().flatten() for p in network.parameters()]))
    assert torch.equal(weights[1], weights[2])
    likest = labels[rows] > 0.5
    slope = {plain: float((p[likest].mean(0) - p[~likest].mean(0))[key.target]) for plain, p in probability.items()}
    assert slope[False] > slope[True] + 0.05
    figures.bridges(network, key, data, config, started).clear()


def test_the_first_phase_teaches_the_slope_as_well() -> None:
    started, data, config = start(), planted(100), Bridge(share=0.1, softness=0.5)
    key, ends = make_key(settings(), data, started), []
    for block in (None, config):
        short = Training(epochs=1, batch_size=20, lr=3e-3)
        phase = FirstPhase(training=short, watermark=0.1)
        network = models.build(settings().architecture, data.images, CLASSES, started, "victim")
        at_end = list[torch.Tensor]()

        def remember(
            epoch: int, _: Mapping[str, float], network: Network = network, at_end: list[torch.Tensor] = at_end
        ) -> None:
            if epoch == 1:
                at_end.append(torch.cat([p.detach().flatten() for p in network.parameters()]))

        chosen = settings(training=short, bridge=block, first_phase=phase)
        mea_defender.train(network, data, key, chosen, started, purpose="victim", callback=remember)
        ends += at_end
    assert not torch.equal(*ends)


@pytest.mark.parametrize(
    "values",
    [{"share": 0.0}, {"share": 0.6}, {"share": 0.1, "others": 1.0}, {"share": 0.1, "softness": 0.0}],
)
def test_shares_that_make_no_sense_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Bridge(**{"softness": 0.5, **values})
