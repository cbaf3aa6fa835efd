"""Progress bars with a rate, on standard error, quiet where nobody watches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from hallmark import distributed

Advance = Callable[[int], None]
"""Called with the number of units done since the last call."""


@contextmanager
def progress(total: int, description: str, unit: str = "img") -> Iterator[Advance]:
    """A bar over ``total`` units; yields the function that advances it.

    On a terminal the bar refreshes ten times a second; in a log (DVC, CI) it prints one line every
    ten seconds at most, so that logs stay readable.  Of several processes only the first shows one.
    """
    interval = 0.1 if sys.stderr.isatty() else 10.0
    with tqdm(
        total=total,
        desc=description,
        unit=unit,
        unit_scale=True,
        mininterval=interval,
        miniters=0,
        disable=distributed.rank() != 0,
    ) as bar:

        def advance(count: int) -> None:
            bar.update(count)

        yield advance


def silent(count: int) -> None:
    """An :data:`Advance` that shows nothing: the default of the library's functions."""
