"""Decide for every suspect and every control whether it is a copy of the watermarked model.

python -m hallmark verify_ownership --key models/victim_key.age --victim models/victim --extracted models/extracted \
    --removed models/removed --unmarked models/unmarked --controls models/controls --nulls models/nulls \
    --pool data/clean/test.safetensors --report reports/verify_ownership

Suspects are the victim itself (does the mark fire at all?), the stolen copies, what removals made of such models, and
those of the section's ``suspects``: models in files, or behind HTTP.  Every answer is kept in REPORT/transcripts.
"""

from __future__ import annotations

from pathlib import Path

import click

from hallmark import labelled, suspects
from hallmark.config import VerifyOwnership
from hallmark.data.dataset import ImageDataset
from hallmark.errors import UserError, naming
from hallmark.ownership import keyfile
from hallmark.stage import open_stage, params_option, path_option
from hallmark.verification import panel, power, present, questions
from hallmark.watermark.samples import check_data


@click.command()
@path_option("--key", "The watermark key.")
@path_option("--victim", "The watermarked model.")
@path_option("--extracted", "Folder of the stolen models, one subfolder an attack.")
@path_option("--removed", "Folder of models whose mark was attacked, one subfolder a removal.")
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
    removed: Path,
    unmarked: Path,
    controls: Path,
    nulls: Path,
    pool: Path,
    report: Path,
    params: Path,
) -> None:
    """Decide for every suspect and every control whether it is a copy of the watermarked model."""
    inputs = [key, victim, extracted, removed, unmarked, controls, nulls, pool]
    transcripts = report / "transcripts"
    with open_stage(
        "verify_ownership", params, VerifyOwnership, inputs=inputs, outputs=[transcripts], report=report
    ) as (
        stage,
        config,
    ):
        secret, images = keyfile.load(key), ImageDataset.load(pool)
        with naming(str(pool)):
            check_data(secret, images)
        with naming(f"{params}: verify_ownership"):
            asked = questions.draw(
                secret, images, queries=config.queries, decoys=config.decoys, judge_seed=config.judge_seed
            )
        copies, innocent = stage.names("extract_attack", "attacks"), stage.names("train_controls", "controls")
        altered = stage.names("remove_watermark", "removals")
        folders = {"victim": victim} | {name: extracted / name for name in copies}
        folders |= {name: removed / name for name in altered}
        others = {"unmarked": unmarked} | {name: controls / name for name in innocent}
        if taken := config.suspects.keys() & (folders.keys() | others.keys()):
            where = f"{params}: verify_ownership.suspects"
            raise UserError(f"{where}: '{min(taken)}' is a model of the pipeline; choose another name")
        if len(folders | others) < 2 + len(copies + altered + innocent):
            raise UserError(f"{params}: extract_attack, remove_watermark and train_controls share a name; rename one")
        opened = panel.open_models(folders | others, secret, stage.runtime) | {
            name: suspects.build(name, block, secret.classes, secret.shape, stage.runtime)
            for name, block in config.suspects.items()
        }
        kinds = (stage.params.get("train_nulls") or {}).get("kinds") or {}
        labelled.refuse_other_probes(config.suspects, kinds, f"{params}: verify_ownership.suspects")
        table = panel.ask_nulls(asked, nulls, stage.runtime)
        roles = {"suspect": [name for name in opened if name not in others], "control": list(others)}
        enough = {n: end for group in roles.values() for n, end in panel.stopping(table, config, group).items()}
        given, inconsistent = panel.ask_all(asked, opened, transcripts, enough)
        by_role = {role: {name: given[name] for name in names} for role, names in roles.items()}
        null_hits = panel.null_counts(table)
        verdicts = panel.judge(by_role, table, float(given["victim"].correct.mean()), config, inconsistent)
        stage.table("verdicts", present.rows(verdicts), present.COLUMNS)
        stage.table("nulls", table, panel.PANEL_COLUMNS)
        found = panel.power_table(table, verdicts)
        stage.table("power", found, power.COLUMNS)
        stage.metrics(present.metrics(verdicts, null_hits, config.queries))
        stage.figure("wsr", present.wsr_figure(verdicts))
        for statistic in null_hits:
            stage.figure(f"nulls_{statistic}", present.null_figure(statistic, verdicts, null_hits, config.queries))
        stage.figure("power", present.power_figure(found, config.queries))
        stage.figure("queries", present.queries_figure(asked, by_role["suspect"], by_role["control"]))
        stage.run.set_tags({"hallmark.key_file_sha256": keyfile.fingerprint(key) or "the key is not encrypted"})
        click.echo("\n".join(map(present.line, verdicts)))
