"""A suspect behind HTTP that fails, lies or floods: retries, pace, budget, one clear line."""

from __future__ import annotations

import json
import re
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hallmark import suspects
from hallmark.data.dataset import ImageDataset
from hallmark.errors import UserError
from hallmark.runtime import Runtime
from hallmark.suspects import forms
from hallmark.suspects.adapt import Classes
from hallmark.suspects.client import retry_after
from tests.unit import serving
from tests.unit.fuzzing import FUZZ, examples
from tests.unit.serving import Fault, Server, images_of

LABELS = {"batch": 10, "attempts": 3, "backoff": 0.01, "timeout": 5.0, "in_flight": 1}
CLASSES = Classes.match(("a", "b", "c"), None, {})


def band(body: dict[str, Any]) -> dict[str, Any]:
    """The brightest band of the toy images is their class."""
    images = images_of(body).float()
    bands = torch.stack([images[:, :, 2 * k : 2 * k + 2].mean((1, 2, 3)) for k in range(3)], 1)
    return {"labels": bands.argmax(1).tolist()}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving.serving(band) as running:
        yield running


def endpoint(server: Server, data: ImageDataset, cpu: Runtime, **extra: Any) -> suspects.Suspect:
    block = {"kind": "http", "url": server.url, **LABELS, **extra}
    return suspects.build("thief", block, data.classes, data.shape, cpu)


@pytest.mark.parametrize(
    "faults",
    [
        [serving.status(500), serving.status(503)],
        [serving.status(429, Retry_After="0")],
        [serving.dropped],
        [serving.truncated, serving.dropped],
        [serving.status(429, Retry_After="nonsense"), serving.status(502)],
    ],
    ids=["errors", "busy", "dropped", "truncated", "garbage to wait"],
)
def test_what_may_pass_is_tried_again(server: Server, toy: ImageDataset, cpu: Runtime, faults: list[Fault]) -> None:
    server.faults = list(faults)
    suspect = endpoint(server, toy, cpu)
    assert torch.equal(suspect.predict(toy.images), toy.labels)
    assert suspect.budget is not None
    assert suspect.budget.used == len(server.images) == 90 + 10 * len(faults)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (serving.status(500), "no answer after 3 attempts; the last: HTTP 500"),
        (serving.dropped, "no answer after 3 attempts; the last: RemoteProtocolError"),
        (serving.truncated, "no answer after 3 attempts; the last: RemoteProtocolError"),
        (serving.slow(0.6), "no whole answer within 0.3 s"),
        (serving.trickle, "no whole answer within 0.3 s"),
    ],
    ids=["errors", "dropped", "truncated", "slow", "trickle"],
)
def test_what_does_not_pass_is_one_line(
    server: Server, toy: ImageDataset, cpu: Runtime, fault: Fault, message: str
) -> None:
    server.faults = [lambda handler, value: False] + [fault] * 3
    with pytest.raises(UserError) as caught:
        endpoint(server, toy, cpu, timeout=0.3).predict(toy.images)
    text = str(caught.value)
    assert message in text
    assert re.match(r"suspects\.thief: request 2 of 9 \(images 10 to 19\) to http://127\.0\.0\.1:\d+: ", text)
    assert len(server.starts) == 4


def rows(value: list[Any], **changes: Any) -> bytes:
    return json.dumps({"scores": value} | changes).encode()


MALFORMED: dict[str, tuple[Fault, str]] = {
    "too few": (serving.replies(b'{"labels":[0,1]}'), "labels: 2 entries where 10 are expected"),
    "too many": (serving.replies(json.dumps({"labels": [0] * 11}).encode()), "11 entries where 10"),
    "none": (serving.replies(b""), "not JSON"),
    "html": (serving.replies(b"<html><body>Welcome</body></html>"), "not JSON .* '<html>"),
    "array": (serving.replies(b"[1,2]"), "a list where a JSON object"),
    "other": (serving.replies(b'{"result":1}'), "exactly one of labels, scores, top, but has 'result'"),
    "two": (serving.replies(b'{"labels":[],"top":[]}'), "exactly one of"),
    "nan": (serving.replies(rows([[float("nan")] * 3] * 10)), "NaN is no number of JSON"),
    "infinite": (serving.replies(b'{"scores":[' + b",".join([b"[1e999,0,0]"] * 10) + b"]}"), "not finite"),
    "narrow": (serving.replies(rows([[0.1, 0.2]] * 10)), "scores of an image: 2 entries where 3"),
    "text": (serving.replies(rows([["0.1", 0, 0]] * 10)), "a text where a number"),
    "bool": (serving.replies(json.dumps({"labels": [True] * 10}).encode()), "true or false where a number"),
    "null": (serving.replies(json.dumps({"labels": [None] * 10}).encode()), "null where a number"),
    "class": (serving.replies(json.dumps({"labels": [3] * 10}).encode()), "unknown class 3"),
    "negative": (serving.replies(json.dumps({"labels": [-1] * 10}).encode()), "unknown class -1"),
    "fraction": (serving.replies(json.dumps({"labels": [0.5] * 10}).encode()), "unknown class 0.5"),
    "name": (serving.replies(json.dumps({"labels": ["x"] * 10}).encode()), "unknown class 'x'"),
    "no top": (serving.replies(json.dumps({"top": [[]] * 10}).encode()), "1 to 3 pairs"),
    "twice": (serving.replies(json.dumps({"top": [[[0, 1], [0, 1]]] * 10}).encode()), "stands twice"),
    "rising": (serving.replies(json.dumps({"top": [[[0, 0.1], [1, 0.9]]] * 10}).encode()), "not sorted"),
    "number": (serving.replies(b'{"labels":[' + b"9" * 5000 + b"]}"), "not JSON"),
    "deep": (serving.replies(b"[" * 60_000), "not JSON"),
    "encoding": (serving.replies(b'{"labels":"\xff"}'), "not JSON"),
    "gzip": (serving.replies(b"\x1f\x8b", Content_Encoding="gzip"), "compressed by 'gzip'"),
    "endless": (serving.endless, "an answer of more than"),
    "missing": (serving.status(404), "HTTP 404; mend url"),
    "moved": (serving.status(302, Location="http://elsewhere/"), "HTTP 302 to 'http://elsewhere/'"),
    "wait": (serving.status(429, Retry_After="86400"), "asks to wait 86,400 s"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_answer_is_one_line_with_its_request(
    server: Server, toy: ImageDataset, cpu: Runtime, name: str
) -> None:
    fault, message = MALFORMED[name]
    server.faults = [lambda handler, value: False, lambda handler, value: False, fault]
    suspect = endpoint(server, toy, cpu)
    with pytest.raises(UserError, match=message) as caught:
        suspect.predict(toy.images)
    assert "request 3 of 9 (images 20 to 29)" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(server.starts) == 3  # asked again it would cost again, and lie again


def test_an_endless_answer_takes_no_memory(server: Server, toy: ImageDataset, cpu: Runtime) -> None:
    server.faults = [serving.endless]
    suspect = endpoint(server, toy, cpu)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="it is cut"):
            suspect.predict(toy.images)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("date", [False, True])
def test_the_server_is_left_alone_as_long_as_it_asks(
    server: Server, toy: ImageDataset, cpu: Runtime, date: bool
) -> None:
    wait = format_datetime(datetime.now(UTC) + timedelta(seconds=3), usegmt=True) if date else "1"
    server.faults = [serving.status(429, Retry_After=wait), serving.slow(0.3), serving.slow(0.3)]
    endpoint(server, toy, cpu, in_flight=3).predict(toy.images[:60])
    first, *later = sorted(server.starts)
    assert min(start - first for start in later[2:]) > 0.9  # two more were in flight already


def test_retry_after() -> None:
    assert retry_after("12") == 12
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    for text in ("", "-1", "1e9", "nan", "soon", "\u0664", "Wed, 99 Oct 2015 07:28:00 GMT"):
        assert retry_after(text) is None
    assert (retry_after("9" * 400) or 0) > 1e10


def test_requests_in_flight_and_a_second_are_bounded(server: Server, toy: ImageDataset, cpu: Runtime) -> None:
    server.faults = [serving.slow(0.1)] * 9
    endpoint(server, toy, cpu, in_flight=3).predict(toy.images)
    assert server.most_busy == 3
    server.starts.clear()
    endpoint(server, toy, cpu, in_flight=4, rate=20.0).predict(toy.images)
    assert len(server.starts) == 9
    assert max(server.starts) - min(server.starts) > 8 / 20 - 0.1


def test_the_budget_is_never_exceeded(server: Server, toy: ImageDataset, cpu: Runtime) -> None:
    with pytest.raises(UserError, match=r"suspects\.thief: query budget exceeded: 90 images to send, 89 of 89 left"):
        endpoint(server, toy, cpu, budget=89).predict(toy.images)
    assert not server.images
    assert torch.equal(endpoint(server, toy, cpu, budget=90, in_flight=4).predict(toy.images), toy.labels)
    server.images.clear()
    # Twelve may be sent again: the second failure finds two left.
    server.faults = [serving.status(500), serving.status(500)]
    suspect = endpoint(server, toy, cpu, budget=102, in_flight=4)
    with pytest.raises(UserError, match="query budget exceeded: 10 images to send"):
        suspect.predict(toy.images)
    assert suspect.budget is not None
    assert suspect.budget.used == len(server.images) <= 102
    with pytest.raises(UserError, match="budget"):
        suspect.predict(toy.images)


def test_what_is_sent_is_small_and_secrets_are_not_told(
    server: Server, toy: ImageDataset, cpu: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN_OF_TEST", "Bearer very-secret")
    suspect = endpoint(server, toy, cpu, headers_from_env={"Authorization": "TOKEN_OF_TEST"})
    suspect.predict(toy.images)
    assert server.headers[0]["Authorization"] == "Bearer very-secret"
    assert server.headers[0]["Accept-Encoding"] == "identity"
    assert "very-secret" not in json.dumps(suspect.describe())
    monkeypatch.setenv("TOKEN_OF_TEST", "a\r\nInjected: b")
    with pytest.raises(UserError, match="characters that none can have"):
        endpoint(server, toy, cpu, headers_from_env={"Authorization": "TOKEN_OF_TEST"})


def test_no_server_at_all(toy: ImageDataset, cpu: Runtime, server: Server) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match="no answer after 3 attempts; the last: ConnectError"):
        endpoint(server, toy, cpu).predict(toy.images)


def test_every_kind_of_answer(toy: ImageDataset) -> None:
    def read(value: Any, meaning: Any = "logits", form: Any = "json") -> suspects.Answer:
        return forms.read(form, json.dumps(value).encode(), 2, CLASSES, meaning)

    assert read({"labels": [2, "b"]}).labels.tolist() == [2, 1]
    assert read({"predictions": [1.0, 0.0]}, form="mlflow").labels.tolist() == [1, 0]
    soft = read({"scores": [[0.1, 0.7, 0.2], [1, 0, 0]], "model": "x"}, "probabilities")
    assert soft.labels.tolist() == [1, 0]
    assert soft.probabilities is not None
    torch.testing.assert_close(soft.probabilities[0], torch.tensor([0.1, 0.7, 0.2]))
    with pytest.raises(UserError, match="no probabilities"):
        read({"scores": [[0.1, 0.7, 0.9], [1, 0, 0]]}, "probabilities")
    top = read({"top": [[["c", 0.9], [0, 0.1]], [[1, 5]]]})
    assert top.labels.tolist() == [2, 1]
    assert top.top is not None
    assert top.top.classes.tolist() == [[2, 0], [1, -1]]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["a", "b", 0, 1]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*forms.KEYS, "x"]), inner, max_size=3),
    max_leaves=8,
)
VALUES = st.integers(-2, 4) | st.floats() | st.sampled_from(["a", "z", None, True]) | st.lists(st.floats(), max_size=4)


@settings(
    FUZZ,
    max_examples=examples(1500),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    body=st.binary(max_size=60)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(
        st.sampled_from([*forms.KEYS, "predictions"]),
        st.lists(VALUES | st.lists(VALUES | st.lists(VALUES, max_size=3), max_size=4), min_size=1, max_size=3),
        min_size=1,
        max_size=2,
    ).map(lambda value: json.dumps(value).encode()),
    form=st.sampled_from(["json", "mlflow"]),
    meaning=st.sampled_from(["logits", "probabilities"]),
)
def test_any_answer_is_sound_or_refused(body: bytes, form: Any, meaning: Any) -> None:
    try:
        answer = forms.read(form, body, 2, CLASSES, meaning)
    except UserError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 500
        return
    assert answer.labels.shape == (2,)
    assert set(answer.labels.tolist()) <= {0, 1, 2}
    if answer.probabilities is not None:
        assert bool(((answer.probabilities >= 0) & (answer.probabilities <= 1)).all())
    if answer.top is not None:
        assert bool(answer.top.scores.isfinite().all())
