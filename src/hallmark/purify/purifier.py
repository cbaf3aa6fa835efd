"""Step 1 of DataElixir: chained rounds of forward and reverse diffusion, chunk by chunk.

What is decided needs labels and features of the purified images, not the images: :meth:`Purifier.scan`
hands every chunk to a function that measures it on the device and keeps only what that returns.  The few
images that are needed later are made again by :meth:`Purifier.regenerate`: same noise, same bytes.

What is computed for a chunk depends neither on the other chunks nor on who computes it.  So several processes
may share the chunks, and chunks that an interrupted run has finished need not be computed again: the bytes are
the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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


CODE = sorted([*Path(samplers.__file__).parent.glob("*.py"), Path(runtime.__file__), Path(__file__)])
"""The sources that purified states depend on; those of libraries count by their versions."""


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

    def scan(self, images: Tensor, measure: Measure, purpose: str) -> dict[str, Tensor]:
        """Purify all images once and keep what ``measure`` returns of them.

        Args:
            images: uint8 ``[N, C, H, W]``.
            measure: must give the same in every process of the group; each chunk is measured by one of them.
            purpose: names the noise; that of an image depends on it, the seed, the round and the image's position.

        Returns:
            what ``measure`` returned, on the CPU, put together over all images in their order.

        Raises:
            UserError: the group's processes differ, or one ended; a finished chunk cannot be written.
        """
        parts: list[Mapping[str, Tensor]] = []
        with progress(len(images), f"{purpose}: {self.rounds.rounds} rounds") as advance:
            for index, part in self._measured(images, torch.arange(len(images)), measure, purpose):
                parts.append(part)
                advance(len(index))
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def regenerate(self, images: Tensor, rows: Tensor, purpose: str) -> Tensor:
        """The purified states of ``images[rows]``, bit by bit those that :meth:`scan` showed.

        Shared among the processes as the scan is: of an attack on many images, by a slow sampler, much is made again.

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
        parts = self._measured(images, rows, lambda index, states: {"states": states}, purpose)
        return torch.cat([part["states"] for _, part in parts])

    def _measured(
        self, images: Tensor, rows: Tensor, measure: Measure, purpose: str
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Positions, and what ``measure`` returned (on the CPU), of each chunk of ``rows`` in their order.

        Process r computes chunks r, r + size, ...: in every wave one each, then all get what the others found.
        """
        group, chunks, same = self.group, rows.split(CHUNK), ""
        self.evaluations.count += len(rows) * self.rounds.rounds * self.rounds.steps
        if self.kept or group.size > 1:
            same = self._dependencies(purpose)
        if group.size > 1:
            whole = digest({"images": images, "rows": rows}, same)
            group.agree(f"the images or the diffusion model ({purpose})", whole)
        for start in range(0, len(chunks), group.size):
            wave = chunks[start : start + group.size]
            candidates = self._candidates(images, wave, purpose, same)
            found = {} if candidates is None else measure(wave[group.rank], candidates)
            yield from zip(wave, group.exchange(found), strict=False)

    def _candidates(self, images: Tensor, wave: Sequence[Tensor], purpose: str, same: str) -> Tensor | None:
        """The raw images and the purified states of this process's chunk of a wave; all processes call it at once.

        A chunk that is kept is read; what has been computed is kept by the first process, which alone writes.

        Args:
            wave: positions of one chunk a process; the last wave may have fewer.
            same: see :meth:`_dependencies`.

        Returns:
            uint8 ``[B, M, C, H, W]`` on the runtime's device; None without a chunk.
        """
        fresh, candidates = {}, None
        if self.group.rank < len(wave):
            index = wave[self.group.rank]
            raw = images[index]
            key, purified = "", None
            if self.kept:
                key = digest({"index": index, "images": raw}, same)
                purified = self.kept.read(key, (len(raw), self.rounds.rounds * self.rounds.keep, *raw.shape[1:]))
            raw = raw.to(self.runtime.device)
            if purified is None:
                purified = fresh[key] = self._purify(raw, index, purpose)
            candidates = torch.cat([raw[:, None], purified.to(self.runtime.device)], 1)
        if self.kept:
            for finished in self.group.exchange(fresh):
                for key, states in finished.items():
                    if self.group.first:
                        self.kept.write(key, states)
        return candidates

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

    def _dependencies(self, purpose: str) -> str:
        """Hash of everything that purified states depend on besides the images and their positions."""
        model = self.model
        facts = {
            "network": dict(model.unet.config),
            "schedule": dict(model.scheduler.config),
            "fold": [model.shape, model.unshuffle],
            "rounds": self.rounds.model_dump(),
            "seed": self.runtime.seed,
            "purpose": purpose,
            "machine": runtime.describe(self.runtime),
            "code": {path.name: artifacts.sha256(path) for path in CODE},
            "libraries": {name: version(name) for name in ("diffusers", "numpy")},
        }
        return digest({**model.unet.state_dict(), "alphas_cumprod": model.alphas_cumprod}, facts)
