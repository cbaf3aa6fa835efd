"""The command line's conduct: lazy, and one line for what the user can mend."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from hallmark import cli
from hallmark.errors import UserError

BROKEN = {
    "bad_input": ("UserError('params.yaml: x: wants 1')", 1, "hallmark: params.yaml: x: wants 1"),
    "disk_full": ("OSError(errno.ENOSPC, 'full', 'data/x')", 1, "no space left on the device for data/x"),
    "read_only": ("PermissionError(errno.EACCES, 'no', 'data/x')", 1, "no permission for data/x"),
    "diverged": ("FloatingPointError('victim: loss is nan')", 1, "learning rate (lr)"),
    "no_memory": ("MemoryError()", 1, "too little memory"),
    "ctrl_c": ("KeyboardInterrupt()", 130, "interrupted"),
    "usage": ("click.UsageError('no such option')", 2, "no such option"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose stages raise what they are named for."""
    stages = tmp_path / "stages"
    stages.mkdir()
    (stages / "__init__.py").write_text("")
    for name, (error, _, _) in BROKEN.items() | {"bug": ("ZeroDivisionError('oops')", 1, "")}.items():
        (stages / f"{name}.py").write_text(
            f'"""Raises {name}."""\n'
            "import errno, click\nfrom hallmark.errors import UserError\n"
            f"@click.command()\ndef main():\n    raise {error}\n"
        )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: str, code: str = "from hallmark.cli import main; main()", **environment: str) -> tuple[int, str]:
    """Exit status and standard error of a real process (torch is not imported: this takes 0.1 s)."""
    keep = {k: v for k, v in os.environ.items() if k != "HALLMARK_DEBUG"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=keep | environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("name", BROKEN)
def test_one_line_and_an_exit_status(name: str, folder: Path) -> None:
    _, status, text = BROKEN[name]
    code, err = call(name)
    assert code == status
    assert text in err
    assert "Traceback" not in err
    if name != "usage":
        assert len(err.strip().splitlines()) == 1


def test_a_bug_keeps_its_traceback(folder: Path) -> None:
    code, err = call("bug")
    assert code == 1
    assert "ZeroDivisionError: oops" in err
    assert "Traceback" in err


@pytest.mark.parametrize("name", ["bad_input", "ctrl_c"])
def test_developers_see_the_traceback(name: str, folder: Path) -> None:
    assert "Traceback" in call(name, HALLMARK_DEBUG="1")[1]
    assert "Traceback" not in call(name, HALLMARK_DEBUG="0")[1]


def test_an_unknown_stage(folder: Path) -> None:
    code, err = call("purify")
    assert code == 2
    assert "No such command 'purify'" in err


def test_help_lists_stages_and_tools_and_imports_neither(folder: Path) -> None:
    code = """
        import sys
        from hallmark.cli import main
        try:
            main()
        finally:
            loaded = {"torch", "mlflow", "pydantic", "matplotlib", "stages.bug"} & set(sys.modules)
            print("LOADED", sorted(loaded), file=sys.stderr)
    """
    assert call("--help", code=textwrap.dedent(code)) == (0, "LOADED []\n")
    out = subprocess.run([sys.executable, "-m", "hallmark", "-h"], capture_output=True, text=True, check=True).stdout
    for part in ("disk_full", "Raises disk_full.", *cli.TOOLS):
        assert part in out


def test_termination_cleans_up(folder: Path) -> None:
    (folder / "stages/slow.py").write_text(
        "import click, time, pathlib\n@click.command()\ndef main():\n"
        "    try:\n        print('ready', flush=True)\n        time.sleep(30)\n"
        "    finally:\n        pathlib.Path('cleaned').touch()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "hallmark", "slow"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 143
    assert (folder / "cleaned").exists()
    assert len(err.strip().splitlines()) == 1


def test_messages_of_libraries_that_are_loaded() -> None:
    import pydantic  # noqa: PLC0415
    import torch  # noqa: PLC0415

    class Model(pydantic.BaseModel):
        lr: float

    with pytest.raises(pydantic.ValidationError) as caught:
        Model.model_validate({"lr": "x"})
    line = cli.explain(caught.value)
    assert line is not None
    assert "lr" in line
    assert "\n" not in line
    assert "batch_size" in (cli.explain(torch.OutOfMemoryError("CUDA out of memory")) or "")
    assert "too little memory" in (
        cli.explain(RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")) or ""
    )
    assert cli.explain(RuntimeError("shape mismatch")) is None
    assert cli.explain(OSError(errno.EIO, "io")) is None
    assert cli.explain(UserError("a\nb")) == "a b"
