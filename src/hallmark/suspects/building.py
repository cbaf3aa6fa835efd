"""From a block of parameters to a suspect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hallmark.config import parse
from hallmark.errors import UserError
from hallmark.registry import Registry
from hallmark.runtime import Runtime
from hallmark.suspects.answer import Suspect

registry = Registry("hallmark.suspects.kinds", "kind of suspect", ("Params", "open_suspect"))


def build(
    name: str, block: Mapping[str, Any], classes: tuple[str, ...], shape: tuple[int, int, int], runtime: Runtime
) -> Suspect:
    """Open the suspect that a block describes.

    Args:
        name: the block's name under ``suspects``, for messages.
        block: ``kind`` and the parameters of that kind.
        classes, shape: our class names, and (C, H, W) of our images.

    Raises:
        UserError: unknown kind, invalid block, or a suspect that cannot be opened.
    """
    where = f"suspects.{name}"
    kind = block.get("kind") if isinstance(block, Mapping) else None
    if not isinstance(kind, str) or kind not in registry.names():
        raise UserError(f"{where}.kind: wants one of {', '.join(registry.names())}, not {kind!r}")
    module = registry.get(kind)
    return module.open_suspect(parse(module.Params, block, where), classes, shape, runtime, where)
