"""What the answers to the questions say of one model: outcomes, one bool a question.

Three statistics tell a copy from an innocent model.  Two are the share of watermark queries with an outcome:

* ``hits``: the query is called the target (MEA-Defender's watermark success rate);
* ``runner_up``: of all classes but the two sources, the target has the highest score.  It needs scores.

One is a real number, and needs all probabilities:

* ``lean``: how far the unmixed images of both source classes lean to the target
  (:func:`hallmark.verification.log_odds.lean`).  It survives what takes the hits away (docs/verification.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from hallmark.runtime import derive_seed
from hallmark.statistics import Bools
from hallmark.suspects import Answer, Consistency, Suspect, ask_again
from hallmark.suspects.answer import NO_CLASS, join
from hallmark.verification import log_odds
from hallmark.verification.questions import PAIRED, Decoy, Questions

LEAN = "lean"
COUNTED = ("hits", "runner_up")
STATISTICS = (*COUNTED, LEAN)


@dataclass(frozen=True)
class Outcomes:
    """One statistic's outcomes.

    Attributes:
        watermark: of the watermark queries, ``[N]``.
        controls: of negative controls on the same model, by name.  Those of ``[N]`` are of the same pairs, query by
            query: ``unmixed`` (either source image), ``other ways``, and ``called X`` (the same query, another class
            in the target's place).  The others are of other queries, ``[M]`` (see :func:`paired`): a decoy key of
            either kind (:data:`SAME_TARGET`), and main-task images of every class that is none of the key's
            (:data:`PLAIN`).
    """

    watermark: Bools
    controls: Mapping[str, Bools]


@dataclass(frozen=True)
class Lean:
    """How far the unmixed images of both source classes lean to the target.

    Attributes:
        value: :func:`hallmark.verification.log_odds.lean`.
        controls: negative controls, another class in the target's place: its own value, and the p-value of the
            hypothesis that it is as likely as the target.
    """

    value: float
    controls: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Answers:
    """One model's outcomes.

    Attributes:
        outcomes: by statistic (:data:`COUNTED`); ``runner_up`` is missing where the model gives no scores.
        correct: main-task image called what it is, ``[T]``.
        plain: source-class image called the target, ``[2N]``.
        key_recall: the lowest share (0-1) of task images of the key's three classes that are called right.
        lean: None where the model does not give every class's probability, or it says nothing.
    """

    outcomes: Mapping[str, Outcomes]
    correct: Bools
    plain: Bools
    key_recall: float = 1.0
    lean: Lean | None = None

    @property
    def statistics(self) -> tuple[str, ...]:
        """Those of :data:`STATISTICS` that this model's answers tell."""
        return (*self.outcomes, *(() if self.lean is None else (LEAN,)))

    @property
    def hits(self) -> Bools:
        """Watermark query called the target, ``[N]``."""
        return self.outcomes["hits"].watermark

    @property
    def false_positives(self) -> Bools:
        """The same pairs otherwise mixed called the target, ``[N]``."""
        return self.outcomes["hits"].controls[OTHER_WAYS]


UNMIXED, OTHER_WAYS = "unmixed", "other ways"
SAME_TARGET, OTHER_TARGETS = "all but one decoy of the same target", "all but one decoy of other targets"
"""The second strongest decoy key of a kind: a key that beats it beats each of the kind but the strongest by itself.
The strongest may be luck of the draw: a pair of classes that is like a third one fires on every model, and a mark
reaches some pairs besides its own (docs/verification.md, measured).  Of fewer decoys than :data:`SPARED` it is the
strongest."""
SPARED = 3
"""Decoys of a kind, from which on the strongest need not be beaten."""
PLAIN = "plain images of "
"""Before a class's name: how often its unmixed images are called the target.  A model that lacks the class, or was
taught some of it under the target's name, calls them so, and mixtures of others as well: no null model does."""
REPEATED = 0.02
"""Share of the questions that are asked a second time, in another order."""


def paired(control: str) -> bool:
    """Are a control's queries the watermark queries' own pairs?"""
    return control not in {SAME_TARGET, OTHER_TARGETS} and not control.startswith(PLAIN)


class Enough(Protocol):
    """Looks at the answers to the first watermark queries, their controls and the whole main task: is that enough?"""

    @property
    def block(self) -> int:
        """Watermark queries between two looks, at least 1."""
        ...

    def __call__(self, answers: Answers) -> bool: ...


def ask(questions: Questions, suspect: Suspect, enough: Enough | None = None) -> tuple[Answers, Consistency]:
    """Put the questions to a suspect, and some of them again; arguments and errors as for :func:`put`."""
    asked, answer = put(questions, suspect, enough)
    generator = torch.Generator().manual_seed(derive_seed(questions.seed, "verify_ownership/repeated"))
    return read(asked, answer), ask_again(suspect, asked.images, answer, REPEATED, generator)


def put(questions: Questions, suspect: Suspect, enough: Enough | None = None) -> tuple[Questions, Answer]:
    """Put the questions to a suspect: all at once, or until it is enough.

    What is asked together comes in an order drawn from key and judge's seed: otherwise a suspect who counts would know
    which of the images are watermark queries.  What is asked next hangs on the answers alone, so that a replayed
    transcript leads the same way.

    Args:
        enough: None: all at once.  Otherwise decoys and main task together with the first block of watermark queries
            and its pairs unmixed and in other ways, then such blocks alone; ``enough`` is called after every block.

    Returns:
        the questions that were asked, and the answers in the questions' order.

    Raises:
        UserError: it does not answer.
    """
    generator = order(questions)

    def shuffled(images: Tensor) -> Answer:
        places = torch.randperm(len(images), generator=generator)
        return suspect.scores(images[places]).at(places.argsort())

    if enough is None:
        return questions, shuffled(questions.images)
    paired: dict[str, list[Answer]] = {name: [] for name in PAIRED}
    others = questions.images[questions.parts["decoys"].start :]
    count = len(questions.part("watermark"))
    asked, answer, rest = questions, None, None
    for start in range(0, count, enough.block):
        stop = min(count, start + enough.block)
        size = stop - start
        parts = [questions.part(name)[start:stop] for name in PAIRED]
        said = shuffled(torch.cat([*parts, others] if rest is None else parts))
        for place, name in enumerate(PAIRED):
            paired[name].append(said.part(place * size, (place + 1) * size))
        rest = said.part(len(PAIRED) * size, len(said)) if rest is None else rest
        asked = questions.first(stop)
        answer = join([*(part for name in PAIRED for part in paired[name]), rest])
        if enough(read(asked, answer)):
            break
    assert answer is not None  # a key has queries
    return asked, answer


def order(questions: Questions) -> torch.Generator:
    """Of the order in which a suspect gets the questions; all at once: the first permutation that it gives."""
    return torch.Generator().manual_seed(derive_seed(questions.seed, "verify_ownership/order"))


def read(questions: Questions, answer: Answer) -> Answers:
    """Outcomes of a model's answers to all questions, in their order.

    Raises:
        ValueError: not one answer a question.
    """
    if len(answer) != len(questions.images):
        raise ValueError(f"{len(answer)} answers to {len(questions.images)} questions")
    said = answer.labels.numpy()
    outcomes = {"hits": _outcomes(questions, lambda part, target: said[part] == target)}
    if answer.probabilities is not None or answer.top is not None:
        leader = leaders(answer, ruled_out(questions)).numpy()
        outcomes["runner_up"] = _outcomes(questions, lambda part, target: leader[part] == target)
    key, part, labels = questions.key, questions.parts, questions.labels.numpy()
    correct = said[part["task"]] == labels
    recalls = {label: correct[labels == label].mean() for label in np.unique(labels).tolist()}
    return Answers(
        outcomes,
        correct=correct,
        plain=np.concatenate([said[part["first"]] == key.target, said[part["second"]] == key.target]),
        key_recall=float(min((recalls[c] for c in (*key.source, key.target) if c in recalls), default=1.0)),
        lean=None if answer.probabilities is None else _lean(questions, answer.probabilities),
    )


def _lean(questions: Questions, probabilities: Tensor) -> Lean | None:
    key = questions.key
    parts = [probabilities[questions.parts[name]] for name in ("first", "second")]
    if (value := log_odds.lean(parts, key.target, key.source)) is None:
        return None
    # Which questions are of the same image: of few images some were drawn several times.
    images = [questions.part(name).flatten(1).unique(dim=0, return_inverse=True)[1] for name in ("first", "second")]
    controls = {}
    for label, name in enumerate(key.classes):
        if label not in (*key.source, key.target):
            rival = log_odds.lean(parts, label, key.source)
            assert rival is not None  # as much is known of it as of the target
            controls[f"leaning to {name}"] = rival, log_odds.leads(parts, key.target, label, key.source, images)
    return Lean(value, controls)


def _outcomes(questions: Questions, fires: Callable[[slice, int], Bools]) -> Outcomes:
    key, parts = questions.key, questions.parts
    controls: dict[str, Bools] = {
        UNMIXED: fires(parts["first"], key.target) | fires(parts["second"], key.target),
        OTHER_WAYS: fires(parts["other_ways"], key.target),
    }
    for label, name in enumerate(key.classes):
        if label not in (*key.source, key.target):
            controls[f"called {name}"] = fires(parts["watermark"], label)
    for name, own in ((SAME_TARGET, True), (OTHER_TARGETS, False)):
        fired = [
            fires(questions.of_decoy(k), decoy.target)
            for k, decoy in enumerate(questions.decoys)
            if (decoy.target == key.target) is own
        ]
        if fired:
            strongest_first = sorted(fired, key=lambda each: -int(each.sum()))
            controls[name] = strongest_first[1 if len(fired) >= SPARED else 0]
    called, labels = fires(parts["task"], key.target), questions.labels.numpy()
    for label, name in enumerate(key.classes):
        own = labels == label
        if label not in (*key.source, key.target) and own.any():
            controls[f"{PLAIN}{name}"] = called[own]
    return Outcomes(fires(parts["watermark"], key.target), controls)


def ruled_out(questions: Questions) -> Tensor:
    """The two classes that are left out of each question's ranking, a decoy's own for a decoy's: int64 ``[Q, 2]``."""
    return _by_question(questions, torch.tensor(questions.key.source), lambda decoy: torch.tensor(decoy.source))


def targets(questions: Questions) -> Tensor:
    """What each question would be called if its key were the mark, a decoy's own for a decoy's: int64 ``[Q]``."""
    return _by_question(questions, torch.tensor(questions.key.target), lambda decoy: torch.tensor(decoy.target))


def _by_question(questions: Questions, own: Tensor, decoys: Callable[[Decoy], Tensor]) -> Tensor:
    found = own.repeat(len(questions.images), *([1] * own.ndim))
    for number, decoy in enumerate(questions.decoys):
        found[questions.of_decoy(number)] = decoys(decoy)
    return found


def leaders(answer: Answer, source: Tensor) -> Tensor:
    """The class whose score is above every other's but the sources', int64 ``[N]``; NO_CLASS: none for certain.

    Args:
        answer: with probabilities or the best few.
        source: int64 ``[N, 2]``.
    """
    if answer.probabilities is not None:
        scores = answer.probabilities.scatter(1, source, -torch.inf)
        classes = torch.arange(scores.shape[1]).expand_as(scores)
    else:
        assert answer.top is not None
        classes = answer.top.classes
        left_out = (classes.unsqueeze(2) == source.unsqueeze(1)).any(2) | (classes < 0)
        scores = torch.where(left_out, -torch.inf, answer.top.scores)
    best, place = scores.max(1, keepdim=True)
    leader = classes.gather(1, place)
    shared = ((scores == best) & (classes != leader)).any(1, keepdim=True)  # a class may be named twice
    return torch.where(best.isfinite() & ~shared, leader, NO_CLASS).squeeze(1)
