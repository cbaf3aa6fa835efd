"""A judge, an owner and everybody's models, for the benchmark of attacks on the protocol."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hallmark import models
from hallmark.config import TrainWatermarked
from hallmark.data.dataset import ImageDataset
from hallmark.models import Network
from hallmark.suspects import Answer, Suspect
from hallmark.suspects.answer import Arrived
from hallmark.verification.court import Court
from hallmark.verification.decision import INVALID, Verdict
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


@dataclass(kw_only=True)
class Case(Court):
    """A court with the owner and everybody's models."""

    settings: TrainWatermarked
    key: Key
    data: ImageDataset
    known: dict[str, Network]
    surrogates: list[Network]

    def labels(self, network: Network, images: Tensor) -> Tensor:
        return models.logits(network, images, self.run).argmax(1)


def words(verdict: Verdict) -> str:
    """A verdict in short."""
    tests = ", ".join(f"{name} {t.shown(t.value)} (p {t.p_value:.2g})" for name, t in verdict.tests.items())
    return f"{verdict.decision}: {tests}" + (
        f"; fails: {' | '.join(verdict.failed)}" if verdict.decision == INVALID else ""
    )


def row(attack: str, tried: str, without: str, with_it: str, possible: str) -> dict[str, str]:
    """One row, printed."""
    found: dict[str, str] = dict(zip(COLUMNS, (attack, tried, without, with_it, possible), strict=True))
    print("\n".join(f"{name}: {text}" for name, text in found.items()), end="\n\n", flush=True)
    return found
