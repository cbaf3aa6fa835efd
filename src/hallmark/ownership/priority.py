"""Who committed first: the earliest valid commitment wins, as far as the times can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from hallmark.errors import UserError
from hallmark.ownership import secrets, timestamp
from hallmark.ownership._documents import TIME
from hallmark.ownership.commitment import Commitment, Opening, verify

Kind = Literal["rfc3161", "none"]
"""Whose time: a timestamp authority's, by a verified token, or only the committer's own clock."""


@dataclass(frozen=True)
class Claim:
    """One commitment, judged.

    Attributes:
        name: of its owner.
        valid: it opens, and its token, if it has one, is verified.
        hash: of the commitment, hexadecimal.
        kind: see :data:`Kind`.
        time: aware; the token's, or the one that the commitment gives itself.
        accuracy: how far the authority's clock may be off.
    """

    name: str
    valid: bool
    kind: Kind
    time: datetime
    accuracy: timedelta = timedelta(0)
    hash: str = ""


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


def judged(name: str, public: Path, opening: Path, roots: Sequence[Path]) -> tuple[Claim, str]:
    """A party's claim from its files.

    Args:
        public, opening: the commitment and its plain opening.
        roots: PEM files of the timestamp authorities' roots that the judge trusts.

    Returns:
        the claim, and why it is not valid, if it is not.

    Raises:
        UserError: a file is missing, damaged or encrypted, or there is a token and no root to verify it by: what the
            judge mistypes must not decide the case.
    """
    for path in (public, opening):
        if not path.is_file():
            raise UserError(f"{path}: no such file; mend the path, or have {name} hand it in")
    made, revealed = Commitment.read(public), Opening.read(secrets.read_secret(opening), str(opening))
    if made.token is not None and not roots:
        raise UserError(f"{public}: has a token of a timestamp authority; give --timestamp-root to verify it")
    own = datetime.strptime(made.created, TIME).replace(tzinfo=UTC)
    try:
        verify(made, revealed)
        if made.token is None:
            return Claim(name, True, "none", own, hash=made.hash), ""
        stamp = timestamp.verify(made.token, bytes.fromhex(made.hash), roots, str(public))
    except UserError as error:
        return Claim(name, False, "none", own, hash=made.hash), str(error)
    return Claim(name, True, "rfc3161", stamp.time, stamp.accuracy, made.hash), ""


def earliest(claims: Sequence[Claim]) -> Priority:
    """The earliest valid commitment wins; a verified time beats one that its owner says himself.

    An own clock's time is never compared with an authority's: whoever loses by it could set it back.
    Of two verified times that differ by less than their clocks may be off, neither is first.

    Raises:
        UserError: two parties open the same commitment.
    """
    holders: dict[str, str] = {}
    for claim in claims:
        # One that does not open is nobody's copy: its holder has seen no more than what is public.
        if claim.valid and claim.hash and (other := holders.setdefault(claim.hash, claim.name)) != claim.name:
            raise UserError(
                f"{other} and {claim.name} show the same commitment: one of them copied what the other revealed; it is "
                "of the one in whose name it was made, who can sign with that key (key open, evidence --private-key)"
            )
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
