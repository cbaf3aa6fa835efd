"""The transcript: nothing in it can be changed unseen, nothing that is answered is asked again; the command."""

from __future__ import annotations

import hashlib
import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hallmark import suspects
from hallmark.data.dataset import ImageDataset
from hallmark.errors import UserError
from hallmark.runtime import Runtime
from hallmark.suspects import transcript
from hallmark.suspects.answer import Answer, Arrived, Suspect, Top, join
from hallmark.suspects.command import main
from tests.unit import serving
from tests.unit.conftest import toy_images
from tests.unit.fuzzing import FUZZ, examples
from tests.unit.serving import Server
from tests.unit.test_suspects_http import band


class Scripted(Suspect):
    """Answers by a function, in batches of 7 in a given order; counts what it is asked."""

    def __init__(self, answer: Callable[[Tensor], Answer], stop: int | None = None, *, backwards: bool = False) -> None:
        self.answer, self.stop, self.backwards = answer, stop, backwards
        self.asked: list[bytes] = []

    def describe(self) -> dict[str, Any]:
        return {"kind": "scripted"}

    def ask(self, images: Tensor, arrived: Arrived) -> None:
        starts = list(range(0, len(images), 7))
        for start in reversed(starts) if self.backwards else starts:
            if self.stop is not None and len(self.asked) >= self.stop:
                raise KeyboardInterrupt
            part = images[start : start + 7]
            self.asked += [image.numpy().tobytes() for image in part]
            arrived(start, self.answer(part))


def soft(images: Tensor) -> Answer:
    probabilities = images.float().flatten(1)[:, :3].softmax(1)
    return Answer(probabilities.argmax(1), probabilities)


def best(images: Tensor) -> Answer:
    scores, classes = images.float().flatten(1)[:, :3].topk(2)
    return Answer(classes[:, 0], None, Top(classes, scores))


def hard(images: Tensor) -> Answer:
    return Answer(images.flatten(1)[:, 0].long() % 4 - 1)


def record(suspect: Suspect, path: Path, data: ImageDataset, parts: int = 2) -> Answer:
    """Ask all images in some calls."""
    with suspects.recording(suspect, path, data.shape, data.classes) as recorded:
        found = [recorded.scores(part) for part in data.images.chunk(parts)]
    return join(found)


def same(first: Answer, second: Answer) -> bool:
    def flat(answer: Answer) -> list[Tensor]:
        soft = [] if answer.probabilities is None else [answer.probabilities]
        return [answer.labels, *soft, *([answer.top.classes, answer.top.scores] if answer.top else [])]

    pairs = list(itertools.zip_longest(flat(first), flat(second)))
    return all(a is not None and b is not None and torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("answer", [soft, best, hard])
@pytest.mark.parametrize("backwards", [False, True])
def test_interrupted_anywhere_it_goes_on_and_ends_the_same(
    toy: ImageDataset, tmp_path: Path, answer: Callable[[Tensor], Answer], backwards: bool
) -> None:
    whole = record(Scripted(answer), tmp_path / "whole.jsonl", toy)
    assert same(whole, answer(toy.images))
    path, asked = tmp_path / "parts.jsonl", []
    for stop in (7, 14, 21, 28):
        suspect = Scripted(answer, stop, backwards=backwards)
        with pytest.raises(KeyboardInterrupt):
            record(suspect, path, toy)
        asked += suspect.asked
        with pytest.raises(UserError, match="truncated, or not finished"):
            suspects.verify(path)
        with path.open("ab") as file:  # killed while it wrote
            file.write(b'{"half a li')
    suspect = Scripted(answer, backwards=backwards)
    assert same(record(suspect, path, toy), whole)
    asked += suspect.asked
    assert sorted(asked) == sorted(image.numpy().tobytes() for image in toy.images)
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    nobody = Scripted(answer, 0)
    assert same(record(nobody, path, toy), whole)  # finished: nobody is asked
    verified = suspects.verify(path)
    assert len(verified.records) == 90
    assert verified.records[0]["image"] == hashlib.sha256(toy.images[0].numpy().tobytes()).hexdigest()


def test_a_transcript_of_another_suspect_or_other_images_is_not_resumed(
    toy: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.jsonl"
    with pytest.raises(KeyboardInterrupt):
        record(Scripted(hard, 14), path, toy)
    other = toy_images(90, seed=1)
    with pytest.raises(UserError, match="answer 0 there is on another image"):
        record(Scripted(hard), path, other)
    suspect = Scripted(hard)
    monkeypatch.setattr(suspect, "describe", lambda: {"kind": "other"})
    with pytest.raises(UserError, match=r"another suspect or other images \(suspect differ\)"):
        record(suspect, path, toy)
    record(Scripted(hard), path, toy)
    with pytest.raises(UserError, match="is finished after 90 answers"):
        record(Scripted(hard), path, ImageDataset(toy.images.repeat(2, 1, 1, 1), toy.labels.repeat(2),
                                                  toy.ids.repeat(2), toy.classes), 1)  # fmt: skip


@pytest.fixture
def finished(toy: ImageDataset, tmp_path: Path) -> Path:
    path = tmp_path / "t.jsonl"
    record(Scripted(soft), path, toy.subset(torch.arange(12)))
    return path


def rechained(lines: list[bytes]) -> list[bytes]:
    """The same lines with every hash made anew: what a forger who knows the format does."""
    last, found = transcript.START, []
    for line in lines:
        value = json.loads(line) | {"previous": last}
        found.append(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())
        last = hashlib.sha256(found[-1]).hexdigest()
    return found


FORGERIES: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "label": lambda x: [*x[:5], x[5].replace(b'"label":', b'"label":1'), *x[6:]],
    "first": lambda x: [x[0].replace(b"scripted", b"somebody"), *x[1:]],
    "last record": lambda x: [*x[:-2], x[-2].replace(b'"position":11', b'"position":10'), x[-1]],
    "end": lambda x: [*x[:-1], x[-1].replace(b"12", b"11")],
    "dropped": lambda x: x[:4] + x[5:],
    "dropped first": lambda x: x[1:],
    "dropped last": lambda x: [*x[:-2], x[-1]],
    "reordered": lambda x: [*x[:4], x[5], x[4], *x[6:]],
    "doubled": lambda x: [*x[:5], x[4], *x[5:]],
    "truncated": lambda x: x[:-1],
    "shortened": lambda x: x[:6],
    "added": lambda x: [*x, x[-2]],
    "blank": lambda x: [*x[:3], b"", *x[3:]],
    "spaced": lambda x: [*x[:-1], x[-1].replace(b":", b": ")],
    "repeated key": lambda x: [*x[:-1], b'{"end":11,' + x[-1][1:]],
    "empty": lambda x: [],
    "end anew": lambda x: [*x[:6], json.dumps({"end": 5, "previous": json.loads(x[-1])["previous"]},
                                              sort_keys=True, separators=(",", ":")).encode()],
}  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_every_forgery_is_found(finished: Path, name: str) -> None:
    lines = finished.read_bytes().splitlines()
    finished.write_bytes(b"".join(line + b"\n" for line in FORGERIES[name](lines)))
    with pytest.raises(UserError, match=r"t\.jsonl"):
        suspects.verify(finished)


def test_a_chain_made_anew_is_found_by_the_published_head(finished: Path) -> None:
    head = suspects.verify(finished).head
    assert suspects.verify(finished, head).head == head
    lines = finished.read_bytes().splitlines()
    for forged in (
        [*lines[:5], lines[5].replace(b'"label":', b'"label":1'), *lines[6:]],
        [*lines[:6], b'{"end":5}'],
    ):
        finished.write_bytes(b"\n".join(rechained(forged)) + b"\n")
        suspects.verify(finished)  # against itself it holds
        with pytest.raises(UserError, match="not the published"):
            suspects.verify(finished, head)


@settings(FUZZ, max_examples=examples(400))
@given(place=st.integers(0, 1 << 20), value=st.integers(0, 255), cut=st.none() | st.integers(0, 1 << 20))
def test_any_changed_byte_is_found(finished: Path, place: int, value: int, cut: int | None) -> None:
    sound = finished.read_bytes()
    data = bytearray(sound)
    data[place % len(data)] = value
    data = data if cut is None else data[: cut % len(data)]
    changed = finished.with_name("changed.jsonl")
    changed.write_bytes(data)
    if data == sound:
        assert suspects.verify(changed)
        return
    with pytest.raises(UserError, match=r"changed\.jsonl"):
        suspects.verify(changed)
    # Resumed it is refused as well, or cut back to what is sound; but a number of the last whole line of an unfinished
    # transcript may be any other, for no line follows from it yet.
    kept = bytes(data[: data.rfind(b"\n") + 1])
    try:
        record(Scripted(soft), changed, toy_images(90).subset(torch.arange(12)))
    except UserError:
        return
    if kept != sound[: len(kept)] and place % len(sound) > kept.rfind(b"\n", 0, -1):
        assert suspects.verify(changed).records[0].keys() == suspects.verify(finished).records[0].keys()
        return
    assert changed.read_bytes() == sound


def test_a_record_has_no_parts_but_those_of_an_answer(finished: Path) -> None:
    header, first, *_ = finished.read_bytes().splitlines()
    finished.write_bytes(b"\n".join([header, first.replace(b'"probabilities"', b'"pro abilities"')]) + b"\n")
    with pytest.raises(UserError, match="line 2: not the record of image 0"):
        record(Scripted(soft), finished, toy_images(90).subset(torch.arange(12)))


@pytest.mark.parametrize("line", [b"{}", b"[]", b"\xff", b'{"sent":-1}', b'{"image":"x","label":9,"position":1}'])
def test_a_damaged_side_file_is_one_line(finished: Path, toy: ImageDataset, line: bytes) -> None:
    finished.with_name("t.jsonl.side").write_bytes(line + b"\n")
    with pytest.raises(UserError, match=r"t\.jsonl\.side: line 1"):
        record(Scripted(soft), finished, toy.subset(torch.arange(12)))


def test_a_suspect_that_answers_at_random_is_noticed(cpu: Runtime) -> None:
    images = torch.randint(0, 256, (400, 1, 8, 8), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)

    def moody(images: Tensor) -> Answer:
        return Answer(torch.randint(0, 3, (len(images),), generator=generator))

    _, steady = suspects.ask_twice(Scripted(soft), images, 0.5, cpu.generator("x"))
    assert (steady.repeated, steady.different, steady.largest) == (200, 0, 0.0)
    answer, random = suspects.ask_twice(Scripted(moody), images, 0.5, cpu.generator("x"))
    assert len(answer) == 400
    assert random.share == pytest.approx(2 / 3, abs=0.1)
    assert random.largest is None


# ------------------------------------------------------------------------------------- over HTTP, and the command


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving.serving(band) as running:
        yield running


def test_over_http_budget_and_answers_outlive_a_failure(
    server: Server, toy: ImageDataset, cpu: Runtime, tmp_path: Path
) -> None:
    def run(**extra: Any) -> Answer:
        block = {"kind": "http", "url": server.url, "batch": 10, "in_flight": 3, "attempts": 1, **extra}
        suspect = suspects.build("s", block, toy.classes, toy.shape, cpu)
        return record(suspect, tmp_path / "t.jsonl", toy, 1)

    # The first to arrive (any of the three in flight) fails when all have come: the answers to the others are kept.
    server.faults = [serving.once(30, serving.status(500)), serving.slow(0.2), serving.slow(0.2)]
    with pytest.raises(UserError, match=r"request [1-3] of 9"):
        run(budget=100)
    sent = len(server.images)
    assert sent == 30
    with pytest.raises(UserError, match="70 images to send, 69 of 99 left"):
        run(budget=99)
    assert len(server.images) == sent
    assert torch.equal(run(budget=100, in_flight=1).labels, toy.labels)
    assert len(server.images) == 100
    fresh = tmp_path / "fresh.jsonl"
    block = {"kind": "http", "url": server.url, "batch": 90}
    record(suspects.build("s", block, toy.classes, toy.shape, cpu), fresh, toy, 1)
    assert fresh.read_bytes() == (tmp_path / "t.jsonl").read_bytes()


def files(folder: Path, data: ImageDataset, url: str, extra: str = "") -> list[str]:
    data.save(folder / "test.safetensors")
    (folder / "thief.yaml").write_text(f"kind: http\nurl: {url}\nbatch: 10\nin_flight: 1\n{extra}", encoding="utf-8")
    return [f"--suspect={folder / 'thief.yaml'}", f"--images={folder / 'test.safetensors'}",
            f"--out={folder / 't.jsonl'}"]  # fmt: skip


def test_the_command(server: Server, toy: ImageDataset, tmp_path: Path) -> None:
    options = files(tmp_path, toy, server.url)
    first = CliRunner().invoke(main, [*options, "--twice=0.1"], catch_exceptions=False)
    assert "accuracy 100.0% of 90 images" in first.output
    assert "99 asked" in first.output
    assert "0 of 9 repeated images answered differently" in first.output
    assert suspects.verify(tmp_path / "t.jsonl").head in first.output
    again = CliRunner().invoke(main, [*options, "--twice=0.1"], catch_exceptions=False)
    assert "0 asked now; the rest is from the transcript" in again.output
    assert len(server.images) == 99


def test_the_command_is_interrupted_and_goes_on(server: Server, toy: ImageDataset, tmp_path: Path) -> None:
    server.faults = [serving.slow(0.3)] * 30
    # What was started in the background of a shell ignores the signal, and so would its child.
    options = ["env", "--default-signal=INT", sys.executable, "-m", "hallmark", "ask"]
    options += map(str, files(tmp_path, toy, server.url))
    process = subprocess.Popen(options, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while len(server.images) < 30 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, error = process.communicate(timeout=60)
    assert process.returncode == 130, output + error
    assert "Traceback" not in error
    assert len(server.images) < 90
    server.faults = []
    done = subprocess.run(options, check=True, capture_output=True, text=True)
    assert "accuracy 100.0% of 90 images" in done.stdout
    kept = len(suspects.verify(tmp_path / "t.jsonl").records)
    assert kept == 90
    asked = images_sent(tmp_path / "t.jsonl.side")
    assert asked == len(server.images) <= 100  # one request was in flight when it was interrupted


def images_sent(side: Path) -> int:
    return sum(json.loads(line).get("sent", 0) for line in side.read_text(encoding="utf-8").splitlines())
