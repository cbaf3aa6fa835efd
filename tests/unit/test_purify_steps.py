"""The steps of DataElixir against examples worked by hand and plain references."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from hallmark import models
from hallmark.config import Architecture
from hallmark.data.dataset import ImageDataset
from hallmark.diffusion import model as diffusion
from hallmark.errors import UserError
from hallmark.purify import neighbours, selection, targets, trajectory, transitions, transplant
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


def test_trajectory_chains_its_rounds(cpu: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    def darker(model: object, images: Tensor, *arguments: object, keep: int, purpose: str, **others: object) -> Tensor:
        purposes.append(purpose)
        return torch.stack([images - 5 * (k + 1) for k in range(keep)], 1)

    purposes: list[str] = []
    monkeypatch.setattr(trajectory, "round_trip", darker)
    model = diffusion.new((1, 8, 8), (8,), 1, 1, 150)
    images = torch.full((2, 1, 8, 8), 100, dtype=torch.uint8)
    states = trajectory.trajectory(model, images, cpu, start=9, rounds=3, sampler="ddim", steps=4, keep=2, purpose="p")
    assert states[0, :, :, 0, 0, 0].tolist() == [[95, 90], [85, 80], [75, 70]]
    assert len(set(purposes)) == 3  # every round has noise of its own


def test_smoothing_averages_the_nearest_by_angle() -> None:
    features = torch.tensor([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0], [0.1, 3.0]])
    evidence = torch.tensor([1.0, 0.0, 0.4, 0.8])
    torch.testing.assert_close(neighbours.smooth(evidence, features, 2), torch.tensor([0.5, 0.5, 0.6, 0.6]))
    torch.testing.assert_close(neighbours.smooth(evidence, features, 99), torch.full((4,), 0.55))
    assert neighbours.smooth(evidence[:0], features[:0], 2).shape == (0,)


def test_clusters_find_groups_and_survive_degenerate_input() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.eye(3, 20) * 10
    truth = torch.arange(60) % 3
    features = centres[truth] + 0.1 * torch.randn(60, 20, generator=generator)
    groups = neighbours.cluster(features, 3, 0)
    assert all(len(groups[truth == k].unique()) == 1 for k in range(3))
    assert len(groups.unique()) == 3
    assert torch.equal(groups, neighbours.cluster(features, 3, 0))
    assert neighbours.cluster(torch.ones(5, 20), 3, 0).tolist() == [0] * 5
    assert len(neighbours.cluster(features[:2], 12, 0).unique()) == 2
    assert neighbours.cluster(features[:1], 12, 0).tolist() == [0]


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

    def run(images: Tensor, labels: Tensor) -> transplant.Transplants:
        return transplant.transplant(
            network, images, toy.images, labels, hosts=hosts, runtime=cpu, per_image=5, purpose="x"
        )

    poisoned = run(patched(toy.images), given)
    assert float(poisoned.hits.mean()) > 0.95
    assert float(run(patched(toy.images), torch.zeros_like(given)).hits.max()) == 0
    clean = run(toy.images, given)
    assert (clean.hits == 0).all()
    monkeypatch.setattr(transplant, "BATCH", 7)
    assert torch.equal(run(patched(toy.images), given).hits, poisoned.hits)


def test_hosts_are_of_other_classes(toy: ImageDataset) -> None:
    generator = torch.Generator().manual_seed(0)
    chosen = transplant.hosts_for(toy.labels, toy, 50, generator)
    assert not (toy.labels[chosen] == toy.labels[:, None]).any()
    assert len(chosen.unique()) == len(toy)
    with pytest.raises(UserError, match="'band 0' only"):
        transplant.hosts_for(torch.tensor([0]), toy.subset(toy.labels == 0), 3, generator)
    with pytest.raises(UserError, match="no trusted image"):
        transplant.hosts_for(torch.tensor([0]), toy.subset(torch.tensor([], dtype=torch.int64)), 3, generator)
