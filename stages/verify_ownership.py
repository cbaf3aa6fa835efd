"""Decide for every suspect and every control whether it is a copy of the watermarked model.

python -m hallmark verify_ownership --key models/victim_key.json --victim models/victim --extracted models/extracted \
    --unmarked models/unmarked --controls models/controls --test data/clean/test.safetensors \
    --report reports/verify_ownership
"""

from __future__ import annotations

from pathlib import Path

import click
from torch import Tensor

from hallmark import models
from hallmark.config import VerifyOwnership
from hallmark.data.dataset import ImageDataset
from hallmark.errors import naming
from hallmark.stage import open_stage, params_option, path_option
from hallmark.verification import measure, present
from hallmark.verification.decision import decide
from hallmark.watermark.key import Key
from hallmark.watermark.samples import check_data


@click.command()
@path_option("--key", "The watermark key.")
@path_option("--victim", "The watermarked model.")
@path_option("--extracted", "Folder of the stolen models, one subfolder an attack.")
@path_option("--unmarked", "The same model without the mark: the first control.")
@path_option("--controls", "Folder of the other controls, one subfolder each.")
@path_option("--test", "Held-out images.")
@path_option("--report", "Where figures and metrics go.")
@params_option
def main(
    key: Path, victim: Path, extracted: Path, unmarked: Path, controls: Path, test: Path, report: Path, params: Path
) -> None:
    """Decide for every suspect and every control whether it is a copy of the watermarked model."""
    inputs = [key, victim, extracted, unmarked, controls, test]
    with open_stage("verify_ownership", params, VerifyOwnership, inputs=inputs, outputs=[], report=report) as (
        stage,
        config,
    ):
        secret, held_out = Key.load(key), ImageDataset.load(test)
        folders = {"victim": victim}
        folders |= {name: extracted / name for name in stage.names("extract_attack", "attacks")}
        innocents = {"unmarked": unmarked}
        innocents |= {name: controls / name for name in stage.names("train_controls", "controls")}
        networks = {name: models.load(folder, stage.runtime) for name, folder in (folders | innocents).items()}
        for network in networks.values():
            models.check_images(held_out, test, network.spec)
        with naming(str(test)):
            check_data(secret, held_out)
        with naming(f"{params}: verify_ownership.queries"):
            questions = measure.prepare(secret, held_out, config.queries)

        def ask(name: str) -> measure.Answers:
            def predict(images: Tensor) -> Tensor:
                return models.logits(networks[name], images, stage.runtime).argmax(1)

            return measure.ask(questions, predict)

        suspects, others = ({name: ask(name) for name in group} for group in (folders, innocents))
        verdicts = decide(suspects, others, float(suspects["victim"].correct.mean()), config)
        stage.table("verdicts", present.rows(verdicts), present.COLUMNS)
        stage.metrics(present.metrics(verdicts))
        stage.figure("wsr", present.wsr_figure(verdicts))
        stage.figure("queries", present.queries_figure(questions, suspects, others))
        stage.run.set_tags({"hallmark.key_commitment": secret.commitment()})
        for verdict in verdicts:
            click.echo(present.line(verdict))
