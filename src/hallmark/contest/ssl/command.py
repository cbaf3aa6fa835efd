"""``python -m hallmark ssl-contest``: measure every mark of encoders against every thief, and write the tables."""

from __future__ import annotations

from pathlib import Path

import click

from hallmark.contest import options


@click.command()
@options.places(params="contest/ssl.yaml", out="docs/results/ssl", work=".hallmark/ssl", task="victims")
@options.seeds
@options.only("group", "groups", "Only this experiment")
@options.only("scheme", "schemes")
@options.only("thief", "thieves")
@options.changes
@options.ending("victim")
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
    """Measure every mark of encoders against every thief; what is measured already is kept."""
    from hallmark.contest.ssl import run  # noqa: PLC0415 - torch is slow to import
    from hallmark.contest.ssl import table as tables  # noqa: PLC0415
    from hallmark.contest.ssl.plan import Plan  # noqa: PLC0415
    from hallmark.contest.watermark import cells  # noqa: PLC0415

    plan = Plan.read(params, changes)
    victims = [v for v in plan.victims(seeds, groups, schemes, thieves) if not keys or v.key in keys]
    total = sum(len(each.thieves) for each in victims)
    done = {each.key: len(cells.finished(plan, each, out)) for each in victims}
    left = [each for each in victims if done[each.key] < len(each.thieves)]
    click.echo(f"ssl-contest: {len(victims):,} victims, {total:,} cells, {sum(done.values()):,} measured already")
    options.measure(
        "ssl-contest",
        left,
        total=total,
        done=sum(done.values()),
        one=lambda each, advance: run.run_victim(plan, each, raw=raw, out=out, work=work, advance=advance),
        command=[
            *map(str, ["--params", params, "--out", out, "--raw", raw, "--work", work]),
            *options.words(("--seed", seeds), ("--group", groups), ("--thief", thieves), ("--set", changes)),
        ],
        needs=lambda each: run.needs(plan, each, work),
        finished=lambda each: len(cells.finished(plan, each, out)),
        work=work,
        jobs=jobs,
        threads=plan.runtime.threads,
    )
    if table:
        click.echo(tables.write([out / "cells"], out, plan))
