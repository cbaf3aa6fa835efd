"""The public list of keys that were revealed: each is spent, and reserve keys are there for the next claim."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from hallmark import artifacts
from hallmark.config import Params
from hallmark.errors import UserError
from hallmark.ownership import _documents
from hallmark.ownership._documents import Sha256, Time
from hallmark.watermark.key import Key

FORMAT = 1


class Spent(Params):
    """One revealed key.

    Attributes:
        commitment: the hash that was opened.
        key: :meth:`hallmark.watermark.key.Key.commitment` of the revealed key, by which any other commitment to
            it is recognised.  It has no salt, and needs none: the key is known.
        revealed: UTC by the owner's clock.
    """

    commitment: Sha256
    key: Sha256
    revealed: Time


@dataclass(frozen=True)
class Ledger:
    """All that was revealed, in order."""

    spent: tuple[Spent, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Ledger:
        """Read a ledger; a missing file is an empty one.

        Raises:
            UserError: not a ledger.
        """
        if not path.exists():
            return cls()
        value = _documents.loads(artifacts.read_bytes(path, _documents.MAX_BYTES), str(path))
        stored = _documents.checked(_Stored, value, str(path))
        for entry in stored.spent:
            _documents.moment(entry.revealed, f"{path}.revealed")
        return cls(tuple(stored.spent))

    def write(self, path: Path) -> None:
        """Replace the file."""
        artifacts.write_json(path, self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, complete."""
        return {"format": FORMAT, "spent": [entry.model_dump() for entry in self.spent]}

    def of(self, commitment: str) -> Spent | None:
        """The entry of a commitment's hash, None if it was not revealed."""
        return next((entry for entry in self.spent if entry.commitment == commitment), None)

    def refuse(self, key: Key) -> None:
        """Whoever saw a key can train a model that bears it, or scrub it from one.

        Raises:
            UserError: the key was revealed, under whichever commitment.
        """
        used = next((entry for entry in self.spent if entry.key == key.commitment()), None)
        if used is not None:
            raise UserError(
                f"the key is spent: it was revealed {used.revealed} under commitment {used.commitment[:12]}...; "
                "use a reserve key"
            )

    def spend(self, commitment: str, key: Key, time: str) -> Ledger:
        """The ledger with one entry more.

        Raises:
            UserError: as :meth:`refuse`.
        """
        self.refuse(key)
        return Ledger((*self.spent, Spent(commitment=commitment, key=key.commitment(), revealed=time)))


class _Stored(Params):
    format: Literal[1]
    spent: Annotated[list[Spent], Field(max_length=10_000)]
