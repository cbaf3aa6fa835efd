"""The victim as the thief sees it: images in, answers out in the form that its interface gives, every image counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from hallmark import models
from hallmark.config import Count, Params
from hallmark.data.dataset import to_float
from hallmark.errors import UserError
from hallmark.models import Network
from hallmark.runtime import Runtime

Query = Callable[[Tensor], Tensor]
"""From float images ``[B, C, H, W]`` in 0-1 to float32 probabilities ``[B, K]``, both on the CPU."""


class Answers(Params):
    """Block ``answers`` of an attack: what the victim's interface gives of its probabilities."""

    form: Literal["soft", "top_k", "rounded", "labels"] = "soft"
    k: Count | None = None
    """Of ``top_k``: so many of the likeliest classes are told with their probabilities."""
    rest: Literal["spread", "renormalised"] | None = None
    """Of ``top_k``: what the thief makes of the classes that are not told; null: spread."""
    digits: Annotated[int, Field(ge=1, le=7)] | None = None
    """Of ``rounded``: decimal places of each probability."""

    @model_validator(mode="after")
    def _its_number(self) -> Answers:
        owners = {"k": "top_k", "rest": "top_k", "digits": "rounded"}
        for name, form in owners.items():
            given = getattr(self, name) is not None
            if given and self.form != form:
                raise ValueError(f"{name}: belongs to the form {form}, not to {self.form}; take it out")
            if not given and self.form == form and name != "rest":
                raise ValueError(f"{name}: missing; the form {form} wants it")
        return self

    def __str__(self) -> str:
        number = self.k if self.form == "top_k" else self.digits
        rest = f" {self.rest or 'spread'}" if self.form == "top_k" else ""
        return self.form if number is None else f"{self.form} {number}{rest}"

    def of(self, probabilities: Tensor) -> Tensor:
        """What is left of probabilities ``[B, K]`` in this form: float32 ``[B, K]``, rows add up to 1.

        A row of equal values says nothing (a service has called the image none of the classes), and stays uniform.
        """
        if self.form == "top_k":
            return top_k(probabilities, self.k or 1, spread=self.rest != "renormalised")
        if self.form == "rounded":
            return rounded(probabilities, self.digits or 1)
        if self.form == "labels":
            labels = torch.where(_silent(probabilities)[:, 0], -1, probabilities.argmax(1))
            return one_hot(labels, probabilities.shape[1])
        return probabilities


class Oracle:
    """A victim with a query budget.

    Args:
        query: answers images; a model in memory (:func:`black_box`) or one behind a service.
        budget: images that it may be asked in all.
        rounds: it takes images of 8 bits only; finer ones are rounded.
    """

    def __init__(self, query: Query, budget: int, *, rounds: bool = False) -> None:
        self._query, self.budget, self.used, self.rounds = query, budget, 0, rounds

    @property
    def left(self) -> int:
        """Images that may still be asked."""
        return self.budget - self.used

    def __call__(self, images: Tensor) -> Tensor:
        """Answers ``[B, K]`` on images ``[B, C, H, W]``: uint8, the form in which images are sent, or float in 0-1.

        Only an attack that makes its own images has finer ones than of 8 bits.

        Raises:
            UserError: the budget does not suffice; nothing is asked then.
        """
        if len(images) > self.left:
            raise UserError(
                f"query budget exceeded: {len(images):,} images asked, {self.left:,} of {self.budget:,} left; "
                "raise the attack's budget"
            )
        self.used += len(images)
        return self._query(images if images.is_floating_point() else to_float(images))


def black_box(network: Network, runtime: Runtime) -> Query:
    """A model in memory behind the interface of a service."""
    return lambda images: models.probabilities(network, images, runtime)


def answered(query: Query, answers: Answers, classes: Sequence[str], where: str) -> Query:
    """A victim's ``query`` behind an interface that gives ``answers`` of this form.

    Args:
        classes: the victim's.
        where: the attack's block, for messages.

    Raises:
        UserError: more top classes than the victim has.
    """
    if answers.k is not None and answers.k > len(classes):
        raise UserError(f"{where}.answers.k: {answers.k} exceeds the victim's {len(classes)} classes; lower it")
    return query if answers.form == "soft" else lambda images: answers.of(query(images))


def hiding(query: Query, hidden: Sequence[int], *, first: bool) -> Query:
    """A ``query`` whose answers a thief cleans of the classes ``hidden`` before anything learns from them.

    Args:
        first: also where a hidden class is the answer's first choice; otherwise such answers stay whole.
    """
    return (lambda images: without(query(images), hidden, first=first)) if hidden else query


def top_k(probabilities: Tensor, k: int, *, spread: bool) -> Tensor:
    """The ``k`` likeliest classes of each row of ``[B, K]``; of equal ones the first.

    Args:
        spread: the mass that is left goes to the other classes in equal parts, of which each gets no more than the
            least class that is told.  Otherwise they get nothing and the told classes are scaled to add up to 1.

    Returns:
        float32 ``[B, K]``; a row of equal values, zeros among them, becomes uniform.
    """
    shares = normalised(probabilities)  # a service may have given some of its mass to classes that are none of ours
    order = shares.sort(dim=1, descending=True, stable=True).indices
    told = torch.zeros_like(shares, dtype=torch.bool).scatter_(1, order[:, :k], True) & (shares > 0)
    kept = torch.where(told, shares, 0)
    if not spread:
        return torch.where(_silent(shares), shares, normalised(kept))
    rest = (1 - kept.sum(1, keepdim=True)).clamp_min(0) / (~told).sum(1, keepdim=True).clamp_min(1)
    least = torch.where(told, shares, torch.inf).amin(1, keepdim=True)
    return normalised(torch.where(told, kept, torch.minimum(rest, least)))


def rounded(probabilities: Tensor, digits: int) -> Tensor:
    """Probabilities ``[B, K]`` to so many decimal places, then scaled to add up to 1; all 0 becomes uniform."""
    return normalised(probabilities.double().round(decimals=digits)).float()


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """int64 labels ``[B]`` to float32 ``[B, K]``; a negative label, none of the classes, becomes uniform."""
    return normalised(F.one_hot(labels.clamp_min(0), classes).float() * (labels >= 0)[:, None])


def without(answers: Tensor, hidden: Sequence[int], *, first: bool) -> Tensor:
    """Answers ``[B, K]`` with classes set to 0, the others scaled to add up to 1.

    An answer that has nothing else becomes uniform over the classes that are not hidden: it says nothing.

    Args:
        first: see :func:`hiding`.
    """
    shown = torch.ones(answers.shape[1], dtype=torch.bool)
    shown[list(hidden)] = False
    kept = answers * shown
    cleaned = torch.where(kept.sum(1, keepdim=True) > 0, kept, shown.to(answers.dtype))
    cleaned = normalised(cleaned)
    return cleaned if first else torch.where(shown[answers.argmax(1)][:, None], cleaned, answers)


def _silent(answers: Tensor) -> Tensor:
    """Rows of ``[B, K]`` in which no class is likelier than another: bool ``[B, 1]``."""
    return answers.amax(1, keepdim=True) == answers.amin(1, keepdim=True)


def normalised(weights: Tensor) -> Tensor:
    """Rows of ``[B, K]``, none negative, scaled to add up to 1; a row of zeros becomes uniform."""
    total = weights.sum(1, keepdim=True)
    return torch.where(total > 0, weights / total.clamp_min(torch.finfo(weights.dtype).tiny), 1 / weights.shape[1])
