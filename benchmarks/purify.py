"""How fast images are purified, against the authors' procedure: ratios within one run on one machine.

python benchmarks/purify.py --out docs/results/speed.csv

Makes what it needs (splits, a diffusion model, a classifier) from the contest's parameter file, with 4,000 training
images, and keeps it in --work; docs/speed.md explains the figures.  --quick measures next to nothing, for tests.

Four ways to purify, on the same images with the same network:
  authors            5 rounds of 150 ancestral steps; every kept state a PIL image; SSIM one at a time on the CPU
  authors, batched   the same evaluations by this package (method dataelixir)
  few, one by one    this package's few evaluations, for every image, handled as the authors handle theirs
  ours               what hallmark does: one evaluation and all evidence for every image, two rounds for the flagged
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from authors import one_by_one
from clock import STATUS, TICKS, Arm, Clock, memory, peak
from torch import Tensor

from hallmark import artifacts, runtime
from hallmark.config import Rounds
from hallmark.contest.purification.base import Base, load_base, no_epochs
from hallmark.contest.purification.plan import Plan
from hallmark.contest.purification.run import load_suspect
from hallmark.contest.purification.run import rates as detection_rates
from hallmark.data.dataset import ImageDataset
from hallmark.diffusion.model import to_signed
from hallmark.diffusion.samplers import CHUNK
from hallmark.errors import UserError
from hallmark.models import Network
from hallmark.purify import preparation, repair, selection
from hallmark.purify.methods import dataelixir, hallmark
from hallmark.purify.purifier import Measure, Purifier
from hallmark.purify.repair import PURPOSE
from hallmark.purify.result import Findings, Material
from hallmark.purify.transitions import predict_candidates
from hallmark.runtime import Runtime

COLUMNS = ("part", "figure", "value", "unit")
Row = tuple[str, str, Any, str]


@dataclass(frozen=True)
class Watched(Purifier):
    """A purifier that is timed, and that notes the peak of memory of each pass (``peaks``).

    ``clock`` is that of passes over all images of a set, which are counted (``images``); ``again`` that of passes over
    some.
    """

    clock: Clock = field(default_factory=lambda: Clock(torch.device("cpu")))
    again: Clock = field(default_factory=lambda: Clock(torch.device("cpu")))
    peaks: list[int] = field(default_factory=list)
    images: list[int] = field(default_factory=list)

    def scan(
        self,
        images: Tensor,
        measure: Measure,
        purpose: str,
        *,
        depends: Mapping[str, Tensor],
        rows: Tensor | None = None,
    ) -> dict[str, Tensor]:
        clock = self.clock if rows is None else self.again

        @wraps(measure)
        def timed(index: Tensor, candidates: Tensor) -> Any:
            with clock.timing("evidence"):
                return measure(index, candidates)

        if rows is None:
            self.images.append(len(images))
        with peak(clock.device) as found, clock.watching(self.model.unet), clock.timing("scan"):
            result = super().scan(images, timed, purpose, depends=depends, rows=rows)
        self.peaks.extend(found)
        return result


def material_of(plan: Plan, base: Base, data: ImageDataset, started: Runtime) -> Material:
    """What sanitizers work with; the clean model stands for every classifier, for weights cost no time."""
    return preparation.prepare(
        data, base.reserve, base.diffusion, plan.purify_data, started, epochs=no_epochs, suspect=base.clean[0]
    )


def own_params(plan: Plan) -> hallmark.Params:
    """The parameters of method hallmark."""
    params = plan.method_params("hallmark")
    assert isinstance(params, hallmark.Params)
    return params


def flagged(images: int, share: float) -> Tensor:
    """As many evenly spaced rows as are flagged."""
    count = max(1, round(share * images))
    return torch.arange(count) * images // count


def scans(material: Material, params: hallmark.Params) -> Watched:
    """All that hallmark purifies to detect: given and trusted images, samples for residuals and for the judges.

    The classifiers that measure are hardly trained here: their weights cost no time.
    """
    given = material.purifier
    device = material.runtime.device
    watched = Watched(given.model, given.rounds, given.runtime, clock=Clock(device), again=Clock(device))
    quick = params.model_copy(update={"reserve_training": params.reserve_training.model_copy(update={"epochs": 1})})
    training = material.training.model_copy(update={"epochs": 2})
    hallmark.detect(replace(material, purifier=watched, training=training, judges={}), quick)
    return watched


def choose(states: Tensor, material: Material, percentile: float) -> Tensor:
    """The chosen one, uint8 ``[S, C, H, W]``, of each image's states, uint8 ``[S, M, C, H, W]``."""
    distance = selection.distances(states[:, 0], states, material.suspect, material.runtime)
    column = selection.select(distance, torch.ones_like(distance, dtype=torch.bool), percentile)
    return states[torch.arange(len(states)), column]


def ours(material: Material, params: hallmark.Params, share: float, percentile: float) -> tuple[Arm, Watched]:
    """Evidence of all images; two rounds, distances and choice of a copy for the flagged ones.  And the scans alone.

    What trusted images cost is counted as well, and divided by the given ones.
    """
    images, clock = material.data.images, Clock(material.runtime.device)
    watched = scans(material, params)

    def copies(index: Tensor, candidates: Tensor) -> dict[str, Tensor]:
        with clock.timing("selection"):
            return {"images": choose(candidates, material, percentile)}

    with clock.watching(material.purifier.model.unet), clock.timing("diffusion"):
        material.purifier.scan(images, copies, PURPOSE, depends={}, rows=flagged(len(images), share))
    clock.add("diffusion", -clock.seconds["selection"])
    spent, again = watched.clock.seconds, watched.again.seconds
    steps = clock.seconds | {
        "diffusion": clock.seconds["diffusion"] + sum(each["scan"] - each["evidence"] for each in (spent, again)),
        "unet": clock.seconds["unet"] + spent["unet"] + again["unet"],
        "evidence": spent["evidence"] + again["evidence"],
    }
    each = {name: value / len(images) for name, value in steps.items()}
    evaluations = clock.evaluations + watched.clock.evaluations + watched.again.evaluations
    return Arm("ours", evaluations / len(images), each), watched


def batched(material: Material, rounds: Rounds, *, timed: int, share: float, percentile: float) -> Arm:
    """The authors' evaluations by this package: labels in a first pass, the flagged images made once more.

    Args:
        timed: so many of the rounds are run, which divides their number: all cost the same.
    """
    images, clock, scale = material.data.images, Clock(material.runtime.device), rounds.rounds // timed
    purifier = replace(material.purifier, rounds=rounds.model_copy(update={"rounds": timed}))
    last = images[:0]

    def look(index: Tensor, candidates: Tensor) -> dict[str, Tensor]:
        nonlocal last
        last = candidates
        with clock.timing("classification"):
            return {"labels": predict_candidates(material.suspect, candidates[:, 1:], material.runtime)}

    with clock.watching(purifier.model.unet), clock.timing("diffusion"):
        purifier.scan(images, look, PURPOSE, depends={})
    clock.add("diffusion", -clock.seconds["classification"])
    steps = {name: value * scale / len(images) for name, value in clock.seconds.items()}
    # Not timed: making the flagged ones of few images again is mostly padding, of many it costs as much as the scan.
    again = {name: steps[name] * (1 + share) for name in ("diffusion", "unet")}
    rows = flagged(len(last), share)
    states = torch.cat([last[rows, :1], last[rows, 1:].repeat(1, scale, 1, 1, 1)], 1)
    with clock.timing("selection"):
        choose(states, material, percentile)
    steps |= {**again, "selection": clock.seconds["selection"] * share / len(rows)}
    return Arm("authors, batched", rounds.rounds * rounds.steps * (1 + share), steps)


def compare(material: Material, plan: Plan, given: argparse.Namespace) -> Generator[Row, None, tuple[Arm, Watched]]:
    """The four ways, and their ratios; returns the authors' and our scans."""
    params, few, published = own_params(plan), plan.purify_data.rounds, given.published
    small = replace(material, data=material.data.subset(torch.arange(given.authors_images)))
    rows, percentile = flagged(given.authors_images, given.flagged), plan.purify_data.restore.percentile
    common = {"share": given.flagged, "percentile": percentile}
    ours(small, params, **common)  # warm-up
    repeats = sorted((ours(material, params, **common) for _ in range(given.repeats)), key=lambda each: each[0].seconds)
    median, watched = repeats[len(repeats) // 2]
    arms = (
        one_by_one("authors", small, published, rows, timed=given.authors_rounds, **common),
        batched(small, published, timed=given.authors_rounds, **common),
        one_by_one("few, one by one", small, few, rows, timed=few.rounds, **common),
        median,
    )
    for arm in arms:
        yield arm.name, "evaluations", float(arm.evaluations), "1/image"
        yield arm.name, "time", 1e3 * arm.seconds, "ms/image"
        yield from ((arm.name, f"of it {name}", 1e3 * value, "ms/image") for name, value in arm.steps.items())
        yield arm.name, "of it handling (no network)", 1e3 * arm.handling, "ms/image"
        yield arm.name, "share of the UNet", arm.steps["unet"] / arm.seconds, "share"
    authors, same, alone, own = arms
    copies = [arm.steps["selection"] for arm in arms]
    yield "ratio", "time: authors / ours", authors.seconds / own.seconds, "times"
    yield "ratio", "time: authors / few, one by one", authors.seconds / alone.seconds, "times"
    yield "ratio", "evaluations: authors / ours", authors.evaluations / own.evaluations, "times"
    yield "ratio", "handling: authors / authors, batched", authors.handling / same.handling, "times"
    yield "ratio", "handling: few, one by one / ours", alone.handling / own.handling, "times"
    yield "ratio", "choosing of 51: authors / authors, batched", copies[0] / copies[1], "times"
    return authors, watched


def passes(watched: Watched, material: Material, bare_seconds: float) -> Iterator[Row]:
    """Where the time of hallmark's passes over all images goes, and their throughput beside that of the network."""
    whole, unet, evidence = (watched.clock.seconds[name] for name in ("scan", "unet", "evidence"))
    yield "scan", "share of the UNet", unet / whole, "share"
    yield "scan", "share of the evidence", evidence / whole, "share"
    yield "scan", "share of all else", 1 - (unet + evidence) / whole, "share"
    bare, throughput = bare_throughput(material, bare_seconds), sum(watched.images) / whole
    yield "scan", "throughput", throughput, "images/s"
    yield "scan", "bare UNet forward", bare, "images/s"
    yield "scan", "throughput / bare UNet forward", throughput / bare, "share"


@torch.no_grad()
def bare_throughput(material: Material, seconds: float) -> float:
    """Images a second of the network's forward pass alone, on one batch that stays on the device."""
    model, started = material.purifier.model, material.runtime
    image = model.fold(to_signed(material.data.images[:1].to(started.device)))
    batch, clock = image.repeat(CHUNK, 1, 1, 1), Clock(started.device)
    with started.autocast():
        model.unet(batch, 1)
        with clock.watching(model.unet):
            while clock.seconds.get("unet", 0.0) < seconds:
                model.unet(batch, 1)
    return clock.evaluations / clock.seconds["unet"]


def peaks(given: argparse.Namespace, device: torch.device) -> Iterator[Row]:
    """The peak at one and at four times the images, each in a process of its own: memory freed before would hide it."""
    if device.type != "cuda" and not STATUS.is_file():
        return
    for part in ("scans", "repair"):
        for factor in given.memory_factors:
            command = [sys.executable, __file__, *given.words, "--memory", part, str(factor * given.memory_images)]
            printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            yield "memory", f"peak of the {part}, {factor}x the images", int(printed) / 2**20, "MiB"


@dataclass(frozen=True)
class Trained(Material):
    """Whose classifiers are all the suspect: a training's memory is not the repair's."""

    def train(self, name: str, images: Tensor, labels: Tensor) -> Network:
        return self.suspect


def print_peak(plan: Plan, base: Base, part: str, images: int) -> None:
    """What :func:`peaks` reads: the most bytes in use in a pass, less those in use before the sanitizer began.

    The images are in memory by then; classifiers, and what is found of each image, are counted.  For the repair a
    quarter of the images is flagged, so that its batches are full.
    """
    data = base.train.subset(torch.arange(images) % len(base.train))
    material = material_of(plan, base, data, base.runtime)
    before = memory(base.runtime.device)
    if part == "scans":
        watched = scans(material, own_params(plan))
    else:
        device, rows = material.runtime.device, flagged(images, 0.25)
        mask = torch.zeros(images, dtype=torch.bool).index_fill_(0, rows, True)
        watched = Watched(**vars(material.purifier), clock=Clock(device), again=Clock(device))
        findings = Findings(flagged=mask, scores=mask.float(), reasons=("",) * images)
        facts: dict[str, Any] = {**vars(material), "purifier": watched}
        repair.restore(Trained(**facts), findings, rows, plan.purify_data.restore)
    print(max(watched.peaks) - before)


def detection(plan: Plan, base: Base, given: argparse.Namespace, authors: Arm) -> Iterator[Row]:
    """What hallmark finds in a poisoned set in both precisions, and how long it takes with all trainings.

    Args:
        authors: the authors' procedure, whose trainings are not timed.
    """
    each = plan.sets([plan.runtime.seed], [given.attack], [given.rate])[0]
    suspect = load_suspect(plan, each, base, given.work / f"set-{plan.set_hash(each)}")
    poisoned, decided = suspect.poisoned, []
    if poisoned.flags is None:
        raise UserError(f"--attack: {each.name} poisons nothing")
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        material = material_of(plan, base, poisoned.train, replace(base.runtime, dtype=dtype))
        clock = Clock(base.runtime.device)
        with clock.watching(base.diffusion.unet), clock.timing("all"):
            findings = hallmark.detect(material, own_params(plan))
        decided.append(findings.flagged)
        rates = detection_rates(poisoned.flags, poisoned.covers, findings.flagged, findings.scores)
        yield from ((name, figure, value, "share") for figure, value in rates.items() if value is not None)
        seconds = clock.seconds["all"] / len(poisoned.train)
        yield name, "detection with all trainings", 1e3 * seconds, "ms/image"
        yield name, "share of the UNet in it", clock.seconds["unet"] / clock.seconds["all"], "share"
        yield "ratio", f"time: authors / {name} detection with trainings", authors.seconds / seconds, "times"
    yield "bf16", "images decided otherwise than in fp32", float((decided[0] != decided[1]).float().mean()), "share"


def figures(plan: Plan, base: Base, given: argparse.Namespace) -> Iterator[Row]:
    """All rows of the table."""
    date = datetime.now(UTC).date().isoformat()
    facts = {"date": date, "clock": given.clock, **runtime.describe(base.runtime)}
    yield from (("machine", name, value, "") for name, value in facts.items())
    yield "machine", "load before", os.getloadavg()[0], "processes"
    data = base.train.subset(torch.arange(given.images) % len(base.train))
    material = material_of(plan, base, data, base.runtime)
    authors, watched = yield from compare(material, plan, given)
    yield from passes(watched, material, given.bare_seconds)
    yield from peaks(given, base.runtime.device)
    if given.detection:
        yield from detection(plan, base, given, authors)
    yield "machine", "load after", os.getloadavg()[0], "processes"


def options(words: Sequence[str]) -> argparse.Namespace:
    """The command line; ``words`` are kept for the processes that measure memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=Path("contest/params.yaml"))
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="another parameter")
    parser.add_argument("--images", type=int, default=10000, help="purified by ours")
    parser.add_argument("--authors-images", type=int, default=CHUNK, help="the first of them, purified by the others")
    parser.add_argument("--authors-rounds", type=int, choices=(1, 5), default=1, help="timed, of five that are alike")
    parser.add_argument("--flagged", type=float, default=0.1, help="share of the images that are given back purified")
    parser.add_argument("--repeats", type=int, default=3, help="of ours; the median counts")
    parser.add_argument("--bare-seconds", type=float, default=5.0, help="of the bare forward pass")
    parser.add_argument("--memory-images", type=int, default=1000, help="and four times as many")
    parser.add_argument(
        "--detection", action=argparse.BooleanOptionalAction, default=True, help="what is found, with all trainings"
    )
    parser.add_argument("--attack", default="badnets", help="whose detection is compared in fp32 and bf16")
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument(
        "--clock", choices=tuple(TICKS), default="wall", help="cpu: seconds of this process, where others are at work"
    )
    parser.add_argument("--quick", action="store_true", help="sizes that show nothing but that it runs")
    parser.add_argument("--raw", type=Path, default=Path("data/raw"))
    parser.add_argument("--work", type=Path, default=Path(".hallmark/benchmarks"))
    parser.add_argument("--out", type=Path, help="CSV to write")
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    given.published, given.memory_factors = dataelixir.Params().rounds, (1, 4)
    if given.quick:
        vars(given).update(images=20, authors_images=10, repeats=1, bare_seconds=0.01, memory_images=20)
        given.published, given.memory_factors = given.published.model_copy(update={"steps": 15}), (1,)
    given.words = list(words)
    return given


def main(words: Sequence[str]) -> None:
    """Measure, print and write the table."""
    given = options(words)
    Clock.of = given.clock
    plan = Plan.read(given.params, ["prepare_data.train=4000", *given.set])
    base = load_base(plan, plan.runtime.seed, given.raw, given.work)
    if given.memory:
        print_peak(plan, base, given.memory[0], int(given.memory[1]))
        return
    rows = []
    for row in figures(plan, base, given):
        part, figure, value, unit = row
        print(
            f"{part:<17} {figure:<47} {f'{value:,.3f}' if isinstance(value, float) else value:>12} {unit}", flush=True
        )
        rows.append(dict(zip(COLUMNS, row, strict=True)))
        if given.out:  # every time: what was measured before an interruption counts
            artifacts.write_csv(given.out, rows, COLUMNS)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"purify: {error}")
