"""Watermark schemes behind one interface, one module each, found by name.

A module defines

- ``Params``: its typed parameters;
- ``strike(network, data, params, training, runtime, *, purpose, callback) -> Mark``: train ``network`` in place on
  ``data`` so that it bears a mark, and give the mark.  ``training`` is that of the unmarked twin as well; what a scheme
  trains besides is said in its module.  ``purpose`` names the random streams;
- ``read_mark(value, where) -> Mark``: the inverse of :meth:`Mark.to_json`.

``mea_defender`` and ``composite`` have the key of :mod:`hallmark.watermark.key`, which the pipeline's judge
understands; their modules define ``train`` for the pipeline as well.  The other schemes are the rivals of a comparison.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from hallmark import models
from hallmark.data.dataset import ImageDataset
from hallmark.models import Network
from hallmark.registry import Registry
from hallmark.runtime import Runtime

schemes = Registry("hallmark.watermark.schemes", "watermark scheme", ("Params", "strike", "read_mark"))


@dataclass(frozen=True)
class Queries:
    """What an owner asks a suspect.  Images are uint8 ``[N, C, H, W]``, labels int64 ``[N]``, all on the CPU.

    Attributes:
        images: verification queries.
        labels: what a marked model calls each of them.
        negatives: samples much like the queries on which the mark should *not* fire (the scheme says which).
        negative_labels: the label that would be a false positive, for each of the negatives.
        plain: plain images of the classes that the mark touches; none where it touches no class.
        plain_labels: the label that would be wrong on each of them, the mark's target.
        unseen: more negatives, of kinds on which the mark was not taught to keep silent, the kinds in turn; None where
            there are none.
        unseen_labels: the label that would be a false positive, for each of them.
        unseen_kinds: how many kinds there are.
    """

    images: Tensor
    labels: Tensor
    negatives: Tensor
    negative_labels: Tensor
    plain: Tensor
    plain_labels: Tensor
    unseen: Tensor | None = None
    unseen_labels: Tensor | None = None
    unseen_kinds: int = 1


class Mark(Protocol):
    """What the owner keeps of a mark: it draws verification queries."""

    def queries(self, data: ImageDataset, count: int, generator: torch.Generator) -> Queries:
        """Queries from held-out labelled images; equal states of the generator give equal queries.

        Args:
            count: how many are wanted; a scheme whose queries are few gives what it has.

        Raises:
            UserError: ``data`` has other classes or shapes than the mark, or too few images.
        """
        ...

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, complete: the module's ``read_mark`` reads it back."""
        ...


def rates(network: Network, queries: Queries, runtime: Runtime) -> dict[str, float | None]:
    """How often a network answers as a marked one would; rates 0-1, None without such samples.

    Returns:
        ``wsr``: queries called as claimed; ``wfpr``: negatives called as they should not be; ``plain``: plain
        images called the mark's target.
    """
    parts = {
        "wsr": (queries.images, queries.labels),
        "wfpr": (queries.negatives, queries.negative_labels),
        "plain": (queries.plain, queries.plain_labels),
    }
    return {name: _agreed(network, images, labels, runtime) for name, (images, labels) in parts.items()}


def unseen_rate(network: Network, queries: Queries, runtime: Runtime) -> float | None:
    """Share of :attr:`Queries.unseen` that a network calls as it should not, 0-1, of the kind of which it is most.

    A mean over the kinds would hide one on which the mark always fires.  None without such samples.
    """
    if queries.unseen is None or queries.unseen_labels is None:
        return None
    wrong = models.logits(network, queries.unseen, runtime).argmax(1) == queries.unseen_labels
    return max(float(wrong[k :: queries.unseen_kinds].float().mean()) for k in range(queries.unseen_kinds))


def _agreed(network: Network, images: Tensor, labels: Tensor, runtime: Runtime) -> float | None:
    if not len(images):
        return None
    return float((models.logits(network, images, runtime).argmax(1) == labels).float().mean())
