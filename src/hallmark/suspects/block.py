"""What the blocks of all kinds of suspects have in common."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from hallmark.config import Params
from hallmark.suspects.adapt import Adapter, Classes, Input, Meaning


class Named(Params):
    """The suspect's classes.  Each kind adds ``kind``, the name of its module in :mod:`hallmark.suspects.kinds`."""

    classes: list[str] | None = Field(default=None, min_length=1, max_length=100_000)
    """Its class names in its order; None: ours in our order (a safetensors model: its own)."""
    mapping: dict[str, str | None] = Field(default={})
    """Its class name to our class name, or to null where we have no such class; others keep their name."""

    def describe(self) -> dict[str, Any]:
        """The block as plain JSON types, for the transcript."""
        return self.model_dump(mode="json")

    def match(self, ours: tuple[str, ...]) -> Classes:
        """Its classes among ours.  Raises :class:`UserError` as :meth:`Classes.match`."""
        return Classes.match(ours, self.classes, self.mapping)


class Foreign(Named):
    """A suspect that takes images and gives scores of its own kind."""

    input: Input = Input()
    scores: Meaning = "logits"
    """What its scores are; labels and top-k are told by their form."""

    def adapter(self, shape: tuple[int, int, int]) -> Adapter:
        """Makes its images of ours of ``shape``.  Raises :class:`UserError` as :class:`Adapter`."""
        return Adapter(self.input, shape)
