"""Time stamps by RFC 3161: an authority signs that it saw a hash, and when."""

from __future__ import annotations

import http.client
import re
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from hallmark import artifacts
from hallmark.errors import UserError

if TYPE_CHECKING:
    from cryptography.x509 import Certificate
    from rfc3161_client import TimeStampResponse

MAX_RESPONSE = 64 << 10
MAX_CERTIFICATES = 1 << 20
TIMEOUT = 30.0
"""Seconds to wait for an authority."""
SHA256_OID = "2.16.840.1.101.3.4.2.1"


@dataclass(frozen=True)
class Stamp:
    """What a token says once it is verified.

    Attributes:
        time: UTC, aware.
        accuracy: how far the authority's clock may be off; 0 if it does not say.
    """

    time: datetime
    accuracy: timedelta


def request(message: bytes, url: str) -> bytes:
    """Ask an authority for a token over SHA-256 of ``message``; the message itself does not leave this machine.

    The answer's status, nonce and hash are compared with the question; who signed it is :func:`verify`'s matter.

    Returns:
        The TimeStampResp in DER.

    Raises:
        UserError: not an http address, not reachable, refused, or the answer is to another question.
    """
    from rfc3161_client import HashAlgorithm, TimestampRequestBuilder  # noqa: PLC0415 - loads cryptography

    if not re.match(r"https?://[^/\s]", url):  # urllib would open files as well
        raise UserError(f"--timestamp-url {url}: wants the http or https address of an RFC 3161 authority")
    question = TimestampRequestBuilder().data(message).hash_algorithm(HashAlgorithm.SHA256).build()
    headers = {"Content-Type": "application/timestamp-query", "Accept": "application/timestamp-reply"}
    try:
        asked = urllib.request.Request(url, data=question.as_bytes(), headers=headers)
        with urllib.request.urlopen(asked, timeout=TIMEOUT) as answer:
            data = answer.read(MAX_RESPONSE + 1)
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(f"{url}: the timestamp authority does not answer ({reason}); try later or another") from None
    response = _parse(data, url)
    try:
        same = response.tst_info.nonce == question.nonce
        same &= response.tst_info.message_imprint.message == question.message_imprint.message
    except ValueError:
        raise UserError(f"{url}: the timestamp authority refused (status {response.status}); try another") from None
    if not same:
        raise UserError(f"{url}: the timestamp authority answered another question; try another")
    return data


def verify(token: bytes, digest: bytes, roots: Sequence[Path], where: str) -> Stamp:
    """Check a stored token, without any network.

    The certificates must have been valid when the token was made; they may have expired since.  Whether they
    were revoked is not asked.

    Args:
        token: a TimeStampResp in DER, as :func:`request` gave it.
        digest: the SHA-256 that it must be over, 32 bytes.
        roots: PEM files of root certificates that the judge trusts (intermediates, if the token lacks them, too).
        where: the token's place, for messages.

    Raises:
        UserError: not a token, over another hash, or not signed under these roots.
    """
    from rfc3161_client import VerificationError, VerifierBuilder  # noqa: PLC0415 - loads cryptography

    verifier = VerifierBuilder(roots=[certificate for path in roots for certificate in read_certificates(path)])
    response = _parse(token, where)
    try:
        info = response.tst_info
        imprint = info.message_imprint
        if imprint.hash_algorithm.dotted_string != SHA256_OID or imprint.message != digest:
            raise UserError(f"{where}: the token is over another hash; it is not this commitment's")
        verifier.build().verify(response, digest)
        time, spread = info.gen_time, info.accuracy
        accuracy = timedelta(
            seconds=spread.seconds or 0, milliseconds=spread.millis or 0, microseconds=spread.micros or 0
        )
    except (VerificationError, ValueError, TypeError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{where}: the token is not valid under these roots ({reason}); give its authority's") from None
    return Stamp(time, accuracy)


def read_certificates(path: Path) -> list[Certificate]:
    """All certificates of a PEM file.

    Raises:
        UserError: missing, too large, or not certificates.
    """
    from cryptography import x509  # noqa: PLC0415 - slow to import

    try:
        return x509.load_pem_x509_certificates(artifacts.read_bytes(path, MAX_CERTIFICATES))
    except ValueError:
        raise UserError(f"{path}: holds no certificate in PEM form; give the authority's root") from None


def _parse(data: bytes, where: str) -> TimeStampResponse:
    from rfc3161_client import decode_timestamp_response  # noqa: PLC0415 - loads cryptography

    if len(data) > MAX_RESPONSE:
        raise UserError(f"{where}: larger than any RFC 3161 token; take another authority")
    try:
        return decode_timestamp_response(data)
    except ValueError:
        raise UserError(f"{where}: is not an RFC 3161 answer; mend the address, or take the file as written") from None
