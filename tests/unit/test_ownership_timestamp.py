"""RFC 3161: requests to an authority on this machine, tokens checked offline, forged and damaged ones."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from asn1crypto import tsp
from rfc3161_client import HashAlgorithm, TimestampRequestBuilder

from hallmark.errors import UserError
from hallmark.ownership import commitment, folder, priority, timestamp
from hallmark.ownership.commitment import Opening
from tests.unit.ownership_toys import RULE, STAMPED, Pki, make_key, make_model, make_pki, stamp

MESSAGE = b"an opening"
DIGEST = hashlib.sha256(MESSAGE).digest()


@pytest.fixture(scope="module")
def pki() -> Pki:
    return make_pki()


@pytest.fixture
def root(pki: Pki, tmp_path: Path) -> Path:
    return pki.save(tmp_path)[0]


def query(message: bytes = MESSAGE, algorithm: HashAlgorithm = HashAlgorithm.SHA256) -> bytes:
    return TimestampRequestBuilder().data(message).hash_algorithm(algorithm).build().as_bytes()


class Authority(HTTPServer):
    """Answers with ``reply(question)``, with ``status``; remembers what it was asked."""

    reply: Callable[[bytes], bytes]
    status = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[bytes, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/tsa"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, Authority)
        question = self.rfile.read(int(self.headers["Content-Length"]))
        server.asked.append((question, self.headers["Content-Type"]))
        answer = server.reply(question)
        self.send_response(server.status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def authority(pki: Pki) -> Iterator[Authority]:
    server = Authority()
    server.reply = lambda question: stamp(pki, question)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_token_is_asked_for_and_verified_offline(authority: Authority, root: Path) -> None:
    token = timestamp.request(MESSAGE, authority.url)
    ((question, kind),) = authority.asked
    assert kind == "application/timestamp-query"
    assert MESSAGE not in question
    imprint = tsp.TimeStampReq.load(question)["message_imprint"]
    assert imprint["hashed_message"].native == DIGEST
    assert imprint["hash_algorithm"]["algorithm"].native == "sha256"
    found = timestamp.verify(token, DIGEST, [root], "token")
    assert found == timestamp.Stamp(STAMPED, timedelta(seconds=1))


def test_a_commitment_with_a_token(authority: Authority, root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    model = make_model(tmp_path / "m")
    folder.commit([make_key()], model, RULE, out, bytes, suffix="json", timestamp_url=authority.url)
    (unverified,), (listed,) = folder.listing(out), folder.listing(out, [root])
    assert unverified.stamp is None
    assert listed.stamp is not None
    assert listed.stamp.time == STAMPED
    assert listed.commitment.time_note == commitment.AUTHORITY
    # Whose claim it is as a party's: an authority's time, but only by a root that the judge trusts.
    claim, problem = priority.judged("owner", out / "commitment.json", out / "opening.json", [root])
    assert (claim.valid, claim.kind, claim.time, problem) == (True, "rfc3161", STAMPED, "")
    assert claim.accuracy == listed.stamp.accuracy
    with pytest.raises(UserError, match="give --timestamp-root"):
        priority.judged("owner", out / "commitment.json", out / "opening.json", [])
    (tmp_path / "foreign").mkdir()
    foreign, *_ = make_pki().save(tmp_path / "foreign")
    claim, problem = priority.judged("owner", out / "commitment.json", out / "opening.json", [foreign])
    assert (claim.valid, claim.kind) == (False, "none")
    assert problem
    # The token of one commitment says nothing of another.
    plain = Opening.read((out / "opening.json").read_bytes(), "o")
    other = Opening(plain.key, plain.rule, plain.model, "00" * 32)
    with pytest.raises(UserError, match="over another hash"):
        timestamp.verify(listed.commitment.token or b"", bytes.fromhex(other.hash()), [root], "token")


def test_nothing_is_written_without_the_token_asked_for(authority: Authority, tmp_path: Path) -> None:
    authority.status = 503
    with pytest.raises(UserError, match="does not answer"):
        folder.commit(
            [make_key()], make_model(tmp_path / "m"), RULE, tmp_path / "out", bytes, timestamp_url=authority.url
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (lambda pki, question: b"<html>", "not an RFC 3161 answer"),
        (lambda pki, question: b"", "not an RFC 3161 answer"),
        (lambda pki, question: bytes(timestamp.MAX_RESPONSE + 1), "larger"),
        (lambda pki, question: stamp(pki, query(MESSAGE)), "another question"),  # another nonce
        (lambda pki, question: stamp(pki, question, message_imprint=_imprint(b"other")), "another question"),
        (lambda pki, question: bytes.fromhex("30053003020102"), "refused"),
    ],
)
def test_answers_that_are_none(authority: Authority, pki: Pki, reply: Callable, reason: str) -> None:
    authority.reply = lambda question: reply(pki, question)
    with pytest.raises(UserError, match=reason):
        timestamp.request(MESSAGE, authority.url)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://x/", "x", "http://127.0.0.1:1/", "http://[", "http://a b/"]
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(UserError):
        timestamp.request(MESSAGE, url)


def test_forged_tokens(pki: Pki, root: Path, tmp_path: Path) -> None:
    genuine = stamp(pki, query())
    late = stamp(pki, query(), time=datetime(2027, 3, 1, tzinfo=UTC))
    early = stamp(pki, query(), time=datetime(2025, 3, 1, tzinfo=UTC))
    stranger = stamp(make_pki(), query())
    not_an_authority = make_pki(time_stamping=False)
    (tmp_path / "b").mkdir()
    root_b = not_an_authority.save(tmp_path / "b")[0]
    backdated = genuine.replace(b"20260301120005Z", b"20260101120005Z")
    assert backdated != genuine
    for token, roots, reason in (
        (late, [root], "not valid under these roots"),  # the certificate had expired
        (early, [root], "not valid under these roots"),  # or was not valid yet
        (stranger, [root], "not valid under these roots"),
        (stamp(not_an_authority, query()), [root_b], "not valid under these roots"),
        (backdated, [root], "not valid under these roots"),
        (stamp(pki, query(b"other")), [root], "over another hash"),
        (stamp(pki, query(algorithm=HashAlgorithm.SHA512)), [root], "over another hash"),
        (genuine, [], "not valid under these roots"),
        (bytes(timestamp.MAX_RESPONSE + 1), [root], "larger"),
    ):
        with pytest.raises(UserError, match=reason):
            timestamp.verify(token, DIGEST, roots, "token")
    timestamp.verify(genuine, DIGEST, [root_b, root], "token")


def test_roots_that_are_none(pki: Pki, tmp_path: Path) -> None:
    for data in (b"", b"junk", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        (tmp_path / "root").write_bytes(data)
        with pytest.raises(UserError, match="no certificate"):
            timestamp.verify(stamp(pki, query()), DIGEST, [tmp_path / "root"], "token")
    with pytest.raises(UserError, match="no such file"):
        timestamp.verify(stamp(pki, query()), DIGEST, [tmp_path / "none"], "token")


def test_damaged_tokens(pki: Pki, root: Path) -> None:
    """A byte changed or the end cut off: refused, or it was a byte that says nothing of the time."""
    genuine = stamp(pki, query())
    expected = timestamp.verify(genuine, DIGEST, [root], "token")
    draw = random.Random(0)
    refused = 0
    for round_ in range(500):
        damaged = bytearray(genuine)
        damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        if round_ % 5 == 0:
            damaged = damaged[: draw.randrange(len(damaged))]
        try:
            assert timestamp.verify(bytes(damaged), DIGEST, [root], "token") == expected
        except UserError as error:
            refused += 1
            assert len(str(error)) < 700
    assert refused > 450


def _imprint(message: bytes) -> tsp.MessageImprint:
    return tsp.MessageImprint(
        {"hash_algorithm": {"algorithm": "sha256"}, "hashed_message": hashlib.sha256(message).digest()}
    )
