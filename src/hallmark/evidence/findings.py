"""What a check of a bundle is given and what it finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hallmark.verification.decision import Verdict

OK, NO, OPEN = "ok", "NO", "--"


@dataclass(frozen=True)
class Line:
    """One check: :data:`OK`, :data:`NO`, or :data:`OPEN` (not checked, and what would)."""

    mark: str
    check: str
    text: str

    def __str__(self) -> str:
        # What is quoted was written by strangers, and may hold a terminal's commands.
        return "".join(c if c.isprintable() else "?" for c in f"{self.mark} {self.check}: {self.text}")


@dataclass(frozen=True)
class Judge:
    """What the judge has of his own; what is None or empty is not checked.

    Attributes:
        pool: the data set file of his images.
        judge_seed, keys: as he ordered them.
        public_key, roots: of the signer; one of them.
        timestamp_roots: certificates of timestamp authorities.
        model: folder of the model that is claimed.
        nulls: folder of the null models.
        suspects: blocks by the model's name in the bundle: they are asked again.
        share: of the questions on which no verdict hangs, 0-1, that are asked again; of the others all are.
        seed: of that choice.
        allowed: share of the answers, 0-1, that may change then.  Not the rule's: the owner made that.
    """

    pool: Path | None = None
    judge_seed: int | None = None
    keys: int | None = None
    public_key: Path | None = None
    roots: Sequence[Path] = ()
    timestamp_roots: Sequence[Path] = ()
    model: Path | None = None
    nulls: Path | None = None
    suspects: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    share: float = 0.1
    seed: int = 0
    allowed: float = 0.02


@dataclass(frozen=True)
class Checked:
    """The lines, and the verdicts as recomputed; none if they cannot be."""

    lines: tuple[Line, ...]
    verdicts: tuple[Verdict, ...]

    @property
    def sound(self) -> bool:
        """No line says NO.  What was not checked may still be wrong."""
        return all(line.mark != NO for line in self.lines)
