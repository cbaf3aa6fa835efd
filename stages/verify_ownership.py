"""Decide for every suspect and every control whether it is a copy of the watermarked model.

python -m hallmark verify_ownership --key models/victim_key.json --victim models/victim --extracted models/extracted \
    --unmarked models/unmarked --controls models/controls --nulls models/nulls --pool data/clean/test.safetensors \
    --report reports/verify_ownership

Suspects are the victim itself (does the mark fire at all?), the stolen copies, and those of the section's
``suspects``: models in files, or behind HTTP.  Every answer is kept in REPORT/transcripts.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import click

from hallmark import artifacts, suspects
from hallmark.config import VerifyOwnership
from hallmark.data.dataset import ImageDataset
from hallmark.errors import UserError, naming
from hallmark.progress import progress
from hallmark.stage import open_stage, params_option, path_option
from hallmark.verification import answers, present, questions
from hallmark.verification.decision import decide
from hallmark.verification.panel import PANEL_COLUMNS, ask_nulls, open_models
from hallmark.watermark.key import Key
from hallmark.watermark.samples import check_data

WORK = Path(".hallmark/verify_ownership")
"""Transcripts of an interrupted run: what a suspect has answered is not asked, or paid for, again."""


@click.command()
@path_option("--key", "The watermark key.")
@path_option("--victim", "The watermarked model.")
@path_option("--extracted", "Folder of the stolen models, one subfolder an attack.")
@path_option("--unmarked", "The same model without the mark: the first control.")
@path_option("--controls", "Folder of the other controls, one subfolder each.")
@path_option("--nulls", "Folder of the null models, one subfolder each.")
@path_option("--pool", "Labelled images that no model was trained on, of which the judge draws the questions.")
@path_option("--report", "Where transcripts, figures and metrics go.")
@params_option
def main(
    key: Path,
    victim: Path,
    extracted: Path,
    unmarked: Path,
    controls: Path,
    nulls: Path,
    pool: Path,
    report: Path,
    params: Path,
) -> None:
    """Decide for every suspect and every control whether it is a copy of the watermarked model."""
    inputs = [key, victim, extracted, unmarked, controls, nulls, pool]
    transcripts = report / "transcripts"
    with open_stage(
        "verify_ownership", params, VerifyOwnership, inputs=inputs, outputs=[transcripts], report=report
    ) as (
        stage,
        config,
    ):
        secret, images = Key.load(key), ImageDataset.load(pool)
        with naming(str(pool)):
            check_data(secret, images)
        with naming(f"{params}: verify_ownership"):
            asked = questions.draw(
                secret, images, queries=config.queries, decoys=config.decoys, judge_seed=config.judge_seed
            )
        copies = stage.names("extract_attack", "attacks")
        innocent = stage.names("train_controls", "controls")
        blocks = open_models({"victim": victim} | {name: extracted / name for name in copies})
        if taken := config.suspects.keys() & (blocks.keys() | {"unmarked", *innocent}):
            raise UserError(
                f"{params}: verify_ownership.suspects: '{min(taken)}' is a model of the pipeline; rename it"
            )
        blocks |= config.suspects
        others = open_models({"unmarked": unmarked} | {name: controls / name for name in innocent})
        opened = {
            name: suspects.build(name, block, secret.classes, secret.shape, stage.runtime)
            for name, block in (blocks | others).items()
        }
        given, inconsistent = {}, {}
        work = WORK / hashlib.sha256(asked.images.numpy().tobytes()).hexdigest()[:16]
        with progress(len(opened), "suspects and controls", "model") as advance:
            for name, suspect in opened.items():
                with suspects.recording(suspect, work / f"{name}.jsonl", secret.shape, secret.classes) as recorded:
                    given[name], consistency = answers.ask(asked, recorded)
                inconsistent[name] = consistency.share
                advance(1)
        table, null_hits = ask_nulls(asked, nulls, stage.runtime)
        reference = float(given["victim"].correct.mean())
        by_role = {
            role: {name: given[name] for name in group} for role, group in (("suspect", blocks), ("control", others))
        }
        verdicts = [
            verdict
            for role, group in by_role.items()
            for verdict in decide(group, null_hits, reference, config, role=role, inconsistent=inconsistent)
        ]
        with artifacts.replacing(transcripts) as folder:
            folder.mkdir(parents=True)
            for name in opened:
                shutil.copyfile(work / f"{name}.jsonl", folder / f"{name}.jsonl")
        shutil.rmtree(work)
        stage.table("verdicts", present.rows(verdicts), present.COLUMNS)
        stage.table("nulls", table, PANEL_COLUMNS)
        stage.metrics(present.metrics(verdicts, null_hits))
        stage.figure("wsr", present.wsr_figure(verdicts))
        for statistic in null_hits:
            stage.figure(f"nulls_{statistic}", present.null_figure(statistic, verdicts, null_hits))
        stage.figure("queries", present.queries_figure(asked, by_role["suspect"], by_role["control"]))
        stage.run.set_tags({"hallmark.key_commitment": secret.commitment()})
        for verdict in verdicts:
            click.echo(present.line(verdict))
