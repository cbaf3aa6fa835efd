"""The watermark key between stages: encrypted at rest, to this machine's identity and whoever else may verify.

Encryption draws random numbers, so the same key never gives the same file twice; but a stage that runs again must
give the same bytes.  What was encrypted here is therefore kept beside the identity and taken again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import pyrage

from hallmark import artifacts
from hallmark.ownership import secrets
from hallmark.watermark.key import Key

HOME = Path(".hallmark")
"""Of the identity (``identity.txt``) and of what was encrypted (``keys``): this machine's, never shared."""
VARIABLE = "HALLMARK_IDENTITY"
"""Environment variable that names another file of age identities."""


def identity() -> Path:
    """The file of this machine's identity, made if there is none.

    Raises:
        UserError: the file that :data:`VARIABLE` names is missing or holds no identity.
    """
    if named := os.environ.get(VARIABLE):
        secrets.read_identities(Path(named))
        return Path(named)
    path = HOME / "identity.txt"
    if not path.is_file():
        fresh = pyrage.x25519.Identity.generate()
        artifacts.write_secret(path, f"# public key: {fresh.to_public()}\n{fresh}\n".encode())
    return path


def save(key: Key, path: Path, recipients: Sequence[str] = ()) -> None:
    """Write a key that this machine's identity and ``recipients`` (``age1...``) can open.

    Raises:
        UserError: a recipient is none.
    """
    data = key.canonical()
    everyone = sorted({*(str(own.to_public()) for own in secrets.read_identities(identity())), *recipients})
    name = hashlib.sha256(b"\n".join([data, *(text.encode() for text in everyone)])).hexdigest()
    kept = HOME / "keys" / f"{name}.age"
    if not kept.is_file():
        artifacts.write_secret(kept, secrets.encrypt(data, everyone))
    artifacts.write_bytes(path, artifacts.read_bytes(kept, secrets.MAX_FILE))


def load(path: Path) -> Key:
    """Open what :func:`save` wrote, or a plain key's file.

    Raises:
        UserError: missing or damaged, for another identity, or not a sound key.
    """
    return secrets.load_key(path, identity())


def fingerprint(path: Path) -> str | None:
    """SHA-256 of the file that :func:`save` wrote: names the key to a tracking store, and tells nothing of it.

    The hash of the key itself would not do: whoever knows the usual parameters tries a few thousand keys in seconds.

    Returns:
        None of a plain key's file, for that reason.
    """
    data = artifacts.read_bytes(path, secrets.MAX_FILE)
    return hashlib.sha256(data).hexdigest() if secrets.is_encrypted(data) else None
