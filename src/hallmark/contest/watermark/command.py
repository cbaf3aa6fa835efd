"""``python -m hallmark watermark-contest``: measure every scheme against every thief, and write the tables."""

from __future__ import annotations

from pathlib import Path

import click

from hallmark.contest import options, workers
from hallmark.contest.watermark import cells
from hallmark.contest.watermark.plan import Plan
from hallmark.progress import progress


@click.command()
@options.params_option("contest/watermark.yaml")
@options.out_option("docs/results/watermark")
@options.raw_option()
@options.work_option(".hallmark/watermark")
@options.jobs_option("Victims")
@options.seed_option()
@click.option("--group", "groups", multiple=True, help="Only this experiment; may be repeated.")
@options.only_this("--scheme", "schemes")
@options.only_this("--thief", "thieves")
@options.set_option()
@options.table_option()
@options.key_option("victim")
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
            words = ["--params", params, "--out", out, "--raw", raw, "--work", work]
            for name, chosen in (("--seed", seeds), ("--group", groups), ("--thief", thieves), ("--set", changes)):
                words += [word for value in chosen for word in (name, value)]
            workers.share(
                left,
                ["watermark-contest", *map(str, words), "--no-table"],
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
