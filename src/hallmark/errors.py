"""The one exception that means "the user can mend this"."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Bad input: a parameter, a file, a missing service.

    The message is one line that says what is wrong, where, and what to do about it.  The command
    line prints it without a traceback and exits with status 1; every other exception is a bug.
    """


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Put ``where``, the parameter or file at fault, before the message of a :class:`UserError` of the block."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
