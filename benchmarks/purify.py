"""How much do the fast sampler and batched selection save?

python benchmarks/purify.py --data data/clean --diffusion models/diffusion --images 250

Ratios within one run on one machine: one round of diffusion by the default sampler against 150
ancestral steps (the paper's), and batched candidate selection against one image at a time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from hallmark import config, models, runtime
from hallmark.config import PurifyData, RuntimeConfig
from hallmark.data.dataset import ImageDataset
from hallmark.diffusion import model
from hallmark.diffusion.samplers import round_trip
from hallmark.purify import methods, selection


def seconds(function: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--diffusion", type=Path, required=True)
    parser.add_argument("--images", type=int, default=250)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    arguments = parser.parse_args()
    values = config.read_params(arguments.params)
    started = runtime.start(config.section(values, "runtime", RuntimeConfig, arguments.params))
    section = config.section(values, "purify_data", PurifyData, arguments.params)
    default = methods.registry.get("transplant").Params(**values["purify_data"]["transplant"])
    data = ImageDataset.load(arguments.data / "reserve.safetensors").subset(torch.arange(arguments.images))
    diffusion = model.load(arguments.diffusion, started)

    def one_round(sampler: str, steps: int) -> Tensor:
        return round_trip(
            diffusion,
            data.images,
            started,
            start=default.start,
            sampler=sampler,
            steps=steps,
            keep=1,
            purpose="benchmark",
        )

    one_round(default.sampler, default.steps)  # warm-up
    fast = seconds(lambda: one_round(default.sampler, default.steps)) / len(data)
    slow = seconds(lambda: one_round("ancestral", default.start)) / len(data)
    print(f"one round, {default.sampler} with {default.steps} evaluations: {1e3 * fast:.3f} ms an image")
    print(
        f"one round, ancestral with {default.start} evaluations: {1e3 * slow:.3f} ms an image, {slow / fast:.0f} times"
    )

    network = models.build(section.architecture, data.images, data.classes, started, "benchmark").eval()
    candidates = torch.stack([data.images, *(one_round("ddim", 1)[:, 0] for _ in range(5))], 1)

    def batched() -> Tensor:
        return selection.distances(data.images, candidates, network, started)

    def singly() -> Tensor:
        pairs = zip(data.images.split(1), candidates.split(1), strict=True)
        return torch.cat([selection.distances(raw, own, network, started) for raw, own in pairs])

    torch.testing.assert_close(batched(), singly(), atol=1e-4, rtol=1e-4)
    together, alone = seconds(batched) / len(data), seconds(singly) / len(data)
    print(f"selection among 6, batched: {1e3 * together:.3f} ms an image")
    print(f"selection among 6, one image at a time: {1e3 * alone:.3f} ms an image, {alone / together:.0f} times")


if __name__ == "__main__":
    main()
