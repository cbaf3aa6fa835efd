"""What asking over HTTP costs: queries a second of one network behind a local server and in memory, in one run.

python benchmarks/http_suspect.py --images 2000
python benchmarks/http_suspect.py --pipeline . --out docs/results/http.csv    # after make run: a real verdict

The server is a process of its own, of Python's standard library, in Hallmark's JSON form; it answers with the same
network.  Labels, watermark success rate and verdict must be the same in both.
"""

from __future__ import annotations

import argparse
import base64
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hallmark import artifacts, models, runtime, suspects
from hallmark.config import Architecture, RuntimeConfig, VerifyOwnership
from hallmark.data.dataset import ImageDataset
from hallmark.ownership import keyfile
from hallmark.runtime import Runtime
from hallmark.suspects import memory
from hallmark.suspects.adapt import Classes
from hallmark.suspects.transcript import recording
from hallmark.verification import answers, questions
from hallmark.verification.decision import Nulls, decide
from hallmark.verification.panel import PANEL_COLUMNS, null_counts
from hallmark.watermark.key import Key

CLASSES = tuple("0123456789")
RULE = VerifyOwnership(
    queries=1000, decoys=5, judge_seed=0, confidence=0.95, alpha=0.01, keys=1, statistics=["hits"],
    min_accuracy_share=0.8, max_inconsistent=0.02, suspects={},
)  # fmt: skip
ONE_THREAD = RuntimeConfig(device="cpu", threads=1, precision="fp32", seed=0)


def serve(folder: Path) -> None:
    """Answer until killed; the port is the first line on standard output."""
    run = runtime.start(ONE_THREAD)
    network = models.load(folder, run)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            pixels = b"".join(map(base64.b64decode, body["images"]))
            images = torch.frombuffer(bytearray(pixels), dtype=torch.uint8).view(-1, *body["shape"])
            answer = json.dumps({"scores": models.logits(network, images, run).tolist()}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The URL of a process that serves the model of ``folder``."""
    process = subprocess.Popen([sys.executable, __file__, "--serve", str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/"
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def rate(ask: Callable[[Tensor], Tensor], images: Tensor, repeats: int) -> tuple[float, Tensor]:
    """Images a second, the best of some times, and the labels."""
    ask(images[:64])  # connections, kernels
    seconds, labels = [], torch.empty(0)
    for _ in range(repeats):
        begin = time.perf_counter()
        labels = ask(images)
        seconds.append(time.perf_counter() - begin)
    return len(images) / min(seconds), labels


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--pipeline", type=Path, help="folder in which the pipeline has run; else toys are asked")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--size", type=int, default=28, help="pixels a side")
    parser.add_argument("--batch", type=int, default=64, help="images a request")
    parser.add_argument("--in-flight", type=int, default=4, help="requests at once")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="table (CSV) to write as well")
    options = parser.parse_args(arguments)
    if options.serve is not None:
        serve(options.serve)
        return {}
    run = runtime.start(ONE_THREAD)
    with tempfile.TemporaryDirectory() as temporary:
        figures = compare(options, run, Path(temporary))
    if options.out is not None:
        artifacts.write_csv(options.out, [{"figure": k, "value": v} for k, v in figures.items()], ("figure", "value"))
    return figures


def compare(options: argparse.Namespace, run: Runtime, folder: Path) -> dict[str, float]:
    """The figures, printed as a table."""
    case = toys(options, run) if options.pipeline is None else finished(options.pipeline, run)
    network, data, shape, classes = case.network, case.pool, case.key.shape, case.key.classes
    images = data.images[: options.images]
    models.save(network, folder / "model")
    near = memory.suspect(network, run, Classes.match(classes, None, {}), shape)
    with served(folder / "model") as url:
        block = {"kind": "http", "url": url, "batch": options.batch, "in_flight": options.in_flight}
        far = suspects.build("local", block, classes, shape, run)
        alone = suspects.build("alone", block | {"batch": 1, "in_flight": 1}, classes, shape, run)
        in_memory, expected = rate(near.predict, images, options.repeats)
        batched, found = rate(far.predict, images, options.repeats)
        single, _ = rate(alone.predict, images[:100], 1)
        with recording(far, folder / "t.jsonl", shape, classes) as recorded:
            kept, recorded_labels = rate(recorded.predict, images, 1)
        asked = questions.draw(case.key, data, queries=case.queries, decoys=5, judge_seed=0)
        begin = time.perf_counter()
        given = {"memory": answers.ask(asked, near)[0]}
        between = time.perf_counter()
        given["HTTP"] = answers.ask(asked, far)[0]
        seconds = between - begin, time.perf_counter() - between
    hits = [each.hits for each in given.values()]
    verdicts = [
        decide({name: each}, case.nulls, float(each.correct.mean()), RULE, role="suspect")[0]
        for name, each in given.items()
    ]
    figures = {
        "in memory, queries/s": in_memory,
        "HTTP, queries/s": batched,
        "HTTP with transcript, queries/s": kept,
        "HTTP one by one, queries/s": single,
        "ratio HTTP / memory": batched / in_memory,
        "share of equal labels": float((found == expected).float().mean()),
        "share of equal labels, recorded": float((recorded_labels == expected).float().mean()),
        "WSR in memory": float(hits[0].mean()),
        "WSR over HTTP": float(hits[1].mean()),
        "share of equal hits": float(np.mean(hits[0] == hits[1])),
        "verdict in memory, s": seconds[0],
        "verdict over HTTP, s": seconds[1],
        "same verdict, for the same reasons": float(verdicts[0].reasons == verdicts[1].reasons),
    }
    for name, value in figures.items():
        print(f"{name:34} {value:12,.3f}")
    print(f"{'verdict over HTTP':34} {verdicts[1].decision}")
    return figures


@dataclass(frozen=True)
class Case:
    """Whom to ask what: a network, the key, the pool, the nulls' counts, and the number of watermark queries."""

    network: models.Network
    key: Key
    pool: ImageDataset
    nulls: Nulls
    queries: int


def toys(options: argparse.Namespace, run: Runtime) -> Case:
    """An untrained network and noise: what is compared is the same questions asked both ways."""
    generator = run.generator("benchmark")
    shape = (1, options.size, options.size)
    images = torch.randint(0, 256, (options.images, *shape), generator=generator, dtype=torch.uint8)
    labels = torch.arange(options.images) % len(CLASSES)
    network = models.build(Architecture(name="cnn9", width=8), images, CLASSES, run, "x").eval()
    with torch.no_grad():  # not trained: let it call about as many images each class
        network.get_submodule("head").get_parameter("bias").sub_(models.logits(network, images, run).mean(0))
    key = Key("mea_defender", "top_bottom", {}, ("ratio_split", "diagonal"), (0, 1), 2, 0, CLASSES, shape)
    counts = {statistic: np.zeros(32, dtype=np.int64) for statistic in answers.COUNTED}
    pool = ImageDataset(images, labels, torch.arange(options.images), CLASSES)
    return Case(network, key, pool, counts, min(1000, options.images // 4))


def finished(root: Path, run: Runtime) -> Case:
    """The victim of a pipeline that has run, and what it was verified with."""
    counts = null_counts(artifacts.read_csv(root / "reports/verify_ownership/nulls.csv", PANEL_COLUMNS))
    return Case(
        models.load(root / "models/victim", run),
        keyfile.load(root / "models/victim_key.age"),
        ImageDataset.load(root / "data/clean/test.safetensors"),
        counts,
        1000,
    )


if __name__ == "__main__":
    main()
