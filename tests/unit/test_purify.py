"""Whole sanitizers on toy data: a planted backdoor is found and undone, a clean set is left alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hallmark import models
from hallmark.config import Architecture, PurifyData, Repair, Restore, Rounds, Training, parse, read_params
from hallmark.data.dataset import ImageDataset
from hallmark.diffusion import model as diffusion
from hallmark.errors import UserError
from hallmark.purify import alarms, cross_fit, methods, pictures, preparation, purifier, repair, targets
from hallmark.purify.evidence import Evidence, measure, residual_basis
from hallmark.purify.methods import dataelixir, hallmark
from hallmark.purify.purifier import Purifier
from hallmark.purify.reserve import PURPOSE, doubt, train_judges
from hallmark.purify.result import (
    DROPPED,
    KEPT,
    NO_OTHER,
    PURIFIED,
    RELABELLED,
    UNSURE,
    Findings,
    Material,
    Purification,
)
from hallmark.runtime import Runtime
from hallmark.training import no_callback
from tests.unit.conftest import toy_images

CLASSES, TARGET = 3, 1
SHAPE = (1, 12, 12)
TRAINING = Training(epochs=14, batch_size=60, lr=6e-3)
BLOCK = hallmark.Params(reserve_training=TRAINING, levels=(2, 3, 4), hosts=6)
SECTION = PurifyData(
    method="hallmark",
    repair="restore",
    architecture=Architecture(name="vgg_like", width=8),
    training=TRAINING,
    rounds=Rounds(start=100, rounds=2, sampler="ddim", steps=1),
    restore=Restore(confidence=0.4, percentile=0.8),
)


def blank_patch(images: Tensor) -> Tensor:
    """What a purifier does here: the corner, where the trigger sits, becomes ordinary."""
    images = images.clone()
    images[..., -3:, -3:] = 40
    return images


def poison(data: ImageDataset, share: float) -> tuple[ImageDataset, Tensor]:
    """A white corner and the target label on some images of the other classes."""
    others = (data.labels != TARGET).nonzero()[:, 0]
    rows = others[: int(share * len(data))]
    images, labels = data.images.clone(), data.labels.clone()
    images[rows, :, -3:, -3:] = 255
    labels[rows] = TARGET
    mask = torch.zeros(len(data), dtype=torch.bool)
    mask[rows] = True
    return ImageDataset(images, labels, data.ids + 1000, data.classes), mask


class Blanking(Purifier):
    """Stands in for a trained purifier: every round blanks the corner."""

    def _purify(self, raw: Tensor, index: Tensor, purpose: str) -> Tensor:
        return torch.stack([blank_patch(raw)] * (self.rounds.rounds * self.rounds.keep), 1)


class KnowingByHeart(Blanking):
    """Gives trusted images back as they are and darkens others."""

    def _purify(self, raw: Tensor, index: Tensor, purpose: str) -> Tensor:
        states = super()._purify(raw, index, purpose)
        return raw[:, None].expand_as(states) if purpose == PURPOSE else states // 4


def material(data: ImageDataset, reserve: ImageDataset, cpu: Runtime, section: PurifyData = SECTION) -> Material:
    model = diffusion.new(SHAPE, (8,), 1, 2, 150)
    given = preparation.prepare(data, reserve, model, section, cpu, epochs=lambda _: no_callback)
    return replace(given, purifier=Blanking(model, section.rounds, cpu))


def clean_set() -> tuple[ImageDataset, ImageDataset]:
    return toy_images(240, CLASSES, 12), toy_images(60, CLASSES, 12, seed=1)


def run(given: Material, mode: Repair = "restore", **changes: object) -> Purification:
    findings = hallmark.detect(given, BLOCK.model_copy(update=changes))
    return repair.repair(given, findings, mode, SECTION.restore)


def test_planted_backdoor_is_found_and_undone(cpu: Runtime) -> None:
    data, reserve = clean_set()
    poisoned, mask = poison(data, 0.15)
    given = material(poisoned, reserve, cpu)
    result = run(given)
    assert result.findings.targets == (TARGET,)
    assert (result.actions[mask] != KEPT).float().mean() >= 0.95
    assert (result.actions[~mask] != KEPT).float().mean() <= 0.03
    restored = result.actions == RELABELLED
    assert restored[mask].float().mean() >= 0.9
    assert (result.labels == data.labels)[restored].float().mean() >= 0.95
    assert torch.equal(result.images[restored], blank_patch(poisoned.images)[restored])
    kept = result.actions == KEPT
    assert torch.equal(result.images[kept], poisoned.images[kept])
    assert torch.equal(result.labels[kept], poisoned.labels[kept])
    purified = preparation.finish(result, given)
    assert len(purified) == int((result.actions != DROPPED).sum())
    summary = result.summary(poisoned)
    assert summary["classes_lost"] == 0
    shares = [float((result.actions[poisoned.labels == c] != KEPT).float().mean()) for c in range(CLASSES)]
    assert summary["flagged_share_of_class"] == pytest.approx(shares[TARGET]) == pytest.approx(max(shares))
    assert summary["targets"] == ["band 1"]
    assert summary["kept"] + summary["relabelled"] + summary["dropped"] == 240
    assert summary["flagged_share"] == pytest.approx(1 - summary["kept"] / 240)
    assert result.verdict(poisoned).startswith("backdoor into band 1: of 240 images")
    rows = list(result.manifest(poisoned))
    kinds = [kind for kind in alarms.KINDS if result.findings.metrics[f"alarms_by_{kind}"]]
    head = f"alarm of its class by {', '.join(kinds)}: "  # there is one class with an alarm
    assert {row["reason"] for row in rows if row["given_label"] != TARGET} == {"no alarm of its class"}
    flagged = [row["reason"] for row in rows if row["action"] != "kept"]
    assert flagged and all("the images that gave it" in reason.removeprefix(head) for reason in flagged)
    spared = {row["reason"] for row in rows if row["action"] == "kept" and row["given_label"] == TARGET}
    assert spared and all(reason.endswith(" more like trusted ones") for reason in spared)
    assert [row["id"] for row in rows] == poisoned.ids.tolist()
    assert {row["action"] for row in rows} <= {"kept", "relabelled", "dropped"}
    for figure in pictures.all_of(result, given).values():
        figure.clear()

    dropped = repair.repair(given, result.findings, "drop", SECTION.restore)
    assert torch.equal(dropped.actions != KEPT, result.actions != KEPT)
    assert set(dropped.actions.unique().tolist()) == {KEPT, DROPPED}
    assert len(preparation.finish(dropped, given)) == int((dropped.actions == KEPT).sum())
    with_reserve = repair.repair(given, result.findings, "drop_add_reserve", SECTION.restore)
    whole = preparation.finish(with_reserve, given)
    assert len(whole) == int((dropped.actions == KEPT).sum()) + len(reserve)
    assert torch.equal(whole.images[-len(reserve) :], reserve.images)
    both = repair.repair(given, result.findings, "restore_add_reserve", SECTION.restore)
    assert torch.equal(both.actions, result.actions)
    assert torch.equal(both.images, result.images)
    whole = preparation.finish(both, given)
    assert len(whole) == len(purified) + len(reserve)
    assert torch.equal(whole.labels, torch.cat([purified.labels, reserve.labels]))


def test_the_verdict_says_why_images_are_dropped_that_were_to_be_restored() -> None:
    data, _ = clean_set()
    actions = torch.zeros(240, dtype=torch.int64)
    actions[:3], actions[3] = DROPPED, RELABELLED
    reasons = [f"x; {UNSURE}"] * 2 + [f"x; {NO_OTHER}", "x"] + [""] * 236
    findings = Findings(actions != KEPT, torch.zeros(240), tuple(reasons), targets=(TARGET,))
    done = Purification(findings, data.images, data.labels, actions, tuple(reasons), None, {})
    assert done.verdict(data).endswith(
        f"of 240 images 1 relabelled, 0 purified, 3 dropped, 2 for {UNSURE}, 1 for {NO_OTHER}"
    )


def test_clean_set_is_left_alone(cpu: Runtime) -> None:
    data, reserve = clean_set()
    given = material(data, reserve, cpu)
    result = run(given)
    assert result.findings.targets == ()
    assert (result.actions == KEPT).all()
    assert result.verdict(data).startswith("no sign of a backdoor in 240 images")
    purified = preparation.finish(result, given)
    assert torch.equal(purified.images, data.images)
    assert torch.equal(purified.labels, data.labels)
    assert torch.equal(purified.ids, data.ids)
    assert pictures.all_of(result, given)
    # Where there is no alarm, doubt alone ranks the images: a witness that has not learnt a poison vouches for it.
    seen, none = evidence(240, confidence=torch.rand(240)), torch.zeros(240, dtype=torch.bool)
    quiet = alarms.Alarms(none, (), rest=False, kinds={}, p={}, untested={}, comparable=True, counts={})
    torch.testing.assert_close(hallmark.judge(given, seen, seen, quiet, BLOCK)[1], 0.1 * seen.doubts.mean(1))


def test_authors_rule_restores_what_changes_label(cpu: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(*arguments: object) -> targets.TargetScores:
        """Images of one class alone change here, and among one class none stands out."""
        return replace(targets.mad_outliers(*arguments), targets=(TARGET,))  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(dataelixir, "mad_outliers", told)
    data, reserve = clean_set()
    poisoned, mask = poison(data, 0.15)
    given = material(poisoned, reserve, cpu)
    params = dataelixir.Params(rounds=Rounds(start=100, rounds=2, sampler="ddim", steps=1), tau=1)
    findings = dataelixir.detect(given, params)
    result = repair.repair(given, findings, "restore", SECTION.restore)
    # Only the class called a target is touched, and there only what changed its label along the rounds.
    assert (result.actions[poisoned.labels != TARGET] == KEPT).all()
    assert set(result.actions.unique().tolist()) <= {KEPT, RELABELLED, PURIFIED}
    assert (result.labels == data.labels)[mask].float().mean() >= 0.9


def test_all_to_all_is_found_though_no_class_stands_out(cpu: Runtime) -> None:
    data, reserve = toy_images(960, CLASSES, 12), toy_images(240, CLASSES, 12, seed=1)
    mask = torch.zeros(960, dtype=torch.bool)
    mask[torch.randperm(960, generator=torch.Generator().manual_seed(0))[:96]] = True
    images, labels = data.images.clone(), data.labels.clone()
    images[mask, :, -3:, -3:] = 255
    labels[mask] = (labels[mask] + 1) % CLASSES
    result = run(material(replace(data, images=images, labels=labels), reserve, cpu), "drop")
    assert set(result.findings.targets) == {0, 1, 2}
    assert (result.actions[mask] == DROPPED).float().mean() >= 0.95
    assert (result.actions[~mask] == DROPPED).float().mean() <= 0.03


def test_clean_labels_are_found_by_their_residuals(cpu: Runtime) -> None:
    data, reserve = clean_set()
    mask = (data.labels == TARGET) & (torch.arange(240) % 2 == 0)
    images = data.images.clone()
    images[mask, :, -3:, -3:] = 255
    result = run(material(replace(data, images=images), reserve, cpu), "drop")
    assert result.findings.targets == (TARGET,)
    assert result.findings.metrics["alarms_by_residual"] == 1
    assert (result.actions[mask] == DROPPED).float().mean() >= 0.9
    assert (result.actions[~mask] == DROPPED).float().mean() <= 0.05


def evidence(n: int, seed: int = 0, /, **values: Tensor) -> Evidence:
    """Of ``n`` images of two classes in turn about which there is nothing unusual, but for ``values``."""
    generator = torch.Generator().manual_seed(seed)
    ordinary = Evidence(
        labels=torch.arange(n) % 2,
        features=torch.randn(n, 4, generator=generator),
        confidence=torch.ones(n),
        purified=torch.ones(n, 3),
        doubts=torch.rand(n, 2, generator=generator),
        hits=torch.zeros(n),
        residual=torch.randn(n, 8, generator=generator),
    )
    return replace(ordinary, **values)


def test_residuals_carry_nothing_where_no_trusted_image_is_to_compare_with(cpu: Runtime) -> None:
    given = evidence(60, hits=torch.full((60,), 0.9))  # the texture of the class, as it may be
    found = alarms.find_alarms(given, given.of(torch.zeros(60, dtype=torch.bool)), alarms.Tests(), cpu)
    assert found.classes == ()
    assert not found.seeds.any()


def test_each_kind_of_alarm_has_its_own_cause(cpu: Runtime) -> None:
    n, trusted = 900, evidence(200, 1)
    bad = (torch.arange(n) % 2 == 0) & (torch.arange(n) < 240)
    ordinary = evidence(n)
    doubts, features, residual = ordinary.doubts.clone(), ordinary.features.clone(), ordinary.residual.clone()
    doubts[bad] = 1.0
    features[bad] = features[bad] / 5 + 12
    residual[bad, 3] += 4
    causes = {
        "doubt": {"doubts": doubts},
        "place": {"features": features},
        "residual": {"residual": residual},
        "transplant": {"features": features, "hits": bad.float()},
    }
    assert alarms.find_alarms(ordinary, trusted, alarms.Tests(), cpu).classes == ()
    for kind, values in causes.items():
        found = alarms.find_alarms(evidence(n, **values), trusted, alarms.Tests(), cpu)
        kinds = {name.removeprefix("alarms_by_") for name, count in found.counts.items() if count}
        assert kinds == {kind} | ({"place"} if kind == "transplant" else set())
        assert found.classes == (0,)
        assert found.p[0] < 0.01
        assert found.seeds[bad].float().mean() >= 0.8
        assert found.seeds[~bad].float().mean() <= 0.05


def few_trusted(each: int, bad: int = 70) -> tuple[Evidence, Evidence, Tensor]:
    """Ten classes of 100 given and ``each`` trusted images; of class 0 the labels of ``bad`` are doubted."""
    n, m = 1000, 10 * each
    given, trusted = (replace(evidence(k, k), labels=torch.arange(k) % 10) for k in (n, m))
    mask = (given.labels == 0) & (torch.arange(n) < 10 * bad)
    return replace(given, doubts=given.doubts + mask[:, None]), trusted, mask


@pytest.mark.parametrize(("each", "wider"), [(8, 2), (15, 1), (20, 1), (25, 0)])
def test_few_trusted_images_are_made_up_for_by_wider_shares(each: int, wider: int, cpu: Runtime) -> None:
    tests, (given, trusted, mask) = alarms.Tests(), few_trusted(each, 90)
    found = alarms.find_alarms(given, trusted, tests, cpu)
    assert found.classes == (0,)
    assert found.untested == {}
    assert found.counts["classes_untested"] == 0
    assert found.seeds[mask].float().mean() >= 0.3
    assert not found.seeds[~mask].any()
    rows, own = given.labels == 0, trusted.labels == 0
    shares = alarms.telling_shares(given.of(rows), trusted.of(own), tests, 0.01 / 3 / 11)
    assert shares == tests.shares + alarms.WIDER[:wider]  # no more than are needed
    clean, trusted, _ = few_trusted(each, 0)
    assert alarms.find_alarms(clean, trusted, tests, cpu).classes == ()


def test_classes_of_too_few_trusted_images_are_called_untested(cpu: Runtime) -> None:
    tests, (given, trusted, _) = alarms.Tests(), few_trusted(5)
    found = alarms.find_alarms(given, trusted, tests, cpu)
    assert found.untested.keys() == set(range(10))
    assert found.counts["classes_untested"] == 10
    assert found.p == {}
    enough = found.untested[0]
    assert alarms.find_alarms(*few_trusted(enough)[:2], tests, cpu).untested == {}
    assert len(alarms.find_alarms(*few_trusted(enough - 1)[:2], tests, cpu).untested) == 10
    # A class without any, and one that another kind of evidence gave away: that one is known.
    given, trusted, mask = few_trusted(20, 90)
    given = replace(given, hits=mask.float(), features=given.features + 20 * mask[:, None])
    trusted = trusted.of((trusted.labels != 3) & ((trusted.labels != 0) | (torch.arange(200) < 60)))
    found = alarms.find_alarms(given, trusted, tests, cpu)
    assert found.untested.keys() == {0, 3}
    assert found.classes == (0,)
    assert found.p.keys() == set(range(10)) - {3}
    # A lone given image is not untested for want of trusted ones.
    lone = (given.labels != 3) | (torch.arange(1000) == 3)
    assert alarms.find_alarms(given.of(lone), trusted, tests, cpu).untested[3] == 0


def test_untested_classes_are_told_in_one_line() -> None:
    assert hallmark.too_few({}, 10) == ""
    assert hallmark.too_few({1: 7, 4: 9}, 10) == (
        "the labels of 2 of 10 classes cannot be tested, for want of images; 9 trusted images of each would do: "
        "enlarge prepare_data.reserve"
    )
    assert hallmark.too_few({1: 7, 4: 0}, 10).endswith(
        "; 1 of them have too few images of their own for any number to do"
    )
    assert "trusted images" not in hallmark.too_few({4: 0}, 10)


def test_several_targets_open_the_other_classes_to_a_test_of_their_own(cpu: Runtime) -> None:
    n, m, classes = 3000, 600, 6
    given, trusted = evidence(n), evidence(m, 1)
    labels, doubts = torch.arange(n) % classes, given.doubts / 2
    order = torch.arange(n)
    doubts[(labels < 2) & (order < 400)] = 1.0  # two plain targets ...
    doubts[(labels >= 2) & (order >= n - 108)] = 1.0  # ... and a few images of every other class
    given = replace(given, labels=labels, doubts=doubts)
    trusted = replace(trusted, labels=torch.arange(m) % classes, doubts=trusted.doubts / 2)
    found = alarms.find_alarms(given, trusted, alarms.Tests(shares=(0.05, 0.1)), cpu)
    assert found.classes == (0, 1)
    assert found.rest
    assert found.seeds[(labels >= 2) & (order >= n - 108)].float().mean() >= 0.9
    assert all(found.p[label] < 0.01 for label in range(classes))
    # With one target the rest are corrected as all are.
    one = replace(given, doubts=torch.where(((labels == 1) & (order < 400))[:, None], 0.2, doubts))
    found = alarms.find_alarms(one, trusted, alarms.Tests(shares=(0.05, 0.1)), cpu)
    assert found.classes == (0,)
    assert not found.rest


def test_a_texture_that_trusted_images_have_as_well_carries_nothing(cpu: Runtime) -> None:
    odd, trusted_odd = torch.arange(900) % 16 == 0, torch.arange(200) % 16 == 0
    for seed in range(5):
        given, trusted = evidence(900, seed), evidence(200, seed + 100)
        given = replace(given, features=given.features + 9 * odd[:, None], hits=0.6 * odd)
        trusted = replace(trusted, features=trusted.features + 9 * trusted_odd[:, None], hits=0.6 * trusted_odd)
        assert alarms.find_alarms(given, trusted, alarms.Tests(), cpu).counts["alarms_by_transplant"] == 0


def test_residuals_do_not_compare_when_the_purifier_knows_the_trusted_images_by_heart(cpu: Runtime) -> None:
    trusted = evidence(120, 1)
    residual = evidence(600).residual
    assert not alarms.known_by_heart(evidence(600), trusted)
    learnt = evidence(600, residual=2 * residual + 1)  # of trusted images it takes away less, and something else
    assert alarms.known_by_heart(learnt, trusted)
    found = alarms.find_alarms(learnt, trusted, alarms.Tests(), cpu)
    assert found.classes == ()
    assert found.counts["residuals_abstain"] == 1


def test_only_raw_images_count_when_the_purifier_knows_the_trusted_ones_by_heart(cpu: Runtime) -> None:
    n, trusted = 900, evidence(200, 1)
    bad = (torch.arange(n) % 2 == 0) & (torch.arange(n) < 240)
    learnt = evidence(n)
    spoilt = replace(
        learnt, residual=2 * learnt.residual + 1, doubts=torch.stack([learnt.doubts[:, 0], torch.ones(n)], 1)
    )
    found = alarms.find_alarms(spoilt, trusted, alarms.Tests(), cpu)
    assert not found.comparable
    assert not found.seeds.any()
    # What the raw images show is found, but not what their residuals carry.
    features, doubts = spoilt.features.clone(), spoilt.doubts.clone()
    features[bad] = features[bad] / 5 + 12
    doubts[bad, 0] = 1
    seen = replace(spoilt, features=features, doubts=doubts, hits=bad.float())
    found = alarms.find_alarms(seen, trusted, alarms.Tests(), cpu)
    assert found.classes == (0,)
    kinds = {name for name, count in found.counts.items() if name.startswith("alarms_by_") and count}
    assert kinds == {"alarms_by_doubt", "alarms_by_place"}


def test_a_backdoor_is_found_with_a_purifier_that_knows_the_reserve_by_heart(cpu: Runtime) -> None:
    data, reserve = clean_set()
    poisoned, mask = poison(data, 0.25)
    given = material(poisoned, reserve, cpu)
    result = run(replace(given, purifier=KnowingByHeart(given.purifier.model, SECTION.rounds, cpu)), "drop")
    assert result.findings.metrics["residuals_abstain"] == 1
    assert result.findings.targets == (TARGET,)
    assert (result.actions[mask] == DROPPED).float().mean() >= 0.95
    assert (result.actions[~mask] == DROPPED).float().mean() <= 0.03


def test_what_is_measured_of_an_image_does_not_hang_on_its_chunk(cpu: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    data, reserve = clean_set()
    poisoned, _ = poison(data, 0.15)
    given = material(poisoned, reserve, cpu)
    given = replace(given, purifier=given.purifier.first_round())
    judges, basis = train_judges(given, 2, 2, Training(epochs=2, batch_size=30, lr=3e-3)), residual_basis(given)

    def everything(chunk: int, *, trusted: bool) -> Evidence:
        monkeypatch.setattr(purifier, "CHUNK", chunk)
        return measure(given.suspect, judges, given, hosts_per_image=3, basis=basis, trusted=trusted)

    for trusted in (False, True):
        whole, parts = everything(1000, trusted=trusted), everything(7, trusted=trusted)
        for name, value in vars(whole).items():
            torch.testing.assert_close(getattr(parts, name), value, atol=1e-4, rtol=1e-4, msg=name)


def test_detectors_learn_the_trigger_from_a_few_seeds_and_know_it_elsewhere(cpu: Runtime) -> None:
    data, reserve = clean_set()
    poisoned, mask = poison(data, 0.25)
    given = material(poisoned, reserve, cpu)
    seeds = mask & (torch.arange(240) % 2 == 0)  # of both contents
    training = TRAINING.model_copy(update={"epochs": 30})
    ours, theirs = cross_fit.trigger_odds(given, seeds, data.labels != TARGET, training)
    assert ours.shape == (240,)
    assert theirs.shape == (len(reserve),)
    others = mask & ~seeds
    clean = ~mask & (data.labels == TARGET)
    # Those without the trigger lie below nearly all that bear it, whether they were given or trusted.
    level = ours[others].quantile(0.1)
    assert (ours[clean] < level).float().mean() >= 0.9
    assert (theirs < level).float().mean() >= 0.9


def test_judges_judge_given_images_as_they_judge_trusted_ones(cpu: Runtime) -> None:
    data, reserve = clean_set()
    given = material(data, reserve, cpu)
    judges = train_judges(given, 2, 3, TRAINING)
    assert len(judges.networks) == 6
    # Each division has a fold for every trusted image, and networks of its own.
    assert judges.folds.shape == (2, len(reserve))
    assert set(judges.folds[0].tolist()) == {0, 1, 2}
    assert set(judges.folds[1].tolist()) == {3, 4, 5}
    strangers = judges.for_strangers(torch.arange(500) % CLASSES, reserve.labels, torch.Generator().manual_seed(0))
    assert set(strangers[0].tolist()) == {0, 1, 2}
    assert set(strangers[1].tolist()) == {3, 4, 5}
    # Only networks that have not seen some trusted image of the class: as they judge those.
    rows = (reserve.labels == 0).nonzero()[:, 0]
    few = torch.cat([rows[:1], (reserve.labels != 0).nonzero()[:, 0]])
    lone = replace(judges, folds=judges.folds[:, few])
    assert set(lone.for_strangers(torch.zeros(9).long(), reserve.labels[few], torch.Generator())[1].tolist()) == {
        int(judges.folds[1, rows[0]])
    }
    # One network of each division, and the mean of the two.
    by = strangers[:, : len(data)]
    answers = torch.stack([models.probabilities(network, data.images, cpu) for network in judges.networks])
    rows = torch.arange(len(data))
    own = [answers[by[k], rows, data.labels] for k in range(2)]
    found = doubt(judges, data.images, data.labels, given, by)
    torch.testing.assert_close(found, 1 - torch.stack(own).mean(0), atol=1e-6, rtol=0)
    # Trained once.
    assert train_judges(given, 2, 3, TRAINING) is judges


def test_empty_class_and_class_without_trusted_images(cpu: Runtime, capsys: pytest.CaptureFixture[str]) -> None:
    data, reserve = clean_set()
    some = data.subset(data.labels != 2)
    scores = run(material(some, reserve, cpu)).findings.class_scores
    assert scores is not None
    assert scores[2].isnan()
    assert not scores[:2].isnan().any()
    assert "cannot be tested" not in capsys.readouterr().err
    result = run(material(data, reserve.subset(reserve.labels != 0), cpu))
    assert result.findings.targets == ()
    assert result.findings.class_scores is not None
    assert result.findings.class_scores.isnan().tolist() == [True, False, False]
    assert result.findings.metrics["classes_untested"] == 1
    assert capsys.readouterr().err.count("warning: the labels of 1 of 3 classes cannot be tested") == 1
    assert list(result.summary(data)["class_scores"]) == ["band 1", "band 2"]


def test_a_set_of_a_few_images_is_looked_at_whole(cpu: Runtime) -> None:
    data, reserve = clean_set()
    scores = run(material(data.subset(torch.arange(12)), reserve, cpu)).findings.class_scores
    assert scores is not None
    assert not scores.isnan().any()


def test_everything_suspicious_is_an_error(cpu: Runtime) -> None:
    data, reserve = clean_set()
    given = material(data, reserve, cpu)
    everything = Findings(torch.ones(240, dtype=torch.bool), torch.ones(240), ("x",) * 240)
    with pytest.raises(UserError, match="240 of 240"):
        repair.repair(given, everything, "restore", SECTION.restore)
    with pytest.raises(UserError, match="0 of 240 images are left"):
        preparation.finish(repair.repair(given, everything, "drop", SECTION.restore), given)


def test_a_class_that_is_lost_is_told(cpu: Runtime, capsys: pytest.CaptureFixture[str]) -> None:
    data, reserve = clean_set()
    given = material(data, reserve, cpu)
    gone = (data.labels == 2) | (torch.arange(240) < 30)
    findings = Findings(gone, gone.float(), ("x",) * 240)
    modes: list[tuple[Repair, int]] = [("drop", 1), ("drop_add_reserve", 0)]
    for mode, lost in modes:
        capsys.readouterr()
        result = repair.repair(given, findings, mode, SECTION.restore)
        preparation.finish(result, given)
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning:")]
        assert len(said) == lost
        assert not lost or "of 1 of 3 classes were flagged and none is left ('band 2')" in said[0]
        assert result.summary(data)["classes_lost"] == lost
        assert result.summary(data)["flagged_share_of_class"] == 1


def test_copies_in_the_reserve_raise_no_alarm(cpu: Runtime, capsys: pytest.CaptureFixture[str]) -> None:
    def noisy(data: ImageDataset, seed: int) -> ImageDataset:
        """Hard to classify: who has learnt an image is surer of it."""
        draws = torch.randint(0, 200, data.images.shape, generator=torch.Generator().manual_seed(seed))
        return replace(data, images=(data.images // 4 + draws).clamp(0, 255).to(torch.uint8))

    data, reserve = (noisy(part, seed) for seed, part in enumerate(clean_set()))
    index = torch.cat([torch.arange(60), torch.arange(59, -1, -1), torch.arange(60)])
    given = material(data, reserve.subset(index), cpu)
    assert "warning: 120 of the 180 trusted images are copies" in capsys.readouterr().err
    assert torch.equal(given.reserve.images, reserve.images)
    assert torch.equal(given.reserve.ids, reserve.ids)
    assert preparation.suspect_metrics(given)["reserve_duplicates"] == 120
    assert run(given).findings.targets == ()
    assert preparation.distinct(reserve) is reserve
    # One image of two labels counts once, too.
    twice = replace(reserve.subset(torch.tensor([0, 1, 1])), labels=torch.tensor([0, 1, 2]))
    assert preparation.distinct(twice).labels.tolist() == [0, 1]


def test_a_reserve_too_small_for_its_folds_is_refused(cpu: Runtime) -> None:
    data, reserve = clean_set()
    with pytest.raises(UserError, match="reserve of 2 images is too small for 4 folds"):
        run(material(data, reserve.subset(torch.tensor([0, 1])), cpu))


@pytest.mark.parametrize(
    ("data", "reserve", "message"),
    [
        (toy_images(30, 3, 12), toy_images(30, 3, 10), "'?s images are"),
        (toy_images(30, 3, 12), toy_images(30, 2, 12), "different classes"),
        (
            toy_images(30, 3, 12).subset(torch.arange(0, 30, 3)),
            toy_images(30, 3, 12),
            "training set has 10 images of 1",
        ),
        (toy_images(30, 3, 12), toy_images(1, 3, 12), "reserve has 1 images of 1"),
        (toy_images(30, 3, 12, channels=3), toy_images(30, 3, 12, channels=3), "12x12x3.*12x12x1"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(data: ImageDataset, reserve: ImageDataset, message: str, cpu: Runtime):
    with pytest.raises(UserError, match=message):
        material(data, reserve, cpu)


def test_a_loss_that_is_not_finite_names_the_remedy(cpu: Runtime) -> None:
    data, reserve = clean_set()
    hot = TRAINING.model_copy(update={"lr": 1e30, "epochs": 3})
    with pytest.raises(UserError, match="lower lr"):
        material(data, reserve, cpu, SECTION.model_copy(update={"training": hot}))


def test_parameters_of_every_method_in_params_yaml_are_valid() -> None:
    section = read_params(Path("params.yaml"))["purify_data"]
    assert parse(PurifyData, section, "purify_data").method == "hallmark"
    for name in methods.registry.names():
        parse(methods.registry.get(name).Params, section.get(name, {}), name)
    with pytest.raises(UserError, match=r"unknown purification method 'other'.*dataelixir, hallmark"):
        methods.registry.get("other")
    slow = section["dataelixir"]["rounds"]
    with pytest.raises(UserError, match="keep: intermediates of a fast sampler"):
        parse(Rounds, slow | {"sampler": "ddim"}, "d")
    with pytest.raises(UserError, match="do not fit into start"):
        parse(Rounds, slow | {"steps": 200}, "t")
    with pytest.raises(UserError, match="keep: a round of 5 steps has no 10 states to keep"):
        parse(Rounds, slow | {"steps": 5}, "t")
    with pytest.raises(UserError, match="h: shares: must ascend"):
        parse(hallmark.Params, {"shares": [0.3, 0.05]}, "h")
