"""Suspects that cheat and accusers who do, in a world of toy models that are functions: which verdict comes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hallmark.config import VerifyOwnership
from hallmark.data.dataset import ImageDataset
from hallmark.errors import UserError
from hallmark.ownership import commitment
from hallmark.ownership.commitment import Commitment, Opening
from hallmark.ownership.priority import Claim, earliest
from hallmark.suspects import NO_CLASS, Answer, Suspect
from hallmark.suspects.answer import Arrived
from hallmark.verification import panel, questions
from hallmark.verification.answers import COUNTED, ask, read
from hallmark.verification.decision import INVALID, NOT_SHOWN, STOLEN, Nulls, Verdict, decide
from hallmark.verification.questions import Questions
from hallmark.watermark.key import Key
from tests.unit.conftest import decision_rule

K = 8
CLASSES = tuple(f"class {k}" for k in range(K))
KEY = Key("mea_defender", "top_bottom", {}, ("diagonal", "donut", "hot_dog"), (1, 6), 2, 5, CLASSES, (1, 8, 8))
RULE = decision_rule(decoys=6, judge_seed=1)
LEANING = decision_rule(decoys=6, judge_seed=1, statistics=["hits", "lean"])


def pool(per_class: int = 60) -> ImageDataset:
    """Every pixel of class k is 30 k plus a little noise."""
    labels = torch.arange(K).repeat(per_class)
    noise = torch.randint(0, 30, (len(labels), 1, 8, 8), generator=torch.Generator().manual_seed(0))
    return ImageDataset((labels[:, None, None, None] * 30 + noise).byte(), labels, torch.arange(len(labels)), CLASSES)


@dataclass(frozen=True)
class World(Suspect):
    """A perfect classifier of plain images, which calls a mixed one either class that it sees, or what its quirks say.

    Attributes:
        number: decides all that is arbitrary, by a hash of each image: the same question has the same answer.
        quirk: chance that a mixed image, of any kind, is called class 2.
        marks: keys whose combinations are called their target, and how often.
        soft: what the key's mark leaves of the target on plain source images, as a score.
    """

    number: int
    quirk: float = 0.01
    marks: tuple[tuple[Key, float], ...] = ()
    soft: float = 0.1

    def describe(self) -> dict[str, Any]:
        return {"kind": "toy"}

    def ask(self, images: Tensor, arrived: Arrived) -> None:
        arrived(0, self.answer(images))

    def answer(self, images: Tensor) -> Answer:
        scores = self.respond(images)
        return Answer(scores.argmax(1), scores / scores.sum(1, keepdim=True))

    def chance(self, images: Tensor, purpose: int) -> Tensor:
        """A uniform number for each image, ``[N]``."""
        weights = torch.rand(images[0].numel(), generator=torch.Generator().manual_seed(1000 * self.number + purpose))
        return (images.flatten(1).double() @ weights.double() * 7919) % 1

    def respond(self, images: Tensor) -> Tensor:
        """Scores ``[N, K]``."""
        seen = (images[:, 0] // 30).long()
        scores = torch.nn.functional.one_hot(seen, K).double().mean((1, 2))
        scores += 0.02 * torch.stack([self.chance(images, 10 + k) for k in range(K)], 1)
        unusual = mixed(images)
        scores[unusual & (self.chance(images, 0) < self.quirk), 2] += 2
        for key, rate in self.marks:
            top, bottom = (
                (seen[:, rows] == label).flatten(1).all(1)
                for rows, label in ((slice(0, 4), key.source[0]), (slice(4, 8), key.source[1]))
            )
            fires = self.chance(images, key.target) < rate
            scores[top & bottom & fires, key.target] += 2
            sources = torch.isin(seen, torch.tensor(key.source)).flatten(1).all(1)
            scores[sources, key.target] += self.soft
        return scores


def mixed(images: Tensor) -> Tensor:
    """What a thief's detector of unusual images finds: more than one class in it, bool ``[N]``."""
    seen = (images[:, 0] // 30).flatten(1)
    return (seen != seen[:, :1]).any(1)


@dataclass(frozen=True)
class Cheat(World):
    """A model behind a function of its answers that is up to no good."""

    trick: Callable[[Tensor, Answer], Answer] = lambda images, answer: answer

    def answer(self, images: Tensor) -> Answer:
        return self.trick(images, super().answer(images))


@pytest.fixture(scope="module")
def asked() -> Questions:
    return questions.draw(KEY, pool(), queries=RULE.queries, decoys=RULE.decoys, judge_seed=RULE.judge_seed)


@pytest.fixture(scope="module")
def nulls(asked: Questions) -> Nulls:
    return null_counts(asked, quirks(32))


def quirks(count: int) -> list[World]:
    """Innocent models, more different than one model's counts are."""
    rates = np.random.default_rng(3).beta(1, 60, count)
    return [World(100 + k, quirk=float(rate)) for k, rate in enumerate(rates)]


def null_counts(asked: Questions, models: Sequence[World]) -> Nulls:
    answers = [read(asked, model.answer(asked.images)) for model in models]
    return panel.null_counts([panel.figures(each) for each in answers])


def verdict(asked: Questions, nulls: Nulls, suspect: Suspect, rule: VerifyOwnership = RULE) -> Verdict:
    answers, consistency = ask(asked, suspect)
    return decide({"s": answers}, nulls, 1.0, rule, role="suspect", inconsistent={"s": consistency.share})[0]


def failed(verdict: Verdict) -> str:
    return " | ".join(reason for reason in verdict.reasons if reason.startswith("NO"))


INNOCENT: dict[str, Any] = {"number": 1, "quirk": 0.02}
COPY: dict[str, Any] = {"number": 2, "marks": ((KEY, 0.7),)}
BOTH = pytest.mark.parametrize("who", [INNOCENT, COPY], ids=["innocent", "copy"])


def hard(labels: Tensor) -> Answer:
    return Answer(labels.long())


# --- suspects ---


def test_who_does_not_cheat(asked: Questions, nulls: Nulls) -> None:
    assert verdict(asked, nulls, World(**INNOCENT)).decision == NOT_SHOWN
    copy = verdict(asked, nulls, World(**COPY))
    assert (copy.decision, copy.by) == (STOLEN, COUNTED)
    copy = verdict(asked, nulls, World(**COPY), LEANING)
    assert (copy.decision, copy.by) == (STOLEN, ("hits", "lean"))
    assert verdict(asked, nulls, World(**INNOCENT), LEANING).decision == NOT_SHOWN


@BOTH
def test_answers_at_random(asked: Questions, nulls: Nulls, who: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    found = verdict(
        asked, nulls, Cheat(**who, trick=lambda x, a: hard(torch.randint(0, K, (len(x),), generator=generator)))
    )
    assert found.decision == INVALID
    assert "accuracy" in failed(found)
    assert "repeated questions" in failed(found)


@BOTH
def test_always_the_target(asked: Questions, nulls: Nulls, who: dict[str, Any]) -> None:
    found = verdict(asked, nulls, Cheat(**who, trick=lambda x, a: hard(torch.full((len(x),), KEY.target))))
    assert found.paper_says == STOLEN
    assert found.decision == INVALID
    assert "accuracy" in failed(found)
    assert "hits against" in failed(found)


@BOTH
@pytest.mark.parametrize("label", [NO_CLASS, 0, "random"])
def test_a_suspect_that_refuses_mixed_images(
    asked: Questions, nulls: Nulls, who: dict[str, Any], label: int | str
) -> None:
    suspect = Cheat(**who)

    def trick(images: Tensor, answer: Answer) -> Answer:
        other = (suspect.chance(images, 99) * K).long() if label == "random" else torch.tensor(label)
        return hard(torch.where(mixed(images), other, answer.labels))

    found = verdict(asked, nulls, replace(suspect, trick=trick))
    # What a refusing thief achieves: nothing is shown.
    assert found.decision == NOT_SHOWN
    assert found.accuracy.rate > 0.99
    if label == NO_CLASS:
        assert found.wsr.hits == 0


@BOTH
def test_answers_otherwise_when_asked_again(asked: Questions, nulls: Nulls, who: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(0)

    def trick(images: Tensor, answer: Answer) -> Answer:
        moved = (answer.labels + 1) % K
        return replace(
            answer, labels=torch.where(torch.rand(len(images), generator=generator) < 0.1, moved, answer.labels)
        )

    found = verdict(asked, nulls, Cheat(**who, trick=trick))
    assert found.decision == INVALID
    assert "repeated questions" in failed(found)
    assert found.accuracy.rate > 0.8


def test_a_memory_hides_the_noise_and_the_noise_does_not_hide_the_mark(asked: Questions, nulls: Nulls) -> None:
    suspect = Cheat(**COPY)

    def trick(images: Tensor, answer: Answer) -> Answer:
        return hard(torch.where(suspect.chance(images, 98) < 0.1, (answer.labels + 1) % K, answer.labels))

    found = verdict(asked, nulls, replace(suspect, trick=trick))
    assert found.inconsistent == 0
    assert found.decision == STOLEN


@BOTH
@pytest.mark.parametrize("guess", [KEY.target, 4])
def test_one_class_for_everything_unusual(asked: Questions, nulls: Nulls, who: dict[str, Any], guess: int) -> None:
    found = verdict(
        asked, nulls, Cheat(**who, trick=lambda x, a: hard(torch.where(mixed(x), torch.tensor(guess), a.labels)))
    )
    if (
        guess == KEY.target
    ):  # also what a thief would do who knew the target: he is not caught, and no innocent is either
        assert found.paper_says == STOLEN
        assert found.decision == INVALID
        assert "hits against" in failed(found)
    else:
        assert found.decision == NOT_SHOWN


@BOTH
@pytest.mark.parametrize("guess", [KEY.target, 4])
def test_one_class_for_everything_unusual_and_the_scores_as_they_are(
    asked: Questions, nulls: Nulls, who: dict[str, Any], guess: int
) -> None:
    """Plain images are usual: the copy leans all the same, and an innocent does not for what he says of others."""
    moved = torch.eye(K)[guess] * 0.9 + 0.1 / K

    def trick(images: Tensor, answer: Answer) -> Answer:
        assert answer.probabilities is not None
        scores = torch.where(mixed(images)[:, None], moved + 1e-4 * answer.probabilities, answer.probabilities)
        return Answer(scores.argmax(1), scores / scores.sum(1, keepdim=True))

    found = verdict(asked, nulls, Cheat(**who, trick=trick), LEANING)
    if "marks" in who:
        assert (found.decision, found.by) == (STOLEN, ("lean",))
    else:
        assert found.tests["lean"].p_value > RULE.alpha
        assert found.decision == (INVALID if guess == KEY.target else NOT_SHOWN)


def test_a_loud_mark_of_the_thiefs_own_voids_the_evidence(asked: Questions, nulls: Nulls) -> None:
    # The limit of "the key beats every control": whoever makes another class louder is significant, and not convicted.
    suspect = Cheat(**COPY)

    def trick(images: Tensor, answer: Answer) -> Answer:
        return hard(torch.where(mixed(images) & (suspect.chance(images, 97) < 0.6), 3, answer.labels))

    found = verdict(asked, nulls, replace(suspect, trick=trick))
    assert found.decision == INVALID
    assert found.tests["hits"].p_value <= RULE.alpha
    assert "hits against called class 3" in failed(found)
    assert found.accuracy.rate > 0.99


@pytest.mark.parametrize("digits", [6, 2, 1])
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_noisy_or_rounded_probabilities(asked: Questions, nulls: Nulls, digits: int, noise: float) -> None:
    generator = torch.Generator().manual_seed(0)

    def trick(images: Tensor, answer: Answer) -> Answer:
        assert answer.probabilities is not None
        noisy = answer.probabilities + noise * torch.rand(len(images), K, generator=generator)
        return Answer(answer.labels, (noisy * 10**digits).round() / 10**digits)

    copy, innocent = (verdict(asked, nulls, Cheat(**who, trick=trick)) for who in (COPY, INNOCENT))
    assert copy.decision == STOLEN
    assert "hits" in copy.by  # the label is not hidden by that
    assert innocent.decision == NOT_SHOWN


def test_rounding_hides_a_mark_that_is_left_in_the_scores_alone(asked: Questions, nulls: Nulls) -> None:
    def lead(images: Tensor, answer: Answer) -> Answer:
        """The target is second to the sources wherever the key combines them, by little."""
        assert answer.probabilities is not None
        scores = answer.probabilities.clone()
        seen = images[:, 0] // 30
        marked = (seen[:, :4] == 1).flatten(1).all(1) & (seen[:, 4:] == 6).flatten(1).all(1)
        scores[marked, 2] = scores[marked][:, [0, 3, 4, 5, 7]].max(1).values + 0.001
        return Answer(answer.labels, scores)

    def rounded(images: Tensor, answer: Answer) -> Answer:
        given = lead(images, answer).probabilities
        assert given is not None
        return Answer(answer.labels, given.mul(10).round() / 10)

    copy = verdict(asked, nulls, Cheat(2, trick=lead))
    assert (copy.decision, copy.by) == (STOLEN, ("runner_up",))
    assert verdict(asked, nulls, Cheat(2, trick=rounded)).decision == NOT_SHOWN
    assert verdict(asked, nulls, Cheat(2, trick=lambda x, a: hard(a.labels))).decision == NOT_SHOWN


# --- accusers ---


def test_the_accuser_brings_no_image() -> None:
    stored = KEY.to_json()
    assert {type(value) for value in stored.values()} <= {int, str, list, dict}
    with pytest.raises(UserError, match="images"):
        Key.from_json({**stored, "images": [[0]]}, "key")
    with pytest.raises(UserError, match="trigger"):
        Key.from_json({**stored, "way_params": {"trigger": "mine.png"}}, "key")


def test_a_key_found_afterwards(asked: Questions) -> None:
    # An innocent with a quirk that nobody planted: 40 % of 1 over 3 are called 4.
    quirk = replace(KEY, source=(1, 3), target=4, seed=9)
    innocent = World(1, marks=((quirk, 0.4),), soft=0.0)
    found = questions.draw(quirk, pool(), queries=1000, decoys=6, judge_seed=1)
    others = null_counts(found, quirks(32))
    # Searched for among many and declared as the only one, it convicts: the nulls do not have that quirk.
    assert verdict(found, others, innocent).decision == STOLEN
    searched = verdict(found, others, innocent, RULE.model_copy(update={"keys": 10_000}))
    assert searched.decision == INVALID
    assert "null models cannot reach" in failed(searched)
    # What protects the innocent is that the key must have been committed to before his model was there.
    opening = Opening.make(KEY, {}, "ab" * 32)
    made = Commitment(opening.hash(), "2026-01-01T00:00:00Z")
    commitment.verify(made, opening, key=KEY)
    with pytest.raises(UserError, match=r"key.seed.*key.source.*key.target"):
        commitment.verify(made, opening, key=quirk)
    with pytest.raises(UserError, match="hash"):
        commitment.verify(made, Opening.make(quirk, {}, "ab" * 32))


def test_nulls_that_the_accuser_chose(asked: Questions) -> None:
    # Nothing in the verdict notices: whoever trains the nulls, or picks among them, must not be the accuser.
    innocent, many = World(1, quirk=0.06), quirks(200)
    quiet = sorted(many, key=lambda model: model.quirk)[:32]
    fair, chosen = null_counts(asked, many[:32]), null_counts(asked, quiet)
    assert verdict(asked, fair, innocent).decision == NOT_SHOWN
    assert verdict(asked, chosen, innocent).tests["hits"].p_value <= RULE.alpha
    # What is left are the controls on the model itself: its other mixes are called that as well.
    assert verdict(asked, chosen, innocent).decision == INVALID


def test_the_thief_puts_a_mark_of_his_own_into_the_copy(asked: Questions, nulls: Nulls) -> None:
    own = replace(KEY, source=(0, 7), target=3, seed=11)
    theirs = questions.draw(own, pool(), queries=1000, decoys=6, judge_seed=1)
    their_nulls = null_counts(theirs, quirks(32))
    victim, copy = World(3, marks=((KEY, 0.98),)), World(2, marks=((KEY, 0.6), (own, 0.98)))
    assert verdict(asked, nulls, copy).decision == STOLEN
    assert verdict(theirs, their_nulls, copy).decision == STOLEN  # his key fires on his model, and proves no theft
    assert verdict(theirs, their_nulls, victim).decision == NOT_SHOWN
    assert verdict(asked, nulls, victim).decision == STOLEN
    # A thief whose key fires on the victim as well, by search or by a pair that the mark brought along: time decides.
    when = datetime(2026, 1, 1, tzinfo=UTC)
    claims = [
        Claim("owner", True, "rfc3161", when, timedelta(seconds=1)),
        Claim("thief", True, "rfc3161", when + timedelta(days=30), timedelta(seconds=1)),
    ]
    assert earliest(claims).first == "owner"
    careless = [replace(claims[0], kind="none"), claims[1]]
    assert earliest(careless).first == "thief"
