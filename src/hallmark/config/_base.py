"""What all parameter classes share, and how they are read."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML, YAMLError

from hallmark.errors import UserError

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
ClassLabel = Annotated[int, Field(ge=0)] | str
"""A class by number or by name."""
FILE_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$"
FileName = Annotated[str, Field(pattern=FILE_NAME)]
"""A name that is also that of a file."""


class Params(BaseModel):
    """Base of all parameter classes: unknown names and wrong types are errors, values are frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


Section = TypeVar("Section", bound=Params)


def parse(cls: type[Section], value: Any, where: str) -> Section:
    """Validate one block of parameters.

    Args:
        where: the block's place, for the message: ``"params.yaml: purify_data"``.

    Raises:
        UserError: the first thing wrong, by name, in one line.
    """
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: wants a block of parameters, not {value!r}")
    try:
        return cls.model_validate(dict(value))
    except ValidationError as error:
        first = error.errors()[0]
        # pydantic adds the member of a union, or a validator, to the place: of no use to the reader.
        place = [str(part) for part in first["loc"] if not str(part).startswith(("function-", "constrained-"))]
        name = ".".join([where, *place])
        if first["type"] == "extra_forbidden":
            raise UserError(f"{name}: unknown parameter{_nearest(place[-1], cls)}") from None
        reason = first["msg"].removeprefix("Value error, ")
        silent = ("missing", "value_error", "too_short", "too_long")  # these say what was given
        given = "" if first["type"] in silent else f", not {first['input']!r}"
        raise UserError(f"{name}: {reason[0].lower()}{reason[1:]}{given}") from None


def _nearest(name: str, cls: type[Params]) -> str:
    """What was meant by a mistyped name, of the block's own class, not of those within it; empty if none is like it."""
    meant = difflib.get_close_matches(name, cls.model_fields, 1)
    return f"; did you mean {meant[0]}?" if meant else ""


def read_params(path: Path) -> dict[str, Any]:
    """params.yaml as plain types.

    Raises:
        UserError: missing, not YAML, or not a mapping of sections.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; run from the repository's root or give --params")
    try:
        value = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: wants sections like 'runtime:' at the top level")
    return value


def section(params: Mapping[str, Any], name: str, cls: type[Section], path: Path) -> Section:
    """One validated section of params.yaml."""
    if name not in params:
        raise UserError(f"{path}: has no section '{name}'; compare with the params.yaml of the repository")
    return parse(cls, params[name], f"{path}: {name}")


def named_block(blocks: Mapping[str, dict[str, Any]], name: str, where: str) -> dict[str, Any]:
    """The block ``name`` of a section that holds one block a variant.

    Raises:
        UserError: there is none; the message lists those there are.
    """
    if name not in blocks:
        raise UserError(f"{where}: no block '{name}'; there are {', '.join(blocks) or 'none'}")
    return blocks[name]
