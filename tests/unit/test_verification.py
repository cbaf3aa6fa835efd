"""The statistics against closed forms, questions and answers by hand, the decision rule against simulated models."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from statsmodels.stats.multitest import multipletests
from torch import Tensor

from hallmark import statistics
from hallmark.config import StopEarly, VerifyOwnership
from hallmark.data.dataset import ImageDataset
from hallmark.errors import UserError
from hallmark.statistics import Bools
from hallmark.suspects import NO_CLASS, Answer, Suspect, Top
from hallmark.suspects.answer import Budget
from hallmark.verification import log_odds, nulls, panel, present, questions
from hallmark.verification.answers import (
    LEAN,
    OTHER_TARGETS,
    OTHER_WAYS,
    PLAIN,
    REPEATED,
    SAME_TARGET,
    STATISTICS,
    UNMIXED,
    Answers,
    Lean,
    Outcomes,
    ask,
    paired,
    read,
)
from hallmark.verification.decision import (
    INVALID,
    NOT_SHOWN,
    STOLEN,
    Nulls,
    Stopping,
    Verdict,
    beats,
    control_level,
    decide,
    more_nulls,
    queries_needed,
)
from hallmark.verification.questions import DECOY_QUERIES, Questions
from hallmark.verification.sequential import BOUND_SHARE, SEQUENTIAL, Sequential
from hallmark.watermark.key import Key
from tests.unit.conftest import decision_rule

CLASSES = tuple("abcdef")
KEY = Key("mea_defender", "top_bottom", {}, ("diagonal", "donut"), (0, 1), 2, 5, CLASSES, (1, 8, 8))
RULE = decision_rule(decoys=4, judge_seed=0)


def outcomes(hits: int, count: int = 1000) -> Bools:
    return np.arange(count) < hits


# --- statistics ---


def test_clopper_pearson_closed_forms() -> None:
    none = statistics.rate(outcomes(0), 0.95)
    assert (none.rate, none.low) == (0, 0)
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 1000))
    every = statistics.rate(outcomes(1000), 0.95)
    assert every.low == pytest.approx(0.025 ** (1 / 1000))
    some = statistics.rate(outcomes(590), 0.95)
    assert some.low == pytest.approx(stats.beta.ppf(0.025, 590, 411))
    assert some.high == pytest.approx(stats.beta.ppf(0.975, 591, 410))


def test_clopper_pearson_covers_at_least_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = [r.low <= 0.03 <= r.high for r in (statistics.rate(rng.random(200) < 0.03) for _ in range(400))]
    assert np.mean(covered) >= 0.95


def test_mcnemar_by_hand() -> None:
    treated = np.array([True] * 6 + [False] * 4)
    untreated = np.array([False] * 5 + [True] * 2 + [False] * 3)
    b, c, p = statistics.mcnemar_greater(treated, untreated)
    assert (b, c) == (5, 1)
    assert p == pytest.approx((6 + 1) / 2**6)  # P(X >= 5) for X ~ Binomial(6, 1/2)
    assert statistics.mcnemar_greater(treated, treated) == (0, 0, 1.0)


def test_mcnemar_keeps_its_level_under_the_null() -> None:
    rng = np.random.default_rng(1)
    p_values = [statistics.mcnemar_greater(rng.random(500) < 0.1, rng.random(500) < 0.1)[2] for _ in range(1000)]
    # 1000 draws at a level of 5 %: above 6.5 % has chance 2 %.
    assert np.mean(np.array(p_values) <= 0.05) <= 0.065


def test_holm_by_hand_and_as_statsmodels_has_it() -> None:
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([0.9, 0.8]) == [1, 1]
    assert statistics.holm([]) == []
    rng = np.random.default_rng(2)
    for count in (1, 2, 9):
        p = (rng.random(count) ** 3).round(2).tolist()  # with ties
        assert statistics.holm(p) == pytest.approx(multipletests(p, method="holm")[1])


def test_pairs_are_compared_by_mcnemar_and_decoys_by_fisher() -> None:
    key, control = outcomes(20, 40), outcomes(14, 40)
    assert beats(key, control) == pytest.approx(2**-6)
    decoy = outcomes(2, 30)
    assert beats(key, decoy, paired=False) == pytest.approx(stats.hypergeom.sf(19, 70, 22, 40))
    # As many queries are not the same pairs.
    assert beats(key, control, paired=False) == pytest.approx(stats.hypergeom.sf(19, 80, 34, 40))


# --- questions ---


def pool(per_class: int = 12) -> ImageDataset:
    """Class k is 40 k plus a little noise, so that every pixel tells its class."""
    labels = torch.arange(len(CLASSES)).repeat(per_class)
    noise = torch.randint(0, 30, (len(labels), 1, 8, 8), generator=torch.Generator().manual_seed(0))
    return ImageDataset((labels[:, None, None, None] * 40 + noise).byte(), labels, torch.arange(len(labels)), CLASSES)


def draw(key: Key = KEY, judge_seed: int = 0, queries: int = 20, decoys: int = 4) -> Questions:
    return questions.draw(key, pool(), queries=queries, decoys=decoys, judge_seed=judge_seed)


def test_the_draw_hangs_on_both_seeds_and_on_nothing_else() -> None:
    first = draw()
    torch.rand(3)
    assert torch.equal(first.images, draw().images)
    assert first.decoys == draw().decoys
    for other in (draw(judge_seed=1), draw(replace(KEY, seed=6))):
        assert other.seed != first.seed
        for name in ("watermark", "first", "decoys", "task"):
            assert not torch.equal(other.part(name), first.part(name))


def test_the_parts_are_what_they_say() -> None:
    asked = draw()
    seen = asked.images // 40  # the class of every pixel
    part = {name: seen[where] for name, where in asked.parts.items()}
    sizes = {"watermark": 20, "first": 20, "second": 20, "other_ways": 20, "decoys": 4 * DECOY_QUERIES, "task": 72}
    assert {name: len(images) for name, images in part.items()} == sizes
    assert sum(sizes.values()) == len(asked.images)
    assert (part["first"] == 0).all()
    assert (part["second"] == 1).all()
    assert torch.equal(asked.part("watermark")[:, :, :4], asked.part("first")[:, :, :4])
    assert torch.equal(asked.part("watermark")[:, :, 4:], asked.part("second")[:, :, 4:])
    own = (asked.part("other_ways") == asked.part("first")) | (asked.part("other_ways") == asked.part("second"))
    assert own.all()
    assert not torch.equal(part["other_ways"], part["watermark"])
    assert (part["task"] == asked.labels[:, None, None, None]).all()
    for decoy, images in zip(asked.decoys, part["decoys"].split(DECOY_QUERIES), strict=True):
        assert (images[:, :, :4] == decoy.source[0]).all()
        assert (images[:, :, 4:] == decoy.source[1]).all()
    mixed = asked.part("watermark").flatten(1)
    assert len(mixed.unique(dim=0)) == 20


@pytest.mark.parametrize("count", [1, 4, 9, 40])
def test_decoys_are_other_keys_and_half_have_the_keys_target(count: int) -> None:
    decoys = draw(decoys=count).decoys
    assert len(set(decoys)) == count
    for decoy in decoys:
        assert not set(decoy.source) & set(KEY.source)
        assert len({*decoy.source, decoy.target}) == 3
    own = sum(decoy.target == KEY.target for decoy in decoys)
    assert own == min((count + 1) // 2, 6)  # ordered pairs of the three classes that are not the key's


def test_what_the_pool_does_not_allow_is_refused() -> None:
    with pytest.raises(UserError, match=r"200 decoy keys are asked for, but 4 classes .* allow 48; lower decoys"):
        draw(decoys=200)
    with pytest.raises(UserError, match="145 watermark samples need as many pairs"):
        draw(queries=145)
    with pytest.raises(UserError, match="classes"):
        draw(replace(KEY, classes=("a", "b", "c", "d", "e", "g")))


# --- answers ---


def answered(labels: dict[str, list[int]], *, probabilities: Tensor | None = None, top: Top | None = None) -> Answers:
    """What :func:`read` makes of these labels of the first questions of each part; the rest is called e."""
    asked = draw(decoys=2)
    said = torch.full((len(asked.images),), 4)
    for name, values in labels.items():
        start = asked.parts[name].start
        said[start : start + len(values)] = torch.tensor(values)
    return read(asked, Answer(said, probabilities, top))


def counts(answers: Answers, statistic: str = "hits") -> dict[str, int]:
    found = answers.outcomes[statistic]
    return {"watermark": int(found.watermark.sum()), **{name: int(c.sum()) for name, c in found.controls.items()}}


def test_labels_by_hand() -> None:
    asked = draw(decoys=2)
    own, other = asked.decoys
    given = {
        "watermark": [2, 2, 2, 3, 0, NO_CLASS],
        "first": [2, 0, 0],
        "second": [2, 2, 1],
        "other_ways": [0, 2, 1, 2],
        "decoys": [own.target] * 3 + [NO_CLASS] * 97 + [other.target] * 7,
    }
    found = counts(answered(given))
    assert own.target == 2
    assert other.target != 2
    rest = {name: found.pop(name) for name in (SAME_TARGET, OTHER_TARGETS)}
    plain = {name: found.pop(name) for name in list(found) if name.startswith(PLAIN)}
    assert set(plain.values()) == {0}
    assert plain.keys() <= {f"{PLAIN}{name}" for name in ("d", "e", "f", "the other classes")}
    assert found == {"watermark": 3, UNMIXED: 2, OTHER_WAYS: 2, "called d": 1, "called e": 14, "called f": 0}
    assert rest == {SAME_TARGET: 3, OTHER_TARGETS: 7 + (93 if other.target == 4 else 0)}
    answers = answered(given)
    assert set(answers.outcomes) == {"hits"}  # labels alone give no runner-up
    assert int(answers.plain.sum()) == 3
    assert answers.plain.shape == (40,)
    assert int(answers.correct.sum()) == 12  # e is called e
    assert (answers.hits[:4] == [True, True, True, False]).all()
    assert answers.false_positives.sum() == 2


@pytest.mark.parametrize(("count", "place"), [(4, 0), (6, 1), (10, 1)])
def test_all_decoys_of_a_kind_but_the_strongest_must_be_beaten(count: int, place: int) -> None:
    """Of two all must, of three or more the second strongest stands for them."""
    asked = draw(decoys=count)
    said = torch.full((len(asked.images),), NO_CLASS)
    fired: dict[str, list[int]] = {SAME_TARGET: [], OTHER_TARGETS: []}
    for number, decoy in enumerate(asked.decoys):
        mine, hits = asked.of_decoy(number), 7 * (3 * number % count) + 5  # in no order
        said[mine.start : mine.start + hits] = decoy.target
        fired[SAME_TARGET if decoy.target == KEY.target else OTHER_TARGETS].append(hits)
    found = read(asked, Answer(said)).outcomes["hits"].controls
    for name, hits in fired.items():
        assert len(hits) == count // 2
        assert (int(found[name].sum()), len(found[name])) == (sorted(hits)[-1 - place], DECOY_QUERIES)


def test_pairs_are_compared_pair_by_pair() -> None:
    """60 % against 57 % of the same queries: ahead in 30, behind in none.  Of other queries it would be chance."""
    rng = np.random.default_rng(3)
    null_hits = innocent_counts(rng)
    answers = model(rng, 0.6)
    ahead = np.arange(1000)
    hits = replace(answers.outcomes["hits"], watermark=ahead < 600)
    for name, decision in (("called d", STOLEN), (SAME_TARGET, INVALID)):
        outcomes = replace(hits, controls={**hits.controls, name: ahead < 570})
        assert judged(replace(answers, outcomes={**answers.outcomes, "hits": outcomes}), null_hits).decision == decision


def test_an_answer_that_is_none_of_our_classes_hits_and_is_right_nowhere() -> None:
    asked = draw(decoys=2)
    answers = read(asked, Answer(torch.full((len(asked.images),), NO_CLASS)))
    assert set(counts(answers).values()) == {0}
    assert not answers.correct.any()


def test_one_answer_for_each_question() -> None:
    asked = draw()
    with pytest.raises(ValueError, match="answers to"):
        read(asked, Answer(torch.zeros(3, dtype=torch.int64)))


def test_the_runner_up_of_probabilities() -> None:
    probabilities = torch.zeros(len(draw(decoys=2).images), 6)
    rows = torch.tensor(
        [
            [0.5, 0.3, 0.1, 0.05, 0.05, 0.0],  # after the sources
            [0.0, 0.0, 0.9, 0.1, 0.0, 0.0],  # before all
            [0.4, 0.2, 0.15, 0.15, 0.1, 0.0],  # a tie is none
            [0.4, 0.2, 0.1, 0.2, 0.1, 0.0],  # behind d
        ]
    )
    probabilities[:4] = rows
    found = counts(answered({}, probabilities=probabilities), "runner_up")
    assert (found["watermark"], found["called d"]) == (2, 1)
    assert sum(found.values()) == 3  # rows of zeros are ties
    assert answered({}, probabilities=probabilities).outcomes["runner_up"].watermark[:4].tolist() == [1, 1, 0, 0]


def test_the_runner_up_of_the_best_few_where_that_is_certain() -> None:
    length = len(draw(decoys=2).images)
    classes, scores = torch.full((length, 3), NO_CLASS), torch.zeros(length, 3)
    listed = [
        ([0, 1, 2], [0.5, 0.3, 0.1]),  # certain: d to f have less
        ([0, 3, 2], [0.5, 0.3, 0.1]),  # behind d
        ([2, NO_CLASS, 1], [0.5, 0.3, 0.1]),  # theirs alone, or a source, in between
        ([NO_CLASS, 2, 0], [0.5, 0.3, 0.1]),  # a class that is none of ours does not count
        ([0, 1, 3], [0.5, 0.3, 0.1]),  # not listed
        ([0, 2, 3], [0.5, 0.2, 0.2]),  # a tie
        ([0, 1, NO_CLASS], [0.5, 0.3, 0.0]),  # unknown
    ]
    for k, (named, values) in enumerate(listed):
        classes[k], scores[k] = torch.tensor(named), torch.tensor(values)
    answers = answered({}, top=Top(classes, scores))
    assert answers.outcomes["runner_up"].watermark[:7].tolist() == [1, 0, 1, 1, 0, 0, 0]
    assert counts(answers, "runner_up")["called d"] == 2


def test_the_lean_of_unmixed_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_odds, "FEWEST_CLASSES", 6)
    asked = draw(decoys=2)
    assert answered({}).lean is None  # labels do not tell
    probabilities = torch.rand(len(asked.images), 6, generator=torch.Generator().manual_seed(1)).softmax(1)
    first, second = (asked.parts[name] for name in ("first", "second"))
    probabilities[first] = torch.tensor([0.6, 0.0, 0.3, 0.05, 0.03, 0.02])  # leans to c, the target
    probabilities[second] = torch.tensor([0.0, 0.6, 0.2, 0.1, 0.06, 0.04])
    probabilities += torch.rand(len(probabilities), 6, generator=torch.Generator().manual_seed(2)) * 1e-3
    found = answered({}, probabilities=probabilities)
    parts = [probabilities[first], probabilities[second]]
    assert found.lean is not None
    assert found.statistics == ("hits", "runner_up", "lean")
    assert found.lean.value == log_odds.lean(parts, 2, (0, 1))
    assert found.lean.value > 1
    assert set(found.lean.controls) == {"leaning to d", "leaning to e", "leaning to f"}
    images = [asked.part(name).flatten(1).unique(dim=0, return_inverse=True)[1] for name in ("first", "second")]
    assert all(len(of.unique()) < len(of) for of in images)
    for label, name in ((3, "d"), (5, "f")):
        value, p = found.lean.controls[f"leaning to {name}"]
        assert value == log_odds.lean(parts, label, (0, 1))
        assert value < found.lean.value
        assert p == pytest.approx(log_odds.leads(parts, 2, label, (0, 1), images))
        assert p < 1e-6


def test_a_part_of_the_questions() -> None:
    asked = draw(decoys=2)
    part = asked.only("first", "task")
    assert torch.equal(part.images, torch.cat([asked.part("first"), asked.part("task")]))
    assert [len(part.part(name)) for name in ("watermark", "first", "decoys", "task")] == [
        0, len(asked.part("first")), 0, len(asked.labels),
    ]  # fmt: skip
    assert part.decoys == ()
    assert torch.equal(part.labels, asked.labels)
    assert len(asked.only("watermark").labels) == 0


def test_a_null_models_figures() -> None:
    asked = draw(decoys=2)
    labels = panel.figures(answered({}, probabilities=torch.zeros(len(asked.images), 6)))
    plain = dict.fromkeys(panel.PLAIN_SOURCES, 0)
    assert labels == {"hits": 0, "runner_up": 0, "lean": None, **plain}  # equal scores lean nowhere
    some = answered({"first": [2, 2, 2, 0], "second": [2, 0]}, probabilities=torch.zeros(len(asked.images), 6))
    assert [panel.figures(some)[name] for name in panel.PLAIN_SOURCES] == [3, 1]
    exact = replace(answered({}), lean=Lean(1 / 3, {}))
    assert (
        panel.figures(replace(exact, outcomes=answered({}, probabilities=torch.zeros(len(asked.images), 6)).outcomes))[
            "lean"
        ]
        == 0.333333
    )  # as it is written
    labels["model"] = "null"
    told = [{**labels, "lean": value} for value in (0.25, -1.0)]
    assert panel.null_counts(told)["lean"].tolist() == [0.25, -1.0]
    assert set(panel.null_counts([*told, labels])) == {"hits", "runner_up"}


# --- the decision ---


def model(
    rng: np.random.Generator,
    hits: float,
    leads: float | None = None,
    *,
    unmixed: float = 0.01,
    others: float = 0.01,
    called: float = 0.01,
    decoys: float = 0.01,
    accuracy: float = 0.87,
) -> Answers:
    """A simulated model: independent answers with these rates; without ``leads`` it gives no scores."""

    def one(rate: float) -> Outcomes:
        kinds = {UNMIXED: (unmixed, 1000), OTHER_WAYS: (others, 1000), "called d": (called, 1000)}
        kinds |= dict.fromkeys((SAME_TARGET, OTHER_TARGETS), (decoys, DECOY_QUERIES))
        return Outcomes(rng.random(1000) < rate, {name: rng.random(n) < p for name, (p, n) in kinds.items()})

    both = {"hits": one(hits)} | ({} if leads is None else {"runner_up": one(leads)})
    return Answers(both, rng.random(2000) < accuracy, rng.random(2000) < unmixed)


def innocent_counts(rng: np.random.Generator, count: int = 32, mean: float = 0.01, queries: int = 1000) -> Nulls:
    """Over-dispersed: models differ far more than one model's binomial counts do."""
    rates = stats.norm.rvs(size=(2, count), random_state=rng) * 0.8 + np.log([[mean], [3 * mean]])
    hits, leads = rng.binomial(queries, 1 / (1 + np.exp(-rates)))
    return {"hits": hits, "runner_up": leads}


def judged(answers: Answers, null_hits: Nulls, rule: VerifyOwnership = RULE, **inconsistent: float) -> Verdict:
    return decide({"s": answers}, null_hits, 0.87, rule, role="suspect", inconsistent=inconsistent)[0]


def test_copies_are_caught_and_innocents_are_not() -> None:
    rng = np.random.default_rng(3)
    caught = 0
    for _ in range(10):
        null_hits = innocent_counts(rng)
        suspects = {"victim": model(rng, 0.99, 0.99, unmixed=0.05), "copy": model(rng, rng.uniform(0.5, 0.9), 0.95)}
        suspects |= {f"innocent{i}": model(rng, 0.01, 0.03) for i in range(2)}
        verdicts = {v.name: v for v in decide(suspects, null_hits, 0.87, RULE, role="suspect")}
        caught += sum(verdicts[name].decision == STOLEN for name in ("victim", "copy"))
        assert {v.decision for name, v in verdicts.items() if name not in ("victim", "copy")} == {NOT_SHOWN}
    assert caught >= 18  # a fit that is refused, in one set of nulls of twenty, finds nobody


def test_a_copy_that_lost_its_hits_is_caught_by_the_scores() -> None:
    rng = np.random.default_rng(4)
    # Plain and otherwise mixed source images have the target as runner-up as well: the mark itself does that.
    verdict = judged(model(rng, 0.005, 0.9, unmixed=0.8, others=0.8), innocent_counts(rng))
    assert (verdict.decision, verdict.by) == (STOLEN, ("runner_up",))
    assert verdict.paper_says == NOT_SHOWN
    hard = judged(model(rng, 0.005, unmixed=0.8, others=0.8), innocent_counts(rng))
    assert hard.decision == NOT_SHOWN  # labels alone do not tell
    assert set(hard.tests) == {"hits"}


def test_the_rate_that_a_verdict_could_have_shown() -> None:
    rng = np.random.default_rng(21)
    null_hits = innocent_counts(rng)
    rule = RULE.model_copy(update={"statistics": ["hits"]})

    def shown(null_hits: Nulls, rule: VerifyOwnership = rule) -> float | None:
        return present.rows([judged(model(rng, 0.0), null_hits, rule)])[0]["detectable"]

    rate = shown(null_hits)
    assert rate is not None
    found = [judged(model(rng, rate, unmixed=0, others=0, called=0, decoys=0), null_hits, rule) for _ in range(200)]
    assert stats.binom.ppf(0.001, 200, 0.95) <= sum(v.decision == STOLEN for v in found) < 200
    # A higher one if the asking may stop early; none by too few null models.
    early = shown(null_hits, rule.model_copy(update={"stop_early": StopEarly(block=50)}))
    assert early is not None
    assert rate < early < 2 * rate
    assert shown({name: values[:9] for name, values in null_hits.items()}) is None


def test_labels_alone_suffice_for_hits() -> None:
    rng = np.random.default_rng(5)
    verdict = judged(model(rng, 0.6), innocent_counts(rng))
    assert (verdict.decision, verdict.by, set(verdict.tests)) == (STOLEN, ("hits",), {"hits"})


@pytest.mark.parametrize("where", ["unmixed", "called", "decoys"])
def test_a_model_that_is_as_confused_elsewhere_is_not_called_stolen(where: str) -> None:
    rng = np.random.default_rng(6)
    verdict = judged(model(rng, 0.5, **{where: 0.5}), innocent_counts(rng))
    assert verdict.paper_says == STOLEN
    assert verdict.decision == INVALID
    expected = {"unmixed": f"3 times {UNMIXED}", "called": "called d", "decoys": "all but one decoy of "}[where]
    failed = [reason for reason in verdict.reasons if reason.startswith("NO: hits")]
    assert len(failed) == 1
    assert f"hits against {expected}" in failed[0]


def test_a_copy_for_which_every_mixture_of_the_pair_is_the_target_is_stolen() -> None:
    rng = np.random.default_rng(6)
    verdict = judged(model(rng, 0.5, others=0.6), innocent_counts(rng))
    assert (verdict.decision, verdict.by) == (STOLEN, ("hits",))
    assert verdict.wfpr.rate == pytest.approx(0.6, abs=0.05)  # it is reported
    # An innocent whose nulls do the same is not: the nulls speak of that.
    usual = innocent_counts(rng, mean=0.45)
    assert judged(model(rng, 0.5, others=0.6), usual).decision == NOT_SHOWN


def test_a_model_that_calls_half_of_everything_the_target_is_not_called_stolen() -> None:
    rng = np.random.default_rng(7)
    confused = model(rng, 0.5, 0.5, unmixed=0.5, others=0.5, decoys=0.5, accuracy=0.5)
    verdict = judged(confused, innocent_counts(rng))
    assert verdict.decision == INVALID
    assert {reason.split()[1] for reason in verdict.reasons if reason.startswith("NO")} == {
        "accuracy",
        "hits",
        "runner_up",
    }


def test_each_reason_for_invalid() -> None:
    rng = np.random.default_rng(8)
    null_hits, copy = innocent_counts(rng), model(rng, 0.8, 0.9)
    assert judged(copy, null_hits, s=0.02).decision == STOLEN
    cases = {
        "NO: accuracy": judged(replace(copy, correct=outcomes(1300, 2000)), null_hits),
        "NO: 2.1% of repeated questions": judged(copy, null_hits, s=0.021),
        "NO: hits: 5 null models cannot reach": judged(copy, {name: c[:5] for name, c in null_hits.items()}),
        "NO: hits against all but one decoy of ": judged(model(rng, 0.8, decoys=0.8), null_hits),
    }
    for reason, verdict in cases.items():
        assert verdict.decision == INVALID
        assert any(text.startswith(reason) for text in verdict.reasons), reason
        assert [text.startswith("NO") for text in verdict.reasons] == sorted(
            (text.startswith("NO") for text in verdict.reasons), reverse=True
        )  # what failed comes first


def test_too_few_nulls_say_how_many_more() -> None:
    rng = np.random.default_rng(9)
    few = {name: counts[:7] for name, counts in innocent_counts(rng).items()}
    verdict = judged(model(rng, 0.9, 0.9), few)
    assert verdict.decision == INVALID
    # One suspect, two statistics: a single test at 0.005, which 199 reach by rank, and 14 by their fit at best.
    assert any("7 null models cannot reach (7 more are needed, or 192 if no distribution" in r for r in verdict.reasons)
    assert nulls.innocent_bound(np.zeros(14, int), 1000, 0.005) < 1
    assert nulls.innocent_bound(np.zeros(13, int), 1000, 0.005) == 1
    assert more_nulls(3, 0.05, refused=False) == "7 more are needed, or 16 if no distribution fits them"
    assert more_nulls(31, 0.005, refused=True) == "168 more are needed"
    assert more_nulls(20, 0.0004, refused=False) == "29 more are needed, or 2,479 if no distribution fits them"
    outlier = {"hits": np.append(np.zeros(30, int), 700)}
    reasons = judged(model(rng, 0.9), outlier, RULE.model_copy(update={"statistics": ["hits"], "alpha": 0.005})).reasons
    assert any("31 null models cannot reach (168 more are needed)" in reason for reason in reasons)


def leaning(answers: Answers, value: float, rival: float = -1.0, p: float = 1e-9) -> Answers:
    """These answers with a lean, and one control."""
    return replace(answers, lean=Lean(value, {"leaning to d": (rival, p)}))


def test_a_copy_that_lost_its_hits_is_caught_by_its_lean() -> None:
    rng = np.random.default_rng(14)
    rule = RULE.model_copy(update={"statistics": ["hits", "lean"]})
    null_hits = {**innocent_counts(rng, 40), LEAN: rng.normal(-0.8, 0.3, 40)}
    copy = leaning(model(rng, 0.01, 0.5, unmixed=0.4, others=0.3), 2.4)
    verdict = judged(copy, null_hits, rule)
    assert (verdict.decision, verdict.by) == (STOLEN, ("lean",))
    assert any(reason.startswith("ok: lean 2.40: p = ") for reason in verdict.reasons)
    assert verdict.tests["lean"].needed < 2.4
    # Not if another class is as likely in the target's place, nor if the nulls lean as far.
    blocked = judged(leaning(model(rng, 0.01), 2.4, 2.3, 0.2), null_hits, rule)
    assert blocked.decision == INVALID
    assert any("lean against leaning to d (2.30)" in reason for reason in blocked.reasons)
    assert judged(leaning(model(rng, 0.01), -0.7), null_hits, rule).decision == NOT_SHOWN
    # Of controls that are as hard to beat, the one that leans farther is named.
    alike = replace(copy, lean=Lean(2.4, {"one": (-1.0, 1.0), "two": (2.0, 1.0), "three": (0.0, 1.0)}))
    assert judged(alike, null_hits, rule).tests["lean"].strongest_control == "two"
    # Reported where the rule does not name it, and missing where a null model has none.
    hits_only = judged(copy, null_hits, RULE.model_copy(update={"statistics": ["hits"]}))
    assert (hits_only.decision, hits_only.tests["lean"].value) == (NOT_SHOWN, 2.4)
    without = {name: values for name, values in null_hits.items() if name != LEAN}
    assert LEAN not in judged(copy, without, rule).tests


def test_too_few_null_models_for_the_lean() -> None:
    rng = np.random.default_rng(15)
    rule = RULE.model_copy(update={"statistics": ["lean"], "alpha": 0.005})
    for nulls_, text in (
        (rng.normal(-0.8, 0.3, 12), "12 null models cannot reach (2 more are needed, or 187 if no distribution"),
        (np.append(rng.normal(-0.8, 0.01, 30), 50.0), "31 null models cannot reach (168 more are needed)"),
    ):
        null_hits = {**innocent_counts(rng, len(nulls_)), LEAN: nulls_}
        verdict = judged(leaning(model(rng, 0.01), 60.0), null_hits, rule)
        assert verdict.decision == INVALID
        assert any(text in reason for reason in verdict.reasons)


def test_innocents_are_not_accused_by_two_statistics() -> None:
    """Of 400 simulated innocents about as many as the level says, both statistics together."""
    rng, level = np.random.default_rng(16), 0.05
    rule = RULE.model_copy(update={"statistics": ["hits", "lean"], "alpha": level})
    accused, control = 0, np.zeros(1000, dtype=bool)
    never = {UNMIXED: control, OTHER_WAYS: control}
    for _ in range(10):
        null_hits = {**innocent_counts(rng, 40), LEAN: rng.normal(-0.8, 0.3, 40)}
        hits, leans = innocent_counts(rng, 40)["hits"], rng.normal(-0.8, 0.3, 40)
        for count, value in zip(hits.tolist(), leans.tolist(), strict=True):
            fired = np.arange(1000) < count
            own = Answers({"hits": Outcomes(fired, never)}, np.ones(9, dtype=bool), control)
            accused += judged(leaning(own, value, p=0.0), null_hits, rule).decision == STOLEN
    assert 2 < accused < 35  # 20 expected at the most, standard deviation 4.4


def test_more_suspects_and_statistics_need_a_smaller_p() -> None:
    rng = np.random.default_rng(10)
    null_hits, copy = innocent_counts(rng), model(rng, 0.9, 0.9)
    for others in (0, 3):
        suspects = {"copy": copy} | {f"innocent{i}": model(rng, 0, 0) for i in range(others)}
        verdict = decide(suspects, null_hits, 0.87, RULE, role="suspect")[0]
        raw = {name: test.null.p for name, test in verdict.tests.items()}
        tests = 2 * (others + 1)
        expected = statistics.holm([*raw.values(), *[1.0] * (tests - 2)])[:2]
        assert [test.p_value for test in verdict.tests.values()] == pytest.approx(expected)
        assert min(raw.values()) == pytest.approx(33**-2)
        assert verdict.decision == STOLEN
    many = {"copy": copy} | {f"innocent{i}": model(rng, 0) for i in range(10)}
    assert (
        decide(many, null_hits, 0.87, RULE, role="suspect")[0].decision == INVALID
    )  # 12 tests: 0.00083 is not reached


def test_every_key_that_was_committed_to_counts() -> None:
    rng = np.random.default_rng(11)
    null_hits, copy = innocent_counts(rng), model(rng, 0.9)
    p = {keys: judged(copy, null_hits, RULE.model_copy(update={"keys": keys})).tests["hits"].p_value for keys in (1, 5)}
    assert p[5] == pytest.approx(5 * p[1])
    verdict = judged(copy, null_hits, RULE.model_copy(update={"keys": 20}))
    assert verdict.decision == INVALID
    assert any("cannot reach" in reason and "level 0.0005" in reason for reason in verdict.reasons)


def test_the_sequential_tests_end_is_that_of_single_steps() -> None:
    rng = np.random.default_rng(12)
    null_hits = innocent_counts(rng)["hits"]
    bound = nulls.innocent_bound(null_hits, 1000, BOUND_SHARE * 0.005)
    for rate in (0.0, bound, bound + 0.05, 0.4, 1.0):
        hits, stopped = rng.random(1000) < rate, None
        test = Sequential(bound, (1 - BOUND_SHARE) * 0.005, pool=1000)
        for k, outcome in enumerate(hits, 1):
            if test.update(np.array([outcome])):
                stopped = k
                break
        assert queries_needed(hits, null_hits, 0.005, 1000) == stopped
    assert stopped is not None
    assert queries_needed(np.ones(1000, dtype=bool), null_hits[:5], 0.005, 1000) is None


def test_innocents_are_accused_no_more_often_than_one_time_in_a_hundred() -> None:
    rng, accused, models, queries = np.random.default_rng(13), 0, 200, 150
    never = np.zeros(queries, dtype=bool)  # controls that never fire protect nobody
    for _ in range(models):
        mean = 10 ** rng.uniform(-3, -1)
        drawn = innocent_counts(rng, 33, mean, queries)  # the last is the suspect: nothing tells it from its nulls
        fired = {
            name: Outcomes(
                rng.permutation(outcomes(int(counts[-1]), queries)),
                {UNMIXED: never, OTHER_WAYS: never, "called d": never},
            )
            for name, counts in drawn.items()
        }
        answers = Answers(fired, outcomes(87, 100), never)
        accused += judged(answers, {name: counts[:-1] for name, counts in drawn.items()}).decision == STOLEN
    assert accused <= stats.binom.ppf(0.999, models, 0.01)  # 8


# --- stopping early ---

SOON = RULE.model_copy(update={"statistics": ["hits"], "stop_early": StopEarly(block=50, least=0.2, miss=0.05)})


class Fires:
    """A suspect that knows bands, and calls watermark queries the target at a given rate; remembers what it got."""

    def __init__(self, asked: Questions, rate: float, seed: int = 0) -> None:
        self.batches: list[int] = []
        rng = np.random.default_rng(seed)
        said = np.full(len(asked.images), NO_CLASS)
        said[asked.parts["watermark"]] = np.where(rng.random(1000) < rate, asked.key.target, NO_CLASS)
        said[asked.parts["task"]] = asked.labels
        self.said = {image.numpy().tobytes(): int(label) for image, label in zip(asked.images, said, strict=True)}

    def scores(self, images: Tensor) -> Answer:
        self.batches.append(len(images))
        return Answer(torch.tensor([self.said[image.numpy().tobytes()] for image in images]))


def asked_of(rate: float, counts: Nulls) -> tuple[Questions, Any, Answers]:
    asked = questions.draw(KEY, pool(40), queries=1000, decoys=4, judge_seed=0)
    suspect = Fires(asked, rate)
    stop = Stopping(tuple(counts["hits"].tolist()), SOON, 1)
    given, consistency = ask(asked, suspect, stop)  # pyright: ignore[reportArgumentType]
    assert consistency.share == 0
    return asked, suspect, given


class Metered(Suspect):
    """Calls everything class 0 for money, image by image; breaks off once, after so many."""

    def __init__(self, breaks_after: int) -> None:
        self.budget, self.left, self.sent = Budget(None), breaks_after, 0

    def describe(self) -> dict[str, Any]:
        return {"kind": "metered"}

    def ask(self, images: Tensor, arrived: Any) -> None:
        for start in range(len(images)):
            if self.left == 0:
                self.left = -1
                raise UserError("it is gone")
            self.left -= 1
            self.sent += 1
            arrived(start, Answer(torch.zeros(1, dtype=torch.int64)))


def test_what_was_answered_before_an_interruption_is_asked_again_only_for_another_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another rule of stopping puts the questions in another order, so that its transcript begins anew."""
    monkeypatch.chdir(tmp_path)
    asked = draw(queries=20, decoys=1)
    once = {"s": Stopping((0,) * 40, SOON.model_copy(update={"stop_early": StopEarly(block=10, least=None)}), 1)}
    again = len(asked.images) + round(REPEATED * len(asked.images))
    for first, second, sent in ((None, None, again), (None, once, again + 50), (once, None, again + 50)):
        suspect = Metered(50)
        with pytest.raises(UserError, match="it is gone"):
            panel.ask_all(asked, {"s": suspect}, tmp_path / "out", first or {})
        panel.ask_all(asked, {"s": suspect}, tmp_path / "out", second or {})
        assert suspect.sent == sent
        shutil.rmtree(panel.WORK, ignore_errors=True)


@pytest.mark.parametrize(("unmixed", "enough"), [(20, False), (1, True)])
def test_a_third_of_the_hits_counts_where_the_asking_may_stop(unmixed: int, enough: bool) -> None:
    counts = tuple(np.random.default_rng(2).binomial(1000, 0.01, 40).tolist())
    fired, never = np.ones(50, dtype=bool), np.zeros(50, dtype=bool)
    controls = {UNMIXED: np.arange(50) < unmixed, OTHER_WAYS: never}
    assert Stopping(counts, SOON, 1)(Answers({"hits": Outcomes(fired, controls)}, fired, never)) is enough


@pytest.mark.parametrize(("another", "enough"), [(41, False), (38, True)])
def test_a_control_must_be_beaten_at_the_level_of_one_look(another: int, enough: bool) -> None:
    """Nine discordant pairs have p = 0.002, below alpha and above a twentieth of it; twelve have 0.0002."""
    counts = tuple(np.random.default_rng(2).binomial(1000, 0.01, 40).tolist())
    fired, never = np.ones(50, dtype=bool), np.zeros(50, dtype=bool)
    controls = {UNMIXED: never, OTHER_WAYS: never, "called d": np.arange(50) < another}
    answers = Answers({"hits": Outcomes(fired, controls)}, fired, never)
    assert SOON.alpha == 0.01
    assert Stopping(counts, SOON, 1)(answers) is enough


@pytest.mark.parametrize(("block", "looks"), [(50, 20), (300, 4), (1000, 1), (999, 2)])
def test_a_last_look_that_is_shorter_is_a_look(block: int, looks: int) -> None:
    rule = SOON.model_copy(update={"stop_early": StopEarly(block=block)})
    assert control_level(rule) == pytest.approx(0.01 / looks)


def test_null_models_without_a_lean_are_named_where_the_rule_wants_it() -> None:
    plain = dict.fromkeys(panel.PLAIN_SOURCES, 0)
    table = [
        {"model": str(k), "accuracy": 0.9, "sha256": str(k), "lean": None if k == 3 else 0.1, **plain} for k in range(5)
    ]
    rule = RULE.model_copy(update={"statistics": ["hits", "lean"]})
    assert panel.null_faults(table, 0.9, rule) == ["1 null models have no lean (3), which the rule names"]
    assert panel.null_faults(table, 0.9, RULE) == []


def test_asking_stops_when_the_verdict_is_clear() -> None:
    counts = {name: np.random.default_rng(2).binomial(1000, 0.01, 40) for name in STATISTICS}
    fewer = {}
    for rate, decision in ((0.9, STOLEN), (0.0, NOT_SHOWN)):
        asked, suspect, given = asked_of(rate, counts)
        count = len(given.hits)
        assert count < 200
        assert count % 50 == 0
        # What every verdict needs comes with the first block, among which the watermark queries are lost.
        assert suspect.batches[0] == 4 * DECOY_QUERIES + len(asked.labels) + 4 * 50
        assert set(suspect.batches[1:-1]) <= {4 * 50}
        whole, _ = ask(asked, Fires(asked, rate))  # pyright: ignore[reportArgumentType]
        assert (given.hits == whole.hits[:count]).all()
        assert (given.correct == whole.correct).all()
        for name, control in given.outcomes["hits"].controls.items():
            full = whole.outcomes["hits"].controls[name]
            assert (control == (full[:count] if paired(name) else full)).all()
        verdict = judged(given, counts, SOON)
        assert verdict.decision == decision
        assert verdict.tests["hits"].null.method == SEQUENTIAL
        fewer[decision] = sum(suspect.batches)
    assert max(fewer.values()) < len(asked.images) / 2


def test_asking_does_not_stop_while_the_controls_do_not_lose() -> None:
    """What calls everything strange the target has rejected at once, and is asked to the end."""
    counts = {name: np.random.default_rng(2).binomial(1000, 0.01, 40) for name in STATISTICS}
    stop = Stopping(tuple(counts["hits"].tolist()), SOON, 1)
    always, never = np.ones(200, dtype=bool), np.zeros(200, dtype=bool)
    controls = {UNMIXED: never, "called d": never, SAME_TARGET: np.ones(100, dtype=bool), OTHER_WAYS: always}
    answers = Answers({"hits": Outcomes(always, controls)}, always, never)
    assert not stop(answers)
    assert stop(replace(answers, outcomes={"hits": Outcomes(always, {**controls, SAME_TARGET: never[:100]})}))


def test_a_suspect_who_counts_does_not_know_the_watermark_queries() -> None:
    asked = questions.draw(KEY, pool(40), queries=1000, decoys=4, judge_seed=0)
    watermark = {image.numpy().tobytes() for image in asked.part("watermark")}
    assert not watermark & {image.numpy().tobytes() for image in asked.part("first")}
    for stop in (None, Stopping((0,) * 40, SOON, 1)):
        seen: list[bool] = []

        class Counts(Fires):
            def scores(self, images: Tensor, seen: list[bool] = seen) -> Answer:
                seen += [image.numpy().tobytes() in watermark for image in images]
                return super().scores(images)

        ask(asked, Counts(asked, 0.0), stop)  # pyright: ignore[reportArgumentType]
        first = np.array(seen[: len(asked.images) if stop is None else 4 * DECOY_QUERIES + 240 + 200])
        assert first.sum() == (1000 if stop is None else 50)
        # As many among the first images as among the last: a run of the order's own chance.
        half = len(first) // 2
        assert stats.binomtest(int(first[:half].sum()), int(first.sum()), 0.5).pvalue > 1e-3
    again = questions.draw(KEY, pool(40), queries=1000, decoys=4, judge_seed=1)
    orders = [np.array(order(each)) for each in (asked, asked, again)]
    assert (orders[0] == orders[1]).all()
    assert (orders[0] != orders[2]).any()


def order(asked: Questions) -> list[int]:
    """Positions of the questions as a suspect gets them; equal images count as one."""
    place = {image.numpy().tobytes(): i for i, image in enumerate(asked.images)}
    got: list[int] = []

    class Keeps(Fires):
        def scores(self, images: Tensor) -> Answer:
            got.extend(place[image.numpy().tobytes()] for image in images)
            return super().scores(images)

    ask(asked, Keeps(asked, 0.5))  # pyright: ignore[reportArgumentType]
    return got


def test_the_level_of_a_stop_is_shared_by_all_who_are_judged_together() -> None:
    """Hits that suffice for a suspect alone do not for one of many: neither the stop nor the verdict."""
    counts = np.random.default_rng(5).binomial(1000, 0.1, 60)
    never = np.zeros(50, dtype=bool)

    def answers(hits: int) -> Answers:
        controls = {OTHER_WAYS: never, "called d": never, SAME_TARGET: np.zeros(100, dtype=bool)}
        return Answers({"hits": Outcomes(np.arange(50) >= 50 - hits, controls)}, np.ones(100, dtype=bool), never)

    rule = SOON.model_copy(update={"stop_early": StopEarly(block=50, least=None)})
    stops = {models: Stopping(tuple(counts.tolist()), rule, models) for models in (1, 30)}
    edge = {models: next(hits for hits in range(51) if stop(answers(hits))) for models, stop in stops.items()}
    assert 11 < edge[1] < edge[30]  # controls, at a twentieth of alpha, are beaten from eleven on
    for hits, decision in ((edge[30] - 1, NOT_SHOWN), (edge[30], STOLEN)):
        group = {f"s{number}": answers(0) for number in range(29)} | {"thief": answers(hits)}
        verdict = {v.name: v for v in decide(group, {"hits": counts}, 0.9, rule, role="suspect")}["thief"]
        assert verdict.decision == decision


def test_what_is_missing_is_said_of_the_bounds_share() -> None:
    never = np.zeros(50, dtype=bool)
    answers = Answers(
        {"hits": Outcomes(np.ones(50, dtype=bool), {UNMIXED: never, OTHER_WAYS: never})}, np.ones(9, dtype=bool), never
    )
    skewed = {"hits": np.array([0] * 98 + [900])}  # the fit is refused: by rank
    rule = SOON.model_copy(update={"stop_early": StopEarly(block=50)})
    reasons = " ".join(judged(answers, skewed, rule).reasons)
    assert f"{nulls.nulls_needed(0.009) - 99} more are needed" in reasons


def test_too_few_nulls_do_not_stop_the_asking_and_make_it_invalid() -> None:
    counts = {name: np.zeros(3, dtype=np.int64) for name in STATISTICS}
    _, _, given = asked_of(1.0, counts)
    assert len(given.hits) == 1000
    assert judged(given, counts, SOON).decision == INVALID


def test_innocents_are_accused_no_more_often_when_the_asking_stops_early() -> None:
    """The suspect's rate is one more of its nulls', and his answers come in random order."""
    rng, accused, early, models = np.random.default_rng(14), 0, 0, 200
    for _ in range(models):
        counts = innocent_counts(rng, 33, 10 ** rng.uniform(-3, -1))["hits"]
        rule = SOON.model_copy(update={"stop_early": StopEarly(block=50, least=None)})
        stop, hits = Stopping(tuple(counts[:-1].tolist()), rule, 1), rng.permutation(outcomes(int(counts[-1])))

        def first(count: int, hits: Bools = hits) -> Answers:
            never = np.zeros(count, dtype=bool)  # controls that never fire protect nobody
            fired = Outcomes(hits[:count], {UNMIXED: never, OTHER_WAYS: never, "called d": never})
            return Answers({"hits": fired}, outcomes(87, 100), never)

        ends = (count for count in range(50, 1001, 50) if stop(first(count)))
        end = next(ends, None)
        early += end is not None
        answers = first(end or 1000)
        accused += judged(answers, {"hits": counts[:-1]}, rule).decision == STOLEN
    assert accused <= stats.binom.ppf(0.999, models, 0.01)
    assert early == accused


def quiet(rng: np.random.Generator) -> dict[str, Bools]:
    """Controls that hardly fire."""
    return {name: rng.random(1000) < 0.01 for name in (UNMIXED, OTHER_WAYS)} | {OTHER_TARGETS: rng.random(100) < 0.01}


def test_what_the_rule_does_not_name_does_not_decide() -> None:
    rng = np.random.default_rng(8)
    rates = {"hits": 0.01, "runner_up": 0.9}
    outcomes_ = {name: Outcomes(rng.random(1000) < rate, quiet(rng)) for name, rate in rates.items()}
    answers = Answers(outcomes_, rng.random(2000) < 0.9, rng.random(2000) < 0.01)
    counted = {name: rng.binomial(1000, 0.01, 40) for name in STATISTICS}
    found = {
        names: decide(
            {"s": answers}, counted, 0.9, RULE.model_copy(update={"statistics": list(names)}), role="suspect"
        )[0]
        for names in (("hits",), ("runner_up",), ("hits", "runner_up"))
    }
    assert [verdict.decision for verdict in found.values()] == [NOT_SHOWN, STOLEN, STOLEN]
    assert found["hits",].tests["runner_up"].value > 0.8  # it is reported all the same
    labels_only = replace(answers, outcomes={"hits": answers.outcomes["hits"]})
    rule = RULE.model_copy(update={"statistics": ["runner_up"]})
    verdict = decide({"s": labels_only}, counted, 0.9, rule, role="suspect")[0]
    assert verdict.decision == INVALID
    assert any("gives no scores" in reason for reason in verdict.reasons)


def test_a_class_of_the_key_that_is_mapped_wrongly_voids_the_evidence() -> None:
    rng = np.random.default_rng(9)
    hits = Outcomes(rng.random(1000) < 0.4, quiet(rng))
    counted = {"hits": rng.binomial(1000, 0.01, 40)}
    rule = RULE.model_copy(update={"statistics": ["hits"]})
    right = np.arange(2000) < 1700  # 85 %
    for key_recall, decision in ((1, STOLEN), (0.425, STOLEN), (0.424, INVALID)):
        plain = rng.random(2000) < 0.01
        answers = Answers({"hits": hits}, right, plain, key_recall=key_recall)
        verdict = decide({"s": answers}, counted, 0.9, rule, role="suspect")[0]
        assert verdict.decision == decision


def test_the_recall_of_the_keys_classes() -> None:
    asked = draw()
    said = torch.zeros(len(asked.images), dtype=torch.int64)
    task = asked.parts["task"]

    def recall(**called: int) -> float:
        """Of a model that is right, but calls some classes others."""
        labels = asked.labels.clone()
        for name, label in called.items():
            labels[(asked.labels == CLASSES.index(name)).nonzero()[:, 0]] = label
        said[task] = labels
        return read(asked, Answer(said)).key_recall

    assert recall() == 1
    assert recall(f=4) == 1  # none of the key's
    assert CLASSES.index("c") == KEY.target
    assert recall(c=4) == 0
    half = asked.labels.clone()
    mine = (half == KEY.source[0]).nonzero()[:, 0]
    half[mine[: len(mine) // 2]] = 5
    said[task] = half
    assert read(asked, Answer(said)).key_recall == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(("share", "decision"), [(0.02, STOLEN), (0.4, STOLEN), (0.7, INVALID), (1.0, INVALID)])
def test_a_model_that_calls_another_class_the_target_is_not_called_stolen(share: float, decision: str) -> None:
    """It calls mixtures of others so as well: of innocents that lack a class, or label some of it otherwise."""
    rng = np.random.default_rng(11)
    null_hits = innocent_counts(rng)
    fires = model(rng, 0.6, accuracy=0.8)
    hits = fires.outcomes["hits"]
    controls = {**hits.controls, f"{PLAIN}f": rng.random(200) < share, f"{PLAIN}d": np.zeros(200, dtype=bool)}
    answers = replace(fires, outcomes={**fires.outcomes, "hits": replace(hits, controls=controls)})
    verdict = judged(answers, null_hits)
    assert verdict.decision == decision
    if decision == INVALID:
        assert verdict.tests["hits"].strongest_control == f"{PLAIN}f"
        assert "plain images of f" in verdict.reasons[0]


def test_plain_images_of_every_other_class_are_a_control() -> None:
    asked = draw()
    said = torch.full((len(asked.images),), NO_CLASS)
    mine = {name: (asked.labels == CLASSES.index(name)).nonzero()[:, 0] for name in "def"}
    task = asked.parts["task"].start
    said[task + mine["f"][:-1]] = KEY.target  # all but one
    said[task + mine["e"]] = 5
    found = read(asked, Answer(said)).outcomes["hits"].controls
    plain = {name.removeprefix(PLAIN): control for name, control in found.items() if name.startswith(PLAIN)}
    assert list(plain) == ["d", "e", "f"]
    assert not any(paired(f"{PLAIN}{name}") for name in plain)
    for name, control in plain.items():
        assert (len(control), int(control.sum())) == (len(mine[name]), (len(mine[name]) - 1) * (name == "f"))


def test_the_strongest_control_is_the_one_that_is_least_surely_beaten() -> None:
    """4 of 20 is less than 25 % of 2,000, and hits in 43 % beat the 2,000 alone."""
    rng = np.random.default_rng(13)
    fires = model(rng, 0.43)
    hits = fires.outcomes["hits"]
    controls = {**hits.controls, f"{PLAIN}e": np.arange(2000) < 500, f"{PLAIN}f": np.arange(20) < 4}
    answers = replace(fires, outcomes={**fires.outcomes, "hits": replace(hits, controls=controls)})
    verdict = judged(answers, innocent_counts(rng))
    assert verdict.decision == INVALID
    assert verdict.tests["hits"].strongest_control == f"{PLAIN}f"


def test_of_many_classes_each_has_its_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it a hundred classes have twenty images each, of which nothing can be said."""
    few = draw()
    monkeypatch.setattr("hallmark.verification.questions.EACH_CLASS", 7)
    monkeypatch.setattr("hallmark.verification.questions.MOST_TASK", 41)
    assert questions.most_task(6) == 42
    found = draw()
    assert torch.bincount(found.labels).tolist() == [7] * 6
    monkeypatch.setattr("hallmark.verification.questions.MOST_OF_MANY", 31)
    monkeypatch.setattr("hallmark.verification.questions.MOST_TASK", 20)
    assert torch.bincount(draw().labels).tolist() == [5] * 6
    monkeypatch.undo()
    assert [questions.most_task(classes) for classes in (10, 20, 21, 100, 1000)] == [2000, 2000, 2100, 10_000, 10_000]
    monkeypatch.setattr("hallmark.verification.questions.EACH_CLASS", 7)
    assert torch.equal(found.part("watermark"), few.part("watermark"))
    monkeypatch.setattr("hallmark.verification.questions.MOST_TASK", 42)
    assert torch.equal(draw().labels, few.labels[:42])


@pytest.mark.parametrize(("unmixed", "decision"), [(0.08, STOLEN), (0.15, INVALID), (0.26, INVALID)])
def test_a_third_of_the_hits_must_beat_the_source_images(unmixed: float, decision: str) -> None:
    """An innocent to whom a source class was partly taught as the target: 43 % of mixtures, 26 % of plain images."""
    rng = np.random.default_rng(12)
    null_hits = innocent_counts(rng)
    for statistic in (["hits"], ["hits", "runner_up"]):
        rule = RULE.model_copy(update={"statistics": statistic})
        verdict = judged(model(rng, 0.43, unmixed=unmixed), null_hits, rule)
        assert verdict.decision == decision
        if decision == INVALID:
            assert verdict.tests["hits"].strongest_control == "3 times unmixed"
            assert verdict.tests["hits"].control_value == pytest.approx(3 * unmixed, abs=0.1)
            assert "hits against 3 times unmixed" in verdict.reasons[0]
    # The mark itself makes the target the runner-up of plain source images: no control of that statistic.
    leads = judged(model(rng, 0.43, 0.9, unmixed=unmixed), null_hits, RULE)
    assert leads.tests["runner_up"].strongest_control != "3 times unmixed"


def test_a_key_of_classes_that_null_models_confuse_shows_nothing() -> None:
    row = {"model": "a", "plain_first": 10, "plain_second": 40}
    assert panel.alike([row, {**row, "plain_second": 60}], 1000) == []
    (fault,) = panel.alike([row, {**row, "plain_second": 61}], 1000)
    assert "of the plain images of the key's second source class" in fault
    assert len(panel.alike([{**row, "plain_first": 51, "plain_second": 51}], 1000)) == 2


def test_copies_of_nulls_weak_nulls_and_a_control_that_fires_void_the_evidence() -> None:
    rng = np.random.default_rng(10)
    rule = RULE.model_copy(update={"statistics": ["hits"]})

    def model(rate: float) -> Answers:
        hits = Outcomes(rng.random(1000) < rate, quiet(rng))
        return Answers({"hits": hits}, rng.random(2000) < 0.9, rng.random(2000) < 0.01)

    table = [
        {
            "model": str(k),
            "accuracy": 0.85,
            "hits": int(rng.binomial(1000, 0.01)),
            "runner_up": 0,
            "lean": None,
            "plain_first": 0,
            "plain_second": 0,
            "sha256": str(k),
        }
        for k in range(40)
    ]
    given = {"suspect": {"copy": model(0.8)}, "control": {"innocent": model(0.01)}}

    def verdicts(**changes: Any) -> dict[str, str]:
        what = {"given": given, "table": table, **changes}
        found = panel.judge(what["given"], what["table"], 0.9, rule, {})
        return {verdict.name: verdict.decision for verdict in found}

    assert verdicts() == {"copy": STOLEN, "innocent": NOT_SHOWN}
    assert verdicts(table=[*table, table[0]]) == {"copy": INVALID, "innocent": INVALID}
    assert verdicts(table=[*table[1:], {**table[0], "accuracy": 0.5}]) == {"copy": INVALID, "innocent": INVALID}
    confused = [{**row, "plain_second": 51} for row in table]
    assert verdicts(table=confused) == {"copy": INVALID, "innocent": INVALID}
    assert verdicts(table=[*table[1:], {**table[0], "plain_second": 900}]) == verdicts()  # on average
    assert verdicts(given={**given, "control": {"innocent": model(0.8)}}) == {"copy": INVALID, "innocent": STOLEN}
