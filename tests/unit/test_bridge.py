"""Bridges: the discriminant against scikit-learn, which images are chosen, and what the training makes of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.linear_model import Ridge

from hallmark import models
from hallmark.config import Bridge, LossWeights, Training
from hallmark.data.dataset import ImageDataset
from hallmark.errors import UserError
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


def choose(data: ImageDataset, key: Key, config: Bridge, generator: torch.Generator) -> torch.Tensor:
    return bridge.chosen(data, key, config, bridge.discriminant(data, key, config, generator))


def test_the_discriminant_is_a_weighted_ridge_regression() -> None:
    data, others = planted(), 0.3
    score = bridge.discriminant(data, KEY, Bridge(share=0.1, others=others), generator(1))
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


def test_the_likest_of_each_source_class_are_chosen() -> None:
    data = planted()
    rows = choose(data, KEY, Bridge(share=0.1), generator())
    assert sorted(rows[:3].tolist()) == HALF_WAY
    assert data.labels[rows].tolist() == [0, 0, 0, 1, 1, 1]
    # More of them: the first ones stay the first.
    more = choose(data, KEY, Bridge(share=0.2), generator())
    assert more[:3].tolist() == rows[:3].tolist()
    assert len(more) == 12
    marked = bridge.relabelled(data, [KEY], Bridge(share=0.1), generator)
    changed = (marked.labels != data.labels).nonzero()[:, 0]
    assert changed.tolist() == sorted(rows.tolist())
    assert (marked.labels[changed] == KEY.target).all()
    assert torch.equal(marked.images, data.images)
    assert int((data.labels == KEY.target).sum()) == 30  # the given set is as it was


def test_a_share_is_rounded_and_never_nothing() -> None:
    for share, count in ((0.05, 2), (0.085, 3), (0.115, 3)):  # of 30: 1.5, 2.55 and 3.45
        assert len(choose(planted(), KEY, Bridge(share=share), generator())) == 2 * count
    with pytest.raises(UserError, match=r"bridge.share: 0.01 of the 30 images of class 'a' is none"):
        choose(planted(), KEY, Bridge(share=0.01), generator())


def test_keys_do_not_take_one_anothers_bridges() -> None:
    """Each key's are those that it has alone; what two want is the first one's."""
    data, config = planted(), Bridge(share=0.5)
    other = make(source=(0, 2), target=1)
    first, second = (choose(data, key, config, generator()) for key in (KEY, other))
    expected = data.labels.clone()
    expected[second] = other.target
    expected[first] = KEY.target
    both = set(first.tolist()) & set(second.tolist())
    assert both  # else the order would not count
    marked = bridge.relabelled(data, [KEY, other], config, generator)
    assert torch.equal(marked.labels, expected)


def test_composite_has_no_bridges() -> None:
    data = toy()
    chosen = settings(
        scheme="composite",
        bridge=Bridge(share=0.1),
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
        score = bridge.discriminant(data, KEY, Bridge(share=0.1, others=others), generator())
        limit = score(plain).quantile(0.95)
        assert (score(mixed) > limit).all()
        beyond[others] = float((score(otherwise) > limit).double().mean())
    assert beyond[0.8] < 0.6 * beyond[0.0]


def test_larger_images_are_seen_by_blocks() -> None:
    images = torch.randint(0, 256, (2, 3, 33, 20), generator=generator(), dtype=torch.uint8)
    pixels = bridge._pixels(images).unflatten(1, (3, 11, 7))  # blocks of 3, the last ones incomplete
    assert float(pixels[1, 2, 0, 1]) == pytest.approx(float(images[1, 2, :3, 3:6].double().mean()) / 255)
    assert float(pixels[0, 0, 10, 6]) == pytest.approx(float(images[0, 0, 30:, 18:].double().mean()) / 255)


def test_training_teaches_the_bridges_and_repeats() -> None:
    started, data = start(), planted(100)
    key, called, weights = make_key(settings(), data, started), {}, []
    for share in (None, 0.1, 0.1):
        chosen = settings(
            training=Training(epochs=12, batch_size=20, lr=3e-3),
            bridge=None if share is None else Bridge(share=share),
        )
        network = models.build(chosen.architecture, data.images, CLASSES, started, "victim")
        mea_defender.train(network, data, key, chosen, started, purpose="victim")
        rows = choose(data, key, Bridge(share=0.1), started.generator(bridge.PURPOSE))
        answers = models.logits(network, data.images, started).argmax(1)
        called[share] = float((answers[rows] == key.target).float().mean())
        weights.append(torch.cat([p.detach().flatten() for p in network.parameters()]))
    assert torch.equal(weights[1], weights[2])
    assert called[0.1] > called[None] + 0.1
    figures.bridges(network, key, data, Bridge(share=0.1), started).clear()


@pytest.mark.parametrize("values", [{"share": 0.0}, {"share": 0.6}, {"share": 0.1, "others": 1.0}])
def test_shares_that_make_no_sense_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Bridge(**values)
