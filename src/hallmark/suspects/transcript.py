"""Every question and every answer, in order, as a chain of hashes that shows any later change.

``T.jsonl`` has one line of canonical JSON each: a header (who was asked, about which classes and shape), one record
an image (its position, SHA-256 of its bytes, the answer whole), and at the end how many there are.  Each line holds
the SHA-256 of the line before, so the last line's hash, the *head*, stands for all of them.  Nothing in it depends
on time or on the order in which answers came: an interrupted and resumed transcript has the same bytes.

``T.jsonl.side`` holds what is not evidence, in the order in which it happened: when how many images were sent (the
budget counts on over interruptions), and answers that came before their turn.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from torch import Tensor

from hallmark.errors import UserError
from hallmark.suspects.answer import Answer, Arrived, Suspect, unrecorded
from hallmark.suspects.record import PARTS, from_json, to_json

FORMAT = "hallmark-transcript-1"
START = "0" * 64
"""In place of a hash where no line is before."""
MAX_LINE = 8 << 20
"""Bytes of a line; longer ones are not read."""


@dataclass(frozen=True)
class Verified:
    """A whole transcript.

    Attributes:
        header: who was asked about what.
        records: one dictionary an image, in order.
        head: SHA-256 of the last line; publish or sign it, for whoever can write the file can make another chain.
    """

    header: dict[str, Any]
    records: list[dict[str, Any]]
    head: str


def verify(path: Path, head: str | None = None, most: int | None = None) -> Verified:
    """Check a finished transcript: every line as it was written, all of them, in order.

    Args:
        head: the hash that was published; None checks the file only against itself.
        most: records; what comes after more is not read.

    Raises:
        UserError: a changed, dropped, added, reordered or missing line, and which; or too many.
    """
    header, records, end, last = _read(path, most=most)
    if header is None or end is None:
        raise UserError(f"{path}: ends after {len(records):,} records without an end: truncated, or not finished")
    if head is not None and head != last:
        raise UserError(f"{path}: its head is {last}, not the published {head}: this is another transcript")
    return Verified(header, records, last)


class Recorded(Suspect):
    """A suspect whose every answer is kept.  Make one with :func:`recording`.

    Questions are matched by their order: what the file already holds is answered from it, and must be about the
    same images; the rest is put to the suspect and appended.
    """

    def __init__(self, suspect: Suspect, path: Path, shape: tuple[int, int, int], classes: tuple[str, ...]) -> None:
        self._suspect, self._path, self._classes = suspect, path, len(classes)
        self.budget = suspect.budget
        self._cursor = 0
        self.asked = 0
        """Images whose answer came from the suspect, not from the file."""
        header, self._records, self._end, self._last = (
            _read(path, mend=True) if path.exists() else (None, [], None, START)
        )
        wanted = {
            "format": FORMAT,
            "suspect": suspect.describe(),
            "classes": list(classes),
            "shape": list(shape),
            "previous": START,
        }
        if header is not None and header != json.loads(json.dumps(wanted)):
            different = ", ".join(key for key in wanted if header.get(key) != json.loads(json.dumps(wanted[key])))
            what = f"is about another suspect or other images ({different} differ)"
            raise UserError(f"{path}: {what}; give another --out, or remove it")
        side = path.with_name(path.name + ".side")
        sent, self._early = _read_side(side, self._classes)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = open(path, "ab")  # noqa: SIM115 - closed by recording()
        self._side: IO[bytes] = open(side, "ab")  # noqa: SIM115
        if header is None:
            self._append(wanted)
        if self.budget is not None:
            self.budget.used += sent
            self.budget.record = self._sent

    def describe(self) -> dict[str, Any]:
        return self._suspect.describe()

    def ask(self, images: Tensor, arrived: Arrived) -> None:
        begin, hashes = self._cursor, [_hash(image) for image in images]
        hint = "; the same images in the same order resume it, others want another --out"
        known = _answers(self._records, begin, hashes, self._classes, str(self._path), hint)
        if len(known):
            arrived(0, known)
        left = range(len(known), len(images))
        if self._end is not None and left:
            raise UserError(f"{self._path}: is finished after {len(self._records):,} answers; give another --out")
        early = {i: self._early.get((begin + i, hashes[i])) for i in left}
        missing = [i for i in left if early[i] is None]
        pending = {i: answer for i, answer in early.items() if answer is not None}

        def flush() -> None:
            """Append what has its turn."""
            turn = len(self._records) - begin
            while turn in pending:
                answer = pending.pop(turn)
                self._record(begin + turn, hashes[turn], answer)
                arrived(turn, answer)
                turn += 1

        def keep(start: int, answer: Answer) -> None:
            self.asked += len(answer)
            own = {missing[start + k]: answer.part(k, k + 1) for k in range(len(answer))}
            pending.update(own)
            flush()
            for i, each in own.items():
                if i in pending:
                    self._early[begin + i, hashes[i]] = each
                    self._note({"position": begin + i, "image": hashes[i]} | to_json(each))

        flush()
        if missing:
            self._suspect.ask(images[missing], keep)
        self._cursor = begin + len(images)

    def finish(self) -> str:
        """Write the end, and return the head.  Nothing can be appended then."""
        if self._end is None:
            self._end = {"end": len(self._records), "previous": self._last}
            self._append(self._end)
        return self._last

    def close(self) -> None:
        """Close both files; an unfinished transcript can be resumed."""
        if self.budget is not None:
            self.budget.record = unrecorded
        self._file.close()
        self._side.close()

    def _record(self, position: int, image: str, answer: Answer) -> None:
        record = {"position": position, "image": image} | to_json(answer) | {"previous": self._last}
        self._append(record)
        self._records.append(record)

    def _append(self, line: dict[str, Any]) -> None:
        data = _canonical(line)
        self._file.write(data + b"\n")
        self._file.flush()
        self._last = hashlib.sha256(data).hexdigest()

    def _sent(self, count: int) -> None:
        self._note({"sent": count})

    def _note(self, line: dict[str, Any]) -> None:
        self._side.write(_canonical(line | {"time": round(time.time(), 3)}) + b"\n")
        self._side.flush()


class Replayed(Suspect):
    """A suspect's answers from its finished transcript, in their order; nobody is asked.

    Args:
        where: the transcript's name, for messages.
        shape, classes: ours, which must be the transcript's.

    Raises:
        UserError: it is about other images or classes.
    """

    def __init__(self, verified: Verified, where: str, shape: tuple[int, int, int], classes: tuple[str, ...]) -> None:
        self._verified, self._where, self._classes = verified, where, len(classes)
        self._cursor = 0
        for name, ours in (("classes", list(classes)), ("shape", list(shape))):
            if verified.header.get(name) != ours:
                raise UserError(f"{where}: is about other {name} than are asked for now")

    def describe(self) -> dict[str, Any]:
        return self._verified.header["suspect"]

    def ask(self, images: Tensor, arrived: Arrived) -> None:
        """As :meth:`Suspect.ask`; an image that is not the transcript's next is a :class:`UserError`."""
        hashes = [_hash(image) for image in images]
        answer = _answers(self._verified.records, self._cursor, hashes, self._classes, self._where)
        self._cursor += len(answer)
        if len(answer) < len(images):
            raise UserError(f"{self._where}: ends after {self._cursor:,} answers, and more is asked")
        arrived(0, answer)

    def finish(self) -> None:
        """Raises UserError: the transcript has answers to more than was asked."""
        if (count := len(self._verified.records)) > self._cursor:
            raise UserError(f"{self._where}: has {count:,} answers, {self._cursor:,} are asked for")


@contextmanager
def recording(
    suspect: Suspect, path: Path, shape: tuple[int, int, int], classes: tuple[str, ...]
) -> Iterator[Recorded]:
    """Keep a suspect's answers in ``path`` and go on where an interruption left it; finished if the block ends well.

    Args:
        shape, classes: (C, H, W) of our images and our class names.

    Raises:
        UserError: ``path`` is damaged, or about another suspect.
    """
    recorded = Recorded(suspect, path, shape, classes)
    try:
        yield recorded
        recorded.finish()
    finally:
        recorded.close()


def _answers(  # noqa: PLR0917
    records: list[dict[str, Any]], begin: int, hashes: list[str], classes: int, where: str, hint: str = ""
) -> Answer:
    """The answers recorded from position ``begin`` on, one of each of these images as far as there are any.

    Raises:
        UserError: one is on another image (``hint`` says what to do then), or not sound.
    """
    found = records[begin : begin + len(hashes)]
    for position, (record, image) in enumerate(zip(found, hashes, strict=False), begin):
        if record["image"] != image:
            raise UserError(f"{where}: answer {position:,} there is on another image than is asked now{hint}")
    return from_json(found, classes, where, begin)


def _hash(image: Tensor) -> str:
    return hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest()


def _canonical(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _lines(path: Path) -> Iterator[tuple[int, bytes, bool]]:
    """Offset, content and completeness of each line.

    Raises:
        UserError: it cannot be read, or a line is longer than any that is written.
    """
    try:
        with open(path, "rb") as file:
            offset = 0
            while line := file.readline(MAX_LINE + 1):
                if len(line) > MAX_LINE:
                    raise UserError(f"{path}: a line of more than {MAX_LINE >> 20} MiB; this is no transcript")
                yield offset, line.removesuffix(b"\n"), line.endswith(b"\n")
                offset += len(line)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _read(
    path: Path, *, mend: bool = False, most: int | None = None
) -> tuple[dict[str, Any] | None, list[dict[str, Any]], dict[str, Any] | None, str]:
    """Header, records, end (None where they are missing) and hash of the last line.

    Args:
        mend: cut off a last line that an interruption left half-written.
        most: records; more are refused.
    """
    header: dict[str, Any] | None = None
    end: dict[str, Any] | None = None
    records: list[dict[str, Any]] = []
    last = START
    for number, (offset, line, complete) in enumerate(_lines(path), 1):
        where = f"{path}: line {number:,}"
        if not complete:
            if not mend:
                raise UserError(f"{where} is cut off: truncated, or not finished")
            os.truncate(path, offset)
            break
        value = _parsed(line, where)
        if value.get("previous") != last:
            raise UserError(f"{where} does not follow from the line before: something was changed, dropped or moved")
        if end is not None:
            raise UserError(f"{where} stands after the end")
        if header is None:
            if value.get("format") != FORMAT:
                raise UserError(f"{where}: not the header of a transcript ({FORMAT})")
            header = value
        elif "end" in value:
            if value != {"end": len(records), "previous": last}:
                raise UserError(f"{where}: an end after {value['end']!r:.40} records, but there are {len(records):,}")
            end = value
        elif (
            value.get("position") != len(records)
            or not isinstance(value.get("image"), str)
            or value.keys() - {"position", "image", "previous", *PARTS}  # "pro abilities" were none at all
        ):
            raise UserError(f"{where}: not the record of image {len(records):,}")
        elif len(records) == most:
            raise UserError(f"{where}: more than the {most:,} answers that there can be")
        else:
            records.append(value)
        last = hashlib.sha256(line).hexdigest()
    return header, records, end, last


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    """A line, which must be written exactly as :func:`_canonical` writes it."""
    try:
        value = json.loads(line)
        if isinstance(value, dict) and _canonical(value) == line:
            return value
    except (ValueError, RecursionError):
        pass
    raise UserError(f"{where}: not a line that Hallmark wrote; it was changed")


def _read_side(path: Path, classes: int) -> tuple[int, dict[tuple[int, str], Answer]]:
    """Images sent so far, and early answers by position and image.  A line that was cut off holds nothing yet."""
    sent, early = 0, {}
    for number, (offset, line, complete) in enumerate(_lines(path) if path.exists() else (), 1):
        if not complete:
            os.truncate(path, offset)
            break
        where = f"{path}: line {number:,}"
        value = _parsed(line, where)
        if "sent" in value:
            if type(value["sent"]) is not int or value["sent"] < 0:
                raise UserError(f"{where}: no number of images")
            sent += value["sent"]
        elif type(value.get("position")) is int and isinstance(value.get("image"), str):
            early[value["position"], value["image"]] = from_json([value], classes, where)
        else:
            raise UserError(f"{where}: neither images sent nor an answer")
    return sent, early
