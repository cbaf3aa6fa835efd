"""Train the victim's twin without a mark: python -m hallmark train_unmarked --data FILE --test FILE --out DIR.

It is the baseline of the mark's cost in accuracy, the first control of every ownership claim, and the
victim of the stolen control.  Architecture and training are those of section train_watermarked, and
initialisation and batches draw from the same random streams: the two differ by the mark (and by what the
larger batches of the marked model change in the draws of dropout).
"""

from __future__ import annotations

from pathlib import Path

import click

from hallmark import models, plots, training
from hallmark.config import TrainUnmarked
from hallmark.data.dataset import ImageDataset
from hallmark.stage import open_stage, params_option, path_option
from hallmark.watermark import mea_defender


@click.command(help=__doc__)
@path_option("--data", "The training images.")
@path_option("--test", "Held-out images.")
@path_option("--out", "Folder for the model.")
@path_option("--report", "Folder for metrics and curves.")
@params_option
def main(data: Path, test: Path, out: Path, report: Path, params: Path) -> None:
    paths = {"inputs": [data, test], "outputs": [out], "report": report, "section": "train_watermarked"}
    with open_stage("train_unmarked", params, TrainUnmarked, **paths) as (stage, config):
        train, held_out = ImageDataset.load(data), ImageDataset.load(test)
        models.check_images(train, data, train)
        models.check_images(held_out, test, train)
        # The purpose is the victim's own: the same random streams.
        network = models.build(config.architecture, train.images, train.classes, stage.runtime, "victim")
        callback = stage.epochs("unmarked")
        mea_defender.train_twin(network, train, config, stage.runtime, purpose="victim", callback=callback)
        stage.metrics({"accuracy": training.accuracy(network, held_out, stage.runtime)})
        losses = [row["value"] for row in stage.history]
        stage.figure("losses", plots.curves({"cross-entropy": losses}, "loss", "Unmarked model: training"))
        models.save(network, out)
        stage.run.register_model(out, "unmarked")
