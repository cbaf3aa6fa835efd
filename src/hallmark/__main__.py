"""``python -m hallmark STAGE ...``: see :mod:`hallmark.cli`."""

import os
import sys
from pathlib import Path

OF_STRANGERS = ("verify-evidence", "evidence", "key", "ask")
"""Commands that are given what strangers made, maybe in the folder where one stands: only installed code runs."""
STARTED_WITH = "HALLMARK_STARTED_WITH"
"""Environment variable: the sources with which this process was started again."""


def use_this_checkout() -> None:
    """Start again with the sources of the current directory, if it has its own and these are others.

    ``dvc exp run --temp`` and the queue run in a copy of the repository: its hashes speak of the copy's
    code, so the copy's code must run, not that of the checkout that is installed.
    """
    if sys.argv[1:2] and sys.argv[1] in OF_STRANGERS:
        return
    sources = (Path.cwd() / "src").resolve()
    if (sources / "hallmark" / "__main__.py").is_file() and not Path(__file__).resolve().is_relative_to(sources):
        if os.environ.get(STARTED_WITH) == str(sources):
            return  # once is enough: something else comes first on Python's path
        path = os.pathsep.join(filter(None, [str(sources), os.environ.get("PYTHONPATH")]))
        environment = os.environ | {"PYTHONPATH": path, STARTED_WITH: str(sources)}
        os.execve(sys.executable, [sys.executable, "-m", "hallmark", *sys.argv[1:]], environment)


if __name__ == "__main__":
    use_this_checkout()

    from hallmark.cli import main

    main()
