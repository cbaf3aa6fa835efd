"""A black box behind HTTP: MLflow's scoring server, or Hallmark's own small JSON form (docs/suspects.md)."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from hallmark.config import Count, Positive
from hallmark.errors import UserError, naming
from hallmark.runtime import Runtime
from hallmark.suspects.adapt import Adapter
from hallmark.suspects.answer import Suspect
from hallmark.suspects.block import Foreign
from hallmark.suspects.client import Endpoint, Limits
from hallmark.suspects.forms import Encoding, Form
from hallmark.suspects.majority import Majority


class Params(Foreign):
    """Block of a suspect of kind ``http``."""

    kind: Literal["http"]
    url: str
    form: Form = "json"
    encoding: Encoding = "raw"
    """Of the form json: each image as PNG or as its bytes, in base64 both."""
    headers_from_env: dict[str, str] = Field(default={})
    """Header to the environment variable that holds its value: secrets stand neither here nor in the transcript."""
    batch: Annotated[int, Field(ge=1, le=4096)] = 64
    """Images a request."""
    in_flight: Annotated[int, Field(ge=1, le=64)] = 4
    """Requests at once."""
    rate: Positive | None = None
    """Requests a second; None: no limit."""
    budget: Count | None = None
    """Images that may be sent in all, those sent again included; None: no limit."""
    times: Annotated[int, Field(ge=1, le=101)] = 1
    """How often every image is asked; its commonest answer counts.  For services whose answers are chance."""
    timeout: Positive = 30.0
    """Seconds from connecting to the last byte of an answer."""
    attempts: Annotated[int, Field(ge=1, le=100)] = 5
    """Of each request."""
    backoff: Positive = 0.5
    """Seconds before the second attempt; doubled each time, with jitter."""
    max_wait: Positive = 60.0
    """Most seconds between two attempts; a server that asks for more (Retry-After) is given up."""

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            port = parts.port
        except ValueError as error:
            raise ValueError(f"{value!r} is no URL ({error})") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or not value.isascii():
            raise ValueError(f"wants http://HOST... or https://HOST..., not {value!r}")
        if parts.username or parts.password:
            raise ValueError("has a password in it, and would be kept in the transcript; use headers_from_env")
        return value

    @model_validator(mode="after")
    def _bytes(self) -> Params:
        if self.form == "json" and (self.input.mean is not None or self.input.range != [0.0, 1.0]):
            raise ValueError("input: the form json sends images of 0-255; take out range, mean and std")
        return self

    def adapter(self, shape: tuple[int, int, int]) -> Adapter:
        sent = self.input.model_copy(update={"dtype": "uint8"}) if self.form == "json" else self.input
        return Adapter(sent, shape)


def open_suspect(
    params: Params, classes: tuple[str, ...], shape: tuple[int, int, int], runtime: Runtime, where: str
) -> Suspect:
    """Prepare to ask; nothing is sent yet.

    Raises:
        UserError: an environment variable is not set, or classes that are not ours and not mapped.
    """
    with naming(where):
        matched, adapter = params.match(classes), params.adapter(shape)
        headers = {name: _secret(name, variable) for name, variable in params.headers_from_env.items()}
    bare = urlsplit(params.url).path in ("", "/")
    url = params.url.rstrip("/") + "/invocations" if params.form == "mlflow" and bare else params.url
    limits = Limits(
        batch=params.batch,
        in_flight=params.in_flight,
        rate=params.rate,
        timeout=params.timeout,
        attempts=params.attempts,
        backoff=params.backoff,
        max_wait=params.max_wait,
    )
    endpoint = Endpoint(
        url,
        adapter,
        matched,
        limits,
        form=params.form,
        encoding=params.encoding,
        meaning=params.scores,
        budget=params.budget,
        headers=headers,
        where=where,
        description=_description(params),
    )
    return endpoint if params.times == 1 else Majority(endpoint, params.times)


def _secret(header: str, variable: str) -> str:
    value = os.environ.get(variable, "")
    if not value:
        raise UserError(f"headers_from_env.{header}: the environment variable {variable} is not set")
    if not (value.isascii() and value.isprintable() and header.isascii() and header.replace("-", "").isalnum()):
        raise UserError(f"headers_from_env.{header}: a header's name or value with characters that none can have")
    return value


def _description(params: Params) -> dict[str, Any]:
    """What decides the answers; how fast they are asked may differ when the asking goes on."""
    pace = {"batch", "in_flight", "rate", "budget", "timeout", "attempts", "backoff", "max_wait", "headers_from_env"}
    return params.model_dump(mode="json", exclude=pace)
