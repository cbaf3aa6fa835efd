"""The folder of an owner's commitments: public files, encrypted openings, the ledger, the model's signature.

``commitment.json`` and ``opening.age`` are of the first key, ``commitment-1.json`` and ``opening-1.age`` of the
first reserve key, and so on; ``ledger.json`` is there once a key is revealed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hallmark import artifacts
from hallmark.errors import UserError
from hallmark.ownership import _documents, commitment, timestamp
from hallmark.ownership.commitment import Commitment, Opening
from hallmark.ownership.ledger import Ledger, Spent
from hallmark.watermark.key import Key

LEDGER = "ledger.json"
_COMMITMENT = re.compile(r"commitment(?:-([1-9][0-9]{0,3}))?\.json")


@dataclass(frozen=True)
class Listed:
    """One commitment of a folder.

    Attributes:
        stamp: the token's time, or None: there is none, or no roots were given to verify it.
        problem: why the token is not valid, or None.
        spent: the ledger's entry, or None.
    """

    path: Path
    commitment: Commitment
    stamp: timestamp.Stamp | None
    problem: str | None
    spent: Spent | None


def commit(
    keys: Sequence[Key],
    model: Path,
    rule: Mapping[str, Any],
    out: Path,
    seal: Callable[[bytes], bytes],
    *,
    owner: str | None = None,
    suffix: str = "age",
    timestamp_url: str | None = None,
) -> list[Path]:
    """Commit to every key, each with the same model and rule, and write what is to be published and what is secret.

    Nothing is written before every key is found fit and every time stamp is there.

    Args:
        keys: the first and its reserves; they go after what the folder has.
        out: outside the model's folder.
        seal: encrypts an opening.
        owner: in whose name, :func:`hallmark.ownership.signing.fingerprint`; None: nobody's.
        suffix: of openings, ``age`` or ``json``.
        timestamp_url: an RFC 3161 authority's address.

    Returns:
        The commitments' files.

    Raises:
        UserError: no keys, equal ones or a spent one, no model, ``out`` within the model, or the authority fails.
    """
    if not keys:
        raise UserError("no key is given; name at least one with --key")
    if len({key.commitment() for key in keys}) < len(keys):
        raise UserError("two of the keys are the same; a reserve key must be another one")
    if out.resolve().is_relative_to(model.resolve()):
        raise UserError(f"{out}: lies in the model's folder, whose files are hashed; choose a folder beside it")
    ledger = Ledger.read(out / LEDGER)
    for key in keys:
        ledger.refuse(key)
    bound = commitment.model_hash(model)
    first = max((_index(path) for path in files(out)), default=-1) + 1
    ready = []
    for index, key in enumerate(keys, first):
        opening = Opening.make(key, rule, bound, owner)
        plain = opening.canonical()
        token = None if timestamp_url is None else timestamp.request(plain, timestamp_url)
        ready.append((Commitment(opening.hash(), _documents.now(), index, token), seal(plain)))
    written = []
    for made, sealed in ready:
        tail = f"-{made.index}" if made.index else ""
        # The secret first: a commitment that nobody can open is worth nothing.
        artifacts.write_secret(out / f"opening{tail}.{suffix}", sealed)
        artifacts.write_json(out / f"commitment{tail}.json", made.to_json())
        written.append(out / f"commitment{tail}.json")
    return written


def reveal(path: Path, opening: Opening, out: Path) -> None:
    """Write the plain opening for the judge, after its key is recorded as spent beside the commitment.

    Raises:
        UserError: the commitment does not open, the key is spent already, or ``out`` exists.
    """
    if out.exists():
        raise UserError(f"{out}: exists, and a secret is never overwritten; move it away or name another")
    # Recorded first: a key that is listed as spent and was not shown is a loss, the other way round a lie.
    spend(path, opening)
    artifacts.write_secret(out, opening.canonical())


def spend(path: Path, opening: Opening, *, again: bool = False) -> None:
    """Record a key as revealed in the ledger beside its commitment.

    Args:
        again: a key that was revealed under this very commitment may be shown once more; nothing is recorded then.

    Raises:
        UserError: the commitment does not open, or the key is spent already.
    """
    made = Commitment.read(path)
    commitment.verify(made, opening)
    place = path.parent / LEDGER
    ledger = Ledger.read(place)
    if not (again and ledger.of(made.hash)):
        ledger.spend(made.hash, opening.watermark_key(), _documents.now()).write(place)


def listing(folder: Path, roots: Sequence[Path] = ()) -> list[Listed]:
    """Every commitment of a folder, by index.

    Args:
        roots: PEM files of the authorities' roots; none: tokens are not verified.

    Raises:
        UserError: no commitment there, or a file is damaged.
    """
    ledger = Ledger.read(folder / LEDGER)
    found = []
    for path in files(folder):
        made = Commitment.read(path)
        stamp, problem = None, None
        if made.token is not None and roots:
            try:
                stamp = timestamp.verify(made.token, bytes.fromhex(made.hash), roots, str(path))
            except UserError as error:
                problem = str(error)
        found.append(Listed(path, made, stamp, problem, ledger.of(made.hash)))
    if not found:
        raise UserError(f"{folder}: holds no commitment; make one with: hallmark key commit")
    return found


def files(folder: Path) -> list[Path]:
    """The commitments' files of a folder, by index; none if there is no folder."""
    return sorted((path for path in folder.glob("commitment*.json") if _COMMITMENT.fullmatch(path.name)), key=_index)


def _index(path: Path) -> int:
    found = _COMMITMENT.fullmatch(path.name)
    return int(found[1] or 0) if found else 0
