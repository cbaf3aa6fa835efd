"""The two JSON forms in which a suspect behind HTTP is asked and answers; plain functions, no network.

Everything of a server is untrusted: an answer is taken only if every number in it is what it must be.
"""

from __future__ import annotations

import base64
import io
import json
import math
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from hallmark.errors import UserError
from hallmark.suspects.adapt import LARGEST, Adapter, Classes, Meaning
from hallmark.suspects.answer import Answer

Form = Literal["json", "mlflow"]
Encoding = Literal["png", "raw"]
KEYS = ("labels", "scores", "top")


def max_answer_bytes(images: int, classes: int) -> int:
    """The most bytes that an answer on so many images can honestly take: a wordy number and a name a class."""
    return (64 << 10) + images * (64 + 64 * classes)


def request(form: Form, encoding: Encoding, images: Tensor, adapter: Adapter) -> bytes:
    """The body of a request.

    Args:
        images: the suspect's, as the adapter makes them; uint8 for the form ``json``.
    """
    if form == "mlflow":
        return json.dumps({"inputs": images.tolist()}, separators=(",", ":")).encode()
    body: dict[str, Any] = {"encoding": encoding, "shape": list(adapter.expected)}
    if encoding == "png":
        planes = images.permute(0, 3, 1, 2) if adapter.input.layout == "nhwc" else images
        body["images"] = [_base64(_png(plane)) for plane in planes]
    else:
        body["layout"] = adapter.input.layout[1:]
        body["images"] = [_base64(image.numpy().tobytes()) for image in images]
    return json.dumps(body, separators=(",", ":")).encode()


def _png(image: Tensor) -> bytes:
    buffer = io.BytesIO()
    pixels = image[0] if len(image) == 1 else image.permute(1, 2, 0)
    # Level 1: the last few per cent of size cost several times the time.
    Image.fromarray(pixels.contiguous().numpy()).save(buffer, "png", compress_level=1)
    return buffer.getvalue()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def read(form: Form, body: bytes, images: int, classes: Classes, meaning: Meaning) -> Answer:
    """The answer that a response's body holds.

    Args:
        images: that were asked.

    Raises:
        UserError: anything else than one sound answer an image.
    """
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        text = " ".join(body[:60].decode("utf-8", "replace").split())
        raise UserError(f"not JSON ({str(error)[:80]}); it begins {text!r}") from None
    if not isinstance(value, dict):
        raise UserError(f"{_kind(value)} where a JSON object is expected")
    if form == "mlflow":
        if "predictions" not in value:
            raise UserError(f"no 'predictions' in it, but {_names(value)}")
        return _predictions(value["predictions"], images, classes, meaning)
    found = [key for key in KEYS if key in value]
    if len(found) != 1:
        raise UserError(f"wants exactly one of {', '.join(KEYS)}, but has {_names(value)}")
    return _READ[found[0]](value[found[0]], images, classes, meaning)


def _predictions(value: Any, images: int, classes: Classes, meaning: Meaning) -> Answer:
    rows = _sequence(value, images, "predictions")
    whole = _labels if not isinstance(rows[0], list) else _scores
    return whole(rows, images, classes, meaning)


def _labels(value: Any, images: int, classes: Classes, meaning: Meaning) -> Answer:
    rows = _sequence(value, images, "labels")
    return classes.hard(torch.tensor([_class(item, classes) for item in rows], dtype=torch.int64))


def _scores(value: Any, images: int, classes: Classes, meaning: Meaning) -> Answer:
    k = len(classes.theirs)
    rows = [[_number(item) for item in _sequence(row, k, "scores of an image")] for row in
            _sequence(value, images, "scores")]  # fmt: skip
    return classes.soft(torch.tensor(rows, dtype=torch.float64), meaning)


def _top(value: Any, images: int, classes: Classes, meaning: Meaning) -> Answer:
    rows = _sequence(value, images, "top")
    most = len(classes.theirs)
    labels, scores = [], []
    for row in rows:
        if not isinstance(row, list) or not 1 <= len(row) <= most:
            raise UserError(f"{_kind(row)} where 1 to {most} pairs [class, score] of an image are expected")
        pairs = [_sequence(pair, 2, "a pair [class, score]") for pair in row]
        own = [_class(pair[0], classes) for pair in pairs]
        if len(set(own)) != len(own):
            raise UserError("a class stands twice among the top classes of an image")
        labels.append(own)
        scores.append([_number(pair[1]) for pair in pairs])
    k = max(map(len, labels))
    return classes.best(
        torch.tensor([row + [-1] * (k - len(row)) for row in labels], dtype=torch.int64),
        torch.tensor([row + [0.0] * (k - len(row)) for row in scores], dtype=torch.float64),
    )


_READ = {"labels": _labels, "scores": _scores, "top": _top}


def _sequence(value: Any, length: int, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise UserError(f"{what}: {_kind(value)} where a list is expected")
    if len(value) != length:
        raise UserError(f"{what}: {len(value):,} entries where {length:,} are expected")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{_kind(value)} where a number is expected")
    if not abs(value) < LARGEST:  # an integer of JSON has no limit, and 1e999 is infinity
        raise UserError("a number that is not finite, or beyond 1e30")
    return float(value)


def _class(value: Any, classes: Classes) -> int:
    if isinstance(value, str):
        if value not in classes.theirs:
            raise UserError(f"unknown class {value[:40]!r}; name the suspect's classes under 'classes'")
        return classes.theirs.index(value)
    number = _number(value)
    if not math.floor(number) == number or not 0 <= number < len(classes.theirs):
        raise UserError(f"unknown class {number:g}; the suspect's are 0 to {len(classes.theirs) - 1}")
    return int(number)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _names(value: dict[str, Any]) -> str:
    return ", ".join(repr(key[:30]) for key in list(value)[:5]) or "nothing"
