"""Train a model that never met the key: python -m hallmark train_controls --control NAME --data FILE ... --out DIR.

Controls are the null hypothesis of an ownership claim: what models score that owe the victim nothing.
NAME is a block of train_controls.controls in params.yaml: trained on true labels, or stolen from the
unmarked model in the way in which the suspects were stolen from the victim.
"""

from __future__ import annotations

from pathlib import Path

import click

from hallmark import models, plots, training
from hallmark.config import StolenControl, TrainControls, TrainedControl, control_block, named_block
from hallmark.data.dataset import ImageDataset
from hallmark.extraction import Oracle, Thief, attack_params, black_box
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
        source = data if isinstance(block, TrainedControl) and block.data == "purified" else queries
        own = ImageDataset.load(source)
        models.check_images(own, source, twin.spec)
        models.check_images(held_out, test, twin.spec)
        if isinstance(block, StolenControl):
            module, attack = attack_params(block.attack, f"{where}.{control}.attack")
            oracle = Oracle(black_box(twin, stage.runtime), attack.budget)
            thief = Thief(own, stage.runtime, purpose, callback, f"{where}.{control}.attack")
            network = module.steal(oracle, thief, attack)
        else:
            network = models.build(block.architecture, own.images, own.classes, stage.runtime, purpose)
            training.train_classifier(
                network, own.images, own.labels, block.training, stage.runtime, purpose=purpose, callback=callback
            )
        stage.metrics({"accuracy": training.accuracy(network, held_out, stage.runtime)})
        losses = {"loss": [row["value"] for row in stage.history]}
        stage.figure("losses", plots.curves(losses, "loss", f"Control: {control}"))
        models.save(network, out)
        stage.run.register_model(out, f"control_{control}")
