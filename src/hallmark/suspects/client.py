"""Asking a suspect behind HTTP: batches in flight, pace, retries, budget, bounded answers."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hallmark.errors import UserError
from hallmark.suspects.adapt import Adapter, Classes, Meaning
from hallmark.suspects.answer import Answer, Arrived, Budget, Suspect
from hallmark.suspects.forms import Encoding, Form, max_answer_bytes, read, request

if TYPE_CHECKING:
    import httpx2
    import tenacity

TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
"""Statuses after which the same request may succeed."""


@dataclass(frozen=True)
class Limits:
    """How a server is asked.

    Attributes:
        batch: images a request.
        in_flight: requests at once.
        rate: requests a second, or None.
        timeout: seconds of one attempt, from connecting to the last byte.
        attempts: of each request.
        backoff: seconds before the second attempt, doubled each time, with jitter.
        max_wait: most seconds between two attempts.
    """

    batch: int = 64
    in_flight: int = 4
    rate: float | None = None
    timeout: float = 30.0
    attempts: int = 5
    backoff: float = 0.5
    max_wait: float = 60.0


class _TransientError(Exception):
    """An attempt failed, and another may succeed.

    Args:
        wait: seconds that the server asks to wait, if it does.
    """

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class Pace:
    """When the next request may start: at most ``rate`` a second, and none while the server asks to wait."""

    def __init__(self, rate: float | None) -> None:
        self._interval = 0.0 if rate is None else 1 / rate
        self._next = 0.0

    async def turn(self) -> None:
        """Wait for this request's turn."""
        while (now := time.monotonic()) < self._next:
            await asyncio.sleep(self._next - now)
        self._next = time.monotonic() + self._interval

    def pause(self, seconds: float) -> None:
        """Let no request start for so long."""
        self._next = max(self._next, time.monotonic() + seconds)


class Endpoint(Suspect):
    """A suspect at a URL.  :meth:`ask` may not be called inside a running event loop.

    Args:
        classes, meaning: the suspect's classes and what its scores are.
        budget: images that may be sent in all.
        headers: sent with every request; never recorded.
        where: the block, for messages.
    """

    def __init__(
        self,
        url: str,
        adapter: Adapter,
        classes: Classes,
        limits: Limits,
        *,
        form: Form,
        encoding: Encoding,
        meaning: Meaning,
        budget: int | None,
        headers: dict[str, str],
        where: str,
        description: dict[str, Any],
    ) -> None:
        self.url = url
        self.form: Form = form
        self.encoding: Encoding = encoding
        self.meaning: Meaning = meaning
        self.adapter, self.classes, self.limits = adapter, classes, limits
        self.budget = self._budget = Budget(budget)
        self._headers, self._where, self._description = headers, where, description
        self._pace = Pace(limits.rate)
        self._tls: ssl.SSLContext | bool | None = None

    def describe(self) -> dict[str, Any]:
        return self._description

    def ask(self, images: Tensor, arrived: Arrived) -> None:
        try:
            self._budget.require(len(images))
            self.adapter(images[:1])
        except UserError as error:
            raise UserError(f"{self._where}: {error}") from None
        asyncio.run(self._ask(images, arrived))

    async def _ask(self, images: Tensor, arrived: Arrived) -> None:
        """Workers take the next batch each.  After a failure none takes another, but what is sent is awaited:
        it counts against the budget, so its answer is worth keeping."""
        starts = range(0, len(images), self.limits.batch)
        queue = iter(enumerate(starts, 1))
        failures: dict[int, Exception] = {}

        async def work(client: httpx2.AsyncClient) -> None:
            for number, start in queue:
                part = images[start : start + self.limits.batch]
                name = f"{self._where}: request {number:,} of {len(starts):,} (images {start:,} to "
                name += f"{start + len(part) - 1:,}) to {self.url}"
                try:
                    arrived(start, await self._answer(client, part, name))
                except Exception as error:
                    failures[number] = error
                if failures:
                    return

        async with self._client() as client:
            await asyncio.gather(*(work(client) for _ in range(min(self.limits.in_flight, len(starts)))))
        if failures:
            raise failures[min(failures)]

    def _client(self) -> httpx2.AsyncClient:
        import httpx2  # noqa: PLC0415 - a command that asks no server does not need it

        if self._tls is None:  # reading the system's certificates takes longer than many a request
            self._tls = httpx2.create_ssl_context() if self.url.startswith("https:") else False
        return httpx2.AsyncClient(
            headers={
                "Accept": "application/json",
                # A compressed answer could unpack to any size before its length is known.
                "Accept-Encoding": "identity",
                "Content-Type": "application/json",
                "User-Agent": "hallmark",
                **self._headers,
            },
            verify=self._tls,
            timeout=self.limits.timeout,
            limits=httpx2.Limits(max_connections=self.limits.in_flight),
            follow_redirects=False,
        )

    async def _answer(self, client: httpx2.AsyncClient, images: Tensor, name: str) -> Answer:
        """One request, with its attempts.

        Raises:
            UserError: no answer after the last attempt, none that may come, one that is not sound, or no budget.
        """
        body = request(self.form, self.encoding, self.adapter(images), self.adapter)

        async def attempt() -> bytes:
            await self._pace.turn()
            self._budget.spend(len(images))
            return await self._post(client, body, max_answer_bytes(len(images), len(self.classes.theirs)))

        try:
            return read(self.form, await self._retried(attempt), len(images), self.classes, self.meaning)
        except _TransientError as error:
            raise UserError(f"{name}: no answer after {self.limits.attempts} attempts; the last: {error}") from None
        except UserError as error:
            raise UserError(f"{name}: {error}") from None

    async def _retried(self, attempt: Callable[[], Awaitable[bytes]]) -> bytes:
        import tenacity  # noqa: PLC0415 - as httpx2

        backoff = tenacity.wait_exponential(multiplier=self.limits.backoff, max=self.limits.max_wait)
        backoff += tenacity.wait_random(0, self.limits.backoff)

        def wait(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome is not None else None
            asked = error.wait if isinstance(error, _TransientError) else None
            if asked is None:
                return backoff(state)
            self._pace.pause(asked)  # the others would be refused as well
            return asked

        retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(self.limits.attempts),
            wait=wait,
            retry=tenacity.retry_if_exception_type(_TransientError),
            reraise=True,
        )
        return await retrying(attempt)

    async def _post(self, client: httpx2.AsyncClient, body: bytes, limit: int) -> bytes:
        import httpx2  # noqa: PLC0415 - see _client

        try:
            # Over all of it: a server that sends a byte now and then keeps every single read in time.
            async with (
                asyncio.timeout(self.limits.timeout),
                client.stream("POST", self.url, content=body) as response,
            ):
                self._must_be_good(response)
                parts, size = [], 0
                async for chunk in response.aiter_raw():
                    size += len(chunk)
                    if size > limit:
                        raise UserError(f"an answer of more than {limit:,} bytes, the most that is honest; it is cut")
                    parts.append(chunk)
                return b"".join(parts)
        except TimeoutError:
            raise _TransientError(f"no whole answer within {self.limits.timeout:g} s (timeout)") from None
        except httpx2.TransportError as error:
            raise _TransientError(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__) from None
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError) as error:
            raise UserError(f"{type(error).__name__}: {error}") from None

    def _must_be_good(self, response: httpx2.Response) -> None:
        status = response.status_code
        if status in TRANSIENT:
            wait = retry_after(response.headers.get("retry-after", ""))
            if wait is not None and wait > self.limits.max_wait:
                raise UserError(
                    f"HTTP {status}, and it asks to wait {wait:,.0f} s; ask again later, or raise max_wait "
                    f"({self.limits.max_wait:g} s)"
                )
            raise _TransientError(f"HTTP {status}", wait)
        if status != 200:
            hint = f" to {response.headers.get('location', '')[:200]!r}" if 300 <= status < 400 else ""
            raise UserError(f"HTTP {status}{hint}; mend url, form or headers_from_env")
        coding = response.headers.get("content-encoding", "identity")
        if coding.lower() not in ("", "identity"):
            raise UserError(f"an answer compressed by {coding[:40]!r}, which was not asked for")


def retry_after(value: str) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or as a date; None if it is neither."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:12])
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())
