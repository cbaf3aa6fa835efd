"""JSON from strangers: bounded, strict, and in one canonical form (RFC 8785)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import rfc8785
from pydantic import Field, ValidationError

from hallmark.config import Params
from hallmark.errors import UserError

MAX_BYTES = 4 << 20
"""Of a key, an opening, a commitment or a ledger: enough for the names of 100,000 classes."""
MAX_MESSAGE = 300
TIME = "%Y-%m-%dT%H:%M:%SZ"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""32 bytes, hexadecimal in lower case."""
Time = Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$")]
"""UTC, whole seconds (RFC 3339)."""

Document = TypeVar("Document", bound=Params)


def loads(data: bytes, where: str) -> Any:
    """Parse JSON in UTF-8; a name given twice and NaN or infinity are refused (RFC 8785 asks for I-JSON).

    Raises:
        UserError: not such JSON.
    """
    try:
        return json.loads(data.decode(), object_pairs_hook=_once, parse_constant=_finite)
    except (ValueError, RecursionError) as error:
        # Not the error's own text alone: it may quote the file, and the file may be a secret.
        reason = str(error) if isinstance(error, _RefusedError) else "damaged, cut off or still encrypted"
        raise UserError(f"{where}: not valid JSON ({reason}); take the file that the program wrote") from None


def canonical(value: Any, where: str) -> bytes:
    """The one way to write ``value`` as JSON (RFC 8785).

    Raises:
        UserError: it holds what that form cannot: an integer beyond 2^53 - 1, NaN, a date, half a character.
    """
    try:
        return rfc8785.dumps(value)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{where}: has no canonical JSON form ({_short(error)}); use text, finite numbers and lists"
        ) from None


def checked(cls: type[Document], value: Any, where: str) -> Document:
    """Validate a document as :func:`hallmark.config.parse` does, but never quote a value: it may be a secret.

    Raises:
        UserError: the first thing wrong, by its place.
    """
    if not isinstance(value, dict):
        raise UserError(f"{where}: wants a JSON object; take the file that the program wrote")
    try:
        return cls.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        place = ".".join([where, *(str(part)[:40] for part in first["loc"])])
        reason = f"{first['msg'][0].lower()}{first['msg'][1:]}"
        raise UserError(f"{place}: {reason}; take the file that the program wrote") from None


@contextmanager
def briefly() -> Iterator[None]:
    """Cut a UserError of the block to :data:`MAX_MESSAGE` characters: it may quote a stranger's file."""
    try:
        yield
    except UserError as error:
        raise UserError(_short(error)) from None


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def now() -> str:
    """This machine's time, in the form of :data:`Time`."""
    return datetime.now(UTC).strftime(TIME)


def moment(time: str, where: str) -> datetime:
    """A :data:`Time` as a number.

    Raises:
        UserError: there is no such day or hour.
    """
    try:
        return datetime.strptime(time, TIME).replace(tzinfo=UTC)
    except ValueError:
        raise UserError(f"{where}: there is no time {time[:40]}; take the file that the program wrote") from None


class _RefusedError(ValueError):
    """Of JSON that is well formed, yet not allowed."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _RefusedError("a name is given twice")
    return found


def _finite(_: str) -> Any:
    raise _RefusedError("NaN and infinity are not allowed")


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}..."
