"""Marks of encoders behind one interface, one module each, found by name.

A module defines

- ``Params``: its typed parameters;
- ``strike(network, data, params, stage, *, callback) -> Mark``: train the trunk of ``network`` in place on ``data`` by
  SimCLR so that it bears a mark, and give the mark;
- ``read_mark(value, where) -> Mark``: the inverse of :meth:`Mark.to_json`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from hallmark.config import Training
from hallmark.registry import Registry
from hallmark.runtime import Runtime
from hallmark.ssl.measures import Panel
from hallmark.ssl.probes import Encode
from hallmark.ssl.simclr import SimCLR

schemes = Registry("hallmark.ssl.schemes", "mark of encoders", ("Params", "strike", "read_mark"))


@dataclass(frozen=True)
class Stage:
    """How an encoder is trained, with a mark or without.

    Attributes:
        purpose: names the random streams; of a victim and its twin the same, so that they differ by the mark alone.
    """

    simclr: SimCLR
    training: Training
    runtime: Runtime
    purpose: str


class Mark(Protocol):
    """What the owner keeps of a mark."""

    def rates(self, encode: Encode, panel: Panel, count: int, runtime: Runtime) -> dict[str, float | None]:
        """What is measured of an encoder: :data:`hallmark.ssl.measures.COLUMNS`, 0-1; None where it has no meaning.

        Args:
            count: verification queries.

        Raises:
            UserError: the panel's images do not suit the mark, or are too few.
        """
        ...

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, complete: the module's ``read_mark`` reads it back."""
        ...
