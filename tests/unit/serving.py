"""A suspect behind HTTP for tests: a server in a thread that answers in either form, with faults on demand."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

Fault = Callable[["Handler", Any], bool]
"""Answers in the handler's place, given the honest answer; False lets the honest answer follow."""


def images_of(body: dict[str, Any]) -> Tensor:
    """uint8 ``[N, C, H, W]`` of a request in Hallmark's form, or float of MLflow's."""
    if "inputs" in body:
        return torch.tensor(body["inputs"], dtype=torch.float32)
    found = []
    for text in body["images"]:
        data = base64.b64decode(text)
        if body["encoding"] == "png":
            pixels = np.array(Image.open(io.BytesIO(data)))
            image = torch.from_numpy(pixels if pixels.ndim == 3 else pixels[:, :, None]).permute(2, 0, 1)
        else:
            image = torch.frombuffer(bytearray(data), dtype=torch.uint8).view(body["shape"])
            image = image.permute(2, 0, 1) if body["layout"] == "hwc" else image
        found.append(image)
    return torch.stack(found)


class Server(ThreadingHTTPServer):
    """Counts what it gets; ``faults`` are used up one a request."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, answer: Callable[[dict[str, Any]], Any]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = answer
        self.faults: list[Fault] = []
        self.images: list[bytes] = []
        """Every image that arrived, by its bytes."""
        self.starts: list[float] = []
        self.headers: list[dict[str, str]] = []
        self.busy = self.most_busy = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error of the test."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_POST(self) -> None:
        begin = time.monotonic()
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = images_of(body)
        with self.server.lock:
            self.server.starts.append(begin)
            self.server.headers.append(dict(self.headers))
            self.server.images += [image.numpy().tobytes() for image in asked]
            fault = self.server.faults.pop(0) if self.server.faults else None
            self.server.busy += 1
            self.server.most_busy = max(self.server.most_busy, self.server.busy)
        try:
            value = self.server.answer(body)
            if fault is None or not fault(self, value):
                self.reply(json.dumps(value).encode())
        finally:
            with self.server.lock:
                self.server.busy -= 1

    def reply(self, data: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@contextmanager
def serving(answer: Callable[[dict[str, Any]], Any]) -> Iterator[Server]:
    """A running server; ``answer`` makes of a request's JSON an answer's."""
    server = Server(answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def status(code: int, **headers: str) -> Fault:
    """An error page."""

    def fault(handler: Handler, value: Any) -> bool:
        handler.reply(b"<html>no</html>", code, **headers)
        return True

    return fault


def replies(data: bytes, **headers: str) -> Fault:
    """These bytes as an answer."""

    def fault(handler: Handler, value: Any) -> bool:
        handler.reply(data, 200, **headers)
        return True

    return fault


def dropped(handler: Handler, value: Any) -> bool:
    """The connection ends without a word."""
    handler.close_connection = True
    handler.connection.close()
    return True


def truncated(handler: Handler, value: Any) -> bool:
    """Half of what was promised."""
    data = json.dumps(value).encode()
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data[: len(data) // 2])
    handler.wfile.flush()
    return dropped(handler, value)


def slow(seconds: float) -> Fault:
    """Nothing for so long, then the answer."""

    def fault(handler: Handler, value: Any) -> bool:
        time.sleep(seconds)
        return False

    return fault


def once(images: int, then: Fault) -> Fault:
    """``then``, as soon as so many images have come (in this and other requests), or after ten seconds."""

    def fault(handler: Handler, value: Any) -> bool:
        deadline = time.monotonic() + 10
        while len(handler.server.images) < images and time.monotonic() < deadline:
            time.sleep(0.005)
        return then(handler, value)

    return fault


def trickle(handler: Handler, value: Any) -> bool:
    """A byte now and then: every single read is in time, the whole never."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(40):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)
    handler.close_connection = True
    return True


def endless(handler: Handler, value: Any) -> bool:
    """Megabytes without an end; ends when the client hangs up."""
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for _ in range(1000):
        handler.wfile.write(b"10000\r\n" + b"[" * 65536 + b"\r\n")
    return True
