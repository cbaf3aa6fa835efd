"""Train the purifier's diffusion model on the trusted reserve, or pin a pretrained one by hash.

python -m hallmark train_diffusion --reserve data/clean/reserve.safetensors --out models/diffusion \
    --report reports/train_diffusion
"""

from __future__ import annotations

from pathlib import Path

import click

from hallmark import plots
from hallmark.config import TrainDiffusion
from hallmark.data.dataset import ImageDataset
from hallmark.stage import open_stage, params_option, path_option


@click.command()
@path_option("--reserve", "Trusted images to train on.")
@path_option("--out", "Folder of the model, in diffusers' format.")
@path_option("--report", "Folder for metrics, curves and pictures.")
@params_option
def main(reserve: Path, out: Path, report: Path, params: Path) -> None:
    """Train the purifier's diffusion model on the trusted reserve, or pin a pretrained one by hash."""
    from hallmark.diffusion import measures, model, pretrained, training  # noqa: PLC0415 - diffusers is slow to import

    with open_stage("train_diffusion", params, TrainDiffusion, inputs=[reserve], outputs=[out], report=report) as (
        stage,
        config,
    ):
        trusted = ImageDataset.load(reserve)
        if config.source == "train":
            trained = training.train_ddpm(trusted.images, config, stage.runtime, callback=stage.epochs("diffusion"))
        else:
            assert config.pretrained is not None  # the section's validation sees to it
            trained = pretrained.fetch(config.pretrained, trusted.shape, stage.runtime)
        stage.metrics(measures.measure(trained, trusted, stage.runtime))
        curve = [row["value"] for row in stage.history]
        if curve:
            title = "training of the diffusion model"
            stage.figure(
                "training", plots.curves({"noise_mse": curve}, "mean squared error of the noise", title, log=True)
            )
        rows = measures.showcase(trained, trusted, stage.runtime)
        stage.figure("denoised", plots.image_grid(rows, "trusted images, noised up to step t and denoised"))
        model.save(trained, out)
        stage.run.register_model(out, "diffusion")
