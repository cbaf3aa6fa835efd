"""Typed, frozen, validated parameters: one class a section of params.yaml.

Parameters of interchangeable methods (a poison, an extraction attack, ...) are typed in the method's
own module as ``Params``; the section holds them as a plain block until the method is looked up.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
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
    """Section ``verify_ownership``: the questions, the decision rule, and suspects besides the pipeline's own."""

    queries: Annotated[int, Field(ge=1000, le=20_000)]
    decoys: Annotated[int, Field(ge=1, le=1000)]
    """False keys that are tried on every model as well."""
    judge_seed: Annotated[int, Field(ge=0, lt=1 << 31)]
    """The judge's, chosen after the commitment."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    """Of intervals, which only describe."""
    alpha: Annotated[float, Field(ge=1e-9, le=0.05)]
    """Probability that any innocent model is called stolen, over all suspects, statistics and keys."""
    keys: Annotated[int, Field(ge=1, le=10_000)]
    """Keys that the owner has committed to for this model: each is another chance to be right by luck."""
    statistics: Annotated[list[Literal["hits", "runner_up"]], Field(min_length=1, max_length=2)]
    """What may call a suspect stolen; the others are reported."""
    min_accuracy_share: Annotated[float, Field(ge=0.5, le=1)]
    """Of the reference's accuracy; a suspect below it does not do the main task."""
    max_inconsistent: Annotated[float, Field(ge=0, le=0.05)]
    """Share of repeated questions that a suspect may answer otherwise."""
    suspects: dict[FileName, dict[str, Any]]
    """Blocks as in docs/suspects.md: models in files, or behind HTTP."""

    OF_THE_CASE: ClassVar[frozenset[str]] = frozenset({"judge_seed", "keys", "suspects"})
    """What belongs to one case: the judge sets it after the commitment, so a commitment does not bind it."""

    @classmethod
    def committed(cls, section: Mapping[str, Any]) -> dict[str, Any]:
        """The decision rule: what a commitment binds of a section, as it stands there."""
        return {name: value for name, value in section.items() if name not in cls.OF_THE_CASE}

    @model_validator(mode="after")
    def _names(self) -> VerifyOwnership:
        if "victim" in self.suspects:
            raise ValueError("suspects: 'victim' is the pipeline's own; choose another name")
        return self


class EvalBackdoor(Params):
    """Section ``eval_backdoor``."""

    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    reference: str
    """The control trained on clean data only; its rate on triggered images is the floor."""


class TrainUnmarked(Params):
    """What ``train_unmarked`` reads of section ``train_watermarked``: the twin has no parameters of its own."""

    model_config = ConfigDict(extra="ignore")

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
    rehearsal: NonNegative = 0.0
    """0: no theft is rehearsed."""


class Rehearsal(Params):
    """The thief that is trained beside the victim (:mod:`hallmark.watermark.rehearsal`)."""

    architecture: Architecture
    lr: Positive = 2e-3
    lifetime: Count = 300
    """Batches until another thief begins from scratch."""
    specificity: NonNegative = 2.0
    """Weight of "randomly mixed samples are not called the target" in what is wished of the thief."""


class MeaDefender(Params):
    """What MEA-Defender, and schemes with the same key, need besides a network and how it is trained."""

    source: Annotated[list[ClassLabel], Field(min_length=2, max_length=2)]
    """The two classes that are combined, in the order in which the way takes them."""
    target: ClassLabel
    way: str
    way_params: dict[str, Any]
    """Parameters of the way; what is missing has the way's default."""
    evasion_ways: list[str] | Literal["others"]
    """The other ways, of the randomly mixed samples; ``others``: all that are of another family than ``way``."""
    balance: Literal["fixed", "mgda", "mgda_two_groups"]
    weights: LossWeights
    rehearsal: Rehearsal | None = None
    """Needed if its weight is not 0."""
    samples: WatermarkSamples

    @field_validator("evasion_ways", mode="before")
    @classmethod
    def _list_or_others(cls, value: Any) -> Any:
        # In place of the union's own message, which names its members.
        if value != "others" and not (isinstance(value, list) and all(isinstance(name, str) for name in value)):
            raise ValueError(f"wants a list of ways, or the word others, not {value!r}")
        return value

    @model_validator(mode="after")
    def _three_classes(self) -> MeaDefender:
        if self.weights.rehearsal and self.rehearsal is None:
            raise ValueError("rehearsal: missing, and weights.rehearsal is not 0; describe the thief, or set it to 0")
        if not self.evasion_ways:
            raise ValueError("evasion_ways: is empty; name at least one other way")
        if self.source[0] == self.source[1]:
            raise ValueError(f"source: both classes are '{self.source[0]}'; choose two different ones")
        if self.target in self.source:
            raise ValueError(f"target: '{self.target}' is a source class; choose another class")
        if self.evasion_ways != "others" and self.way in self.evasion_ways:
            raise ValueError(f"evasion_ways: contains '{self.way}', the watermark's own way; take it out")
        return self


class TrainWatermarked(MeaDefender):
    """Section ``train_watermarked``."""

    scheme: str
    architecture: Architecture
    training: Training
    recipients: list[str]
    """Who may open the key's file besides this machine: ``age1...``."""
    evaluation: Annotated[int, Field(ge=10)]
    """Watermark samples, and randomly mixed ones, on which the rates are measured."""

    @model_validator(mode="after")
    def _no_mixing(self) -> TrainWatermarked:
        if self.training.mix != "none":
            raise ValueError("training.mix: mixed images would teach against the mark; set it to none")
        return self


class ExtractAttack(Params):
    """Section ``extract_attack``: one block an attack; ``method`` names the module that types the block."""

    attacks: dict[str, dict[str, Any]]
    victim: dict[str, Any] | None = None
    """A block as in docs/suspects.md: the victim is that file or service; None: the model folder of the stage."""


class TrainControls(Params):
    """Section ``train_controls``: one block a control, typed in :mod:`hallmark.innocents`."""

    controls: dict[str, dict[str, Any]]


class TrainNulls(Params):
    """Section ``train_nulls``: independent innocent models, the null hypothesis of every ownership claim."""

    models: Annotated[int, Field(ge=2, le=10_000)]
    share: Annotated[float, Field(gt=0, le=1)]
    """Of the images of its source that each model is trained on, drawn for each; a thief's asks so many."""
    kinds: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    """Blocks as under ``train_controls.controls``; the models take them in turn."""


class PrepareData(Params):
    """Section ``prepare_data``."""

    source: str
    path: str | None = None
    """The user's own images: a folder, or a parquet file."""
    image_column: str | None = None
    label_column: str | None = None
    size: Annotated[int, Field(ge=8, le=1024)] | None = None
    """Resize every image to this many pixels a side; None: all must have one size."""
    channels: Literal[1, 3] | None = None
    """Convert every image to grey or RGB; None: all must be of one kind."""
    train: Annotated[int, Field(ge=0)]
    test: Annotated[int, Field(ge=0)]
    reserve: Annotated[int, Field(ge=0)]
    queries: Annotated[int, Field(ge=0)]
    duplicates: Literal["drop", "report"] = "drop"

    @model_validator(mode="after")
    def _one_remainder(self) -> PrepareData:
        # A source with a reserve part gives all of it for 0; only the reader of the source knows.
        own = self.path is not None
        names = [name for name in ("train", "reserve", "queries") if getattr(self, name) == 0]
        if len(set(names) - ({"reserve"} if own else set())) > 1:
            raise ValueError(f"{' and '.join(names)} are 0, but only one can have all that is left; set a size")
        return self


class PoisonData(Params):
    """Section ``poison_data``; each attack's own parameters are a block under its name."""

    model_config = ConfigDict(extra="allow")

    attack: str
    rate: Annotated[float, Field(gt=0, lt=1)]
    """Share of the whole training set that is poisoned."""
    target: ClassLabel
    """The class that the trigger stands for, by number or name; all_to_all has none."""
    label_mode: Literal["usual", "all_to_one", "all_to_all", "clean"] = "usual"
    """Labels of the poisoned images: the target, the next class, or their own; usual: the attack's own way."""


class PretrainedDiffusion(Params):
    """Block ``pretrained`` of section ``train_diffusion``."""

    model: str
    """A folder, or a repository of the Hugging Face hub."""
    revision: str | None = None
    """Commit, tag or branch on the hub; not used for a folder."""
    sha256: str | None = None
    """Of the safetensors weights (several files: of their contents in the order of their names)."""


class TrainDiffusion(Params):
    """Section ``train_diffusion``."""

    source: Literal["train", "pretrained"]
    trained_below: Annotated[int, Field(ge=1, le=1000)]
    """Diffusion steps ``0 <= t < trained_below`` are trained; the purifier may visit no others."""
    unshuffle: Literal[1, 2, 4]
    """Fold blocks of this many pixels a side into channels before the network."""
    channels: list[Annotated[int, Field(ge=8, le=1024, multiple_of=8)]] = Field(min_length=1, max_length=6)
    """Of each resolution level, from the finest."""
    layers: Annotated[int, Field(ge=1, le=8)]
    """Residual blocks a level."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)]
    training: Training
    pretrained: PretrainedDiffusion | None = None

    @model_validator(mode="after")
    def _source(self) -> TrainDiffusion:
        if self.source == "pretrained" and self.pretrained is None:
            raise ValueError("source is pretrained, but the block pretrained (model, revision, sha256) is missing")
        if self.training.mix != "none":
            raise ValueError("training.mix: mixed images are no samples of the data; set it to none")
        return self


class Rounds(Params):
    """Block ``rounds`` of section ``purify_data``: how an image is purified."""

    start: Annotated[int, Field(ge=1, le=1000)]
    """DataElixir's T: images are noised up to this diffusion step."""
    rounds: Annotated[int, Field(ge=1, le=50)]
    """DataElixir's n: chained rounds, each begins with the end of the last."""
    sampler: Literal["ddim", "dpm_solver", "ancestral"]
    steps: Count
    """Network evaluations a round; 1 is the model's direct estimate of the clean image."""
    keep: Count = 1
    """DataElixir's m: the last so many states of a round are candidates."""

    @model_validator(mode="after")
    def _consistent(self) -> Rounds:
        if self.steps > self.start:
            raise ValueError(f"steps: {self.steps} sampler steps do not fit into start: {self.start}; lower steps")
        if self.sampler != "ancestral" and self.keep > 1:
            raise ValueError("keep: intermediates of a fast sampler are noisy images; set keep to 1 (and tau to 1)")
        return self


class Restore(Params):
    """Block ``restore`` of section ``purify_data``: how flagged images are given back."""

    confidence: Share
    """Restore only what the benign model is so sure of; the rest is dropped."""
    percentile: Share
    """Position of the selected candidate among those sorted by distance from the raw image."""


class PurifyData(Params):
    """Section ``purify_data``; each method's own parameters are a block under its name."""

    model_config = ConfigDict(extra="allow")

    method: str
    repair: Literal["restore", "drop", "drop_add_reserve"]
    """What becomes of the flagged images."""
    architecture: Architecture
    """Of the suspect model (trained on the set as given) and of the benign model."""
    training: Training
    rounds: Rounds
    restore: Restore


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


def named_block(blocks: Mapping[str, dict[str, Any]], name: str, where: str) -> dict[str, Any]:
    """The block ``name`` of a section that holds one block a variant.

    Raises:
        UserError: there is none; the message lists those there are.
    """
    if name not in blocks:
        raise UserError(f"{where}: no block '{name}'; there are {', '.join(blocks) or 'none'}")
    return blocks[name]
