"""What contests' work has in common: failures of cells, folders that are made once, names of figures."""

from __future__ import annotations

import shutil
import sys
import traceback
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hallmark.errors import UserError

BUG = "bug: "
"""How the text of a failure begins that is no answer."""


@dataclass(frozen=True)
class Failure:
    """Why there is no result; ``users``: it is an answer and no bug, which a later run may find mended."""

    text: str = ""
    users: bool = True


def guarded(function: Callable[[], Any]) -> tuple[Any, Failure]:
    """The function's result, or None and why: one cell that fails must not cost the others."""
    try:
        return function(), Failure()
    except UserError as error:
        return None, Failure(str(error))
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        return None, Failure(f"{BUG}{type(error).__name__}: {' '.join(str(error).split())}"[:300], users=False)


def kept(folder: Path, make: Callable[[Path], None]) -> Path:
    """The folder, made if it is not there; of several processes that make it the first one's stays."""
    if not folder.is_dir():
        temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
        temporary.mkdir(parents=True)
        try:
            make(temporary)
            try:
                temporary.rename(folder)
            except OSError:
                if not folder.is_dir():
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def prefixed(model: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Figures as columns ``MODEL_NAME``."""
    return {f"{model}_{name}": value for name, value in values.items()}


def network_name(architecture: Any) -> str | None:
    """``NAME-WIDTH`` of an architecture block; None where there is none."""
    if not isinstance(architecture, Mapping) or "name" not in architecture:
        return None
    width = architecture.get("width")
    return f"{architecture['name']}-{width}" if width else str(architecture["name"])
