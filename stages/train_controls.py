"""Train a model that never met the key: python -m hallmark train_controls --control NAME --data FILE ... --out DIR.

Controls are the null hypothesis of an ownership claim: what models score that owe the victim nothing.
NAME is a block of train_controls.controls in params.yaml: trained on true labels, or stolen from the
unmarked model in the way in which the suspects were stolen from the victim.
"""

from __future__ import annotations

from pathlib import Path

import click

from hallmark import models, plots, training
from hallmark.config import TrainControls, named_block
from hallmark.data.dataset import ImageDataset
from hallmark.innocents import Innocents, control_block
from hallmark.stage import open_stage, params_option, path_option


@click.command(help=__doc__)
@click.option("--control", required=True, help="A block of train_controls.controls.")
@path_option("--data", "The victim's training images.")
@path_option("--queries", "The thief's images.")
@path_option("--unmarked", "Folder of the unmarked model, which a stolen control steals.")
@path_option("--test", "Held-out images.")
@path_option("--out", "Folder for the control.")
@path_option("--report", "Folder for metrics and curves.")
@params_option
def main(
    control: str, data: Path, queries: Path, unmarked: Path, test: Path, out: Path, report: Path, params: Path
) -> None:
    inputs = [data, queries, unmarked, test]
    with open_stage(
        "train_controls", params, TrainControls, inputs=inputs, outputs=[out], report=report, variant=control
    ) as (stage, config):
        stage.names("train_controls", "controls")
        where, purpose, callback = f"{params}: train_controls.controls", f"control/{control}", stage.epochs(control)
        block = control_block(named_block(config.controls, control, where), f"{where}.{control}")
        twin, held_out = models.load(unmarked, stage.runtime), ImageDataset.load(test)
        innocents = Innocents(ImageDataset.load(data), ImageDataset.load(queries), twin, stage.runtime)
        own = innocents.images(block)
        for images, path in ((innocents.purified, data), (innocents.queries, queries), (held_out, test)):
            models.check_images(images, path, twin.spec)
        network = innocents.train(block, own, purpose, callback, f"{where}.{control}")
        stage.metrics({"accuracy": training.accuracy(network, held_out, stage.runtime)})
        losses = {"loss": [row["value"] for row in stage.history]}
        stage.figure("losses", plots.curves(losses, "loss", f"Control: {control}"))
        models.save(network, out)
        stage.run.register_model(out, f"control_{control}")
