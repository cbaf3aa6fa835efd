"""What the benchmarks of speed share: time by name, peaks of memory, and what one way to purify costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

STATUS = Path("/proc/self/status")
"""Linux's account of this process; without it there is no figure of its memory."""


TICKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
"""The CPU seconds of this process do not grow with the work of others, but they leave out what a GPU does."""


@dataclass
class Clock:
    """Seconds by name, on a GPU of finished work; ``evaluations`` of a watched network, in images.

    Attributes:
        of: of all clocks, a name in :data:`TICKS`.
    """

    of: ClassVar[str] = "wall"
    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)
    evaluations: int = 0

    def now(self) -> float:
        """The time when everything asked of the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return TICKS[Clock.of]()

    def add(self, name: str, seconds: float) -> None:
        """Add to ``name``."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        """Add the block's time to ``name``."""
        begin = self.now()
        yield
        self.add(name, self.now() - begin)

    @contextmanager
    def watching(self, unet: nn.Module) -> Iterator[None]:
        """Within the block the network's forward passes count as ``unet``."""
        begin = 0.0

        def before(module: nn.Module, given: tuple[Any, ...]) -> None:
            nonlocal begin
            begin = self.now()

        def after(module: nn.Module, given: tuple[Any, ...], result: Any) -> None:
            self.add("unet", self.now() - begin)
            self.evaluations += len(given[0])

        handles = unet.register_forward_pre_hook(before), unet.register_forward_hook(after)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def memory(device: torch.device) -> int:
    """Bytes in use now: a GPU's that torch has given out, or else this process's."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else _status("VmRSS")


@contextmanager
def peak(device: torch.device) -> Iterator[list[int]]:
    """Yield a list that holds, after the block, the most bytes that were in use within it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        STATUS.with_name("clear_refs").write_text("5")  # VmHWM, the peak, starts again
    found: list[int] = []
    yield found
    found.append(torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status("VmHWM"))


def _status(name: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) << 10


@dataclass(frozen=True)
class Arm:
    """What one way to purify costs.

    Attributes:
        evaluations: of the diffusion model, an image.
        steps: seconds an image of the parts that add up to the whole, and of ``unet``, which is within ``diffusion``.
    """

    name: str
    evaluations: float
    steps: dict[str, float]

    @property
    def seconds(self) -> float:
        """An image, in all."""
        return sum(value for name, value in self.steps.items() if name != "unet")

    @property
    def handling(self) -> float:
        """Seconds an image outside the networks: noise, sampler arithmetic, conversions, SSIM."""
        return self.seconds - sum(self.steps.get(name, 0.0) for name in ("unet", "classification", "evidence"))
