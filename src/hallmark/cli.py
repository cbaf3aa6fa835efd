"""``python -m hallmark COMMAND``: the pipeline's stages and the tools around it, loaded when called.

A stage is a module of the folder ``stages`` with a click command named ``main``; it is found in the
current directory first, else beside the installed sources.  Listing commands imports none of them,
so ``--help`` answers at once.
"""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

import click

from hallmark.errors import UserError

TOOLS = {
    "lineage": ("hallmark.lineage", "Print where a file or model comes from, back to the raw data."),
    "summary": ("hallmark.summary", "Print the results of the last pipeline run as a table."),
}


class LazyGroup(click.Group):
    """Lists stages by file name and tools by :data:`TOOLS`; imports only what is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*_stage_names(), *TOOLS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in TOOLS:
            return importlib.import_module(TOOLS[cmd_name][0]).main
        if cmd_name in _stage_names():
            return importlib.import_module(f"stages.{cmd_name}").main
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        stages = [(name, _first_line(_stages_folder() / f"{name}.py")) for name in _stage_names()]
        if stages:
            with formatter.section("Stages (run by dvc repro; their parameters are in params.yaml)"):
                formatter.write_dl(stages)
        with formatter.section("Tools"):
            formatter.write_dl([(name, text) for name, (_, text) in TOOLS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="hallmark")
def cli() -> None:
    """Purify training data, watermark models against extraction, and prove ownership."""


def main() -> None:
    """Entry point: bad input is one line on standard error and exit status 1, never a traceback."""
    root = str(_stages_folder().parent)
    if root not in sys.path:
        sys.path.insert(0, root)
    try:
        cli.main(standalone_mode=True, prog_name="hallmark")
    except UserError as error:
        click.echo(f"hallmark: {error}", err=True)
        sys.exit(1)


def _stages_folder() -> Path:
    here = Path.cwd() / "stages"
    return here if here.is_dir() else Path(__file__).resolve().parents[2] / "stages"


def _stage_names() -> list[str]:
    return sorted(p.stem for p in _stages_folder().glob("*.py") if not p.stem.startswith("_"))


def _first_line(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n", 1)[0]
