"""Who committed first: the earliest valid commitment wins, as far as the times can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

Kind = Literal["rfc3161", "none"]
"""Whose time: a timestamp authority's, by a verified token, or only the committer's own clock."""


@dataclass(frozen=True)
class Claim:
    """One commitment, judged.

    Attributes:
        name: of its owner.
        valid: it opens, and its token, if it has one, is verified.
        kind: see :data:`Kind`.
        time: aware; the token's, or the one that the commitment gives itself.
        accuracy: how far the authority's clock may be off.
    """

    name: str
    valid: bool
    kind: Kind
    time: datetime
    accuracy: timedelta = timedelta(0)


@dataclass(frozen=True)
class Priority:
    """The answer.

    Attributes:
        first: name of the winner, or None: nothing valid, or the earliest cannot be told apart.
        proven: by a timestamp authority; if not, own clocks were compared, and anybody can set his own.
        words: the same, for the reader.
    """

    first: str | None
    proven: bool
    words: str


def earliest(claims: Sequence[Claim]) -> Priority:
    """The earliest valid commitment wins; a verified time beats one that its owner says himself.

    An own clock's time is never compared with an authority's: whoever loses by it could set it back.
    Of two verified times that differ by less than their clocks may be off, neither is first.
    """
    valid = [claim for claim in claims if claim.valid]
    if not valid:
        return Priority(None, False, "no commitment is valid, nobody was first")
    proven = any(claim.kind == "rfc3161" for claim in valid)
    kind = "rfc3161" if proven else "none"
    rivals = sorted((claim for claim in valid if claim.kind == kind), key=lambda claim: (claim.time, claim.name))
    first = rivals[0]
    tied = [c for c in rivals[1:] if c.time - c.accuracy <= first.time + first.accuracy]
    words = "" if len(valid) == len(claims) else f"; not valid: {_names([c for c in claims if not c.valid])}"
    if proven and len(rivals) < len(valid):
        without = _names([claim for claim in valid if claim.kind != kind])
        words = f"; without an authority's time, which counts for nothing against one: {without}{words}"
    if tied:
        return Priority(None, proven, f"{_names([first, *tied])} cannot be told apart in time{words}")
    if proven:
        return Priority(first.name, True, f"{first.name} was first, {_at(first)} by a timestamp authority{words}")
    warning = "by its own clock, which proves nothing to others: no timestamp authority was asked"
    return Priority(first.name, False, f"{first.name} says it was first, {_at(first)}, {warning}{words}")


def _names(claims: Sequence[Claim]) -> str:
    return ", ".join(claim.name for claim in claims)


def _at(claim: Claim) -> str:
    return claim.time.strftime("%Y-%m-%d %H:%M:%S UTC")
