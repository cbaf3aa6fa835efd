"""Commitments: a hash that binds a key, a decision rule and a model now, and shows them later.

A commitment is the SHA-256 of its opening, written as canonical JSON (RFC 8785): of a plain opening,
``sha256sum`` gives it.  The salt (32 random bytes) hides the rest: without it nobody can try keys.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
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
MAX_FILES = 100_000
NO_AUTHORITY = "no timestamp authority was asked; the time is this machine's, and Git's or MLflow's where recorded"
AUTHORITY = "a timestamp authority's token (RFC 3161) is stored; its time counts once the token is verified"


@dataclass(frozen=True)
class Opening:
    """All that a commitment binds.  A secret until it is revealed.

    The key and the rule stay the data that was hashed: a later version of the program, with another default
    somewhere, still computes the same hash.

    Attributes:
        key: :meth:`Key.to_json`, but ``seed`` as decimal text: JSON numbers end at 2^53 in RFC 8785.
        rule: the decision rule's parameters, plain JSON types.
        model: :func:`model_hash`.
        salt: 32 random bytes, hexadecimal.
        owner: in whose name it was made, :func:`hallmark.ownership.signing.fingerprint`; None, and absent from what is
            hashed: it names nobody, and whoever has seen it revealed can show it as his own.
    """

    key: Mapping[str, Any] = field(repr=False)
    rule: Mapping[str, Any]
    model: str
    salt: str = field(repr=False)
    owner: str | None = None

    @classmethod
    def make(cls, key: Key, rule: Mapping[str, Any], model: str, owner: str | None = None) -> Opening:
        """A new opening with a salt of its own.

        Args:
            model: what :func:`model_hash` gave.
            owner: fingerprint of the owner's public key.

        Raises:
            UserError: the rule is not plain data, or the key's seed is not in 0..2^63 - 1.
        """
        if not 0 <= key.seed < 1 << 63:
            raise UserError("key: its seed is not in 0..2^63 - 1; make the key with train_watermarked")
        # Rounded as in the key's file, so that a key in memory and the same from disk are bound alike.
        document = {**artifacts.rounded(key.to_json()), "seed": str(key.seed)}
        opening = cls(document, dict(rule), model, secrets.token_hex(32), owner)
        return cls.read(opening.canonical(), "opening")

    @classmethod
    def read(cls, data: bytes, where: str) -> Opening:
        """Parse a plain opening.

        Raises:
            UserError: too large, not JSON, not an opening, or its key is not sound.
        """
        stored = _documents.checked(_StoredOpening, _documents.loads(data, where), where)
        opening = cls(stored.key, stored.rule, stored.model, stored.salt, stored.owner)
        opening.canonical(where)
        opening.watermark_key(where)
        return opening

    def canonical(self, where: str = "opening") -> bytes:
        """The bytes that are hashed; also the plain opening's file.

        Raises:
            UserError: as :func:`_documents.canonical`.
        """
        named = {} if self.owner is None else {"owner": self.owner}
        bound = {"key": self.key, "rule": self.rule, "model": self.model, "salt": self.salt}
        return _documents.canonical({"format": FORMAT, **bound, **named}, where)

    def hash(self) -> str:
        """The commitment: SHA-256, hexadecimal."""
        return _documents.sha256(self.canonical())

    def watermark_key(self, where: str = "opening") -> Key:
        """The key that is bound.

        Raises:
            UserError: it is not sound.
        """
        seed = _documents.checked(_StoredSeed, {"seed": self.key.get("seed")}, f"{where}.key").seed
        with _documents.briefly():
            return Key.from_json({**self.key, "seed": int(seed)}, f"{where}.key")


@dataclass(frozen=True)
class Commitment:
    """What is published before the model is released.  It reveals nothing of the opening.

    Attributes:
        hash: :meth:`Opening.hash`.
        created: UTC by the clock of the machine that wrote it, whole seconds.
        index: of several reserve keys, which; from 0.
        token: an RFC 3161 TimeStampResp (DER) over ``hash``, or None.
    """

    hash: str
    created: str
    index: int = 0
    token: bytes | None = field(default=None, repr=False)

    @property
    def time_note(self) -> str:
        """Whose time this commitment has, in words."""
        return NO_AUTHORITY if self.token is None else AUTHORITY

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, complete."""
        return {
            "format": FORMAT,
            "hash": self.hash,
            "created": self.created,
            "index": self.index,
            "token": None if self.token is None else _encode(self.token),
            "time": self.time_note,
        }

    @classmethod
    def read(cls, path: Path) -> Commitment:
        """Read and check a commitment's file.

        Raises:
            UserError: missing, too large, not JSON or not a commitment.
        """
        data = _documents.loads(artifacts.read_bytes(path, _documents.MAX_BYTES), str(path))
        stored = _documents.checked(_StoredCommitment, data, str(path))
        _documents.moment(stored.created, f"{path}.created")
        token = None if stored.token is None else _decode(stored.token, f"{path}.token")
        commitment = cls(stored.hash, stored.created, stored.index, token)
        if stored.time != commitment.time_note:
            raise UserError(f"{path}.time: does not say what the file holds; take the file that the program wrote")
        return commitment


def model_hash(folder: Path) -> str:
    """SHA-256 over the canonical JSON list of ``{"path", "sha256"}`` of every file, sorted by path.

    Every file counts, hidden ones too; empty folders do not.

    Raises:
        UserError: no folder, no file in it, a symbolic link or a special file, more than :data:`MAX_FILES`.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the model's, for example models/victim")
    listing = {}
    for path in folder.rglob("*"):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise UserError(f"{path}: is a link or a special file, which no hash can bind; put the file itself there")
        if path.is_file():
            listing[path.relative_to(folder).as_posix()] = path
        if len(listing) > MAX_FILES:
            raise UserError(f"{folder}: more than {MAX_FILES:,} files; give the model's folder alone")
    if not listing:
        raise UserError(f"{folder}: holds no file; give the model's folder, for example models/victim")
    files = [{"path": name, "sha256": artifacts.sha256(path)} for name, path in sorted(listing.items())]
    return _documents.sha256(_documents.canonical(files, str(folder)))


def mismatches(
    commitment: Commitment,
    opening: Opening,
    *,
    model: str | None = None,
    rule: Mapping[str, Any] | None = None,
    key: Key | None = None,
    owner: str | None = None,
) -> tuple[str, ...]:
    """Why a commitment does not open: one clause a part, none if it does.

    Args:
        model: :func:`model_hash` of the model that is claimed; None: not compared.
        rule: the decision rule that is applied; None: not compared.
        key: the key that is used; None: not compared.
        owner: fingerprint of the public key of whoever shows it; None: not compared.

    Returns:
        Clauses that begin with the part's name.  Of the key they name fields, never values.
    """
    found = []
    if opening.hash() != commitment.hash:
        found.append("hash: the opening is not the one that was committed to")
    if model is not None and model != opening.model:
        found.append(f"model: its files hash to {model[:12]}..., committed was {opening.model[:12]}...")
    if rule is not None:
        names = _different(opening.rule, rule)
        found += [f"rule.{n}: is {_show(rule, n)}, committed was {_show(opening.rule, n)}" for n in names]
    if key is not None:
        given = {**artifacts.rounded(key.to_json()), "seed": str(key.seed)}
        found += [f"key.{name}: is not the committed one" for name in _different(opening.key, given)]
    if owner is not None and owner != opening.owner:
        named = "names nobody" if opening.owner is None else f"names the owner of key {opening.owner[:12]}..."
        found.append(f"owner: the commitment {named}, shown was key {owner[:12]}...")
    return tuple(found)


def verify(
    commitment: Commitment,
    opening: Opening,
    *,
    model: str | None = None,
    rule: Mapping[str, Any] | None = None,
    key: Key | None = None,
    owner: str | None = None,
) -> None:
    """Refuse what :func:`mismatches` finds.

    Raises:
        UserError: the commitment does not open; all its clauses.
    """
    found = mismatches(commitment, opening, model=model, rule=rule, key=key, owner=owner)
    if found:
        raise UserError(
            f"the commitment does not open: {'; '.join(found)}; give what was committed to, or the claim is invalid"
        )


def _different(committed: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Names whose values are not the same canonical JSON (1 and 1.0 are)."""

    def form(values: Mapping[str, Any], name: str) -> bytes | None:
        return _documents.canonical(values[name], name) if name in values else None

    return [name for name in sorted(committed.keys() | given.keys()) if form(committed, name) != form(given, name)]


def _show(values: Mapping[str, Any], name: str) -> str:
    return _documents.canonical(values[name], name).decode()[:60] if name in values else "absent"


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decode(text: str, where: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise UserError(f"{where}: is not base64; take the file that the program wrote") from None


class _StoredOpening(Params):
    format: Literal[1]
    key: dict[str, Any]
    rule: dict[str, Any]
    model: Sha256
    salt: Sha256
    owner: Sha256 | None = None


class _StoredSeed(Params):
    seed: Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,18})$")]


class _StoredCommitment(Params):
    format: Literal[1]
    hash: Sha256
    created: Time
    index: Annotated[int, Field(ge=0, lt=10_000)]
    token: Annotated[str, Field(max_length=1 << 18)] | None
    time: Annotated[str, Field(max_length=300)]
