"""A judge, an owner and everybody's models, for the benchmark of attacks on the protocol."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from hallmark import models
from hallmark.config import TrainWatermarked, VerifyOwnership
from hallmark.data.dataset import ImageDataset
from hallmark.models import Network
from hallmark.runtime import Runtime
from hallmark.suspects import Answer, Suspect, memory
from hallmark.suspects.adapt import Classes
from hallmark.suspects.answer import Arrived
from hallmark.verification import panel, questions
from hallmark.verification.answers import ask, read
from hallmark.verification.decision import INVALID, Verdict, decide
from hallmark.verification.questions import Questions
from hallmark.watermark.key import Key

COLUMNS: tuple[str, ...] = ("attack", "tried", "without_the_protocol", "with_it", "remains_possible")


@dataclass(frozen=True)
class Behind(Suspect):
    """A network behind a function of its answers."""

    network: Suspect
    trick: Callable[[Tensor, Answer], Answer]

    def describe(self) -> dict[str, Any]:
        return self.network.describe()

    def ask(self, images: Tensor, arrived: Arrived) -> None:
        self.network.ask(
            images, lambda start, answer: arrived(start, self.trick(images[start:][: len(answer)], answer))
        )


@dataclass
class Court:
    """Judge, owner and everybody's models."""

    rule: VerifyOwnership
    settings: TrainWatermarked
    key: Key
    data: ImageDataset
    pool: ImageDataset
    known: dict[str, Network]
    nulls: list[Network]
    surrogates: list[Network]
    run: Runtime
    reference: float = 1.0
    drawn: dict[str, tuple[Questions, list[dict[str, Any]]]] = field(default_factory=dict)

    def suspect(self, network: Network) -> Suspect:
        return memory.suspect(network, self.run, Classes.match(self.key.classes, None, {}), self.key.shape)

    def labels(self, network: Network, images: Tensor) -> Tensor:
        return models.logits(network, images, self.run).argmax(1)

    def questions(self, key: Key) -> tuple[Questions, list[dict[str, Any]]]:
        """For a key, and the figures of every null model."""
        if key.commitment() not in self.drawn:
            rule = self.rule
            asked = questions.draw(key, self.pool, queries=rule.queries, decoys=rule.decoys, judge_seed=rule.judge_seed)
            counted = asked.only("watermark", "first", "second")
            table = [
                panel.figures(read(counted, self.suspect(network).scores(counted.images))) for network in self.nulls
            ]
            self.drawn[key.commitment()] = asked, table
        return self.drawn[key.commitment()]

    def verdict(self, key: Key, suspect: Suspect | Network, keys: int = 1) -> Verdict:
        """On one suspect."""
        suspect = self.suspect(suspect) if isinstance(suspect, Network) else suspect
        asked, table = self.questions(key)
        answers, consistency = ask(asked, suspect)
        rule = self.rule.model_copy(update={"keys": keys})
        return decide(
            {"s": answers},
            panel.null_counts(table),
            self.reference,
            rule,
            role="suspect",
            inconsistent={"s": consistency.share},
            faults=panel.alike(table, rule.queries),
        )[0]


def words(verdict: Verdict) -> str:
    """A verdict in short."""
    tests = ", ".join(f"{name} {t.shown(t.value)} (p {t.p_value:.2g})" for name, t in verdict.tests.items())
    failed = [reason.removeprefix("NO: ") for reason in verdict.reasons if reason.startswith("NO")]
    return f"{verdict.decision}: {tests}" + (f"; fails: {' | '.join(failed)}" if verdict.decision == INVALID else "")


def row(attack: str, tried: str, without: str, with_it: str, possible: str) -> dict[str, str]:
    """One row, printed."""
    found: dict[str, str] = dict(zip(COLUMNS, (attack, tried, without, with_it, possible), strict=True))
    print("\n".join(f"{name}: {text}" for name, text in found.items()), end="\n\n", flush=True)
    return found
