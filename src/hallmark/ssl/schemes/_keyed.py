"""The mark of schemes whose secret is a :class:`~hallmark.watermark.key.Key`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hallmark.runtime import Runtime
from hallmark.ssl.measures import Panel, questions
from hallmark.ssl.probes import Encode
from hallmark.watermark.key import Key


@dataclass(frozen=True)
class KeyMark:
    """Combinations of two classes that every reader of the features calls a third."""

    key: Key

    def rates(self, encode: Encode, panel: Panel, count: int, runtime: Runtime) -> dict[str, float | None]:
        """See :class:`hallmark.ssl.schemes.Mark`."""
        return panel.rates(encode, questions(self.key, panel.test, count, runtime), runtime)

    def to_json(self) -> dict[str, Any]:
        """See :class:`hallmark.ssl.schemes.Mark`."""
        return self.key.to_json()


def read_mark(value: Any, where: str) -> KeyMark:
    """See :mod:`hallmark.ssl.schemes`.

    Raises:
        UserError: not a sound key.
    """
    return KeyMark(Key.from_json(value, where))
