"""A victim to steal from, wherever it is: a model folder, or a block as in docs/suspects.md (a file, a service)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hallmark import models, suspects
from hallmark.data.dataset import to_uint8
from hallmark.errors import UserError
from hallmark.extraction import Answers, Query, black_box
from hallmark.extraction.oracle import normalised, one_hot
from hallmark.models import Network
from hallmark.runtime import Runtime
from hallmark.suspects import Answer, Suspect


@dataclass(frozen=True)
class Victim:
    """What a thief can reach.

    Attributes:
        query: its answers: probabilities, or what a service gives in their place.
        labels: its first choices, int64 ``[N]`` of uint8 images; -1 is none of the classes.
        classes: its class names; the copy gets them.
        kind: where it is, for the record.
        rounds: it takes images of 8 bits only.
    """

    query: Query
    labels: Callable[[Tensor], Tensor]
    classes: tuple[str, ...]
    kind: str
    rounds: bool


def in_memory(network: Network, runtime: Runtime) -> Victim:
    """A model of this program."""

    def labels(images: Tensor) -> Tensor:
        return models.logits(network, images, runtime).argmax(1)

    return Victim(black_box(network, runtime), labels, network.spec.classes, "model folder", rounds=False)


def behind(
    block: Mapping[str, Any],
    answers: Answers,
    classes: tuple[str, ...],
    shape: tuple[int, int, int],
    runtime: Runtime,
    *,
    images: int,
    where: str,
) -> Victim:
    """A model in a file or behind a service, asked by the clients for suspects.

    Args:
        block: of docs/suspects.md.
        answers: what the thief expects.  A service that gives labels or its best few classes gives no more.
        classes, shape: our class names, and (C, H, W) of our images.
        images: that it will be asked in all, the held-out ones included.
        where: the block's place, for messages.

    Raises:
        UserError: the block is invalid, the victim cannot be opened, or its own budget does not suffice.
    """
    with _renamed(where):
        suspect = suspects.build("victim", block, classes, shape, runtime)
        if suspect.budget is not None:
            try:
                suspect.budget.require(images)
            except UserError as error:
                raise UserError(f"{where}.budget: {error}") from None

    def query(batch: Tensor) -> Tensor:
        with _renamed(where):
            return _probabilities(suspect.scores(to_uint8(batch)), answers, len(classes), where)

    def labels(batch: Tensor) -> Tensor:
        with _renamed(where):
            return suspect.predict(batch)

    return Victim(query, labels, classes, _kind(suspect, block), rounds=True)


def _probabilities(answer: Answer, answers: Answers, classes: int, where: str) -> Tensor:
    """An answer as a row of ``[B, K]`` an image.

    Raises:
        UserError: it says less than the thief expects.
    """
    if answers.form == "labels":
        return one_hot(answer.labels, classes)
    if answer.probabilities is not None:
        return normalised(answer.probabilities)
    if answer.top is None:
        raise UserError(f"{where}: gives labels only; set the attack's answers to labels")
    given = answer.top.classes.shape[1]
    if answers.form != "top_k" or (answers.k or 1) > given:
        raise UserError(
            f"{where}: gives its best {given} classes only; set the attack's answers to {{form: top_k, k: {given}}}"
        )
    scores = answer.top.scores
    if bool((scores < 0).any()) or bool((scores.sum(1) > 1 + 1e-3).any()):
        raise UserError(
            f"{where}: the scores of its best classes are no probabilities; set the attack's answers to labels"
        )
    # The last column takes what is none of our classes (-1).
    rows = torch.zeros(len(scores), classes + 1)
    return rows.scatter_add_(1, answer.top.classes % (classes + 1), scores)[:, :-1]


def _kind(suspect: Suspect, block: Mapping[str, Any]) -> str:
    """The kind, with the beginning of its file's hash where there is a file."""
    digest = suspect.describe().get("sha256")
    return f"{block['kind']} {digest}" if isinstance(digest, str) else str(block["kind"])


@contextmanager
def _renamed(where: str) -> Iterator[None]:
    """The clients call their blocks ``suspects.NAME``."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace("suspects.victim", where, 1)) from None
