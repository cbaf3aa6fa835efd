"""Encryption at rest: age recipients and passphrases, keys that are read back, strangers' files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyrage
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hallmark import artifacts
from hallmark.errors import UserError
from hallmark.ownership import _documents, keyfile, secrets
from hallmark.watermark.key import Key
from tests.unit.fuzzing import FUZZ, examples
from tests.unit.ownership_toys import make_key

fuzz = settings(FUZZ, max_examples=examples(300))


def identity(path: Path) -> str:
    """Write an identity as age-keygen does; its recipient."""
    made = pyrage.x25519.Identity.generate()
    path.write_text(f"# created: 2026-01-01\n# public key: {made.to_public()}\n{made}\n")
    return str(made.to_public())


def test_any_recipient_decrypts_and_nobody_else(tmp_path: Path) -> None:
    names = [tmp_path / name for name in ("a", "b", "other")]
    recipients = [identity(path) for path in names]
    data = secrets.encrypt(b"the secret", recipients[:2])
    assert b"the secret" not in data
    for path in names[:2]:
        assert secrets.decrypt(data, "f", identity=path) == b"the secret"
    with pytest.raises(UserError, match="f: cannot be decrypted"):
        secrets.decrypt(data, "f", identity=names[2])
    with pytest.raises(UserError, match="give --identity"):
        secrets.decrypt(data, "f", passphrase="x")


def test_a_passphrase(tmp_path: Path) -> None:
    data = secrets.encrypt(b"the secret", passphrase="correct horse")
    assert secrets.is_for_passphrase(data)
    assert secrets.decrypt(data, "f", passphrase="correct horse") == b"the secret"
    with pytest.raises(UserError, match="cannot be decrypted"):
        secrets.decrypt(data, "f", passphrase="correct hors")
    with pytest.raises(UserError, match="passphrase"):
        secrets.decrypt(data, "f", identity=tmp_path)


def test_an_encrypted_key_is_read_back_and_shows_nothing(tmp_path: Path) -> None:
    key = make_key()
    key.save(tmp_path / "plain.json")
    data = secrets.encrypt((tmp_path / "plain.json").read_bytes(), [identity(tmp_path / "id")])
    artifacts.write_secret(tmp_path / "key.age", data)
    for word in (str(key.seed), key.seed.to_bytes(8, "big"), key.seed.to_bytes(8, "little"), key.way, *key.classes):
        assert (word if isinstance(word, bytes) else word.encode()) not in data
    stored = Key.load(tmp_path / "plain.json")
    assert secrets.load_key(tmp_path / "key.age", identity=tmp_path / "id") == stored
    assert secrets.load_key(tmp_path / "plain.json") == stored
    assert stored.to_json() == key.to_json()


def test_a_secret_file_is_private_and_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "secret"
    artifacts.write_secret(path, b"first")
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(UserError, match="never overwritten"):
        artifacts.write_secret(path, b"second")
    assert path.read_bytes() == b"first"
    assert [p.name for p in path.parent.iterdir()] == ["secret"]
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="never overwritten"):
        artifacts.write_secret(tmp_path / "link", b"third")
    with pytest.raises(UserError, match="cannot write"):
        artifacts.write_secret(path / "below", b"fourth")


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({}, "either recipients"),
        ({"recipients": ["age1x"], "passphrase": "x"}, "either recipients"),
        ({"recipients": ["age1x"]}, "'age1x' is no age recipient"),
        ({"recipients": ["age1" + "q" * 10_000]}, "is no age recipient"),
        ({"recipients": ["x"] * 101}, "101 recipients"),
        ({"passphrase": ""}, "passphrase is empty"),
    ],
)
def test_what_cannot_be_encrypted_to(how: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason) as caught:
        secrets.encrypt(b"data", **how)
    assert len(str(caught.value)) < 300


def test_sizes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipient = identity(tmp_path / "id")
    largest = secrets.encrypt(bytes(_documents.MAX_BYTES), [recipient] * secrets.MAX_RECIPIENTS)
    assert len(secrets.decrypt(largest, "f", identity=tmp_path / "id")) == _documents.MAX_BYTES
    with pytest.raises(UserError, match="at most"):
        secrets.encrypt(bytes(_documents.MAX_BYTES + 1), [recipient])
    with pytest.raises(UserError, match="larger"):
        secrets.decrypt(secrets.MAGIC + bytes(secrets.MAX_FILE), "f", identity=tmp_path / "id")
    monkeypatch.setattr(secrets, "MAX_FILE", 10)
    with pytest.raises(UserError, match="larger than 10 bytes"):
        secrets.load_key(tmp_path / "id")


@pytest.mark.parametrize("work", [b"21", b"63", b"999999999", b"-1", b"x", b"", b"1" * 5000])
def test_a_file_that_asks_for_all_memory(work: bytes) -> None:
    data = secrets.MAGIC + b"-> scrypt " + b"A" * 22 + b" " + work + b"\n" + b"A" * 43 + b"\n--- " + b"A" * 43 + b"\n"
    with pytest.raises(UserError, match="work factor"):
        secrets.decrypt(data, "f", passphrase="x")


def test_files_of_recipients_and_identities(tmp_path: Path) -> None:
    recipient = identity(tmp_path / "id")
    path = tmp_path / "list"
    path.write_text(f"# team\n\n  {recipient}\n{recipient}\n")
    assert secrets.read_recipients(path) == (recipient, recipient)
    for data, reason in ((b"# none\n", "holds no"), (b"\n\nage1x", "line 3"), (b"\xff", "not text")):
        path.write_bytes(data)
        for read in (secrets.read_recipients, secrets.read_identities):
            with pytest.raises(UserError, match=reason):
                read(path)
    with pytest.raises(UserError, match="no such file"):
        secrets.read_identities(tmp_path / "missing")


def test_a_wrong_identity_is_not_quoted(tmp_path: Path) -> None:
    (tmp_path / "id").write_text("AGE-SECRET-KEY-1NEARLY")
    with pytest.raises(UserError) as caught:
        secrets.read_identities(tmp_path / "id")
    assert "NEARLY" not in str(caught.value)


@fuzz
@given(data=st.binary(max_size=300), prefix=st.sampled_from([b"", secrets.MAGIC, secrets.MAGIC + b"-> X25519 "]))
def test_any_bytes_as_a_key(tmp_path: Path, data: bytes, prefix: bytes) -> None:
    if not (tmp_path / "id").exists():
        identity(tmp_path / "id")
    (tmp_path / "key").write_bytes(prefix + data)
    with pytest.raises(UserError) as caught:
        secrets.load_key(tmp_path / "key", identity=tmp_path / "id")
    assert len(str(caught.value)) < 700


@fuzz
@given(place=st.integers(0, 10_000), byte=st.integers(1, 255), cut=st.integers(0, 10_000))
def test_a_damaged_encrypted_key(tmp_path: Path, place: int, byte: int, cut: int) -> None:
    if not (tmp_path / "id").exists():
        recipient = identity(tmp_path / "id")
        whole = secrets.encrypt(json.dumps(make_key().to_json()).encode(), [recipient])
        (tmp_path / "whole").write_bytes(whole)
    data = bytearray((tmp_path / "whole").read_bytes())
    data[place % len(data)] ^= byte
    for damaged in (data, data[: cut % len(data)]):
        (tmp_path / "key").write_bytes(damaged)
        with pytest.raises(UserError):
            secrets.load_key(tmp_path / "key", identity=tmp_path / "id")


@fuzz
@given(
    changes=st.dictionaries(
        st.sampled_from(sorted(make_key().to_json())),
        st.none() | st.integers() | st.floats() | st.text(max_size=5000) | st.lists(st.integers(), max_size=5),
        max_size=3,
    )
)
def test_a_key_with_fields_replaced(tmp_path: Path, changes: dict[str, Any]) -> None:
    (tmp_path / "key").write_text(json.dumps({**make_key().to_json(), **changes}))
    try:
        secrets.load_key(tmp_path / "key")
    except UserError as error:
        assert len(str(error)) < 700


def test_the_key_file_between_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(keyfile.VARIABLE, raising=False)
    key, colleague = make_key(), identity(tmp_path / "colleague")
    keyfile.save(key, Path("key.age"))
    assert (keyfile.HOME / "identity.txt").stat().st_mode & 0o777 == 0o600
    assert keyfile.load(Path("key.age")).to_json() == key.to_json()
    first = Path("key.age").read_bytes()
    assert str(key.seed).encode() not in first
    Path("key.age").unlink()
    keyfile.save(key, Path("key.age"))
    assert Path("key.age").read_bytes() == first  # a stage that runs again gives the same bytes
    assert keyfile.fingerprint(Path("key.age")) == hashlib.sha256(Path("key.age").read_bytes()).hexdigest()
    key.save(Path("plain.json"))  # whose hash could be guessed
    assert keyfile.fingerprint(Path("plain.json")) is None
    keyfile.save(make_key(seed=1), Path("other.age"))
    assert keyfile.load(Path("other.age")).seed == 1
    keyfile.save(key, Path("key.age"), [colleague])
    assert Path("key.age").read_bytes() != first
    with pytest.raises(UserError, match="no age recipient"):
        keyfile.save(key, Path("key.age"), ["age1nobody"])

    monkeypatch.setenv(keyfile.VARIABLE, str(tmp_path / "colleague"))
    assert keyfile.load(Path("key.age")).to_json() == key.to_json()
    identity(tmp_path / "stranger")
    monkeypatch.setenv(keyfile.VARIABLE, str(tmp_path / "stranger"))
    with pytest.raises(UserError, match="cannot be decrypted"):
        keyfile.load(Path("key.age"))
    monkeypatch.setenv(keyfile.VARIABLE, str(tmp_path / "missing"))
    with pytest.raises(UserError, match="missing"):
        keyfile.load(Path("key.age"))
    make_key().save(Path("plain.json"))
    monkeypatch.delenv(keyfile.VARIABLE)
    assert keyfile.load(Path("plain.json")).to_json() == key.to_json()
