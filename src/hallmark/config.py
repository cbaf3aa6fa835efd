"""Typed, frozen, validated parameters: one class a section of params.yaml.

Parameters of interchangeable methods (a poison, an extraction attack, ...) are typed in the method's
own module as ``Params``; the section holds them as a plain block until the method is looked up.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML, YAMLError

from hallmark.errors import UserError

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
ClassLabel = Annotated[int, Field(ge=0)] | str
"""A class by number or by name."""


class Params(BaseModel):
    """Base of all parameter classes: unknown names and wrong types are errors, values are frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class RuntimeConfig(Params):
    """Section ``runtime``, read by every stage."""

    device: Literal["auto", "cpu", "cuda", "mps"]
    threads: Annotated[int, Field(ge=1, le=256)]
    precision: Literal["auto", "bf16", "fp32"]
    seed: Annotated[int, Field(ge=0, lt=1 << 31)]


class Architecture(Params):
    """A network by name."""

    name: str
    width: Annotated[int, Field(ge=0, le=1024)] = 0
    """Channels of the first layer; 0 is the architecture's own default."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    unshuffle: Literal[1, 2, 4] = 1
    """Fold blocks of this many pixels a side into channels first: about twice the speed at 2."""


class Training(Params):
    """How a network is trained."""

    epochs: Count
    batch_size: Annotated[int, Field(ge=2)]
    lr: Positive
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NonNegative = 0.0
    schedule: Literal["cosine", "constant"] = "cosine"
    clip_norm: NonNegative = 0.0
    """Gradient norm bound; 0 is none."""
    flip: bool = False
    shift: Annotated[int, Field(ge=0, le=16)] = 0
    """Largest random shift in pixels."""
    mix: Literal["none", "mixup", "cutmix", "mixup_cutmix"] = "none"


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
        name = ".".join([where, *(str(part) for part in first["loc"] if not str(part).startswith("function-"))])
        reason = first["msg"].removeprefix("Value error, ")
        given = "" if first["type"] in ("missing", "value_error") else f", not {first['input']!r}"
        raise UserError(f"{name}: {reason[0].lower()}{reason[1:]}{given}") from None


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
