"""``python -m hallmark contest``: measure every attack against every sanitizer, and write the tables."""

from __future__ import annotations

from pathlib import Path

import click

from hallmark.contest import cells, workers
from hallmark.contest.plan import Plan
from hallmark.progress import progress


@click.command()
@click.option(
    "--params",
    default="contest/params.yaml",
    show_default=True,
    help="The contest's parameter file.",
    type=click.Path(path_type=Path),
)
@click.option(
    "--out",
    default="docs/results/contest",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder to write: cells, contest.csv, contest.md, pictures.",
)
@click.option(
    "--raw",
    default="data/raw",
    show_default=True,
    help="Folder of downloaded data sets.",
    type=click.Path(path_type=Path),
)
@click.option(
    "--work",
    default=".hallmark/contest",
    show_default=True,
    help="Folder of what can be made again.",
    type=click.Path(path_type=Path),
)
@click.option(
    "--jobs",
    default=1,
    show_default=True,
    help="Sets worked on at once, each in a process.",
    type=click.IntRange(1, 256),
)
@click.option("--seed", "seeds", multiple=True, type=click.IntRange(0), help="In place of the plan's; may be repeated.")
@click.option("--attack", "attacks", multiple=True, help="Only this one, by its name in the plan; may be repeated.")
@click.option("--rate", "rates", multiple=True, type=float, help="Only this poisoning rate; may be repeated.")
@click.option("--sanitizer", "sanitizers", multiple=True, help="Only this one (and none); may be repeated.")
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="Another parameter; may be repeated.")
@click.option("--again", is_flag=True, help="Measure the chosen cells again, after a change of the code.")
@click.option("--table/--no-table", default=True, show_default=True, help="Write the tables and pictures at the end.")
@click.option("--only", "keys", multiple=True, hidden=True, help="Only the set of this key: what a worker gets.")
def main(  # noqa: PLR0917 - click passes options by name
    params: Path,
    out: Path,
    raw: Path,
    work: Path,
    jobs: int,
    seeds: tuple[int, ...],
    attacks: tuple[str, ...],
    rates: tuple[float, ...],
    sanitizers: tuple[str, ...],
    changes: tuple[str, ...],
    again: bool,
    table: bool,
    keys: tuple[str, ...],
) -> None:
    """Measure every attack against every sanitizer and repair; what is measured already is kept."""
    from hallmark.contest import run  # noqa: PLC0415 - torch and diffusers are slow to import
    from hallmark.contest.base import base_folder  # noqa: PLC0415

    plan = Plan.read(params, changes)
    sets = [s for s in plan.sets(seeds, attacks, rates, sanitizers) if not keys or s.key in keys]
    if again:
        for each in sets:
            cells.forget(each, out)
    total = sum(len(each.cells) for each in sets)
    left = [each for each in sets if len(cells.finished(plan, each, out)) < len(each.cells)]
    done = total - sum(len(each.cells) - len(cells.finished(plan, each, out)) for each in left)
    click.echo(f"contest: {len(sets):,} sets, {total:,} cells, {done:,} of them measured already")
    with progress(total, "contest", "cell") as advance:
        advance(done)
        if jobs == 1 or len(left) < 2:
            for each in left:
                run.run_set(plan, each, raw=raw, out=out, work=work, advance=advance)
        else:
            options = ["--params", params, "--out", out, "--raw", raw, "--work", work]
            options += [word for name in sanitizers for word in ("--sanitizer", name)]
            options += [word for change in changes for word in ("--set", change)]
            options += [word for seed in seeds for word in ("--seed", str(seed))]
            workers.share(
                left,
                ["contest", *map(str, options), "--no-table"],
                needs=lambda each: {base_folder(plan, each.seed, work)},
                finished=lambda each: len(cells.finished(plan, each, out)),
                work=work,
                jobs=jobs,
                threads=plan.runtime.threads,
                advance=advance,
            )
    if table:
        from hallmark.contest import table as tables  # noqa: PLC0415 - matplotlib is slow to import

        click.echo(tables.write([out / "cells"], out, plan.contest.ours, plan))
