"""Simulate a hostile data supplier, or pass your own data through (poison_data.attack: none).

python -m hallmark poison_data --data data/clean --out data/poisoned --report reports/poison_data
"""

from pathlib import Path

import click

from hallmark import artifacts
from hallmark.config import PoisonData
from hallmark.stage import open_stage, params_option, path_option


@click.command()
@path_option("--data", "Folder written by prepare_data.")
@path_option("--out", "Folder to write: train and triggered_test, manifest.csv and attack.json (the ground truth).")
@path_option("--report", "Folder for metrics and pictures.")
@params_option
def main(data: Path, out: Path, report: Path, params: Path) -> None:
    """Simulate a hostile data supplier."""
    from hallmark import poison  # noqa: PLC0415 - slow to import
    from hallmark.data import ImageDataset  # noqa: PLC0415

    paths = {"inputs": (data,), "outputs": (out,), "report": report}
    with open_stage("poison_data", params, PoisonData, **paths) as (stage, config):
        clean = ImageDataset.load(data / "train.safetensors")
        result, attack = poison.apply(clean, ImageDataset.load(data / "test.safetensors"), config, stage.runtime)
        with artifacts.replacing(out) as folder:
            result.train.save(folder / "train.safetensors")
            if result.triggered is not None:
                result.triggered.save(folder / "triggered_test.safetensors")
            rows = poison.manifest(clean, result)
            artifacts.write_csv(folder / "manifest.csv", rows, poison.COLUMNS)
            artifacts.write_json(folder / "attack.json", poison.describe(clean, result, config, attack))

        stage.figure("poisoned", poison.picture(clean, result))
        stage.metrics(poison.measure(clean, result))
        if result.flags is None:
            told = f"{len(clean):,} training images passed on as they are; whether any is poisoned nobody knows"
        else:
            told = f"{int(result.flags.sum()):,} of {len(clean):,} training images poisoned"
        click.echo(f"{config.attack}: {told}")
