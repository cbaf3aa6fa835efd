"""``python -m hallmark watermark-contest-table``: the cells of a contest of watermarks as tables and pictures."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option(
    "--cells",
    "folders",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of a contest's cells (OUT/cells); may be repeated.",
)
@click.option(
    "--out",
    default="docs/results/watermark",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder to write: contest.csv, contest.md, pictures.",
)
@click.option(
    "--params",
    default="contest/watermark.yaml",
    show_default=True,
    help="The contest's parameter file: what the experiments are; cells of other parameters are left out.",
    type=click.Path(path_type=Path),
)
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="Another parameter; may be repeated.")
def main(folders: tuple[Path, ...], out: Path, params: Path, changes: tuple[str, ...]) -> None:
    """Turn the cells that a contest of watermarks has measured into tables and pictures."""
    from hallmark.contest.watermark import table  # noqa: PLC0415 - matplotlib is slow to import
    from hallmark.contest.watermark.plan import Plan  # noqa: PLC0415

    click.echo(table.write(folders, out, Plan.read(params, changes)))
