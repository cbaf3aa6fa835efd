"""Strike the mark: python -m hallmark train_watermarked --data FILE --test FILE --out DIR --key FILE --reserve-keys DIR

Trains a classifier with MEA-Defender (Lv et al. 2024), or its rival composite, which has the same key, and writes the
owner's key beside it, and the reserve keys.  A key is the secret with which ownership is proved: its file is encrypted,
and of it only the commitment, a hash, and the encrypted file go into the record.
"""

from __future__ import annotations

from pathlib import Path

import click

from hallmark import artifacts, models
from hallmark.config import TrainWatermarked
from hallmark.data.dataset import ImageDataset
from hallmark.errors import naming
from hallmark.ownership import keyfile
from hallmark.stage import open_stage, params_option, path_option
from hallmark.watermark import bridge, figures, mea_defender
from hallmark.watermark.key import make_key, make_reserve_keys
from hallmark.watermark.output_features import Snapshots
from hallmark.watermark.schemes import schemes
from hallmark.watermark.ways import refuse_trained


@click.command(help=__doc__)
@path_option("--data", "The training images.")
@path_option("--test", "Held-out images, of which watermark queries for the report are made.")
@path_option("--out", "Folder for the model.")
@path_option("--key", "File for the owner's secret key.")
@path_option("--reserve-keys", "Folder for the files of reserve_keys, empty without any.")
@path_option("--report", "Folder for metrics, curves and pictures.")
@params_option
def main(data: Path, test: Path, out: Path, key: Path, reserve_keys: Path, report: Path, params: Path) -> None:
    paths = {"inputs": [data, test], "outputs": [out, key, reserve_keys], "report": report}
    with open_stage("train_watermarked", params, TrainWatermarked, **paths) as (stage, config):
        train, held_out = ImageDataset.load(data), ImageDataset.load(test)
        models.check_images(train, data, train)
        models.check_images(held_out, test, train)
        with naming(f"{params}: train_watermarked"):
            for each in (config, *config.reserve_keys.values()):
                refuse_trained(each.way)
        secret, reserve = make_key(config, train, stage.runtime), make_reserve_keys(config, train, stage.runtime)
        with naming(str(params)):
            for each in (secret, *reserve.values()):
                mea_defender.check(each, train, held_out, config.evaluation)
        network = models.build(config.architecture, train.images, train.classes, stage.runtime, "victim")
        callback = Snapshots(network, secret, held_out, config, stage.runtime, then=stage.epochs("victim"))
        strike = schemes.get(config.scheme).train
        keys, others = {"": secret, **reserve}, tuple(reserve.values())
        strike(network, train, secret, config, stage.runtime, purpose="victim", callback=callback, reserve=others)
        measured = {
            name: mea_defender.evaluate(network, each, held_out, config.evaluation, stage.runtime)
            for name, each in keys.items()
        }
        slopes = mea_defender.fitted_slopes(train, (secret, *others), config, stage.runtime)
        if slopes:
            for name, slope in zip(keys, slopes, strict=True):
                measured[name]["bridge"] = bridge.learnt(network, slope, held_out, stage.runtime)
        main_key = measured.pop("")
        stage.metrics({**main_key, "reserve_keys": measured} if measured else main_key)
        stage.figure("losses", figures.losses(stage.history))
        stage.figure("output_features", figures.output_features(callback.taken, secret))
        generator = stage.runtime.generator("watermark/pictures")
        stage.figure(
            "watermark_samples", figures.watermark_samples(network, secret, held_out, generator, stage.runtime)
        )
        stage.figure("evasion_samples", figures.evasion_samples(network, secret, held_out, generator, stage.runtime))
        if slopes:
            stage.figure("bridges", figures.bridges(network, secret, slopes[0], train, stage.runtime))
        models.save(network, out)
        with naming(f"{params}: train_watermarked.recipients"):
            keyfile.save(secret, key, config.recipients)
            with artifacts.replacing(reserve_keys) as folder:
                folder.mkdir(parents=True)
                for name, each in reserve.items():
                    keyfile.save(each, folder / f"{name}.age", config.recipients)
        files = {"": key, **{f".{name}": reserve_keys / f"{name}.age" for name in reserve}}
        for suffix, path in files.items():
            digest = keyfile.fingerprint(path) or "the key is not encrypted"
            stage.run.set_tags({f"hallmark.key_file_sha256{suffix}": digest})
            stage.run.log_artifact(path, "key")
        stage.run.register_model(out, "victim")
