"""An ONNX file, run by onnxruntime on the CPU.

A graph of onnxruntime's own operators: no Python, no custom operators, no files beside it (external data is
refused).  What a hostile graph can still do is ask for memory and time; both are bounded.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from hallmark import artifacts
from hallmark.config import Positive
from hallmark.errors import UserError, naming
from hallmark.runtime import Runtime
from hallmark.suspects.adapt import Adapter
from hallmark.suspects.block import Foreign
from hallmark.suspects.local import EVAL_BATCH, Local, must_be_a_file

MAX_MEMORY = 4 << 30
"""Bytes that all ONNX models of this process may take together."""
MAX_FOLDED = 64 << 20
"""Bytes of a constant computed while loading."""
NOWHERE = "/nonexistent"
"""Folder of external data: there is none, so a file that wants some is refused."""
TYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8"}


class Params(Foreign):
    """Block of a suspect of kind ``onnx``."""

    kind: Literal["onnx"]
    path: str
    output: str | None = None
    """Name of the output to read; None: the first."""
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    timeout: Positive = 60.0
    """Seconds a batch may take."""


def open_suspect(
    params: Params, classes: tuple[str, ...], shape: tuple[int, int, int], runtime: Runtime, where: str
) -> Local:
    """Load the graph and try it.

    Raises:
        UserError: onnxruntime is not installed; missing or malformed file; another input or output than described.
    """
    return load(params, classes, shape, runtime, where).probe()


def load(params: Params, classes: tuple[str, ...], shape: tuple[int, int, int], runtime: Runtime, where: str) -> Local:
    """Load the graph; arguments and errors as for :func:`open_suspect`, but its output is not looked at."""
    path = Path(params.path)
    must_be_a_file(path)
    with naming(where):
        matched, adapter = params.match(classes), params.adapter(shape)
    where = f"{where} ({path})"
    session = _session(path, params.threads)
    with naming(where):
        inputs, names = _signature(session)
        fixed = _fixed_batch(inputs, params, adapter)
        if params.output is not None and params.output not in names:
            raise UserError(f"output: the model has no '{params.output}'; it has {', '.join(names[:12])}")
        if not names:
            raise UserError("the model has no output")
    description = params.describe() | {"sha256": artifacts.sha256(path)}
    forward = _forward(session, inputs[0].name, params.output or names[0], params.timeout)
    return Local(forward, adapter, matched, params.scores, where, description, fixed or EVAL_BATCH, fixed is not None)


@functools.cache
def _bounded_memory() -> None:
    """Once a process: onnxruntime's environment gets an allocator that refuses to grow beyond the limit."""
    import onnxruntime  # noqa: PLC0415 - optional, and slow to import

    info = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    limits = onnxruntime.OrtArenaCfg({"max_mem": MAX_MEMORY, "arena_extend_strategy": 1})
    onnxruntime.create_and_register_allocator(info, limits)


def _session(path: Path, threads: int) -> Any:
    try:
        import onnxruntime  # noqa: PLC0415 - optional, and slow to import
    except ImportError:
        raise UserError("a suspect of kind onnx needs onnxruntime; pip install onnxruntime") from None

    _bounded_memory()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", NOWHERE)
    options.add_session_config_entry("optimization.constant_folding_max_output_size_in_bytes", str(MAX_FOLDED))
    # The other format that onnxruntime reads by itself; it has known no fuzzing.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    try:
        # Its fallback to the same provider would only print what went wrong.
        return onnxruntime.InferenceSession(
            path.read_bytes(), options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
    # onnxruntime's errors have no common base but Exception.
    except Exception as error:
        raise UserError(f"{path}: not an ONNX model that can be run ({_short(error)})") from None


@dataclass(frozen=True)
class _Input:
    name: str
    type: str
    shape: tuple[int | str | None, ...]


def _signature(session: Any) -> tuple[list[_Input], list[str]]:
    """Inputs, and names of the outputs.

    Raises:
        UserError: a name, of a length as well, is no text.
    """
    try:
        inputs = [_Input(each.name, each.type, tuple(each.shape)) for each in session.get_inputs()]
        return inputs, [output.name for output in session.get_outputs()]
    except UnicodeDecodeError as error:
        raise UserError(f"an input's or output's name or shape is no text ({_short(error)})") from None


def _fixed_batch(inputs: Sequence[_Input], params: Params, adapter: Adapter) -> int | None:
    """The model's batch if it takes no other; checks its one input.

    Raises:
        UserError: several inputs, or one of another type or shape than the block ``input`` describes.
    """
    if len(inputs) != 1:
        raise UserError(f"the model has {len(inputs)} inputs; only models of one input can be asked")
    found, expected = inputs[0], adapter.expected
    if TYPES.get(found.type) != params.input.dtype:
        raise UserError(f"the model takes {found.type}, and input.dtype is {params.input.dtype}")
    lengths = list(found.shape)
    fits = len(lengths) == 4 and all(
        not isinstance(length, int) or length == want for length, want in zip(lengths[1:], expected, strict=True)
    )
    if not fits:
        raise UserError(f"the model takes images {lengths}, not [N, {', '.join(map(str, expected))}]; mend input")
    batch = lengths[0]
    if isinstance(batch, int) and not 1 <= batch <= EVAL_BATCH:
        raise UserError(f"the model takes batches of {batch}; 1 to {EVAL_BATCH} can be asked")
    return batch if isinstance(batch, int) else None


def _forward(session: Any, name: str, output: str, timeout: float) -> Callable[[Tensor], Tensor]:
    import onnxruntime  # noqa: PLC0415 - see _session

    def forward(x: Tensor) -> Tensor:
        options = onnxruntime.RunOptions()
        timer = threading.Timer(timeout, lambda: setattr(options, "terminate", True))
        timer.daemon = True
        timer.start()
        try:
            result = session.run([output], {name: x.numpy()}, options)[0]
        except Exception as error:
            raise UserError(f"the model fails on images {list(x.shape)} ({_short(error)})") from None
        finally:
            timer.cancel()
        if not isinstance(result, np.ndarray) or result.dtype.kind not in "fiu":
            raise UserError(f"the model's output '{output}' is no tensor of numbers")
        return torch.from_numpy(np.ascontiguousarray(result))

    return forward


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
