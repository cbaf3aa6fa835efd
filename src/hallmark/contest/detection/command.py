"""``python -m hallmark detection-contest``: train the models, ask every detector, write the tables."""

from __future__ import annotations

from pathlib import Path

import click

from hallmark.contest import options, workers
from hallmark.contest.detection import cells
from hallmark.contest.detection.plan import Plan


@click.command()
@options.contest("detection", tasks="models", table="cells, models.csv, classes.csv, contest.md, pictures")
@options.path_option("--nulls", "models/nulls", "Innocent models of the pipeline, which give the thresholds.")
@options.path_option(
    "--trusted", "data/clean/reserve.safetensors", "Clean images, with which the null models are looked at."
)
@options.only_this("--kind", "kinds")
def main(common: options.Common, nulls: Path, trusted: Path, kinds: tuple[str, ...]) -> None:
    """Look for backdoors in clean, watermarked and backdoored models; what is measured already is kept."""
    from hallmark.contest.detection import run  # noqa: PLC0415 - torch is slow to import

    plan, out, work = Plan.read(common.params, common.changes), common.out, common.work
    workers.measure(
        common,
        "detection-contest",
        "models",
        plan.models(kinds, common.seeds),
        wanted=lambda each: 1 + len(plan.contest.detectors),
        finished=lambda each: cells.finished(plan, each, out),
        run=lambda each, advance: run.run_model(plan, each, raw=common.raw, out=out, work=work, advance=advance),
        needs=lambda each: set(),
        threads=plan.runtime.threads,
    )
    if common.table:
        from hallmark.contest.detection import table as tables  # noqa: PLC0415 - matplotlib is slow to import

        run.calibrate(plan, nulls, trusted, out)
        click.echo(tables.write(plan, out))
