"""Classifiers of the reserve, trained once for all sets of a seed and kept in the work folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from hallmark import artifacts, models
from hallmark.contest.common import kept
from hallmark.contest.parameters import digest
from hallmark.contest.purification.plan import Plan
from hallmark.purify.reserve import Judges
from hallmark.runtime import Runtime


def _judges_folder(plan: Plan, seed: int, work: Path) -> Path:
    """They depend on the reserve, the diffusion model and how images are purified, and on no poisoned set."""
    return work / f"judges-{digest([plan.base_hash(seed), plan.purify_data.rounds.model_dump()])}"


def load_judges(plan: Plan, seed: int, work: Path, started: Runtime) -> dict[str, Judges]:
    """The classifiers of the reserve that :func:`save_judges` kept, by their keys."""
    found = {}
    # Not a folder that another worker is writing, whose name begins with a dot.
    for folder in sorted(_judges_folder(plan, seed, work).glob("[!.]*")):
        description = artifacts.read_json(folder / "judges.json")
        networks = tuple(models.load(folder / str(k), started) for k in range(description["networks"]))
        found[description["key"]] = Judges(networks, torch.tensor(description["folds"]))
    return found


def save_judges(judges: Mapping[str, Judges], plan: Plan, seed: int, work: Path) -> None:
    """Keep what is not kept yet: the seed's other sets need not train them again."""
    for key, value in judges.items():
        kept(_judges_folder(plan, seed, work) / digest(key), lambda folder, k=key, v=value: _save(folder, k, v))


def _save(folder: Path, key: str, judges: Judges) -> None:
    for k, network in enumerate(judges.networks):
        models.save(network, folder / str(k))
    description = {"key": key, "networks": len(judges.networks), "folds": judges.folds.tolist()}
    artifacts.write_json(folder / "judges.json", description)
