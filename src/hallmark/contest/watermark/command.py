"""``python -m hallmark watermark-contest``: measure every scheme against every thief, and write the tables."""

from __future__ import annotations

from pathlib import Path

import click

from hallmark.contest import workers
from hallmark.contest.watermark import cells
from hallmark.contest.watermark.plan import Plan
from hallmark.progress import progress


@click.command()
@click.option(
    "--params",
    default="contest/watermark.yaml",
    show_default=True,
    help="The contest's parameter file.",
    type=click.Path(path_type=Path),
)
@click.option(
    "--out",
    default="docs/results/watermark",
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
    default=".hallmark/watermark",
    show_default=True,
    help="Folder of what can be made again.",
    type=click.Path(path_type=Path),
)
@click.option(
    "--jobs",
    default=1,
    show_default=True,
    help="Victims worked on at once, each in a process.",
    type=click.IntRange(1, 256),
)
@click.option("--seed", "seeds", multiple=True, type=click.IntRange(0), help="In place of the plan's; may be repeated.")
@click.option("--group", "groups", multiple=True, help="Only this experiment; may be repeated.")
@click.option("--scheme", "schemes", multiple=True, help="Only this one, by its name in the plan; may be repeated.")
@click.option("--thief", "thieves", multiple=True, help="Only this one, by its name in the plan; may be repeated.")
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="Another parameter; may be repeated.")
@click.option("--table/--no-table", default=True, show_default=True, help="Write the tables and pictures at the end.")
@click.option("--only", "keys", multiple=True, hidden=True, help="Only the victim of this key: what a worker gets.")
def main(  # noqa: PLR0917 - click passes options by name
    params: Path,
    out: Path,
    raw: Path,
    work: Path,
    jobs: int,
    seeds: tuple[int, ...],
    groups: tuple[str, ...],
    schemes: tuple[str, ...],
    thieves: tuple[str, ...],
    changes: tuple[str, ...],
    table: bool,
    keys: tuple[str, ...],
) -> None:
    """Measure every watermark scheme against every thief; what is measured already is kept."""
    from hallmark.contest.watermark import run  # noqa: PLC0415 - torch is slow to import

    plan = Plan.read(params, changes)
    victims = [v for v in plan.victims(seeds, groups, schemes, thieves) if not keys or v.key in keys]
    total = sum(len(each.thieves) for each in victims)
    done = {each.key: len(cells.finished(plan, each, out)) for each in victims}
    left = [each for each in victims if done[each.key] < len(each.thieves)]
    click.echo(f"watermark-contest: {len(victims):,} victims, {total:,} cells, {sum(done.values()):,} measured already")
    with progress(total, "watermark-contest", "cell") as advance:
        advance(sum(done.values()))
        if jobs == 1 or len(left) < 2:
            for each in left:
                run.run_victim(plan, each, raw=raw, out=out, work=work, advance=advance)
        else:
            options = ["--params", params, "--out", out, "--raw", raw, "--work", work]
            for name, chosen in (("--seed", seeds), ("--group", groups), ("--thief", thieves), ("--set", changes)):
                options += [word for value in chosen for word in (name, value)]
            workers.share(
                left,
                ["watermark-contest", *map(str, options), "--no-table"],
                needs=lambda each: run.needs(plan, each, work),
                finished=lambda each: len(cells.finished(plan, each, out)),
                work=work,
                jobs=jobs,
                threads=plan.runtime.threads,
                advance=advance,
            )
    if table:
        from hallmark.contest.watermark import table as tables  # noqa: PLC0415 - matplotlib is slow to import

        click.echo(tables.write([out / "cells"], out, plan))
