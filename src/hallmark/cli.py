"""``python -m hallmark COMMAND``: the pipeline's stages and the tools around it, loaded when called.

A stage is a module of the folder ``stages`` with a click command named ``main``; it is found in the
current directory first, else beside the installed sources.  Listing commands imports none of them,
so ``--help`` answers at once.
"""

from __future__ import annotations

import ast
import errno
import importlib
import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from hallmark.errors import UserError

TOOLS = {
    "ask": ("hallmark.suspects.command", "Put labelled images to a suspect and keep every answer."),
    "contest": (
        "hallmark.contest.purification.command",
        "Measure every attack against every sanitizer, repair, rate and seed.",
    ),
    "contest-table": ("hallmark.contest.purification.command_table", "Write a contest's tables and pictures again."),
    "detection-contest": (
        "hallmark.contest.detection.command",
        "Measure detectors of backdoors on models of many kinds.",
    ),
    "evidence": ("hallmark.evidence.command", "Put everything that a judge needs into one folder."),
    "key": ("hallmark.ownership.command", "Commit to a watermark key, encrypt, open and reveal it."),
    "lineage": ("hallmark.lineage", "Print where a file or model comes from, back to the raw data."),
    "removal-contest": ("hallmark.contest.removal.command", "Measure what every removal leaves of every mark."),
    "removal-contest-table": ("hallmark.contest.removal.command_table", "Write its tables and pictures again."),
    "ssl-contest": ("hallmark.contest.ssl.command", "Measure every mark of encoders against every thief."),
    "summary": ("hallmark.summary", "Print the results of the last pipeline run as a table."),
    "ui": ("hallmark.ui", "Serve MLflow's pages on this project's runs."),
    "verify-evidence": ("hallmark.evidence.command_verify", "Check such a folder and trust nothing in it."),
    "watermark-contest": ("hallmark.contest.watermark.command", "Measure every watermark scheme against every thief."),
    "watermark-contest-table": ("hallmark.contest.watermark.command_table", "Write its tables and pictures again."),
}
INTERRUPTED, TERMINATED = 130, 143
"""Exit statuses of a process ended by Ctrl-C and by SIGTERM, as shells expect them."""


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
    """Entry point: what the user can mend is one line on standard error, never a traceback.

    Exit status 1 for bad input, 2 for a wrong command line, 130 and 143 when interrupted or
    terminated.  ``HALLMARK_DEBUG=1`` shows the traceback all the same.
    """
    root = str(_stages_folder().parent)
    if root not in sys.path:
        sys.path.insert(0, root)
    # As an exception, so that temporary files are removed and the MLflow run ends as killed.
    signal.signal(signal.SIGTERM, _terminate)
    try:
        status: Any = cli.main(standalone_mode=False, prog_name="hallmark")
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        if _debugging():
            raise
        click.echo("hallmark: interrupted; nothing half-written is left, earlier outputs are kept", err=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # The reader (head, less) has enough; Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        line = explain(error)
        if line is None or _debugging():
            raise
        click.echo(f"hallmark: {line}", err=True)
        sys.exit(1)
    sys.exit(status if isinstance(status, int) else 0)


def explain(error: Exception) -> str | None:
    """One line on what went wrong and what to do, or None if this is a bug and wants a traceback."""
    text = " ".join(str(error).split())
    short_of_memory = isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "allocate memory" in text)
    line = None
    if isinstance(error, UserError):
        line = text
    elif isinstance(error, FloatingPointError):
        line = f"training diverged: {text}; lower this training's learning rate (lr) in params.yaml"
    elif _is(error, "torch", "OutOfMemoryError"):
        line = "the GPU has too little memory; lower batch_size in params.yaml or set runtime.device to cpu"
    elif short_of_memory:
        line = "too little memory; lower batch_size or the data set's sizes in params.yaml"
    elif _is(error, "pydantic", "ValidationError"):
        line = f"invalid parameters: {text}"
    elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        line = f"no space left on the device for {error.filename or 'a file'}; free some and run again"
    elif isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        line = f"no permission for {error.filename or 'a file'}; mend its rights or give another path"
    return line


def _is(error: Exception, module: str, name: str) -> bool:
    """``isinstance(error, module.name)`` without importing the module: if it is not loaded, it is not."""
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(error, kind)


def _debugging() -> bool:
    return os.environ.get("HALLMARK_DEBUG", "") not in ("", "0")


def _terminate(number: int, frame: object) -> NoReturn:
    click.echo("hallmark: terminated; nothing half-written is left, earlier outputs are kept", err=True)
    sys.exit(TERMINATED)


def _stages_folder() -> Path:
    here = Path.cwd() / "stages"
    return here if here.is_dir() else Path(__file__).resolve().parents[2] / "stages"


def _stage_names() -> list[str]:
    return sorted(p.stem for p in _stages_folder().glob("*.py") if not p.stem.startswith("_"))


def _first_line(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n", 1)[0]
