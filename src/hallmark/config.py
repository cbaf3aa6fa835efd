"""Typed, frozen, validated parameters: one class a section of params.yaml.

Parameters of interchangeable methods (a poison, an extraction attack, ...) are typed in the method's
own module as ``Params``; the section holds them as a plain block until the method is looked up.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
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


class VerifyOwnership(Params):
    """Section ``verify_ownership``: the questions and the decision rule."""

    queries: Annotated[int, Field(ge=1000, le=1_000_000)]
    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    alpha: Annotated[float, Field(gt=0, lt=0.5)]
    min_excess: Annotated[float, Field(ge=0, lt=1)]
    min_controls: Annotated[int, Field(ge=3)]
    max_control_wsr: Share
    min_accuracy_share: Share


class EvalBackdoor(Params):
    """Section ``eval_backdoor``."""

    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    reference: str
    """The control trained on clean data only; its rate on triggered images is the floor."""


class TrainUnmarked(Params):
    """Section ``train_unmarked``: the victim's twin without a mark."""

    architecture: Architecture
    training: Training


class WatermarkSamples(Params):
    """Samples drawn afresh for every training step."""

    watermark: Annotated[int, Field(ge=1, le=4096)]
    """Watermark samples; as many images of each source class go with them."""
    evasion: Annotated[int, Field(ge=1, le=4096)]
    """Randomly mixed samples."""


class LossWeights(Params):
    """Fixed factors of the watermark's losses; the utility loss counts once."""

    combination: NonNegative
    verification: NonNegative
    evasion: NonNegative


class TrainWatermarked(Params):
    """Section ``train_watermarked``."""

    scheme: Literal["mea_defender"]
    architecture: Architecture
    training: Training
    source: Annotated[list[ClassLabel], Field(min_length=2, max_length=2)]
    """The two classes that are combined, in the order in which the way takes them."""
    target: ClassLabel
    way: str
    way_params: dict[str, Any]
    """Parameters of the way; what is missing has the way's default."""
    evasion_ways: list[str]
    """The other ways, of the randomly mixed samples."""
    balance: Literal["fixed", "mgda", "mgda_two_groups"]
    weights: LossWeights
    samples: WatermarkSamples
    evaluation: Count
    """Watermark samples, and randomly mixed ones, on which the rates are measured."""

    @model_validator(mode="after")
    def _three_classes(self) -> TrainWatermarked:
        if self.source[0] == self.source[1]:
            raise ValueError(f"source: both classes are '{self.source[0]}'; choose two different ones")
        if self.target in self.source:
            raise ValueError(f"target: '{self.target}' is a source class; choose another class")
        if self.way in self.evasion_ways:
            raise ValueError(f"evasion_ways: contains '{self.way}', the watermark's own way; take it out")
        return self


class ExtractAttack(Params):
    """Section ``extract_attack``: one block an attack; ``method`` names the module that types the block."""

    attacks: dict[str, dict[str, Any]]


class TrainedControl(Params):
    """A control trained on true labels."""

    kind: Literal["trained"]
    data: Literal["purified", "queries"]
    """purified: the victim's training data; queries: the thief's images."""
    architecture: Architecture
    training: Training


class StolenControl(Params):
    """A control stolen from the unmarked model with the thief's queries."""

    kind: Literal["stolen"]
    attack: dict[str, Any]
    """A block as under ``extract_attack.attacks``."""


class TrainControls(Params):
    """Section ``train_controls``: one block a control, :class:`TrainedControl` or :class:`StolenControl`."""

    controls: dict[str, dict[str, Any]]


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
