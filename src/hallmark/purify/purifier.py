"""Step 1 of DataElixir: chained rounds of forward and reverse diffusion, chunk by chunk.

What is decided needs labels and features of the purified images, not the images: :meth:`Purifier.scan`
hands every chunk to a function that measures it on the device and keeps only what that returns.  The few
images that are needed later are made again by :meth:`Purifier.regenerate`: same noise, same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hallmark.config import Rounds
from hallmark.diffusion import samplers
from hallmark.diffusion.model import DiffusionModel
from hallmark.diffusion.samplers import CHUNK, round_trip
from hallmark.progress import progress
from hallmark.runtime import Runtime

Measure = Callable[[Tensor, Tensor], Mapping[str, Tensor]]
"""From int64 positions ``[B]`` (CPU) of a chunk's images and their candidates, uint8 ``[B, M, C, H, W]`` on the
runtime's device (the raw image in column 0, then the kept states of each round, in order), to named tensors
``[B, ...]``."""


@dataclass(frozen=True)
class Purifier:
    """A diffusion model and how images are sent through it.

    Attributes:
        model: trained on trusted images.
        rounds: T, n, m and the sampler.
    """

    model: DiffusionModel
    rounds: Rounds
    runtime: Runtime

    def check(self, shape: tuple[int, int, int]) -> None:
        """Refuse images, or a start, that the diffusion model was not made for.

        Raises:
            UserError: another image size, or ``rounds.start`` beyond what the network was trained on.
        """
        samplers.check(self.model, shape, self.rounds.start, "purify_data.rounds")

    def scan(self, images: Tensor, measure: Measure, purpose: str) -> dict[str, Tensor]:
        """Purify all images once and keep what ``measure`` returns of them.

        Args:
            images: uint8 ``[N, C, H, W]``.
            purpose: names the noise; that of an image depends on it, the seed, the round and the image's position.

        Returns:
            what ``measure`` returned, on the CPU, put together over all images in their order.
        """
        parts: list[Mapping[str, Tensor]] = []
        with progress(len(images), f"{purpose}: {self.rounds.rounds} rounds") as advance:
            for index in torch.arange(len(images)).split(CHUNK):
                parts.append(measure(index, self._candidates(images, index, purpose)))
                advance(len(index))
        return {name: torch.cat([part[name].cpu() for part in parts]) for name in parts[0]}

    def regenerate(self, images: Tensor, rows: Tensor, purpose: str) -> Tensor:
        """The purified states of ``images[rows]``, bit by bit those that :meth:`scan` showed.

        Args:
            rows: int64 ``[S]``, each once; only these are computed.

        Returns:
            uint8 ``[S, M, C, H, W]``, the raw image in column 0.
        """
        none = images[:0, None].expand(-1, 1 + self.rounds.rounds * self.rounds.keep, -1, -1, -1)
        if not len(rows):
            return none
        return torch.cat([self._candidates(images, index, purpose).cpu() for index in rows.split(CHUNK)])

    def _candidates(self, images: Tensor, index: Tensor, purpose: str) -> Tensor:
        """The raw image and the kept states of a batch, uint8 ``[B, M, C, H, W]`` on the runtime's device."""
        rounds = self.rounds
        states = [images[index].to(self.runtime.device)[:, None]]
        for r in range(rounds.rounds):
            states.append(
                round_trip(
                    self.model,
                    states[-1][:, -1],
                    index,
                    self.runtime,
                    start=rounds.start,
                    sampler=rounds.sampler,
                    steps=rounds.steps,
                    keep=rounds.keep,
                    purpose=f"{purpose}/round {r}",
                )
            )
        return torch.cat(states, 1)
