"""``python -m hallmark removal-contest-table``: the cells of a contest of removals as tables and pictures."""

from __future__ import annotations

from pathlib import Path

import click

from hallmark.contest import options


@click.command()
@options.cells_option()
@options.out_option("docs/results/removal", "Folder to write: contest.csv, contest.md, pictures.")
@options.params_option("contest/removal.yaml", "The contest's parameter file; cells of other parameters are left out.")
@options.set_option()
def main(folders: tuple[Path, ...], out: Path, params: Path, changes: tuple[str, ...]) -> None:
    """Turn the cells that a contest of removals has measured into tables and pictures."""
    from hallmark.contest.removal import table  # noqa: PLC0415 - matplotlib is slow to import
    from hallmark.contest.removal.plan import Plan  # noqa: PLC0415

    click.echo(table.write(folders or [out / "cells"], out, Plan.read(params, changes)))
