"""Signatures in the OpenSSF format: what they detect, certificates, other tools' files, strangers' files."""

from __future__ import annotations

import base64
import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from hallmark.errors import UserError
from hallmark.ownership import signing
from tests.unit.ownership_toys import make_model, make_pki


@pytest.fixture
def signed(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A signed model, its signature beside it, the public key."""
    model = make_model(tmp_path / "m")
    signing.make_pair(tmp_path / "key.pem", tmp_path / "key.pub")
    signing.sign(model, tmp_path / "model.sig", tmp_path / "key.pem")
    return model, tmp_path / "model.sig", tmp_path / "key.pub"


def test_a_pair_is_private_and_never_overwritten(tmp_path: Path) -> None:
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    signing.make_pair(private, public)
    assert private.stat().st_mode & 0o777 == 0o600
    assert public.read_text().startswith("-----BEGIN PUBLIC KEY-----")
    before = private.read_bytes()
    with pytest.raises(UserError, match=r"key\.pub: exists"):
        signing.make_pair(tmp_path / "other.pem", public)
    assert not (tmp_path / "other.pem").exists()
    with pytest.raises(UserError, match=r"key\.pem: exists"):
        signing.make_pair(private, tmp_path / "other.pub")
    assert private.read_bytes() == before
    assert not (tmp_path / "other.pub").exists()


def test_a_signature_inside_ignores_itself(tmp_path: Path, signed: tuple[Path, Path, Path]) -> None:
    model, beside, public = signed
    signing.verify(model, beside, public)
    inside = model / "model.sig"
    for _ in range(2):  # the second one is made over the first
        signing.sign(model, inside, tmp_path / "key.pem")
        signing.verify(model, inside, public)
    with pytest.raises(UserError, match=r"model\.sig"):  # for the one beside, it is a file that was added
        signing.verify(model, beside, public)


def test_the_standards_own_tool_verifies_it(signed: tuple[Path, Path, Path]) -> None:
    from model_signing import verifying  # noqa: PLC0415 - takes a second to import

    model, signature, public = signed
    verifying.Config().use_elliptic_key_verifier(public_key=public).verify(model, signature)


CHANGES: dict[str, Callable[[Path], object]] = {
    "model.safetensors": lambda m: (m / "model.safetensors").write_bytes(b"weightt"),
    "deep/card.md": lambda m: (m / "deep/card.md").unlink(),
    "deep/added": lambda m: (m / "deep/added").write_bytes(b""),
    ".gitignore": lambda m: (m / ".gitignore").write_bytes(b"*"),
    "model.json": lambda m: (m / "model.json").rename(m / "deep/x"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_is_detected_and_named(signed: tuple[Path, Path, Path], name: str) -> None:
    model, signature, public = signed
    CHANGES[name](model)
    with pytest.raises(UserError) as caught:
        signing.verify(model, signature, public)
    assert name in str(caught.value)
    assert len(str(caught.value)) < 700


def test_another_key_does_not_verify(tmp_path: Path, signed: tuple[Path, Path, Path]) -> None:
    model, signature, _ = signed
    signing.make_pair(tmp_path / "thief.pem", tmp_path / "thief.pub")
    with pytest.raises(UserError, match="Key mismatch"):
        signing.verify(model, signature, tmp_path / "thief.pub")


def test_a_changed_statement_does_not_verify(signed: tuple[Path, Path, Path]) -> None:
    model, signature, public = signed
    _edit(signature, lambda statement: statement["subject"][0].update(name="other"))
    with pytest.raises(UserError, match="InvalidSignature"):
        signing.verify(model, signature, public)


def test_a_signer_who_leaves_out_the_weights(tmp_path: Path) -> None:
    from model_signing import hashing, verifying  # noqa: PLC0415
    from model_signing import signing as standard  # noqa: PLC0415

    model = make_model(tmp_path / "m")
    signing.make_pair(tmp_path / "key.pem", tmp_path / "key.pub")
    hashes = hashing.Config().set_ignored_paths(paths=["model.safetensors"])
    config = standard.Config().set_hashing_config(hashes).use_elliptic_key_signer(private_key=tmp_path / "key.pem")
    config.sign(model, tmp_path / "model.sig")
    (model / "model.safetensors").write_bytes(b"other weights")
    verifying.Config().use_elliptic_key_verifier(public_key=tmp_path / "key.pub").verify(model, tmp_path / "model.sig")
    with pytest.raises(UserError, match=r"leaves out model\.safetensors"):
        signing.verify(model, tmp_path / "model.sig", tmp_path / "key.pub")


def test_a_certificate(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    root, certificate, key = make_pki(time_stamping=False).save(tmp_path)
    signing.sign(model, tmp_path / "model.sig", key, certificate)
    signing.verify(model, tmp_path / "model.sig", roots=[root])
    (tmp_path / "other").mkdir()
    other, *_ = make_pki(time_stamping=False).save(tmp_path / "other")
    with pytest.raises(UserError, match="does not bear out"):
        signing.verify(model, tmp_path / "model.sig", roots=[other])
    with pytest.raises(UserError, match="either"):
        signing.verify(model, tmp_path / "model.sig")
    public = x509.load_pem_x509_certificate(certificate.read_bytes()).public_key()
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert signing.certified(tmp_path / "model.sig") == hashlib.sha256(der).hexdigest() == signing.own_fingerprint(key)
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "leaf.pub.pem").write_bytes(pem)
    assert signing.fingerprint(tmp_path / "leaf.pub.pem") == hashlib.sha256(der).hexdigest()
    signing.sign(model, tmp_path / "chain.sig", key, certificate, [root])  # the signer's comes first
    signing.verify(model, tmp_path / "chain.sig", roots=[root])
    assert signing.certified(tmp_path / "chain.sig") == hashlib.sha256(der).hexdigest()
    with pytest.raises(UserError, match="carries a certificate; verify it by --root"):
        signing.verify(model, tmp_path / "model.sig", tmp_path / "leaf.pub.pem")
    with pytest.raises(UserError, match="cannot be signed"):
        signing.sign(model, tmp_path / "b.sig", tmp_path / "other" / "cert.key.pem", certificate)
    assert not (tmp_path / "b.sig").exists()
    (model / "model.json").write_bytes(b"{ }")
    with pytest.raises(UserError, match=r"model\.json"):
        signing.verify(model, tmp_path / "model.sig", roots=[root])


def test_what_cannot_be_signed(tmp_path: Path, signed: tuple[Path, Path, Path]) -> None:
    model, _, public = signed
    out = tmp_path / "new.sig"
    key = tmp_path / "key.pem"
    (tmp_path / "empty").mkdir()
    (tmp_path / "junk.pem").write_text("junk")
    for folder, secret, reason in (
        (tmp_path / "none", key, "no such folder"),
        (tmp_path / "empty", key, "nothing to sign"),
        (model, tmp_path / "none.pem", "no such file"),
        (model, tmp_path / "junk.pem", "cannot be signed"),
        (model, public, "cannot be signed"),
    ):
        with pytest.raises(UserError, match=reason):
            signing.sign(folder, out, secret)
    (model / "link").symlink_to(key)
    with pytest.raises(UserError, match="cannot be signed"):
        signing.sign(model, out, key)
    assert not out.exists()


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", b'{"dsseEnvelope": {"payload": "e30="}}', b"[" * 100_000])
def test_no_signature_at_all(signed: tuple[Path, Path, Path], data: bytes) -> None:
    model, signature, public = signed
    signature.write_bytes(data)
    with pytest.raises(UserError, match="not an OpenSSF Model Signing"):
        signing.verify(model, signature, public)


def test_damaged_signatures(signed: tuple[Path, Path, Path]) -> None:
    """Bytes changed, and members of the JSON removed or replaced: refused, or the same statement after all."""
    model, signature, public = signed
    whole = signature.read_bytes()
    payload = json.loads(whole)["dsseEnvelope"]["payload"]
    draw = random.Random(0)
    for round_ in range(300):
        data: bytes
        if round_ % 2:
            changed = bytearray(whole)
            changed[draw.randrange(len(changed))] = draw.randrange(256)
            data = bytes(changed)
        else:
            value = json.loads(whole)
            place = value
            while draw.random() < 0.7 and isinstance(place[name := draw.choice(list(place))], dict):
                place = place[name]
            name = draw.choice(list(place))
            place[name] = draw.choice([None, 1, "", [], {}, "x" * 100])
            data = json.dumps(value).encode()
        signature.write_bytes(data)
        try:
            signing.verify(model, signature, public)
        except UserError as error:
            assert len(str(error)) < 900
        else:
            assert json.loads(data)["dsseEnvelope"]["payload"] == payload


def _edit(signature: Path, change: Callable[[Any], object]) -> None:
    bundle = json.loads(signature.read_bytes())
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    change(statement)
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    signature.write_text(json.dumps(bundle))
