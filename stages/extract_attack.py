"""Steal the victim: python -m hallmark extract_attack --attack NAME --victim DIR --queries FILE --test FILE --out DIR.

The attack sees the victim only as a black box that answers images with probabilities, and counts them
against its budget.  NAME is a block of extract_attack.attacks in params.yaml.
"""

from __future__ import annotations

from pathlib import Path

import click

from hallmark import models, plots, training
from hallmark.config import ExtractAttack, named_block
from hallmark.data.dataset import ImageDataset
from hallmark.extraction import Oracle, Thief, agreement, attack_params, black_box
from hallmark.stage import open_stage, params_option, path_option


@click.command(help=__doc__)
@click.option("--attack", required=True, help="A block of extract_attack.attacks.")
@path_option("--victim", "Folder of the model to steal.")
@path_option("--queries", "The thief's own images.")
@path_option("--test", "Held-out images.")
@path_option("--out", "Folder for the stolen copy.")
@path_option("--report", "Folder for metrics and curves.")
@params_option
def main(attack: str, victim: Path, queries: Path, test: Path, out: Path, report: Path, params: Path) -> None:
    paths = {"inputs": [victim, queries, test], "outputs": [out], "report": report, "variant": attack}
    with open_stage("extract_attack", params, ExtractAttack, **paths) as (stage, config):
        stage.names("extract_attack", "attacks")
        where = f"{params}: extract_attack.attacks"
        module, block = attack_params(named_block(config.attacks, attack, where), f"{where}.{attack}")
        target, own, held_out = models.load(victim, stage.runtime), ImageDataset.load(queries), ImageDataset.load(test)
        models.check_images(own, queries, target.spec)
        models.check_images(held_out, test, target.spec)
        oracle = Oracle(black_box(target, stage.runtime), block.budget)
        thief = Thief(own, stage.runtime, f"extract/{attack}", stage.epochs(attack), f"{where}.{attack}")
        copy = module.steal(oracle, thief, block)
        stage.metrics(
            {
                "accuracy": training.accuracy(copy, held_out, stage.runtime),
                "fidelity": agreement(copy, target, held_out.images, stage.runtime),
                "queries": oracle.used,
            }
        )
        losses = [row["value"] for row in stage.history]
        stage.figure("losses", plots.curves({"distillation": losses}, "loss", f"Stolen copy: {attack}"))
        models.save(copy, out)
        stage.run.register_model(out, f"extracted_{attack}")
