"""Output features over training: what is taken and when, one basis for all panels; the training does not notice."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from torch import Tensor

from hallmark import models
from hallmark.config import Architecture, FirstPhase, Training, TrainWatermarked
from hallmark.models import Network
from hallmark.runtime import Runtime
from hallmark.training import no_callback
from hallmark.watermark import figures, mea_defender
from hallmark.watermark.key import make_key
from hallmark.watermark.output_features import SHOWN, WATERMARK, Snapshots, centred, moments, probabilities, project
from tests.unit.test_watermark import settings, toy

DROPOUT = Architecture(name="cnn9", width=4, dropout=0.3)
NORMALISED = Architecture(name="resnet18", width=8)
LONG = Training(epochs=5, batch_size=16, lr=2e-3)
TRAIN, HELD_OUT = toy(12), toy(20, seed=1)


def strike(config: TrainWatermarked, runtime: Runtime, *, watched: bool = True) -> tuple[Network, Snapshots, list[int]]:
    network = models.build(config.architecture, TRAIN.images, TRAIN.classes, runtime, "victim")
    key, epochs = make_key(config, TRAIN, runtime), list[int]()
    callback = Snapshots(network, key, HELD_OUT, config, runtime, then=lambda epoch, _: epochs.append(epoch))
    mea_defender.train(
        network, TRAIN, key, config, runtime, purpose="victim", callback=callback if watched else no_callback
    )
    return network, callback, epochs


def random_panels(*seeds: int, classes: int, scale: float = 3) -> list[dict[str, Tensor]]:
    """Outputs of four groups, ever larger."""
    found = list[dict[str, Tensor]]()
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        names = ("a", "b", "c", WATERMARK)
        found.append({name: seed * scale * torch.randn(7, classes, generator=generator) + len(name) for name in names})
    return found


# --- what is taken, and when ---


@pytest.mark.parametrize(
    ("epochs", "first", "expected"),
    [
        (1, None, [0, 1]),
        (2, None, [0, 1, 2]),
        (8, None, [0, 1, 3, 8]),
        (200, None, [0, 1, 14, 200]),
        (1, 3, [3, 4]),
        (9, 100, [100, 101, 103, 109]),
    ],
)
def test_moments_are_before_the_mark_its_first_epoch_one_between_and_the_last(
    epochs: int, first: int | None, expected: list[int]
) -> None:
    def training(count: int) -> Training:
        return Training(epochs=count, batch_size=16, lr=1e-3)

    phase = None if first is None else FirstPhase(training=training(first))
    assert moments(settings(training=training(epochs), first_phase=phase)) == expected


def test_every_snapshot_has_the_rate_that_evaluate_gives_at_that_moment(cpu: Runtime) -> None:
    config = settings(training=LONG)
    key, rates = make_key(config, TRAIN, cpu), dict[int, object]()
    network = models.build(config.architecture, TRAIN.images, TRAIN.classes, cpu, "victim")

    def evaluate(epoch: int, _: Mapping[str, float]) -> None:
        measured = mea_defender.evaluate(network, key, HELD_OUT, config.evaluation, cpu)
        rates[epoch] = measured["wsr"], measured["plain_to_target"]["all"]  # type: ignore[index]

    evaluate(0, {})
    watch = Snapshots(network, key, HELD_OUT, config, cpu, then=evaluate)
    mea_defender.train(network, TRAIN, key, config, cpu, purpose="victim", callback=watch)
    assert list(rates) == [0, 1, 2, 3, 4, 5]
    assert [each.epoch for each in watch.taken] == [0, 1, 2, 5]
    # Fewer than SHOWN images of each class are held out here, so that the plain rate is of the same images as well.
    assert [(each.wsr, each.plain) for each in watch.taken] == [rates[each.epoch] for each in watch.taken]
    assert len({each.wsr for each in watch.taken}) > 1
    for each in watch.taken:
        assert {name: tuple(outputs.shape) for name, outputs in each.logits.items()} == {
            **dict.fromkeys(("a", "b", "c"), (20, 4)),
            WATERMARK: (10, 4),
        }
    last = watch.taken[-1].logits
    for label, name in enumerate("abc"):
        expected = models.logits(network, HELD_OUT.of_class(label), cpu)
        # In an order of their own: a random part of them is shown.
        torch.testing.assert_close(last[name].sort(0)[0], expected.sort(0)[0])


def test_no_more_than_a_few_hundred_points_of_a_group_and_the_rate_of_all(cpu: Runtime) -> None:
    config, many = settings(evaluation=SHOWN + 40), toy(SHOWN + 60, seed=2)
    network = models.build(config.architecture, TRAIN.images, TRAIN.classes, cpu, "victim")
    key = make_key(config, TRAIN, cpu)
    [only] = Snapshots(network, key, many, config, cpu).taken
    assert all(len(outputs) == SHOWN for outputs in only.logits.values())
    assert only.wsr == mea_defender.evaluate(network, key, many, SHOWN + 40, cpu)["wsr"]


def test_a_first_phase_is_counted_on_and_its_end_is_the_first_panel(cpu: Runtime) -> None:
    phase = FirstPhase(training=Training(epochs=2, batch_size=16, lr=1e-3))
    _, watch, epochs = strike(settings(first_phase=phase, training=LONG), cpu)
    assert epochs == [1, 2, 3, 4, 5, 6, 7]
    assert [each.epoch for each in watch.taken] == [2, 3, 4, 7]


@pytest.mark.parametrize("architecture", [DROPOUT, NORMALISED], ids=lambda a: a.name)
def test_a_watched_model_is_the_same_bytes(architecture: Architecture, cpu: Runtime) -> None:
    config = settings(architecture=architecture)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    (network, watch, _), (other, unwatched, _) = (strike(config, cpu, watched=each) for each in (True, False))
    assert torch.equal(torch.get_rng_state(), before)
    assert len(watch.taken) == 3 and len(unwatched.taken) == 1
    mine, theirs = network.state_dict(), other.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("training", [True, False])
def test_a_network_stays_in_its_mode_and_answers_in_evaluation_mode(training: bool, cpu: Runtime) -> None:
    config = settings(architecture=DROPOUT)
    network = models.build(config.architecture, TRAIN.images, TRAIN.classes, cpu, "victim").train(training)
    key = make_key(config, TRAIN, cpu)
    once, twice = (Snapshots(network, key, HELD_OUT, config, cpu).taken[0].logits for _ in range(2))
    assert network.training is training
    assert all(torch.equal(once[name], twice[name]) for name in once)


# --- one basis ---


def test_centred_logits_are_what_softmax_leaves() -> None:
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    shift = torch.arange(6.0)[:, None]
    torch.testing.assert_close(centred(logits + shift), centred(logits))
    torch.testing.assert_close(centred(logits).softmax(1), logits.softmax(1))


@pytest.mark.parametrize("classes", [3, 5, 40])
def test_all_panels_are_on_the_basis_of_the_last(classes: int) -> None:
    panels = random_panels(1, 2, 3, classes=classes)
    found = project(panels)
    last = torch.cat(list(panels[-1].values())).double().numpy()
    # The reference: eigenvectors of the covariance.
    values, vectors = np.linalg.eigh(np.cov(last.T))
    order = values.argsort()[::-1][:2]
    assert found.shares == pytest.approx(values[order] / values.sum())
    np.testing.assert_allclose(np.abs(found.basis), np.abs(vectors[:, order].T), atol=1e-8)
    np.testing.assert_allclose(found.basis @ found.basis.T, np.eye(2), atol=1e-12)
    assert all(row[np.abs(row).argmax()] > 0 for row in found.basis)
    assert [list(points) for points in found.points] == [list(panel) for panel in panels]
    for panel, points in zip(panels, found.points, strict=True):
        for name, outputs in panel.items():
            expected = (outputs.double().numpy() - last.mean(0)) @ found.basis.T
            np.testing.assert_allclose(points[name], expected, atol=1e-8)
    again = project(random_panels(1, 2, 3, classes=classes))
    assert again.basis.tobytes() == found.basis.tobytes()


def test_outputs_that_are_all_the_same_and_a_class_without_images() -> None:
    found = project(
        [{"a": torch.ones(4, 3), "b": torch.ones(4, 3), "c": torch.ones(0, 3), WATERMARK: torch.ones(4, 3)}]
    )
    assert found.shares == (0, 0)
    assert [len(points) for points in found.points[0].values()] == [4, 4, 0, 4]
    assert not any(points.any() for points in found.points[0].values())


def test_a_target_class_without_held_out_images_has_no_points(cpu: Runtime) -> None:
    config = settings()
    network = models.build(config.architecture, TRAIN.images, TRAIN.classes, cpu, "victim")
    few = HELD_OUT.subset(HELD_OUT.labels != 2)
    key = make_key(config, TRAIN, cpu)
    taken = Snapshots(network, key, few, config, cpu).taken
    assert len(taken[0].logits["c"]) == 0
    pyplot.close(figures.output_features(taken, key))


# --- the picture ---


def test_the_picture_says_when_the_rates_and_what_the_axes_explain(cpu: Runtime) -> None:
    _, watch, _ = strike(settings(training=LONG), cpu)
    key = make_key(settings(), TRAIN, cpu)
    figure = figures.output_features(watch.taken, key)
    above, below = figure.axes[:4], figure.axes[4:]
    whens = ("before training", "after epoch 1", "after epoch 2", "after epoch 5")
    assert [axis.get_title() for axis in above] == [
        f"{when}: WSR {100 * each.wsr:.1f} %\nplain sources called c {100 * each.plain:.1f} %"
        for when, each in zip(whens, watch.taken, strict=True)
    ]
    for line, name, outputs in ((above, "probabilities", probabilities), (below, "centred logits", centred)):
        found = project([{k: outputs(logits) for k, logits in each.logits.items()} for each in watch.taken])
        assert f"({100 * found.shares[0]:.0f} % of" in line[0].get_xlabel()
        assert line[0].get_ylabel().startswith(f"{name}\nsecond component ({100 * found.shares[1]:.0f} % of")
        limits = {(axis.get_xlim(), axis.get_ylim()) for axis in line}
        assert len(limits) == 1  # the same axes everywhere
        [((left, right), (low, high))] = limits
        assert right - left == pytest.approx(high - low)  # and of one scale
        for axis, points in zip(line, found.points, strict=True):
            drawn = [np.asarray(each.get_offsets()) for each in axis.collections]
            for offsets, expected in zip(drawn, points.values(), strict=True):
                np.testing.assert_allclose(offsets, expected)
                assert ((offsets[:, 0] > left) & (offsets[:, 0] < right)).all()
                assert ((offsets[:, 1] > low) & (offsets[:, 1] < high)).all()
    pyplot.close(figure)


def test_the_groups_are_named_in_the_order_of_the_key(cpu: Runtime) -> None:
    _, watch, _ = strike(settings(source=["b", 0], target="d"), cpu)
    assert list(watch.taken[0].logits) == ["b", "a", "d", WATERMARK]
