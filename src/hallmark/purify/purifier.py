"""Step 1 of DataElixir: chained rounds of forward and reverse diffusion, chunk by chunk.

What is decided needs labels and features of the purified images, not the images: :meth:`Purifier.scan`
hands every chunk to a function that measures it on the device and keeps only what that returns.  So does the
repair: it makes the flagged images again (same noise, same bytes) and keeps one copy of each.  No more states are
held than a chunk has.  :meth:`Purifier.regenerate` is for who needs all states of some images.

What is computed for a chunk depends neither on the other chunks nor on who computes it.  So several processes
may share the chunks, and what an interrupted run has measured of finished chunks need not be measured again: the
bytes are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from hallmark import artifacts, runtime
from hallmark.config import Rounds
from hallmark.diffusion import samplers
from hallmark.diffusion.model import DiffusionModel
from hallmark.diffusion.samplers import CHUNK, round_trip
from hallmark.distributed import ALONE, Group
from hallmark.progress import progress
from hallmark.purify.resume import Kept, digest
from hallmark.runtime import Runtime

Measure = Callable[[Tensor, Tensor], Mapping[str, Tensor]]
"""From int64 positions ``[B]`` (CPU) of a chunk's images and their candidates, uint8 ``[B, M, C, H, W]`` on the
runtime's device (the raw image in column 0, then the kept states of each round, in order), to named tensors
``[B, ...]``."""


PACKAGE = Path(__file__).parents[1]
CODE = sorted(
    [
        PACKAGE / "runtime.py",
        PACKAGE / "data" / "dataset.py",
        *(path for folder in ("diffusion", "models", "purify") for path in (PACKAGE / folder).rglob("*.py")),
    ]
)
"""The sources that measurements of purified states depend on; those of libraries count by their versions."""


@dataclass
class Evaluations:
    """Network evaluations so far, in images; those that an interrupted run has done before count as well."""

    count: int = 0


@dataclass(frozen=True)
class Purifier:
    """A diffusion model and how images are sent through it.

    Attributes:
        model: trained on trusted images.
        rounds: T, n, m and the sampler.
        group: the processes that share the work; all of them call the same methods with the same arguments.
        kept: where finished chunks outlive an interruption; None: nowhere.
        evaluations: of this purifier and of all that were made from it, by all processes of the group.
    """

    model: DiffusionModel
    rounds: Rounds
    runtime: Runtime
    group: Group = ALONE
    kept: Kept | None = None
    evaluations: Evaluations = field(default_factory=Evaluations)

    def first_round(self) -> Purifier:
        """The same with a single round: what is looked at needs no more, the others are for the repair."""
        return replace(self, rounds=self.rounds.model_copy(update={"rounds": 1, "keep": 1}))

    def check(self, shape: tuple[int, int, int]) -> None:
        """Refuse images, or a start, that the diffusion model was not made for.

        Raises:
            UserError: another image size, or ``rounds.start`` beyond what the network was trained on.
        """
        samplers.check(self.model, shape, self.rounds.start, "purify_data.rounds")

    def scan(
        self,
        images: Tensor,
        measure: Measure,
        purpose: str,
        *,
        depends: Mapping[str, Tensor],
        rows: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Purify images and keep what ``measure`` returns of them.

        Args:
            images: uint8 ``[N, C, H, W]``.
            measure: must give the same in every process of the group; each chunk is measured by one of them.  Its
                qualified name says what it measures: two functions that measure otherwise must not share one.
            purpose: names the noise; that of an image depends on it, the seed, the round and the image's position.
            depends: all that ``measure`` looks at besides the candidates, by any names: weights, labels, thresholds.
                What an interrupted run has measured with others is not taken.
            rows: int64 ``[S]``, each once and at least one: only these images.  None: all.

        Returns:
            what ``measure`` returned, on the CPU, put together over the images in their order.

        Raises:
            UserError: the group's processes differ, or one ended; a finished chunk cannot be written.
        """
        parts: list[Mapping[str, Tensor]] = []
        rows = torch.arange(len(images)) if rows is None else rows
        with progress(len(rows), f"{purpose}: {self.rounds.rounds} rounds") as advance:
            for index, part in self._measured(images, rows, measure, purpose, depends):
                parts.append(part)
                advance(len(index))
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def regenerate(self, images: Tensor, rows: Tensor, purpose: str) -> Tensor:
        """The purified states of ``images[rows]``, bit by bit those that :meth:`scan` showed.

        Shared among the processes, and kept for a run that is interrupted, as the scan is: of an attack on many images,
        by a slow sampler, much is made again.

        Args:
            rows: int64 ``[S]``, each once; only these are computed.

        Returns:
            uint8 ``[S, M, C, H, W]`` on the CPU, the raw image in column 0.

        Raises:
            UserError: as for :meth:`scan`.
        """
        none = images[:0, None].expand(-1, 1 + self.rounds.rounds * self.rounds.keep, -1, -1, -1)
        if not len(rows):
            return none
        parts = self._measured(images, rows, lambda index, states: {"states": states}, purpose, {})
        return torch.cat([part["states"] for _, part in parts])

    def _measured(
        self, images: Tensor, rows: Tensor, measure: Measure, purpose: str, depends: Mapping[str, Tensor]
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Positions, and what ``measure`` returned (on the CPU), of each chunk of ``rows`` in their order.

        Process r computes chunks r, r + size, ...: in every wave one each, then all get what the others found.  What
        is kept is read; what was not is written by the first process, which alone writes.
        """
        group, chunks, same = self.group, rows.split(CHUNK), ""
        self.evaluations.count += len(rows) * self.rounds.rounds * self.rounds.steps
        if self.kept or group.size > 1:
            same = self._dependencies(purpose, measure, depends)
        if group.size > 1:
            whole = digest({"images": images, "rows": rows}, same)
            group.agree(f"the images, the diffusion model or the classifiers ({purpose})", whole)
        for start in range(0, len(chunks), group.size):
            wave, found, known = chunks[start : start + group.size], {}, None
            keys = [digest({"index": index, "images": images[index]}, same) for index in wave] if self.kept else []
            if group.rank < len(wave):
                index = wave[group.rank]
                known = self.kept.read(keys[group.rank]) if self.kept else None
                found = measure(index, self._candidates(images, index, purpose)) if known is None else known
            parts = group.exchange(found)[: len(wave)]
            if self.kept and group.first:
                for rank, (key, part) in enumerate(zip(keys, parts, strict=True)):
                    if (known if rank == group.rank else self.kept.read(key)) is None:
                        self.kept.write(key, part)
            yield from zip(wave, parts, strict=True)

    def _candidates(self, images: Tensor, index: Tensor, purpose: str) -> Tensor:
        """The raw images of a chunk and their purified states, uint8 ``[B, M, C, H, W]`` on the runtime's device."""
        raw = images[index].to(self.runtime.device)
        return torch.cat([raw[:, None], self._purify(raw, index, purpose)], 1)

    def _purify(self, raw: Tensor, index: Tensor, purpose: str) -> Tensor:
        """The kept states of each round of a chunk, uint8 ``[B, M - 1, C, H, W]`` on the runtime's device."""
        rounds = self.rounds
        states = [raw[:, None]]
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
        return torch.cat(states[1:], 1)

    def _dependencies(self, purpose: str, measure: Measure, depends: Mapping[str, Tensor]) -> str:
        """Hash of everything that a measurement depends on besides the images and their positions."""
        model = self.model
        facts = {
            "network": dict(model.unet.config),
            "schedule": dict(model.scheduler.config),
            "fold": [model.shape, model.unshuffle],
            "rounds": self.rounds.model_dump(),
            "seed": self.runtime.seed,
            "purpose": purpose,
            "measure": [measure.__module__, measure.__qualname__],
            "depends": digest(depends),
            "machine": runtime.describe(self.runtime),
            "code": {str(path.relative_to(PACKAGE)): artifacts.sha256(path) for path in CODE},
            "libraries": {name: version(name) for name in ("diffusers", "numpy", "torchvision")},
        }
        return digest({**model.unet.state_dict(), "alphas_cumprod": model.alphas_cumprod}, facts)
