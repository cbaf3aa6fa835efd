"""Measure backdoors before and after purification: benign accuracy, attack success, detection rates.

python -m hallmark eval_backdoor --poisoned data/poisoned --purified data/purified --clean data/clean \
    --suspect models/suspect --unmarked models/unmarked --victim models/victim --extracted models/extracted \
    --controls models/controls --nulls models/nulls --report reports/eval_backdoor
"""

from __future__ import annotations

from pathlib import Path

import click

from hallmark import artifacts, evaluation, evaluation_pictures, models
from hallmark.config import EvalBackdoor
from hallmark.data.dataset import ImageDataset
from hallmark.detection import judging
from hallmark.errors import UserError
from hallmark.stage import open_stage, params_option, path_option


@click.command()
@path_option("--poisoned", "Folder of the data set before purification, its triggered test set and ground truth.")
@path_option("--purified", "Folder of the data set after purification.")
@path_option("--clean", "Folder of the splits before poisoning.")
@path_option("--suspect", "The model trained on the poisoned set.")
@path_option("--unmarked", "The model trained on the purified set.")
@path_option("--victim", "The watermarked model.")
@path_option("--extracted", "Folder of the stolen models, one subfolder an attack.")
@path_option("--controls", "Folder of the controls, one subfolder each.")
@path_option("--nulls", "Folder of the null models, by which, and by the reference, the detector is calibrated.")
@path_option("--report", "Where figures and metrics go.")
@params_option
def main(
    poisoned: Path,
    purified: Path,
    clean: Path,
    suspect: Path,
    unmarked: Path,
    victim: Path,
    extracted: Path,
    controls: Path,
    nulls: Path,
    report: Path,
    params: Path,
) -> None:
    """Measure backdoors before and after purification."""
    inputs = [poisoned, purified, clean, suspect, unmarked, victim, extracted, controls, nulls]
    with open_stage("eval_backdoor", params, EvalBackdoor, inputs=inputs, outputs=[], report=report) as (stage, config):
        attacks = stage.names("extract_attack", "attacks")
        if config.reference not in stage.names("train_controls", "controls"):
            raise UserError(f"{params}: eval_backdoor.reference: no control '{config.reference}' in train_controls")
        judging.refuse_accomplices(config, stage.params, f"{params}: eval_backdoor")
        folders = {"suspect": suspect, "purified": unmarked, "victim": victim}
        folders |= {name: extracted / name for name in attacks} | {"reference": controls / config.reference}

        test = ImageDataset.load(clean / "test.safetensors")
        sets = {clean / "test.safetensors": test}
        triggered_path = poisoned / "triggered_test.safetensors"
        attack = artifacts.read_json(poisoned / "attack.json")
        if not isinstance(attack, dict) or "method" not in attack:
            raise UserError(f"{poisoned / 'attack.json'}: names no attack method; rerun poison_data")
        if triggered_path.exists():
            sets[triggered_path] = ImageDataset.load(triggered_path)
        elif attack["method"] != "none":
            raise UserError(f"{triggered_path}: missing, though the attack is {attack['method']}; rerun poison_data")
        triggered = sets.get(triggered_path)
        manifests = poisoned / "manifest.csv", purified / "manifest.csv"
        found = evaluation.detection(
            artifacts.read_csv(manifests[0], ("id", "poisoned")),
            artifacts.read_csv(manifests[1], ("id", "action")),
            (str(manifests[0]), str(manifests[1])),
        )
        clean_train, raw, repaired = (ImageDataset.load(d / "train.safetensors") for d in (clean, poisoned, purified))
        networks = {name: models.load(folder, stage.runtime) for name, folder in folders.items()}
        for network in networks.values():
            for path, data in sets.items():
                models.check_images(data, path, network.spec)

        rows = []
        for name, network in networks.items():

            def predict(data: ImageDataset, network: models.Network = network) -> evaluation.Bools:
                return (models.logits(network, data.images, stage.runtime).argmax(1) == data.labels).numpy()

            asr = None if triggered is None else predict(triggered)
            rows.append(evaluation.Row.measure(name, predict(test), asr, config.confidence))

        trusted = ImageDataset.load(clean / "reserve.safetensors")
        scan = judging.scan(networks, nulls, trusted, config.detection, stage.runtime, reference="reference")
        stage.table("models", [row.to_dict() for row in rows], evaluation.Row.COLUMNS)
        stage.table("detection", scan.rows(), scan.COLUMNS)
        stage.metrics(evaluation.metrics(rows, found) | scan.metrics())
        stage.figure("backdoor", evaluation.figure(rows))
        pictures = evaluation_pictures.mistakes(raw, found)
        pictures |= evaluation_pictures.journey(clean_train, raw, repaired, found) | scan.figures()
        for name, picture in pictures.items():
            stage.figure(name, picture)
        for line in [*(row.line() for row in rows), *scan.lines()]:
            click.echo(line)
