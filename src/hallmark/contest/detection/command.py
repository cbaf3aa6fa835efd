"""``python -m hallmark detection-contest``: train the models, ask every detector, write the tables."""

from __future__ import annotations

from pathlib import Path

import click

from hallmark.contest import workers
from hallmark.contest.detection import cells
from hallmark.contest.detection.plan import Plan
from hallmark.progress import progress


def _path(name: str, default: str, text: str):
    return click.option(name, default=default, show_default=True, help=text, type=click.Path(path_type=Path))


@click.command()
@_path("--params", "contest/detection.yaml", "The contest's parameter file.")
@_path("--out", "docs/results/detection", "Folder to write: cells, models.csv, classes.csv, contest.md, pictures.")
@_path("--raw", "data/raw", "Folder of downloaded data sets.")
@_path("--work", ".hallmark/detection", "Folder of what can be made again.")
@_path("--nulls", "models/nulls", "Innocent models of the pipeline, which give the thresholds.")
@_path("--trusted", "data/clean/reserve.safetensors", "Clean images, with which the null models are looked at.")
@click.option(
    "--jobs",
    default=1,
    show_default=True,
    help="Models worked on at once, each in a process.",
    type=click.IntRange(1, 256),
)
@click.option("--kind", "kinds", multiple=True, help="Only this one, by its name in the plan; may be repeated.")
@click.option("--seed", "seeds", multiple=True, type=click.IntRange(0), help="In place of the plan's; may be repeated.")
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="Another parameter; may be repeated.")
@click.option("--table/--no-table", default=True, show_default=True, help="Write the tables and pictures at the end.")
@click.option("--only", "keys", multiple=True, hidden=True, help="Only the model of this key: what a worker gets.")
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
    wanted = 1 + len(plan.contest.detectors)
    done = {each.key: cells.finished(plan, each, out) for each in found}
    left = [each for each in found if done[each.key] < wanted]
    click.echo(f"detection-contest: {len(found):,} models, {wanted * len(found):,} cells, {sum(done.values()):,} done")
    with progress(wanted * len(found), "detection-contest", "cell") as advance:
        advance(sum(done.values()))
        if jobs == 1 or len(left) < 2:
            for each in left:
                run.run_model(plan, each, raw=raw, out=out, work=work, advance=advance)
        else:
            options = ["--params", params, "--out", out, "--raw", raw, "--work", work]
            for name, chosen in (("--kind", kinds), ("--seed", seeds), ("--set", changes)):
                options += [word for value in chosen for word in (name, value)]
            workers.share(
                left,
                ["detection-contest", *map(str, options), "--no-table"],
                needs=lambda each: set(),
                finished=lambda each: cells.finished(plan, each, out),
                work=work,
                jobs=jobs,
                threads=plan.runtime.threads,
                advance=advance,
            )
    if table:
        from hallmark.contest.detection import table as tables  # noqa: PLC0415 - matplotlib is slow to import

        run.calibrate(plan, nulls, trusted, out)
        click.echo(tables.write(plan, out))
