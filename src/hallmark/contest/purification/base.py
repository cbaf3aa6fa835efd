"""What all sets of a seed share: splits, diffusion model, and models of the set before poisoning."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from pathlib import Path

from hallmark import artifacts, models, runtime
from hallmark.contest.purification.plan import Plan
from hallmark.data import sources, splits
from hallmark.data.dataset import ImageDataset
from hallmark.diffusion import model as diffusion_model
from hallmark.diffusion import pretrained, training
from hallmark.diffusion.model import DiffusionModel
from hallmark.models import Network
from hallmark.purify import preparation
from hallmark.runtime import Runtime, derive_seed
from hallmark.training import EpochCallback, accuracy, no_callback


@dataclass(frozen=True)
class Base:
    """What all sets of a seed share.

    Attributes:
        clean: models trained on ``train`` before poisoning, as every final model is, but each with its own streams.
        accuracy: their mean benign accuracy.
    """

    train: ImageDataset
    test: ImageDataset
    reserve: ImageDataset
    diffusion: DiffusionModel
    clean: tuple[Network, ...]
    accuracy: float
    runtime: Runtime


def base_folder(plan: Plan, seed: int, work: Path) -> Path:
    """Where :func:`load_base` keeps a seed's models; it is there when they are finished."""
    return work / f"base-{plan.base_hash(seed)}"


def load_base(plan: Plan, seed: int, raw: Path, work: Path) -> Base:
    """What all sets of a seed share, made if it is not in the work folder.

    Raises:
        UserError: the data cannot be read or split, or a training fails.
    """
    started = runtime.start(plan.at(seed).runtime)
    folder = base_folder(plan, seed, work)
    if not folder.is_dir():
        with artifacts.replacing(folder) as temporary:
            _make_base(plan, raw, temporary, started)
    train, test, reserve = (ImageDataset.load(folder / f"{name}.safetensors") for name in ("train", "test", "reserve"))
    return Base(
        train,
        test,
        reserve,
        diffusion_model.load(folder / "diffusion", started),
        tuple(models.load(folder / f"clean_{k}", started) for k in range(plan.contest.clean_models)),
        float(artifacts.read_json(folder / "base.json")["accuracy"]),
        started,
    )


def _make_base(plan: Plan, raw: Path, folder: Path, started: Runtime) -> None:
    sets = splits.split(sources.load(plan.prepare_data, raw), plan.prepare_data, started).sets
    folder.mkdir(parents=True)
    for name in ("train", "test", "reserve"):
        sets[name].save(folder / f"{name}.safetensors")
    config = plan.train_diffusion
    reserve = sets["reserve"]
    if config.source == "train":
        purifier = training.train_ddpm(reserve.images, config, started)
    else:
        assert config.pretrained is not None  # the section's validation sees to it
        purifier = pretrained.fetch(config.pretrained, reserve.shape, started)
    diffusion_model.save(purifier, folder / "diffusion")
    rates = []
    for k in range(plan.contest.clean_models):
        clean = train_model(plan, sets["train"], started, k)
        models.save(clean, folder / f"clean_{k}")
        rates.append(accuracy(clean, sets["test"], started))
    artifacts.write_json(folder / "base.json", {"accuracy": statistics.fmean(rates)})


def train_model(plan: Plan, data: ImageDataset, started: Runtime, number: int = 0) -> Network:
    """The classifier of a set: clean, suspect and final models differ in nothing but the set.

    Args:
        number: 0: with the random streams of ``started``; else with others.
    """
    if number:
        started = replace(started, seed=derive_seed(started.seed, f"contest/model {number}"))
    return preparation.train_suspect(data, plan.purify_data, started, no_epochs)


def no_epochs(name: str) -> EpochCallback:
    """Nothing is to be told of the epochs of a training."""
    return no_callback
