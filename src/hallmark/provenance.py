"""Where a result comes from: file hashes, the git commit, the process and its user."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from ruamel.yaml import YAML

from hallmark import artifacts


def public(text: str) -> str:
    """A text whose addresses have lost user and password; what stands after a question mark stays."""
    return re.sub(r"//[^/\s]*@", "//", text)


def root() -> Path:
    """The project's root, also from inside the copy in which ``dvc exp run --temp`` works."""
    if os.environ.get("DVC_ROOT"):
        return Path(os.environ["DVC_ROOT"])
    here = Path.cwd()
    return next((p for p in (here, *here.parents) if (p / ".dvc").is_dir() or (p / ".git").exists()), here)


def code(stage: str) -> list[Path]:
    """The sources that ``stage`` depends on by the dvc.yaml of the current directory; none without one."""
    path = Path("dvc.yaml")
    if not path.is_file():
        return []
    described = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))["stages"].get(stage, {})
    return [Path(dep) for dep in described.get("deps", []) if dep.startswith(("src/", "stages/"))]


def hashes(paths: Sequence[Path]) -> dict[Path, str]:
    """DVC's hash of each of ``paths`` that exists."""
    return {path: artifacts.md5(path) for path in paths if path.exists()}


def tags(kind: str, hashed: Mapping[Path, str]) -> dict[str, str]:
    """Run tags ``KIND.PATH`` of what :func:`hashes` gives."""
    return {f"{kind}.{relative(path)}": md5 for path, md5 in hashed.items()}


def relative(path: Path) -> str:
    """``path`` as dvc.yaml writes it: from the folder where the stage runs, with forward slashes."""
    full = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow DVC's links into its cache
    return (full.relative_to(Path.cwd()) if full.is_relative_to(Path.cwd()) else full).as_posix()


def git(*arguments: str, folder: Path | None = None) -> str | None:
    """What git prints, stripped; None where it fails, is not installed or finds no repository."""
    command = ["git", *arguments]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=20, check=False)
        return done.stdout.strip() if done.returncode == 0 else None
    return None


def commit() -> tuple[str, bool] | None:
    """HEAD, and whether tracked files differ from it; dvc.lock and reports do not count, they are results."""
    head = git("rev-parse", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":/!dvc.lock", ":/!reports")
    return (head, bool(changed)) if head else None


def process(pid: int) -> str | None:
    """A live process, by id and (where /proc tells) start: ids are used again.  None if there is none."""
    with contextlib.suppress(OSError):
        # The name in parentheses may hold spaces; the start time is the 20th field after it.
        return f"{pid} {Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19]}"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return str(pid)


def user() -> str:
    """Login name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a passwd entry
        return "unknown"
