"""Purify a training set of doubtful origin: DataElixir, or another sanitizer by name.

python -m hallmark purify_data --data data/poisoned/train.safetensors --reserve data/clean/reserve.safetensors \
    --diffusion models/diffusion --out data/purified --suspect models/suspect --report reports/purify_data

Several processes share the diffusion and write the same bytes: torchrun --nproc_per_node=2 -m hallmark purify_data ...
An interrupted run goes on at the chunk of images where it stopped.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from hallmark import artifacts, models
from hallmark.config import PurifyData
from hallmark.data.dataset import ImageDataset
from hallmark.errors import naming
from hallmark.stage import open_stage, params_option, path_option


@click.command()
@path_option("--data", "The training set as received.")
@path_option("--reserve", "Trusted images.")
@path_option("--diffusion", "Folder of the diffusion model.")
@path_option("--out", "Folder of the purified set and its manifest.")
@path_option("--suspect", "Folder of the model trained on the set as received.")
@path_option("--report", "Folder for metrics, curves and pictures.")
@params_option
def main(data: Path, reserve: Path, diffusion: Path, out: Path, suspect: Path, report: Path, params: Path) -> None:
    """Purify a training set of doubtful origin: DataElixir, or another sanitizer by name."""
    from hallmark.diffusion import model  # noqa: PLC0415 - diffusers is slow to import
    from hallmark.purify import methods, pictures, preparation, repair  # noqa: PLC0415
    from hallmark.purify.resume import Kept, digest, weights  # noqa: PLC0415

    with open_stage(
        "purify_data",
        params,
        PurifyData,
        inputs=[data, reserve, diffusion],
        outputs=[out, suspect],
        report=report,
        shared=True,
    ) as (stage, config):
        with naming(f"{params}: purify_data.method"):
            method = methods.registry.get(config.method)
        own: Any = methods.registry.parameters(config.method, config.model_extra or {}, f"{params}: purify_data")
        material = preparation.prepare(
            ImageDataset.load(data),
            ImageDataset.load(reserve),
            model.load(diffusion, stage.runtime),
            config,
            stage.runtime,
            epochs=stage.epochs,
        )
        # Every process trains the classifiers for itself.
        stage.group.agree("the suspect model that they trained", digest(weights(suspect=material.suspect)))
        kept = Kept.of(out)
        material = replace(material, purifier=replace(material.purifier, group=stage.group, kept=kept))
        findings = method.detect(material, own)
        evaluations = {"evaluations_per_image": material.purifier.evaluations.count / len(material.data)}
        result = repair.repair(material, findings, config.repair, config.restore)
        purified = preparation.finish(result, material)
        metrics = {**result.summary(material.data), **preparation.suspect_metrics(material), **evaluations}
        figures = pictures.all_of(result, material)
        content = {"images": purified.images, "labels": purified.labels, "ids": purified.ids}
        stage.group.agree("the purified set", digest(content, metrics))
        if not stage.group.first:
            return
        click.echo(f"purify_data: {result.verdict(material.data)}")
        stage.metrics(metrics)
        for name, picture in figures.items():
            stage.figure(name, picture)
        models.save(material.suspect, suspect)
        stage.run.register_model(suspect, "suspect")
        with artifacts.replacing(out) as folder:
            folder.mkdir()
            purified.save(folder / "train.safetensors")
            artifacts.write_csv(folder / "manifest.csv", result.manifest(material.data), result.COLUMNS)
        kept.clear()
