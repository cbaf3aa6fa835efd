"""A small copy of the whole project in a folder of its own: what `make smoke` and the pipeline test run.

python tests/pipeline/workspace.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
SMOKE = Path(__file__).with_name("smoke.yaml")


class Workspace:
    """A Git and DVC repository at ``path`` whose commands run this copy's code.

    Each has a tracking store and a DVC cache of its own.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "DVC_", "HALLMARK_"))},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(path / "src"),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_AUTHOR_NAME": "test",
            "GIT_AUTHOR_EMAIL": "test@localhost",
            "GIT_COMMITTER_NAME": "test",
            "GIT_COMMITTER_EMAIL": "test@localhost",
        }

    @classmethod
    def create(cls, path: Path, overlay: Path = SMOKE) -> Workspace:
        """Copy the project's files (not its data, models and results) and lay ``overlay`` over params.yaml."""
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split("\0")
        for name in filter(None, listed):
            source = ROOT / name
            if name == "dvc.lock" or name.startswith("reports/") or not source.is_file():
                continue
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, path / name)
        workspace = cls(path)
        workspace.change(YAML(typ="safe", pure=True).load(overlay.read_text(encoding="utf-8")))
        workspace.run("git", "init", "--quiet", "--initial-branch", "main")
        workspace.commit("a small copy")
        return workspace

    def change(self, values: Mapping[str, Any]) -> None:
        """Lay values over params.yaml, keeping its comments."""
        yaml = YAML()
        yaml.width = 200
        path = self.path / "params.yaml"
        params = yaml.load(path.read_text(encoding="utf-8"))
        _merge(params, values)
        with path.open("w", encoding="utf-8") as file:
            yaml.dump(params, file)

    def commit(self, message: str) -> None:
        """Commit everything that Git does not ignore."""
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", message)

    def run(self, *command: str, check: bool = True, show: bool = False) -> str:
        """Run a command in the workspace; returns standard output and error together."""
        done = subprocess.run(
            command,
            cwd=self.path,
            env=self.env,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=None if show else subprocess.PIPE,
            stderr=None if show else subprocess.STDOUT,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)} exited with {done.returncode}:\n{done.stdout}")
        return done.stdout or ""

    def repro(self, *arguments: str) -> list[str]:
        """``dvc repro``; returns the names of the stages whose command really ran."""
        output = self.run("dvc", "repro", *arguments)
        marker = "Running stage '"
        return [line.split(marker)[1].split("'")[0] for line in output.splitlines() if line.startswith(marker)]


def _merge(base: Any, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), Mapping):
            _merge(base[key], value)
        else:
            base[key] = value


def main() -> None:
    """Run the whole pipeline on digits and print the summary and the time it took."""
    with tempfile.TemporaryDirectory(prefix="hallmark-smoke-") as folder:
        workspace = Workspace.create(Path(folder))
        started = time.perf_counter()
        workspace.run("dvc", "repro", show=True)
        workspace.run("python", "-m", "hallmark", "summary", show=True)
        print(f"\nThe whole pipeline ran in {time.perf_counter() - started:.0f} s; the digits' figures mean nothing.")


if __name__ == "__main__":
    main()
