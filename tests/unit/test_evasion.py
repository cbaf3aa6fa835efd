"""What a thief's service does while it is asked: each evasion, the wrapper, the search for a strength."""

from __future__ import annotations

import pytest
import torch

from hallmark.diffusion import model as diffusion_model
from hallmark.errors import UserError
from hallmark.evasion import Evading, Means, Range, registry, strength_at_cost
from hallmark.runtime import Runtime
from hallmark.suspects import NO_CLASS, Answer, Suspect
from hallmark.suspects.answer import Arrived
from tests.unit.conftest import toy_images

IMAGES = toy_images(60, classes=4, size=12).images
ON_QUERIES = ("gaussian_noise", "blur", "jpeg", "bit_depth", "resize_crop", "diffpure")
ON_ANSWERS = ("reject_lof", "round_answers", "noisy_answers", "labels_only")


class Brightness(Suspect):
    """Two classes: bright images are the first."""

    def __init__(self) -> None:
        self.seen = torch.empty(0)

    def describe(self) -> dict[str, object]:
        return {"kind": "toy"}

    def ask(self, images: torch.Tensor, arrived: Arrived) -> None:
        self.seen = images
        bright = images.float().mean((1, 2, 3)) / 255
        soft = torch.stack([bright, 1 - bright], 1)
        for start in range(0, len(images), 25):
            part = soft[start : start + 25]
            arrived(start, Answer(part.argmax(1), part))


def means(cpu: Runtime, seed: int = 0) -> Means:
    diffusion = diffusion_model.new((1, 12, 12), (8, 8), 1, 1, 150)
    return Means(IMAGES, cpu, torch.Generator().manual_seed(seed), diffusion)


def test_every_evasion_is_tried() -> None:
    assert set(registry.names()) == {*ON_QUERIES, *ON_ANSWERS}


@pytest.mark.parametrize("name", ON_QUERIES)
def test_queries_are_altered_more_the_stronger_it_is(name: str, cpu: Runtime) -> None:
    module, changes = registry.get(name), []
    reach = module.RANGE
    for strength in (reach.low, (reach.low + reach.high) // 2 if reach.whole else 0.3 * reach.high):
        torch.manual_seed(0)
        suspect = Brightness()
        Evading(suspect, module.prepare(means(cpu), strength)).scores(IMAGES)
        assert suspect.seen.shape == IMAGES.shape
        assert suspect.seen.dtype == torch.uint8
        changes.append(float((suspect.seen.float() - IMAGES.float()).abs().mean()))
    if name != "diffpure":  # an untrained diffusion model ruins every image
        assert changes[0] < 2.5
        assert changes[0] < changes[1]


@pytest.mark.parametrize("name", ON_QUERIES)
def test_equal_draws_give_equal_queries(name: str, cpu: Runtime) -> None:
    module = registry.get(name)
    strength = round(module.RANGE.high / 2) if module.RANGE.whole else module.RANGE.high / 2
    same = means(cpu)
    first, second = (module.prepare(Means(IMAGES, cpu, torch.Generator().manual_seed(4), same.diffusion), strength)
                     for _ in range(2))  # fmt: skip
    assert torch.equal(first.queries(IMAGES), second.queries(IMAGES))


def test_bit_depth_leaves_so_many_levels(cpu: Runtime) -> None:
    module = registry.get("bit_depth")
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(module.prepare(means(cpu), 0).queries(every), every)
    two_bits = module.prepare(means(cpu), 6).queries(every)
    assert two_bits.unique().tolist() == [0, 85, 170, 255]
    assert module.prepare(means(cpu), 7).queries(every).unique().tolist() == [0, 255]


def test_no_crop_is_the_image_itself(cpu: Runtime) -> None:
    assert torch.equal(registry.get("resize_crop").prepare(means(cpu), 0.0).queries(IMAGES), IMAGES)


def test_strange_queries_get_no_answer(cpu: Runtime) -> None:
    evasion = registry.get("reject_lof").prepare(means(cpu), 0.1)
    strange = torch.full((3, 1, 12, 12), 255, dtype=torch.uint8)
    usual = toy_images(100, classes=4, size=12, seed=8).images
    answer = Evading(Brightness(), evasion).scores(torch.cat([strange, usual]))
    assert (answer.labels[:3] == NO_CLASS).all()
    assert answer.probabilities is not None
    assert not answer.probabilities[:3].any()
    assert (answer.labels[3:] == NO_CLASS).float().mean() < 0.35


def test_of_usual_queries_as_many_are_refused_as_the_strength_says(cpu: Runtime) -> None:
    diffusion = diffusion_model.new((1, 12, 12), (8, 8), 1, 1, 150)
    own = toy_images(800, classes=4, size=12, seed=11).images
    fresh = toy_images(800, classes=4, size=12, seed=12).images
    for strength in (0.05, 0.2):
        given = Means(own, cpu, torch.Generator().manual_seed(1), diffusion)
        evasion = registry.get("reject_lof").prepare(given, strength)
        refused = Evading(Brightness(), evasion).scores(fresh).labels == NO_CLASS
        assert abs(float(refused.float().mean()) - strength) < 0.35 * strength + 0.01


def test_answers_are_coarser(cpu: Runtime) -> None:
    suspect = Brightness()
    plain = suspect.scores(IMAGES)
    rounded = Evading(suspect, registry.get("round_answers").prepare(means(cpu), 0.25)).scores(IMAGES)
    assert rounded.probabilities is not None
    assert set(rounded.probabilities.unique().tolist()) <= {0, 0.25, 0.5, 0.75, 1}
    assert torch.equal(rounded.labels, rounded.probabilities.argmax(1))
    hidden = Evading(suspect, registry.get("labels_only").prepare(means(cpu), 1.0)).scores(IMAGES)
    assert hidden.probabilities is None
    assert torch.equal(hidden.labels, plain.labels)
    noisy = Evading(suspect, registry.get("noisy_answers").prepare(means(cpu), 0.5)).scores(IMAGES)
    assert noisy.probabilities is not None
    torch.testing.assert_close(noisy.probabilities.sum(1), torch.ones(60))
    assert (noisy.labels != plain.labels).any()
    still = Evading(suspect, registry.get("noisy_answers").prepare(means(cpu), 0.0)).scores(IMAGES)
    assert torch.equal(still.labels, plain.labels)


@pytest.mark.parametrize("name", ["round_answers", "noisy_answers"])
def test_labels_have_nothing_to_blur(name: str, cpu: Runtime) -> None:
    answer = Answer(torch.tensor([1, 0]))
    assert registry.get(name).prepare(means(cpu), 0.5).answers(answer, IMAGES[:2]) is answer


def test_diffpure_wants_a_diffusion_model(cpu: Runtime) -> None:
    module = registry.get("diffpure")
    with pytest.raises(UserError, match="diffpure: wants a diffusion model"):
        module.prepare(Means(IMAGES, cpu, torch.Generator()), 10)
    with pytest.raises(UserError, match="was trained below 150"):
        module.prepare(means(cpu), 200).queries(IMAGES)


def test_the_strength_is_the_greatest_that_is_cheap_enough() -> None:
    assert strength_at_cost(lambda s: 0.9 - s, Range(0, 1), 0.8, steps=20) == pytest.approx(0.1, abs=1e-5)
    assert strength_at_cost(lambda s: 0.9 - s, Range(0, 1), 0.8, steps=20) <= 0.1
    assert strength_at_cost(lambda s: 0.9 - s / 100, Range(0, 99, whole=True), 0.8) == 10.0
    assert strength_at_cost(lambda s: 0.9, Range(0, 1), 0.8) == 1
    assert strength_at_cost(lambda s: 0.1, Range(0.5, 1), 0.8, steps=20) == 0.5
