"""Strike the mark: python -m hallmark train_watermarked --data FILE --test FILE --out DIR --key FILE.

Trains a classifier with MEA-Defender (Lv et al. 2024), or its rival composite, which has the same key, and writes the
owner's key beside it.  The key is the secret with which ownership is proved: its file is encrypted, and of it only the
commitment, a hash, and the encrypted file go into the record.
"""

from __future__ import annotations

from pathlib import Path

import click

from hallmark import models
from hallmark.config import TrainWatermarked
from hallmark.data.dataset import ImageDataset
from hallmark.errors import naming
from hallmark.ownership import keyfile
from hallmark.stage import open_stage, params_option, path_option
from hallmark.watermark import figures, mea_defender
from hallmark.watermark.key import make_key
from hallmark.watermark.schemes import schemes
from hallmark.watermark.ways import refuse_trained


@click.command(help=__doc__)
@path_option("--data", "The training images.")
@path_option("--test", "Held-out images, of which watermark queries for the report are made.")
@path_option("--out", "Folder for the model.")
@path_option("--key", "File for the owner's secret key.")
@path_option("--report", "Folder for metrics, curves and pictures.")
@params_option
def main(data: Path, test: Path, out: Path, key: Path, report: Path, params: Path) -> None:
    paths = {"inputs": [data, test], "outputs": [out, key], "report": report}
    with open_stage("train_watermarked", params, TrainWatermarked, **paths) as (stage, config):
        train, held_out = ImageDataset.load(data), ImageDataset.load(test)
        models.check_images(train, data, train)
        models.check_images(held_out, test, train)
        with naming(f"{params}: train_watermarked"):
            refuse_trained(config.way)
        secret = make_key(config, train, stage.runtime)
        with naming(str(params)):
            mea_defender.check(secret, train, held_out, config.evaluation)
        network = models.build(config.architecture, train.images, train.classes, stage.runtime, "victim")
        callback = stage.epochs("victim")
        strike = schemes.get(config.scheme).train
        strike(network, train, secret, config, stage.runtime, purpose="victim", callback=callback)
        stage.metrics(mea_defender.evaluate(network, secret, held_out, config.evaluation, stage.runtime))
        stage.figure("losses", figures.losses(stage.history))
        generator = stage.runtime.generator("watermark/pictures")
        stage.figure(
            "watermark_samples", figures.watermark_samples(network, secret, held_out, generator, stage.runtime)
        )
        stage.figure("evasion_samples", figures.evasion_samples(network, secret, held_out, generator, stage.runtime))
        models.save(network, out)
        with naming(f"{params}: train_watermarked.recipients"):
            keyfile.save(secret, key, config.recipients)
        stage.run.set_tags({"hallmark.key_commitment": keyfile.fingerprint(key) or "the key is not encrypted"})
        stage.run.log_artifact(key, "key")
        stage.run.register_model(out, "victim")
