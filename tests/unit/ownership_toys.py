"""What the ownership tests share: a key, a model's folder, a decision rule, and a timestamp authority."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from asn1crypto import algos, cms, core, tsp
from asn1crypto import x509 as asn1
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hallmark.watermark.key import Key

RULE: dict[str, Any] = {
    "queries": 1000,
    "decoys": 4,
    "confidence": 0.95,
    "alpha": 0.001,
    "statistics": ["hits"],
    "min_accuracy_share": 0.8,
    "max_inconsistent": 0.02,
}
"""What a commitment binds; the judge's part is added by :func:`write_params`."""
CASE: dict[str, Any] = {"judge_seed": 0, "keys": 1, "suspects": {}}
STAMPED = datetime(2026, 3, 1, 12, 0, 5, tzinfo=UTC)


def make_key(**changes: Any) -> Key:
    """A key whose seed needs more than 53 bits."""
    fields: dict[str, Any] = {
        "scheme": "mea_defender",
        "way": "ratio_mix",
        "way_params": {},
        "evasion_ways": ("donut", "diagonal"),
        "source": (0, 1),
        "target": 2,
        "seed": 6917529027641081857,
        "classes": ("trouser", "sneaker", "pullover"),
        "shape": (1, 8, 8),
    }
    return Key(**{**fields, **changes})


def make_model(folder: Path) -> Path:
    """A folder with the files that a model has, and one deeper."""
    (folder / "deep").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "model.json").write_bytes(b"{}")
    (folder / "deep" / "card.md").write_bytes(b"card")
    return folder


def write_params(path: Path, **changes: Any) -> Path:
    """A params.yaml with the section that is bound (JSON is YAML)."""
    lines = ["verify_ownership:", *(f"  {name}: {value}" for name, value in {**RULE, **CASE, **changes}.items())]
    path.write_text("\n".join(lines) + "\n")
    return path


@dataclass
class Pki:
    """A root and one certificate under it."""

    root: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def save(self, folder: Path) -> tuple[Path, Path, Path]:
        """Paths of the root, the certificate and its private key, as PEM."""
        pem = serialization.Encoding.PEM
        secret = self.key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        names = {
            "root.pem": self.root.public_bytes(pem),
            "cert.pem": self.certificate.public_bytes(pem),
            "cert.key.pem": secret,
        }
        for name, data in names.items():
            (folder / name).write_bytes(data)
        root, certificate, key = (folder / name for name in names)
        return root, certificate, key


def make_pki(time_stamping: bool = True) -> Pki:
    """Valid during 2026; the certificate is a timestamp authority's, or a signer's."""
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))

    def build(name: str, issuer: str) -> x509.CertificateBuilder:
        public = root_key if name == issuer else key
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(public.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
            .not_valid_after(datetime(2026, 12, 31, tzinfo=UTC))
            .add_extension(x509.BasicConstraints(ca=name == issuer, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
            .add_extension(_usage(signs_certificates=name == issuer), critical=True)
        )

    root = build("root", "root").sign(root_key, hashes.SHA256())
    leaf = build("leaf", "root")
    if time_stamping:
        leaf = leaf.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True)
    return Pki(root, key, leaf.sign(root_key, hashes.SHA256()))


def stamp(pki: Pki, query: bytes, time: datetime = STAMPED, accuracy: int = 1, **forged: Any) -> bytes:
    """What a timestamp authority answers to a TimeStampReq (DER): a TimeStampResp (RFC 3161, CMS).

    Args:
        forged: fields of the TSTInfo in place of the right ones.
    """
    asked = tsp.TimeStampReq.load(query)
    info = tsp.TSTInfo(
        {
            "version": "v1",
            "policy": "1.2.3.4",
            "message_imprint": asked["message_imprint"],
            "serial_number": 7,
            "gen_time": time,
            "accuracy": tsp.Accuracy({"seconds": accuracy}),
            "nonce": asked["nonce"],
            **forged,
        }
    )
    content = info.dump()
    certificate = asn1.Certificate.load(pki.certificate.public_bytes(serialization.Encoding.DER))
    fingerprint = hashlib.sha256(certificate.dump()).digest()
    named = tsp.SigningCertificateV2({"certs": [tsp.ESSCertIDv2({"cert_hash": fingerprint})]})
    attributes = cms.CMSAttributes(
        [
            cms.CMSAttribute({"type": "content_type", "values": ["tst_info"]}),
            cms.CMSAttribute({"type": "signing_time", "values": [cms.Time({"utc_time": time})]}),
            cms.CMSAttribute({"type": "signing_certificate_v2", "values": [named]}),
            cms.CMSAttribute({"type": "message_digest", "values": [hashlib.sha256(content).digest()]}),
        ]
    )
    sha256 = algos.DigestAlgorithm({"algorithm": "sha256"})
    signer = cms.SignerInfo(
        {
            "version": "v1",
            "sid": cms.SignerIdentifier(
                {
                    "issuer_and_serial_number": cms.IssuerAndSerialNumber(
                        {"issuer": certificate.issuer, "serial_number": certificate.serial_number}
                    )
                }
            ),
            "digest_algorithm": sha256,
            "signed_attrs": attributes,
            "signature_algorithm": algos.SignedDigestAlgorithm({"algorithm": "sha256_ecdsa"}),
            "signature": pki.key.sign(attributes.dump(), ec.ECDSA(hashes.SHA256())),
        }
    )
    signed = cms.SignedData(
        {
            "version": "v3",
            "digest_algorithms": [sha256],
            "encap_content_info": {"content_type": "tst_info", "content": core.ParsableOctetString(content)},
            "certificates": [cms.CertificateChoices("certificate", certificate)],
            "signer_infos": [signer],
        }
    )
    token = cms.ContentInfo({"content_type": "signed_data", "content": signed})
    return tsp.TimeStampResp({"status": {"status": "granted"}, "time_stamp_token": token}).dump()


def later(time: datetime, seconds: float) -> datetime:
    """``time`` so many seconds on."""
    return time + timedelta(seconds=seconds)


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
