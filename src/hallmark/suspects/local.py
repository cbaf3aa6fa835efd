"""Suspects that run in this process: batches, checked outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hallmark.errors import UserError, naming
from hallmark.models._network import EVAL_BATCH
from hallmark.suspects.adapt import LARGEST, Adapter, Classes, Meaning
from hallmark.suspects.answer import Answer, Arrived, Suspect

MAX_FILE_BYTES = 2 << 30
"""Larger model files are refused: they are read whole."""
MAX_FEATURES = 1 << 15
"""Features of an image that an encoder may give."""


@dataclass(frozen=True)
class Local(Suspect):
    """A model whose forward pass is a function.

    Attributes:
        forward: from the adapted images ``[B, *adapter.expected]`` to scores, float ``[B, K']``, or labels,
            int ``[B]``.
        where: the block or file, for messages.
        batch: images a call.
        padded: every call gets exactly ``batch`` images (a model of fixed size).
    """

    forward: Callable[[Tensor], Tensor]
    adapter: Adapter
    classes: Classes
    meaning: Meaning
    where: str
    description: dict[str, Any]
    batch: int = EVAL_BATCH
    padded: bool = False

    def describe(self) -> dict[str, Any]:
        return self.description

    def probe(self) -> Local:
        """Ask two black images, so that a model that does not fit fails when it is opened; returns itself.

        Raises:
            UserError: it does not take such images, or its output is not sound.
        """
        self.scores(torch.zeros(2, *self.adapter.shape, dtype=torch.uint8))
        return self

    def ask(self, images: Tensor, arrived: Arrived) -> None:
        with naming(self.where):
            for start in range(0, len(images), self.batch):
                arrived(start, self._batch(images[start : start + self.batch]))

    def features(self, images: Tensor) -> Tensor:
        """What an encoder gives in place of scores, float32 ``[N, D]`` on the CPU.

        Args:
            images: uint8 ``[N, C, H, W]``, at least one, in our size and channels.

        Raises:
            UserError: it does not answer with finite features of one and the same size, 2 to :data:`MAX_FEATURES`.
        """
        found: list[Tensor] = []
        with naming(self.where):
            for part in images.split(self.batch):
                output = self._output(part)
                size = found[0].shape[1] if found else (output.shape[1] if output.dim() == 2 else 0)
                shape = (len(part), size)
                if not output.is_floating_point() or tuple(output.shape) != shape or not 2 <= size <= MAX_FEATURES:
                    raise UserError(
                        f"the model gives {output.dtype} {list(output.shape)} where float features [{len(part)}, D], "
                        f"2 <= D <= {MAX_FEATURES:,}, are expected; name an encoder's output"
                    )
                # NaN fails every comparison, so the test is written to fail with it.
                if not bool((output.abs() < LARGEST).all()):
                    raise UserError("features that are not finite (NaN or infinity)")
                found.append(output.float().cpu())
        return torch.cat(found)

    def _batch(self, images: Tensor) -> Answer:
        output, k = self._output(images), len(self.classes.theirs)
        if output.dtype in (torch.int64, torch.int32) and tuple(output.shape) == (len(images),):
            return self.classes.hard(output.cpu().long())
        if not output.is_floating_point() or tuple(output.shape) != (len(images), k):
            raise UserError(
                f"the model gives {output.dtype} {list(output.shape)} where float scores [{len(images)}, {k}] or "
                f"int64 labels [{len(images)}] are expected; mend classes or input"
            )
        return self.classes.soft(output.cpu(), self.meaning)

    def _output(self, images: Tensor) -> Tensor:
        """Whatever tensor the model gives of a batch of at most :attr:`batch` images."""
        x = self.adapter(images)
        if self.padded and len(x) < self.batch:
            x = torch.cat([x, x[-1:].expand(self.batch - len(x), *x.shape[1:])])
        try:
            with torch.no_grad():
                output = self.forward(x)
        # Whatever a stranger's model raises; what its operators are called is no business of the caller.
        except (
            RuntimeError,
            ValueError,
            TypeError,
            IndexError,
            KeyError,
            NotImplementedError,
            AssertionError,
        ) as error:
            text = " ".join(str(error).split())[:300]
            raise UserError(f"the model fails on images {list(x.shape)} ({type(error).__name__}: {text})") from None
        if not isinstance(output, Tensor):
            raise UserError(f"the model gives {type(output).__name__} where one tensor is expected")
        return output[: len(images)] if len(output.shape) and self.padded else output


def must_be_a_file(path: Path) -> None:
    """Refuse what is not there or would not fit.

    Raises:
        UserError: no such file, or larger than :data:`MAX_FILE_BYTES`.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; mend the path")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise UserError(f"{path}: larger than {MAX_FILE_BYTES >> 20:,} MiB; no model of this size is opened")
