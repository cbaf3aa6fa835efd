"""The steps of DataElixir against examples worked by hand and plain references."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from hallmark import models
from hallmark.config import Architecture, Rounds
from hallmark.data.dataset import ImageDataset
from hallmark.diffusion import model as diffusion
from hallmark.errors import UserError
from hallmark.purify import occupancy, purifier, selection, separation, targets, transitions, transplant
from hallmark.runtime import Runtime


def labels_of(*rows: str) -> Tensor:
    """One string of digits an image: the raw label, then the intermediates'."""
    return torch.tensor([[int(digit) for digit in row] for row in rows])


def test_transition_rule_by_hand() -> None:
    found = transitions.transition_rule(labels_of("2222222", "0111122", "0111122", "0100000", "3001122"), 4, tau=2)
    assert found.majority.tolist() == [2, 1, 1, 0, 0]  # the tie of the last row goes to the smallest label
    assert found.kept[0].all()  # one label only
    assert found.kept[1].all()  # the second commonest label (2) occurs tau times
    assert found.kept[3].tolist() == [True, False, True, True, True, True, True]  # one stray label is left out
    assert found.unanimous.tolist() == [True, False, False, True, False]
    assert found.intermediates_agree.tolist() == [True, False, False, True, False]
    stricter = transitions.transition_rule(labels_of("0111122"), 4, tau=3)
    assert stricter.kept[0].tolist() == [True, True, True, True, True, False, False]
    assert stricter.intermediates_agree.tolist() == [True]  # of those kept
    assert stricter.unanimous.tolist() == [False]  # the raw label counts
    assert transitions.transition_rule(labels_of("0111122"), 4, tau=5).flip_rate.tolist() == [1.0]


def test_label_shares_count_mixed_samples_by_given_label() -> None:
    found = transitions.transition_rule(labels_of("0000", "0111", "0011", "1111", "1000"), 3, tau=1)
    shares, samples = transitions.kept_label_shares(found, torch.tensor([0, 0, 0, 1, 1]), 3)
    assert samples.tolist() == [2, 1, 0]
    torch.testing.assert_close(shares[0], torch.tensor([3 / 8, 5 / 8, 0.0], dtype=torch.float64))
    torch.testing.assert_close(shares[1], torch.tensor([3 / 4, 1 / 4, 0.0], dtype=torch.float64))
    assert shares[2].tolist() == [0, 0, 0]
    divergence = targets.kl_divergence(shares, samples)
    assert divergence[:2].tolist() == pytest.approx([-math.log(3 / 8), -math.log(1 / 4)])
    assert divergence[2].isnan()  # an empty class is no evidence, and no division by zero


def test_target_test_is_two_sided_and_robust() -> None:
    metric = torch.tensor([1.0, 1.1, 0.9, 1.2, 0.8, 3.0, math.nan], dtype=torch.float64)
    found = targets.mad_outliers(metric, 2.0)
    # median 1.05; |metric - median| = .05 .05 .15 .15 .25 1.95: MAD 0.15
    assert float(found.scores[5]) == pytest.approx(1.95 / (1.4826 * 0.15))
    assert found.targets == (5,)
    assert found.scores[6].isnan()
    assert targets.mad_outliers(-metric, 2.0).targets == (5,)
    assert targets.mad_outliers(metric, 20.0).targets == ()
    assert targets.mad_outliers(torch.tensor([1.0, 9.0]), 2.0).targets == ()  # two classes show no outlier
    assert targets.mad_outliers(torch.tensor([1.0, 1.0, 1.0, 9.0]), 2.0).targets == ()  # a MAD of zero
    assert targets.mad_outliers(torch.full((3,), math.nan), 2.0).targets == ()


def reference_ssim(a: np.ndarray, b: np.ndarray, window: int) -> float:
    """scikit-image's structural_similarity of one channel in 0-1, window by window."""
    values = []
    for i in range(a.shape[0] - window + 1):
        for j in range(a.shape[1] - window + 1):
            x, y = a[i : i + window, j : j + window].ravel(), b[i : i + window, j : j + window].ravel()
            covariance = np.cov(x, y)  # unbiased
            top = (2 * x.mean() * y.mean() + 0.01**2) * (2 * covariance[0, 1] + 0.03**2)
            bottom = (x.mean() ** 2 + y.mean() ** 2 + 0.01**2) * (covariance[0, 0] + covariance[1, 1] + 0.03**2)
            values.append(top / bottom)
    return float(np.mean(values))


@pytest.mark.parametrize("window", [3, 5])
def test_ssim_is_the_window_by_window_reference(window: int) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(3, 2, 9, 8, generator=generator), torch.rand(3, 2, 9, 8, generator=generator)
    expected = [
        np.mean([reference_ssim(x.double().numpy(), y.double().numpy(), window) for x, y in zip(p, q, strict=True)])
        for p, q in zip(a, b, strict=True)
    ]
    torch.testing.assert_close(selection.ssim(a, b, window), torch.tensor(expected).float(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(selection.ssim(a, a), torch.ones(3))


def test_selection_takes_the_percentile_of_the_eligible() -> None:
    distance = torch.tensor([[0.0, 0.4, 0.1, 0.3, 0.2]] * 5)
    eligible = torch.ones(5, 5, dtype=torch.bool)
    eligible[1, 1] = False  # without the farthest: 0, .1, .2, .3 -> the one at int(.8 * 4) = 3
    eligible[2] = torch.tensor([True, False, False, False, False])
    eligible[3] = False
    eligible[4] = torch.tensor([False, False, True, True, False])
    assert selection.select(distance, eligible, 0.8).tolist() == [1, 3, 0, -1, 3]
    assert selection.select(distance, eligible, 0.0).tolist() == [0, 0, 0, -1, 2]
    assert selection.select(distance, eligible, 1.0).tolist() == [1, 3, 0, -1, 3]


def test_distances_are_zero_to_the_raw_image_and_do_not_depend_on_the_batch(
    toy: ImageDataset, cpu: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = models.build(Architecture(name="vgg_like", width=4), toy.images, toy.classes, cpu, "test").eval()
    candidates = torch.stack([toy.images, 255 - toy.images, toy.images.flip(2)], 1)
    whole = selection.distances(toy.images, candidates, network, cpu)
    assert whole.shape == (90, 3)
    torch.testing.assert_close(whole[:, 0], torch.zeros(90), atol=1e-6, rtol=0)
    assert (whole[:, 1] > 0.1).all()
    assert (whole <= 1).all()
    monkeypatch.setattr(selection, "BATCH", 7)
    torch.testing.assert_close(selection.distances(toy.images, candidates, network, cpu), whole)
    assert selection.distances(toy.images[:0], candidates[:0], network, cpu).shape == (0, 3)


def test_rounds_are_chained_and_made_again_bit_by_bit(cpu: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    def darker(
        model: object, images: Tensor, positions: Tensor, cpu: object, *, keep: int, purpose: str, **others: object
    ) -> Tensor:
        calls.append((purpose, positions.tolist()))
        return torch.stack([images - 5 * (k + 1) for k in range(keep)], 1)

    calls: list[tuple[str, list[int]]] = []
    monkeypatch.setattr(purifier, "round_trip", darker)
    monkeypatch.setattr(purifier, "CHUNK", 3)
    model = diffusion.new((1, 8, 8), (8,), 1, 1, 150)
    images = torch.arange(100, 108, dtype=torch.uint8)[:, None, None, None].expand(8, 1, 8, 8).contiguous()
    rounds = Rounds(start=9, rounds=3, sampler="ancestral", steps=4, keep=2)
    ours = purifier.Purifier(model, rounds, cpu)

    def corner(index: Tensor, states: Tensor) -> dict[str, Tensor]:
        return {"index": index, "states": states[:, :, 0, 0, 0]}

    seen = ours.scan(images, corner, "p", depends={})
    assert seen["index"].tolist() == list(range(8))
    assert seen["states"][0].tolist() == [100, 95, 90, 85, 80, 75, 70]
    rounds_of = ["p/round 0", "p/round 1", "p/round 2"]  # every round has noise of its own
    assert calls == [(name, rows) for rows in ([0, 1, 2], [3, 4, 5], [6, 7]) for name in rounds_of]
    calls.clear()
    again = ours.regenerate(images, torch.tensor([1, 6]), "p")
    assert torch.equal(again[:, :, 0, 0, 0], seen["states"][[1, 6]])
    assert calls == [(name, [1, 6]) for name in rounds_of]  # no other image is made again
    assert ours.regenerate(images, torch.tensor([], dtype=torch.int64), "p").shape == (0, 7, 1, 8, 8)
    assert ours.evaluations.count == (8 + 2) * 3 * 4  # images, rounds, steps
    once = ours.first_round()
    assert once.scan(images, corner, "p", depends={})["states"].shape == (8, 2)
    assert ours.evaluations.count == 120 + 8 * 4
    calls.clear()
    some = ours.scan(images, corner, "p", depends={}, rows=torch.tensor([1, 2, 5, 7]))
    assert some["index"].tolist() == [1, 2, 5, 7]
    assert torch.equal(some["states"], seen["states"][[1, 2, 5, 7]])
    assert calls == [(name, rows) for rows in ([1, 2, 5], [7]) for name in rounds_of]


def test_groups_that_lack_trusted_images_have_the_hypergeometric_probability() -> None:
    generator = torch.Generator().manual_seed(0)
    direction = torch.tensor([[0.6, 0.8, 0.0]])
    given = torch.cat([torch.randn(30, 1, generator=generator) @ direction, 20 * direction.expand(20, 3)])
    trusted = torch.randn(10, 1, generator=generator) @ direction
    found = list(occupancy.groups(given, trusted, [2, 3], 0))
    alone = min(found, key=lambda group: group.p)
    assert alone.members.tolist() == [False] * 30 + [True] * 20
    assert (alone.size, alone.trusted) == (20, 0)
    # All 10 trusted ones among the 40 others of 60.
    assert alone.p == pytest.approx(math.comb(40, 10) / math.comb(60, 10))
    assert [g.p for g in found] == [g.p for g in occupancy.groups(given, trusted, [2, 3], 0)]
    assert all(g.p == 1 for g in occupancy.groups(given, trusted[:0], [2, 3], 0))
    assert [g.size for g in occupancy.groups(torch.ones(5, 3), torch.ones(2, 3), [2, 4], 0)] == [5, 5]


def test_tops_count_trusted_images_class_by_class() -> None:
    given, trusted = torch.tensor([9.0, 8, 1, 0, 5, 4, 3]), torch.tensor([2.0, 0.5, 6.0])
    labels, trusted_labels = torch.tensor([0, 0, 0, 0, 1, 1, 1]), torch.tensor([0, 0, 1])
    (one,) = occupancy.tops(given[:4], trusted[:2], labels[:4], trusted_labels[:2], [0.34])
    assert (one.size, one.trusted) == (2, 0)
    assert one.p == pytest.approx(math.comb(4, 2) / math.comb(6, 2))
    (both,) = occupancy.tops(given, trusted, labels, trusted_labels, [0.5])
    # Class 0: the highest three are 9, 8 and the trusted 2; class 1: the trusted 6 and 5.
    assert (both.size, both.trusted) == (3, 2)
    # Class 0 has 1 of its 2 trusted images among 3 of 6, class 1 its only one among 2 of 4: no more than that.
    first = [math.comb(2, k) * math.comb(4, 3 - k) / math.comb(6, 3) for k in range(3)]
    second = [0.5, 0.5]
    assert both.p == pytest.approx(1 - first[2] * second[1])
    zeros = torch.zeros(5), torch.zeros(5), torch.zeros(5).long(), torch.zeros(5).long()
    (flat,) = occupancy.tops(*zeros, [0.4, 0.8])  # no given image is among the first four
    assert (flat.size, flat.trusted, flat.p) == (3, 5, 1)  # a tie is no lack of trusted images


@pytest.mark.parametrize(("n", "m"), [(40, 3), (40, 30), (3, 30), (1, 30)])
def test_attainable_is_what_images_give_that_are_as_bad_as_can_be(n: int, m: int) -> None:
    given, trusted, shares = torch.arange(n) + 1.0, -torch.arange(m), (0.05, 0.1, 0.3, 0.7)
    labels, trusted_labels = torch.arange(n) % 2, torch.arange(m) % 2
    found = [group.p for group in occupancy.tops(given, trusted, labels, trusted_labels, shares)]
    assert occupancy.attainable(labels, trusted_labels, shares) == pytest.approx(min(found))
    assert occupancy.attainable(labels, trusted_labels[:0], shares) == 1


def test_a_sufficient_number_of_trusted_images_is_the_smallest_one() -> None:
    # Of very many given images the trusted ones are on top, or not, as coins fall.
    for share, level in ((0.3, 1e-4), (0.7, 3e-4)):
        assert occupancy.sufficient(10**6, (0.02, share), level) == math.ceil(math.log(level) / math.log(1 - share))
    assert occupancy.sufficient(1, (0.02, 0.3), 1e-3) == 0  # one image in 101 at best
    for n in (10, 40):
        labels, m = torch.zeros(n), occupancy.sufficient(n, (0.02, 0.3), 1e-3)
        p = [occupancy.attainable(labels, torch.zeros(k), (0.02, 0.3)) for k in range(m - 1, occupancy.MANY + 1)]
        assert p[0] >= 1e-3 > max(p[1:])


def test_the_level_of_the_tests_holds_on_clean_classes() -> None:
    generator = torch.Generator().manual_seed(1)
    smallest_group, smallest_top = [], []
    for _ in range(300):
        points = torch.randn(120, 5, generator=generator)
        given, trusted = points[:100], points[100:]
        zeros = torch.zeros(120, dtype=torch.int64)
        smallest_group += [g.p for g in occupancy.groups(given, trusted, [4], 0)]
        smallest_top += [g.p for g in occupancy.tops(points[:100, 0], points[100:, 0], zeros[:100], zeros[100:], [0.2])]
    for p in (np.array(smallest_group), np.array(smallest_top)):
        for level in (0.01, 0.05, 0.2):
            margin = 3 * math.sqrt(level * (1 - level) / len(p))
            assert (p <= level).mean() <= level + margin


def test_the_rarest_of_overlapping_groups_has_the_level_of_one_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(occupancy, "DRAWS", 4000)  # five times that changes nothing at levels so high
    chance = 3.5 * math.sqrt(0.25 / occupancy.DRAWS)
    generator = torch.Generator().manual_seed(3)
    labels, trusted_labels = torch.arange(150) % 2, torch.arange(30) % 2
    found, bounds, shares, bonferroni = [], [], [], []
    for k in range(300):
        one, two = torch.randn(180, generator=generator), torch.randn(180, generator=generator)
        scores = [(x[:150], x[150:]) for x in (one, one + 0.3 * two)]
        best, p = occupancy.rarest(scores, labels, trusted_labels, [0.1, 0.2, 0.3], relevant=1, seed=k)
        assert best.p - chance <= p <= 6 * best.p + chance
        found.append(p)
        bounds.append(min(1.0, 6 * best.p))
        if k < 10:  # without need, Bonferroni's bound
            best, p = occupancy.rarest(scores, labels, trusted_labels, [0.1, 0.2, 0.3], relevant=1e-9, seed=k)
            assert p == pytest.approx(min(1, 6 * best.p))
    for level in (0.05, 0.1, 0.2):
        share = float((np.array(found) <= level).mean())
        margin = 3 * math.sqrt(level * (1 - level) / len(found))
        assert share <= level + margin
        bonferroni.append(float((np.array(bounds) <= level).mean()))
        shares.append(share)
    # The counts are few, so the level is not reached, but more nearly than by the bound.
    assert sum(shares) > 1.3 * sum(bonferroni)


def test_the_simulated_minimum_is_the_enumerated_one() -> None:
    # 2 trusted among 6 images: 15 ways; one share, one score: the exact p-value of the group.
    given, trusted = torch.tensor([9.0, 8, 7, 1]), torch.tensor([2.0, 3.0])
    zeros = torch.zeros(6, dtype=torch.int64)
    best, p = occupancy.rarest([(given, trusted)] * 2, zeros[:4], zeros[:2], [0.5], relevant=1, seed=0)
    assert best.p == pytest.approx(3 / 15)  # no trusted image among the highest three of six
    assert p == pytest.approx(3 / 15, abs=0.01)


def test_a_displaced_mean_is_found_and_an_undisplaced_one_has_the_level() -> None:
    generator = torch.Generator().manual_seed(4)
    found = []
    for k in range(300):
        points = torch.randn(60, 4, generator=generator)
        found.append(occupancy.displaced(points[:50], points[50:], (1, 2, 4), relevant=0.5, seed=k)[0])
    for level in (0.01, 0.05, 0.2):
        margin = 3 * math.sqrt(level * (1 - level) / len(found))
        assert abs((np.array(found) <= level).mean() - level) <= margin
    points = torch.randn(60, 4, generator=generator)
    points[:50, 1] += 3
    p, count = occupancy.displaced(points[:50], points[50:], (1, 2, 4), relevant=1e-3, seed=0)
    assert p <= 1e-3
    assert count >= 2  # the second coordinate tells
    assert occupancy.displaced(points[:50], points[:0], (1, 2), relevant=1e-3, seed=0)[0] == 1
    assert occupancy.displaced(points[:50, :0], points[50:, :0], (1, 2), relevant=1e-3, seed=0)[0] == 1


def test_the_displacement_of_few_points_is_the_enumerated_one() -> None:
    # 2 trusted among 6 points: 15 ways; only 9 and 10 are as far from the mean together.
    given, trusted = torch.tensor([[0.0], [1], [2], [3]]), torch.tensor([[9.0], [10.0]])
    p, _ = occupancy.displaced(given, trusted, (1,), relevant=1e-3, seed=0)
    assert p == pytest.approx(1 / 15, abs=0.01)


def test_separation_grows_from_its_seeds_and_spares_the_trusted() -> None:
    generator = torch.Generator().manual_seed(2)
    clean, trusted = torch.randn(200, 4, generator=generator), torch.randn(40, 4, generator=generator)
    poisons = torch.randn(60, 4, generator=generator) + torch.tensor([7.0, 0, 0, 0])
    seeds = torch.zeros(260, dtype=torch.bool)
    seeds[200:225] = True  # fewer than half of the poisons
    seeds[:3] = True  # and some clean ones
    probability, chosen = separation.separate(torch.cat([clean, poisons]), trusted, seeds, 1.5, 0)
    assert float(chosen[200:].float().mean()) > 0.98
    assert float(chosen[:200].float().mean()) < 0.06
    assert float(probability[200:].min()) > float(probability[:200].max())
    everything = separation.separate(poisons, trusted[:0], torch.ones(60, dtype=torch.bool), 1.5, 0)
    assert bool(everything[1].all())


def test_separation_judges_no_image_by_what_it_has_learnt_from_it() -> None:
    # More directions than trusted images: in-sample, each of these lies low for having been learnt, and clean given
    # images beside them look suspicious.
    shares = []
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        clean, trusted = torch.randn(300, 80, generator=generator), torch.randn(50, 80, generator=generator)
        poisons = torch.randn(60, 80, generator=generator)
        poisons[:, 0] += 9
        _, chosen = separation.separate(torch.cat([clean, poisons]), trusted, torch.arange(360) >= 320, 2.0, 0)
        assert float(chosen[300:].float().mean()) >= 0.95
        shares.append(float(chosen[:300].float().mean()))
    assert sum(shares) / 5 <= 0.15  # in-sample a third


def test_separation_does_not_hang_on_the_order_of_the_images() -> None:
    generator = torch.Generator().manual_seed(6)
    clean, trusted = torch.randn(180, 4, generator=generator), torch.randn(40, 4, generator=generator)
    poisons = torch.randn(60, 4, generator=generator) + torch.tensor([7.0, 0, 0, 0])
    points, fourth = torch.empty(240, 4), torch.arange(240) % 4 == 0
    points[fourth], points[~fourth] = poisons, clean  # all poisons at every fourth place
    seeds = fourth & (torch.arange(240) < 80)
    _, chosen = separation.separate(points, trusted, seeds, 2.0, 0)
    assert float(chosen[fourth].float().mean()) >= 0.95


def test_the_threshold_lies_between_the_trusted_and_what_stands_apart() -> None:
    generator = torch.Generator().manual_seed(3)
    clean, trusted = (torch.randn(n, generator=generator).double() * 0.5 - 3 for n in (900, 100))
    poisons = torch.randn(100, generator=generator).double() * 0.5 + 3
    given = torch.cat([clean, poisons]).sigmoid()
    found = separation.threshold(given, trusted.sigmoid(), 1.0)
    assert float((clean.sigmoid() >= found).double().mean()) <= 0.01  # above the highest trusted image as well
    assert float((poisons.sigmoid() >= found).double().mean()) >= 0.98
    mixed = torch.cat([clean, poisons - 4]).sigmoid()
    bold, shy = (separation.threshold(mixed, trusted.sigmoid(), weight) for weight in (0.5, 5.0))
    assert bold < shy
    assert separation.threshold(given, trusted[:0], 1.0) == 0.5
    assert separation.threshold(given * 0, trusted.sigmoid(), 1.0) == 1.0


def patched(images: Tensor) -> Tensor:
    images = images.clone()
    images[:, :, -2:, -2:] = 255
    return images


def test_transplanted_trigger_takes_its_hosts_along(toy: ImageDataset, cpu: Runtime, monkeypatch) -> None:
    def obeys_the_patch(network: object, images: Tensor, runtime: object) -> Tensor:
        images = images / 255 if images.dtype == torch.uint8 else images
        band = images[:, 0, :6].unflatten(1, (3, 2)).mean((2, 3))
        return torch.where((images[:, 0, -2:, -2:].mean((1, 2)) > 0.6)[:, None], torch.tensor([[0.0, 9, 0]]), band)

    monkeypatch.setattr(transplant.models, "logits", obeys_the_patch)
    network = models.build(Architecture(name="vgg_like", width=4), toy.images, toy.classes, cpu, "test")
    hosts = transplant.usable_hosts(network, toy, cpu)
    given = torch.ones(len(toy), dtype=torch.int64)

    def run(images: Tensor, labels: Tensor) -> Tensor:
        chosen = transplant.hosts_for(labels, hosts, 5, torch.Generator().manual_seed(0))
        return transplant.transplant(network, images, toy.images, labels, hosts=hosts.images[chosen], runtime=cpu)

    poisoned = run(patched(toy.images), given)
    assert float(poisoned.mean()) > 0.95
    assert float(run(patched(toy.images), torch.zeros_like(given)).max()) == 0
    assert (run(toy.images, given) == 0).all()


def test_hosts_are_of_other_classes(toy: ImageDataset) -> None:
    generator = torch.Generator().manual_seed(0)
    chosen = transplant.hosts_for(toy.labels, toy, 50, generator)
    assert not (toy.labels[chosen] == toy.labels[:, None]).any()
    assert len(chosen.unique()) == len(toy)
    with pytest.raises(UserError, match="'band 0' only"):
        transplant.hosts_for(torch.tensor([0]), toy.subset(toy.labels == 0), 3, generator)
    with pytest.raises(UserError, match=r"the witness .* classifies no trusted image rightly"):
        transplant.hosts_for(torch.tensor([0]), toy.subset(torch.tensor([], dtype=torch.int64)), 3, generator)
