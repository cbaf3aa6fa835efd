"""Encryption at rest in the age format (age-encryption.org/v1), to recipients or to a passphrase."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pyrage

from hallmark import artifacts
from hallmark.errors import UserError
from hallmark.ownership import _documents
from hallmark.watermark.key import Key

MAGIC = b"age-encryption.org/v1\n"
MAX_RECIPIENTS = 100
MAX_WORK = 20
"""Largest work factor accepted, log2 N of scrypt: it takes 1 KiB * N, here 1 GiB; age's own default is 18."""
OVERHEAD = 64 << 10
"""Bytes that encryption adds at most: a header of :data:`MAX_RECIPIENTS` stanzas, 16 bytes for every 64 KiB."""
MAX_FILE = _documents.MAX_BYTES + OVERHEAD
"""Bytes of a secret's file, encrypted or not."""
_WORK = re.compile(rb"-> scrypt [A-Za-z0-9+/=]{1,64} ([0-9]{1,9})\n")


def encrypt(data: bytes, recipients: Sequence[str] = (), passphrase: str | None = None) -> bytes:
    """Encrypt to every one of ``recipients``, or to ``passphrase``.

    Args:
        data: at most :data:`hallmark.ownership._documents.MAX_BYTES` bytes.
        recipients: X25519 public keys, ``age1...``; any one of their owners can decrypt.
        passphrase: not empty; excludes recipients (the format allows no mixture).

    Raises:
        UserError: neither or both are given, a recipient is none, too much data.
    """
    if len(data) > _documents.MAX_BYTES:
        raise UserError(f"encryption: {len(data):,} bytes where at most {_documents.MAX_BYTES:,} are a secret's")
    if bool(recipients) == (passphrase is not None):
        raise UserError("encryption: give either recipients (age1...) or a passphrase")
    if len(recipients) > MAX_RECIPIENTS:
        raise UserError(f"encryption: {len(recipients)} recipients where at most {MAX_RECIPIENTS} are allowed")
    if passphrase is None:
        return pyrage.encrypt(data, [_recipient(text) for text in recipients])
    if not passphrase:
        raise UserError("encryption: the passphrase is empty; choose one that cannot be guessed")
    encrypted = pyrage.passphrase.encrypt(data, passphrase)
    _check_work(encrypted, "encryption")  # the library measures this machine's speed and takes what lasts a second
    return encrypted


def decrypt(data: bytes, where: str, identity: Path | None = None, passphrase: str | None = None) -> bytes:
    """Undo :func:`encrypt`.

    Args:
        where: the file's name, for messages.
        identity: a file of age identities (``AGE-SECRET-KEY-1...``), for what is encrypted to recipients.
        passphrase: for what is encrypted to one.

    Raises:
        UserError: not encrypted in this format, too large, damaged, or not for this identity or passphrase.
    """
    if len(data) > MAX_FILE:
        raise UserError(f"{where}: larger than a secret of Hallmark's; this is another file")
    if not is_encrypted(data):
        raise UserError(f"{where}: is not encrypted in the age format; take the file that the program wrote")
    try:
        if is_for_passphrase(data):
            if passphrase is None:
                raise UserError(f"{where}: is encrypted to a passphrase; give it (--passphrase-env, or at a terminal)")
            _check_work(data, where)
            return pyrage.passphrase.decrypt(data, passphrase)
        if identity is None:
            raise UserError(f"{where}: is encrypted to age recipients; give --identity, the file with a secret key")
        return pyrage.decrypt(data, read_identities(identity))
    except pyrage.DecryptError as error:
        raise UserError(
            f"{where}: cannot be decrypted ({error}); it is damaged, or for another identity or passphrase"
        ) from None


def is_encrypted(data: bytes) -> bool:
    """Whether ``data`` begins as an age file does."""
    return data.startswith(MAGIC)


def is_for_passphrase(data: bytes) -> bool:
    """Whether ``data`` is an age file encrypted to a passphrase."""
    return data.startswith(MAGIC + b"-> scrypt ")


def read_secret(path: Path, identity: Path | None = None, passphrase: str | None = None) -> bytes:
    """A secret file's content, decrypted if it is encrypted.

    Raises:
        UserError: as :func:`decrypt`; or missing or too large.
    """
    data = artifacts.read_bytes(path, MAX_FILE)
    return decrypt(data, str(path), identity, passphrase) if is_encrypted(data) else data


def load_key(path: Path, identity: Path | None = None, passphrase: str | None = None) -> Key:
    """A watermark key from its file, encrypted or plain.

    Raises:
        UserError: as :func:`read_secret`; or not a sound key.
    """
    data = read_secret(path, identity, passphrase)
    with _documents.briefly():
        return Key.from_json(_documents.loads(data, str(path)), str(path))


def read_recipients(path: Path) -> tuple[str, ...]:
    """The recipients of a file, one a line; empty lines and those that begin with ``#`` do not count.

    Raises:
        UserError: missing, too large, empty, or a line is no recipient.
    """
    lines = _lines(path)
    for number, line in lines:
        _recipient(line, f"{path}: line {number}: ")
    if not lines:
        raise UserError(f"{path}: holds no recipient; write age1... into it, one a line")
    return tuple(line for _, line in lines)


def read_identities(path: Path) -> list[pyrage.x25519.Identity]:
    """The secret keys of a file as age-keygen writes it.

    Raises:
        UserError: missing, too large, empty, or a line is no identity.
    """
    found = []
    for number, line in _lines(path):
        try:
            found.append(pyrage.x25519.Identity.from_str(line))
        except pyrage.IdentityError:
            raise UserError(f"{path}: line {number} is no AGE-SECRET-KEY-1...; take a file of age-keygen") from None
    if not found:
        raise UserError(f"{path}: holds no identity; take a file of age-keygen")
    return found


def _recipient(text: str, where: str = "") -> pyrage.x25519.Recipient:
    try:
        return pyrage.x25519.Recipient.from_str(text)
    except pyrage.RecipientError:
        raise UserError(f"{where}'{text[:80]}' is no age recipient; one looks like age1..., 62 characters") from None


def _check_work(data: bytes, where: str) -> None:
    """A stranger's file may ask for any amount of memory: look before scrypt takes it."""
    found = _WORK.match(data, len(MAGIC))
    if found is None or int(found[1]) > MAX_WORK:
        raise UserError(f"{where}: wants a work factor that is not 1..{MAX_WORK}, more than 1 GiB; encrypt it again")


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        text = artifacts.read_bytes(path, OVERHEAD).decode()
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not text; age keys are, one a line") from None
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    return [(number, line) for number, line in lines if line and not line.startswith("#")]
