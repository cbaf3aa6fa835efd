"""The one exception that means "the user can mend this"."""

from __future__ import annotations


class UserError(Exception):
    """Bad input: a parameter, a file, a missing service.

    The message is one line that says what is wrong, where, and what to do about it.  The command
    line prints it without a traceback and exits with status 1; every other exception is a bug.
    """
