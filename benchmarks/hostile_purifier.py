"""What a purifier that was trained on the poisoned set itself does, against one trained on the trusted reserve.

python benchmarks/hostile_purifier.py --seeds 103 --attacks badnets blended --out docs/results/hostile_purifier.csv

Both are trained alike, on as many image-steps.  Measured of each: how many poisoned images the suspect model still
calls the target after some rounds, how many clean ones keep their label, and what the sanitizer `hallmark` makes of
the set with it.  Data, networks and attacks are those of the contest's parameter file; what can be made again is
kept in --work, as the contest keeps it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hallmark import artifacts
from hallmark.contest.purification import run
from hallmark.contest.purification.base import load_base, no_epochs
from hallmark.contest.purification.plan import Plan, Set
from hallmark.diffusion.model import DiffusionModel
from hallmark.diffusion.training import train_ddpm
from hallmark.errors import UserError
from hallmark.purify import methods, preparation, repair
from hallmark.purify.result import Material
from hallmark.purify.transitions import predict_candidates

METHOD = "hallmark"
FIGURES = ("tpr", "fpr", "auc", "accuracy", "asr")


def columns(rounds: Sequence[int]) -> list[str]:
    """Of the table: survival is the share of the poisoned images that the suspect calls their given label."""
    return [
        *("seed", "attack", "rate", "target", "purifier", "overlap"),
        *(f"survival_{r}" for r in (0, *rounds)),
        *(f"clean_kept_{r}" for r in rounds),
        *(*FIGURES, "floor", "clean_accuracy"),
    ]


def trained_on(images: torch.Tensor, plan: Plan, base: run.Base) -> DiffusionModel:
    """A purifier of other images than the reserve, trained for as many image-steps as that of the reserve."""
    config = plan.train_diffusion
    epochs = max(1, round(config.training.epochs * len(base.reserve) / len(images)))
    shorter = config.model_copy(update={"training": config.training.model_copy(update={"epochs": epochs})})
    return train_ddpm(images, shorter, base.runtime)


def survival(material: Material, flags: torch.Tensor, rounds: Sequence[int], images: int) -> dict[str, float]:
    """Shares of poisoned images still called their given label, and of clean ones still called what they were."""
    purifier = material.purifier
    longest = replace(purifier, rounds=purifier.rounds.model_copy(update={"rounds": max(rounds), "keep": 1}))
    called = {}
    for kind, wanted in (("poisoned", flags), ("clean", ~flags)):
        rows = wanted.nonzero()[:images, 0]
        states = longest.regenerate(material.data.images, rows, "benchmark/hostile")
        called[kind] = rows, predict_candidates(material.suspect, states, material.runtime)
    rows, answers = called["poisoned"]
    at_target = (answers == material.data.labels[rows, None]).float().mean(0)
    kept = (called["clean"][1] == called["clean"][1][:, :1]).float().mean(0)
    return {
        **{f"survival_{r}": float(at_target[r]) for r in (0, *rounds)},
        **{f"clean_kept_{r}": float(kept[r]) for r in rounds},
    }


def sanitized(plan: Plan, material: Material, judge: run.Judge) -> dict[str, Any]:
    """What the sanitizer finds, and the model trained on what it leaves."""
    params: Any = plan.method_params(METHOD)
    findings = methods.registry.get(METHOD).detect(material, params)
    result = repair.repair(material, findings, plan.purify_data.repair, plan.purify_data.restore)
    measured = judge.detection(result) | judge.measure(preparation.finish(result, material))
    return {name: measured[name] for name in FIGURES}


def rows_of(
    plan: Plan, each: Set, base: run.Base, suspect: run.Suspect, *, rounds: Sequence[int], images: int
) -> list[dict[str, Any]]:
    """One row a purifier."""
    judge = run.Judge(plan, base, suspect)
    data, flags, triggered = suspect.poisoned.train, suspect.poisoned.flags, suspect.poisoned.triggered
    if flags is None or triggered is None:
        raise UserError(f"--attacks: {each.name} poisons nothing")
    purifiers: dict[str, Callable[[], DiffusionModel]] = {
        "the reserve": lambda: base.diffusion,
        "the poisoned set": lambda: trained_on(data.images, plan, base),
    }
    rows = []
    for name, make in purifiers.items():
        material = preparation.prepare(
            data, base.reserve, make(), plan.purify_data, base.runtime, epochs=no_epochs, suspect=suspect.network
        )
        rows.append(
            {
                "seed": each.seed,
                "attack": each.name,
                "rate": each.rate,
                "target": suspect.config.target,
                "purifier": name,
                "overlap": preparation.purifier_overlap(data, material.purifier.model),
                **survival(material, flags, rounds, images),
                **sanitized(plan, material, judge),
                "floor": run.attack_success(base.clean, triggered, base.runtime)[0],
                "clean_accuracy": base.accuracy,
            }
        )
        print({k: artifacts.rounded(v) for k, v in rows[-1].items()}, flush=True)
    return rows


def main(words: Sequence[str] | None = None) -> None:
    """Train both purifiers for every set, measure, write one row a purifier."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=Path("contest/params.yaml"))
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="another parameter")
    parser.add_argument("--seeds", type=int, nargs="+", default=[103])
    parser.add_argument("--attacks", nargs="+", default=["badnets", "blended"])
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, nargs="+", default=[1, 2, 5])
    parser.add_argument("--images", type=int, default=1000, help="poisoned and clean images purified for the survival")
    parser.add_argument("--raw", type=Path, default=Path("data/raw"))
    parser.add_argument("--work", type=Path, default=Path(".hallmark/benchmarks"))
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(words)
    plan = Plan.read(given.params, given.set)
    rows = []
    for each in plan.sets(given.seeds, given.attacks, [given.rate]):
        base = load_base(plan, each.seed, given.raw, given.work)
        suspect = run.load_suspect(plan, each, base, given.work / f"set-{plan.set_hash(each)}")
        rows += rows_of(plan, each, base, suspect, rounds=given.rounds, images=given.images)
        artifacts.write_csv(given.out, rows, columns(given.rounds))  # after each set: the last may be stopped


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"hostile_purifier: {error}")
