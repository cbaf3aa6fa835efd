"""Signatures of a folder in the OpenSSF Model Signing format (v1.0: in-toto statement, DSSE, Sigstore bundle)."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from hallmark import artifacts
from hallmark.errors import UserError

if TYPE_CHECKING:
    from model_signing.hashing import Config

SIGNATURE = "model.sig"
"""Usual name of a signature's file."""
MAX_SIGNATURE = 64 << 20


def make_pair(private: Path, public: Path) -> None:
    """Make an elliptic key pair (NIST P-256) as two PEM files: PKCS #8, mode 0600, and SubjectPublicKeyInfo.

    Raises:
        UserError: a file exists, or cannot be written.
    """
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - slow to import
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    if public.exists():  # before the private half is written
        raise UserError(f"{public}: exists, and a key pair is never overwritten; move it away or name another")
    key = ec.generate_private_key(ec.SECP256R1())
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    artifacts.write_secret(private, secret)
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    artifacts.write_bytes(public, key.public_key().public_bytes(serialization.Encoding.PEM, form))


def fingerprint(public_key: Path) -> str:
    """SHA-256 over a public key's DER SubjectPublicKeyInfo, hexadecimal: what a commitment names its owner by.

    Raises:
        UserError: missing, or no PEM public key.
    """
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - slow to import

    return _fingerprint(public_key, artifacts.read_bytes(public_key, MAX_SIGNATURE), serialization.load_pem_public_key)


def own_fingerprint(private_key: Path) -> str:
    """:func:`fingerprint` of a private key's public half.

    Raises:
        UserError: missing, encrypted, or no PEM private key.
    """
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - slow to import

    data = artifacts.read_bytes(private_key, MAX_SIGNATURE)
    return _fingerprint(private_key, data, lambda pem: serialization.load_pem_private_key(pem, None).public_key())


def certified(signature: Path) -> str:
    """:func:`fingerprint` of the key in the certificate that a signature carries; :func:`verify` it first, by its root.

    Raises:
        UserError: it carries none.
    """
    from cryptography import x509  # noqa: PLC0415 - slow to import

    certificates, _ = _stored(signature)
    if not certificates:
        raise UserError(f"{signature}: carries no certificate; give --public-key in place of a root")
    return _fingerprint(signature, certificates[0], lambda der: x509.load_der_x509_certificate(der).public_key())


def signer(signature: Path, public_key: Path | None) -> str:
    """:func:`fingerprint` of whose key :func:`verify` wants: the one given, or that of the signature's certificate.

    Raises:
        UserError: as :func:`fingerprint` and :func:`certified`.
    """
    return certified(signature) if public_key is None else fingerprint(public_key)


def sign(
    folder: Path, signature: Path, private_key: Path, certificate: Path | None = None, chain: Sequence[Path] = ()
) -> None:
    """Sign every file of a folder, hidden ones too, except the signature itself if it lies there.

    Args:
        private_key: PEM, P-256, P-384 or P-521, not encrypted.
        certificate: PEM; the signature then carries it, and is verified by a root in place of a public key.
        chain: PEM files of the certificates between it and the root.

    Raises:
        UserError: no folder, nothing to sign, a symbolic link, an unfit key or certificate.
    """
    from model_signing import signing  # noqa: PLC0415 - takes a second to import

    _must_have_files(folder, signature)
    for path in (private_key, *([certificate] if certificate else []), *chain):
        artifacts.read_bytes(path, MAX_SIGNATURE)
    config = signing.Config().set_hashing_config(_hashing(folder, signature))
    with artifacts.replacing(signature) as temporary:
        try:
            if certificate is None:
                config.use_elliptic_key_signer(private_key=private_key)
            else:
                # The library cannot read an empty chain; the certificate itself adds nothing to one.
                config.use_certificate_signer(
                    private_key=private_key,
                    signing_certificate=certificate,
                    certificate_chain=chain or [certificate],
                )
            config.sign(folder, temporary)
        except (ValueError, TypeError, AttributeError) as error:  # AttributeError: of keys that are not elliptic
            raise UserError(
                f"{folder}: cannot be signed with {private_key} ({_short(error)}); make a key with: hallmark key pair"
            ) from None


def verify(folder: Path, signature: Path, public_key: Path | None = None, roots: Sequence[Path] = ()) -> None:
    """Check that a folder holds exactly what was signed.

    Stricter than the standard asks: nothing in the folder may be left out of the signature but itself.

    Args:
        public_key: PEM, of a signature by a key; or
        roots: PEM files of root certificates, of a signature by a certificate.

    Raises:
        UserError: changed, added or missing files (named), another key, or not a signature.
    """
    from model_signing import verifying  # noqa: PLC0415 - takes a second to import

    if (public_key is None) == (not roots):
        raise UserError(f"{signature}: give either the signer's public key or the root of his certificate")
    _must_have_files(folder, signature)
    for path in (public_key, *roots):
        if path is not None:
            artifacts.read_bytes(path, MAX_SIGNATURE)
    certificates, ignored = _stored(signature)
    unsigned = [name for name in ignored if name != _inside(folder, signature) and os.path.lexists(folder / name)]
    if unsigned:
        raise UserError(f"{signature}: leaves out {str(unsigned[0])[:80]}, which is there; sign the whole folder")
    if bool(certificates) == (public_key is not None):
        kind, option = ("a certificate", "--root") if certificates else ("no certificate", "--public-key")
        raise UserError(f"{signature}: carries {kind}; verify it by {option}")
    config = verifying.Config().set_hashing_config(_hashing(folder, signature))
    try:
        if public_key is not None:
            config.use_elliptic_key_verifier(public_key=public_key)
        else:
            config.use_certificate_verifier(certificate_chain=roots)
        config.verify(folder, signature)
    except OSError:
        raise
    except Exception as error:  # the library raises what its parsers do on a stranger's file, of any kind
        reason = _short(error) or type(error).__name__  # a wrong signature comes without a text
        raise UserError(
            f"{folder}: does not bear out {signature} ({reason}); it was changed, or signed by somebody else"
        ) from None


def _hashing(folder: Path, signature: Path) -> Config:
    from model_signing import hashing  # noqa: PLC0415

    inside = _inside(folder, signature)
    ignored = [] if inside is None else [inside]
    return hashing.Config().set_ignored_paths(paths=ignored, ignore_git_paths=False)


def _stored(signature: Path) -> tuple[list[bytes], list[PurePosixPath]]:
    """What a signature says of itself.

    Returns:
        DER of its certificates, the signer's first (none: it is by a key alone), and the paths left out, which the
        signer himself lists: a model's weights among them could be swapped at will.
    """
    try:
        bundle = json.loads(artifacts.read_bytes(signature, MAX_SIGNATURE))
        listed = bundle["verificationMaterial"].get("x509CertificateChain", {}).get("certificates", ())
        certificates = [base64.b64decode(each["rawBytes"], validate=True) for each in listed]
        statement: Any = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"], validate=True))
        ignored = statement["predicate"]["serialization"].get("ignore_paths", ())
        return certificates, [PurePosixPath(name) for name in ignored]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{signature}: not an OpenSSF Model Signing v1 file; take the file as it was written") from None


def _inside(folder: Path, signature: Path) -> PurePosixPath | None:
    """The signature's path within the folder, or None if it lies elsewhere."""
    path, root = signature.absolute(), folder.absolute()
    return PurePosixPath(path.relative_to(root).as_posix()) if path.is_relative_to(root) else None


def _must_have_files(folder: Path, signature: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the one that is signed")
    own = _inside(folder, signature)
    if not any(p.is_file() and PurePosixPath(p.relative_to(folder).as_posix()) != own for p in folder.rglob("*")):
        raise UserError(f"{folder}: holds nothing to sign; give the model's folder")


def _fingerprint(path: Path, data: bytes, load: Callable[[bytes], Any]) -> str:
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415

    try:
        public = load(data)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: encrypted
        raise UserError(f"{path}: is no such key as PEM ({_short(error)}); make one with: hallmark key pair") from None
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(public.public_bytes(serialization.Encoding.DER, form)).hexdigest()


def _short(error: Exception) -> str:
    # Of a changed file the library prints both hashes, as bytes: the name is enough.
    return " ".join(str(error).split()).split(": Expected", 1)[0].replace('["', "")[:300]
