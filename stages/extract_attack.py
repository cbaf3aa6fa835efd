"""Steal the victim: python -m hallmark extract_attack --attack NAME --victim DIR --queries FILE --test FILE --out DIR.

The attack sees the victim only as a black box that answers images, and counts them against its budget.  NAME is a
block of extract_attack.attacks in params.yaml (docs/extraction.md).  With a block extract_attack.victim the black box
is that file or service, and --victim is not read.
"""

from __future__ import annotations

from pathlib import Path

import click

from hallmark import models, plots, training, victims
from hallmark.config import ExtractAttack, named_block
from hallmark.data.dataset import ImageDataset
from hallmark.errors import UserError
from hallmark.extraction import Thief, agreement, attack_params, steal
from hallmark.stage import open_stage, params_option, path_option


@click.command(help=__doc__)
@click.option("--attack", required=True, help="A block of extract_attack.attacks.")
@path_option("--victim", "Folder of the model to steal.", required=False)
@path_option("--queries", "The thief's own images.")
@path_option("--test", "Held-out images.")
@path_option("--raw", "Folder of downloaded data sets, for a thief with images of another set.", required=False)
@path_option("--out", "Folder for the stolen copy.")
@path_option("--report", "Folder for metrics and curves.")
@params_option
def main(
    attack: str,
    victim: Path | None,
    queries: Path,
    test: Path,
    raw: Path | None,
    out: Path,
    report: Path,
    params: Path,
) -> None:
    inputs = [path for path in (victim, queries, test) if path is not None]
    paths = {"inputs": inputs, "outputs": [out], "report": report, "variant": attack}
    with open_stage("extract_attack", params, ExtractAttack, **paths) as (stage, config):
        stage.names("extract_attack", "attacks")
        where = f"{params}: extract_attack.attacks.{attack}"
        module, block = attack_params(named_block(config.attacks, attack, f"{params}: extract_attack.attacks"), where)
        own, held_out = ImageDataset.load(queries), ImageDataset.load(test)
        if config.victim is not None:
            place, asked = f"{params}: extract_attack.victim", block.budget + len(held_out)
            target = victims.behind(
                config.victim, block.answers, own.classes, own.shape, stage.runtime, images=asked, where=place
            )
            expected = own
        elif victim is not None:
            network = models.load(victim, stage.runtime)
            target, expected = victims.in_memory(network, stage.runtime), network.spec
        else:
            raise UserError(f"{params}: extract_attack.victim: is null; give --victim a model folder, or a block there")
        models.check_images(own, queries, expected)
        models.check_images(held_out, test, expected)
        tags = {"victim": target.kind, "answers": str(block.answers), "images": "queries"}
        thief = Thief(own, stage.runtime, f"extract/{attack}", stage.epochs(attack), where, target.classes)
        stolen = steal(module, block, target.query, thief, rounds=target.rounds, raw=raw)
        copy = stolen.network
        if block.images is not None:
            tags |= {"images": block.images.source, "images.sha256": stolen.images_sha256 or ""}
        fidelity = agreement(copy, target.labels(held_out.images), held_out.images, stage.runtime)
        accuracy = training.accuracy(copy, held_out, stage.runtime)
        stage.metrics({"accuracy": accuracy, "fidelity": fidelity, "queries": stolen.queries})
        stage.run.set_tags({**tags, "queries": str(stolen.queries), "fidelity": f"{fidelity:.4f}"})
        losses = [row["value"] for row in stage.history]
        stage.figure("losses", plots.curves({"distillation": losses}, "loss", f"Stolen copy: {attack}"))
        models.save(copy, out)
        stage.run.register_model(out, f"extracted_{attack}")
