"""Where and how computation runs: device, threads, precision, seeds, determinism.

Same device, library versions and thread count give the same bytes.  All randomness is drawn from
generators named by (seed, purpose), so that no draw depends on what was drawn before it.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from hallmark import distributed
from hallmark.config import RuntimeConfig
from hallmark.errors import UserError


@dataclass(frozen=True)
class Runtime:
    """A resolved device and precision.  Make one with :func:`start`."""

    device: torch.device
    dtype: torch.dtype
    """Compute type inside :meth:`autocast`: ``torch.bfloat16`` or ``torch.float32``."""
    seed: int

    def autocast(self) -> torch.autocast:
        """The context in which networks run forward; a no-op in single precision."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    def generator(self, purpose: str) -> torch.Generator:
        """A CPU generator for one purpose; equal (seed, purpose) give equal draws."""
        return torch.Generator().manual_seed(derive_seed(self.seed, purpose))

    @contextmanager
    def seeded(self, purpose: str) -> Iterator[None]:
        """Within the block the *global* torch generators (dropout, initialisation) are seeded."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(derive_seed(self.seed, purpose))
            yield


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A step's draws on a device, without asking to wait for what a GPU was told before, as ``Tensor.to`` does.

    Args:
        tensor: in pageable memory, which CUDA copies aside before it returns, so that it may change or go at once;
            not pinned.  CUDA may still wait, above all for large ones.
    """
    return tensor.to(device, non_blocking=device.type == "cuda")


def derive_seed(seed: int, purpose: str) -> int:
    """A 63-bit seed from SHA-256 of ``seed`` and ``purpose``: streams do not overlap."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def start(config: RuntimeConfig) -> Runtime:
    """Resolve ``auto``, set threads and determinism for this process.

    Of several processes on a machine with GPUs each has one of its own.

    Raises:
        UserError: the device asked for is not there, or there are fewer GPUs than processes.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(config.threads)
    # The same as use_deterministic_algorithms(True), which also imports the compiler: a second a process.
    torch.set_deterministic_debug_mode("error")
    # It would fill every new tensor, which only hides the reading of what nobody wrote.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    torch.backends.cudnn.benchmark = False
    device = torch.device(_resolve_device(config.device))
    if device.type == "cuda" and distributed.size() > 1:
        device = _own_gpu(distributed.local_rank(), torch.cuda.device_count())
    return Runtime(device, _resolve_precision(config.precision, device), config.seed)


def describe(runtime: Runtime) -> dict[str, str]:
    """What a result depends on besides parameters and data, for the record."""
    on_gpu = runtime.device.type == "cuda"
    name = torch.cuda.get_device_name(runtime.device) if on_gpu else _cpu_name()
    return {
        "device": runtime.device.type,
        "device_name": name,
        "precision": "bf16" if runtime.dtype == torch.bfloat16 else "fp32",
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _resolve_device(name: str) -> str:
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if name == "auto":
        return next(kind for kind in ("cuda", "mps", "cpu") if available[kind])
    if not available[name]:
        raise UserError(f"runtime.device: '{name}' is not available on this machine; use auto or cpu")
    return name


def _own_gpu(number: int, count: int) -> torch.device:
    if number >= count:
        raise UserError(
            f"runtime.device: more processes on this machine than its {count} GPUs; lower --nproc_per_node, or use cpu"
        )
    device = torch.device("cuda", number)
    torch.cuda.set_device(device)
    return device


def _resolve_precision(name: str, device: torch.device) -> torch.dtype:
    if name == "fp32":
        return torch.float32
    if name == "bf16":
        return torch.bfloat16
    # auto: bf16 where the hardware has matrix units for it.  AVX512-BF16 without AMX is not enough:
    # the convolutions of the small networks here took 1.4 to 2 times as long as in fp32.
    fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        fast = torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
