"""``python -m hallmark detection-contest``: train the models, ask every detector, write the tables."""

from __future__ import annotations

from pathlib import Path

import click

from hallmark.contest import options, workers
from hallmark.contest.detection import cells
from hallmark.contest.detection.plan import Plan


@click.command()
@options.params_option("contest/detection.yaml")
@options.out_option("docs/results/detection", "Folder to write: cells, models.csv, classes.csv, contest.md, pictures.")
@options.raw_option()
@options.work_option(".hallmark/detection")
@options.path_option("--nulls", "models/nulls", "Innocent models of the pipeline, which give the thresholds.")
@options.path_option(
    "--trusted", "data/clean/reserve.safetensors", "Clean images, with which the null models are looked at."
)
@options.jobs_option("Models")
@options.only_this("--kind", "kinds")
@options.seed_option()
@options.set_option()
@options.table_option()
@options.key_option("model")
def main(  # noqa: PLR0917 - click passes options by name
    params: Path,
    out: Path,
    raw: Path,
    work: Path,
    nulls: Path,
    trusted: Path,
    jobs: int,
    kinds: tuple[str, ...],
    seeds: tuple[int, ...],
    changes: tuple[str, ...],
    table: bool,
    keys: tuple[str, ...],
) -> None:
    """Look for backdoors in clean, watermarked and backdoored models; what is measured already is kept."""
    from hallmark.contest.detection import run  # noqa: PLC0415 - torch is slow to import

    plan = Plan.read(params, changes)
    found = [each for each in plan.models(kinds, seeds) if not keys or each.key in keys]
    workers.measure(
        "detection-contest",
        "models",
        found,
        wanted=lambda each: 1 + len(plan.contest.detectors),
        finished=lambda each: cells.finished(plan, each, out),
        run=lambda each, advance: run.run_model(plan, each, raw=raw, out=out, work=work, advance=advance),
        needs=lambda each: set(),
        words={"--params": params, "--out": out, "--raw": raw, "--work": work, "--kind": kinds, "--seed": seeds,
               "--set": changes},
        work=work,
        jobs=jobs,
        threads=plan.runtime.threads,
    )  # fmt: skip
    if table:
        from hallmark.contest.detection import table as tables  # noqa: PLC0415 - matplotlib is slow to import

        run.calibrate(plan, nulls, trusted, out)
        click.echo(tables.write(plan, out))
