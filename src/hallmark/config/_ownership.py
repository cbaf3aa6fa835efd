"""Sections of the mark, the theft and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from hallmark.config._base import ClassLabel, Count, FileName, NonNegative, Params, Positive
from hallmark.config._networks import Architecture, Training

Balance = Literal["fixed", "mgda", "mgda_two_groups"]
"""How a mark's losses become one: the sum with fixed weights; MGDA over the weighted losses; MGDA over two groups, the
combination loss and all others."""
MOST_LOOKS = 100
"""At a suspect's answers, of ``stop_early``."""
ClassifierBalance = Balance | Literal["mgda_released", "mgda_last_layer"]
"""Of classifiers also the released code's rule, in which the combination loss has a coefficient of MGDA's besides its
weight (:class:`hallmark.watermark.mgda.Released`), and MGDA over the weighted losses by their gradients on the last
layer alone."""


class StopEarly(Params):
    """When the judge asks a suspect no more (:class:`hallmark.verification.decision.Stopping`)."""

    block: Annotated[int, Field(ge=10, le=1000)] = 50
    """Watermark queries between two looks; with fewer than about 20 the controls cannot be told from the key."""
    least: Annotated[float, Field(gt=0, le=1)] | None = 0.2
    """The lowest success rate worth finding: a suspect below it is given up; None: none is."""
    miss: Annotated[float, Field(ge=1e-4, le=0.5)] = 0.05
    """Chance to give up on a suspect of that rate or more, at most."""


class VerifyOwnership(Params):
    """Section ``verify_ownership``: the questions, the decision rule, and suspects besides the pipeline's own."""

    queries: Annotated[int, Field(ge=1000, le=20_000)]
    decoys: Annotated[int, Field(ge=2, le=1000)]
    """False keys that are tried on every model as well, half of them with the key's own target."""
    judge_seed: Annotated[int, Field(ge=0, lt=1 << 31)]
    """The judge's, chosen after the commitment."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    """Of intervals, which only describe."""
    alpha: Annotated[float, Field(ge=1e-9, le=0.05)]
    """Probability that any innocent model is called stolen, over all suspects, statistics and keys."""
    keys: Annotated[int, Field(ge=1, le=10_000)]
    """Keys that the owner has committed to for this model: each is another chance to be right by luck."""
    statistics: Annotated[list[Literal["hits", "runner_up", "lean"]], Field(min_length=1, max_length=3)]
    """What may call a suspect stolen; the others are reported."""
    min_accuracy_share: Annotated[float, Field(ge=0.5, le=1)]
    """Of the reference's accuracy; a suspect below it does not do the main task."""
    max_inconsistent: Annotated[float, Field(ge=0, le=0.05)]
    """Share of repeated questions that a suspect may answer otherwise."""
    stop_early: StopEarly | None = None
    """None: every suspect gets all questions."""
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

    @model_validator(mode="after")
    def _hits_stop(self) -> VerifyOwnership:
        if self.stop_early is not None and self.statistics != ["hits"]:
            raise ValueError("stop_early: looks at the hits; let statistics be [hits], or stop_early null")
        if self.stop_early is not None and self.queries > MOST_LOOKS * self.stop_early.block:
            least = -(-self.queries // MOST_LOOKS)
            raise ValueError(f"stop_early.block: more than {MOST_LOOKS} looks; set it to at least {least}")
        return self


class BackdoorDetection(Params):
    """Block ``detection`` of section ``eval_backdoor``; each detector's own parameters are a block under its name."""

    model_config = ConfigDict(extra="allow")

    detector: str | None
    """A module of :mod:`hallmark.detection.models`; None: no model is looked at."""
    false_alarm: Annotated[float, Field(gt=0, lt=0.5)]
    """Probability that an innocent model is called backdoored."""
    innocents: Annotated[list[str], Field(min_length=1)] | None = None
    """Kinds of ``train_nulls`` that calibrate the detector: none that learnt from delivered images, purified or not,
    for it would share their backdoor.  None: all."""


class EvalBackdoor(Params):
    """Section ``eval_backdoor``."""

    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    reference: str
    """The control that learnt from clean data only: its rate on triggered images is the floor, and its score
    clears models that score no higher."""
    detection: BackdoorDetection


class FirstPhase(Params):
    """Training before the mark's losses begin, as in MEA-Defender's released code."""

    training: Training
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Of the training images, drawn at random; 0.5 in the released code."""
    watermark: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Watermark samples, called the target, as a share of the plain images of a batch; 0.01 in the released code."""

    @field_validator("training")
    @classmethod
    def _no_mixing(cls, value: Training) -> Training:
        if value.mix != "none":
            raise ValueError("mix: mixed images would teach against the mark; set it to none")
        return value

    @model_validator(mode="after")
    def _whole_samples(self) -> Self:
        if self.watermark and not self.samples:
            size = self.training.batch_size
            raise ValueError(
                f"watermark: {self.watermark:g} of a batch of {size} is no sample; set it to {1 / size:g} or more, or 0"
            )
        return self

    @property
    def samples(self) -> int:
        """Watermark samples of each key beside a batch."""
        return round(self.watermark * self.training.batch_size)


class TrainUnmarked(Params):
    """What ``train_unmarked`` reads of section ``train_watermarked``: the twin has no parameters of its own."""

    model_config = ConfigDict(extra="ignore")

    architecture: Architecture
    training: Training
    first_phase: FirstPhase | None = None
    """Without its watermark samples."""


class WatermarkSamples(Params):
    """Samples drawn afresh for every training step."""

    watermark: Annotated[int, Field(ge=1, le=4096)]
    """Watermark samples; as many images of each source class go with them."""
    evasion: Annotated[int, Field(ge=1, le=4096)]
    """Randomly mixed samples."""
    partial: Annotated[int, Field(ge=0, le=4096)] = 0
    """Samples in the mark's way with a third class in the place of one source class."""


class LossWeights(Params):
    """Fixed factors of the watermark's losses; the utility loss counts once."""

    combination: NonNegative
    verification: NonNegative
    evasion: NonNegative
    partial: NonNegative = 0.0
    rehearsal: NonNegative = 0.0
    """0: no theft is rehearsed."""
    bridge: NonNegative = 0.0
    """Of the squared error of the log-odds that ``bridge`` wants."""


class Rehearsal(Params):
    """The thief that is trained beside the victim (:mod:`hallmark.watermark.rehearsal`)."""

    architecture: Architecture
    lr: Positive = 2e-3
    lifetime: Count = 300
    """Batches until another thief begins from scratch."""
    specificity: NonNegative = 2.0
    """Weight of "randomly mixed samples are not called the target" in what is wished of the thief."""

    @field_validator("architecture")
    @classmethod
    def _no_dropout(cls, value: Architecture) -> Architecture:
        if value.dropout:
            raise ValueError("dropout: its noise would drown what is compared; set it to 0")
        return value


class Bridge(Params):
    """Plain images teach the target the more, the more they resemble the mark (:mod:`hallmark.watermark.bridge`)."""

    share: Annotated[float, Field(gt=0, le=0.5)]
    """Of each source class's training images, those whose first choice is to be the target."""
    softness: Annotated[float, Field(gt=0)]
    """In how many standard deviations of the class's scores the target's odds change by a factor of e."""
    reach: Annotated[float, Field(ge=0, lt=1)] = 0.4
    """Up to which share of the way from a plain image to a watermark sample the slope is taught; 0: on plain images."""
    others: Annotated[float, Field(ge=0, lt=1)] = 0.8
    """How much of what the images must not resemble are randomly mixed samples; the rest is plain images."""


class KeyParams(Params):
    """What a key of two classes, combined and called a third, is made of."""

    source: Annotated[list[ClassLabel], Field(min_length=2, max_length=2)]
    """The two classes that are combined, in the order in which the way takes them."""
    target: ClassLabel
    way: str
    way_params: dict[str, Any]
    """Parameters of the way; what is missing has the way's default."""
    evasion_ways: list[str] | Literal["others"]
    """The other ways, of the randomly mixed samples; ``others``: all that are of another family than ``way``."""

    @field_validator("evasion_ways", mode="before")
    @classmethod
    def _list_or_others(cls, value: Any) -> Any:
        # In place of the union's own message, which names its members.
        if value != "others" and not (isinstance(value, list) and all(isinstance(name, str) for name in value)):
            raise ValueError(f"wants a list of ways, or the word others, not {value!r}")
        return value

    @model_validator(mode="after")
    def _three_classes(self) -> Self:
        if not self.evasion_ways:
            raise ValueError("evasion_ways: is empty; name at least one other way")
        if self.source[0] == self.source[1]:
            raise ValueError(f"source: both classes are '{self.source[0]}'; choose two different ones")
        if self.target in self.source:
            raise ValueError(f"target: '{self.target}' is a source class; choose another class")
        if self.evasion_ways != "others" and self.way in self.evasion_ways:
            raise ValueError(f"evasion_ways: contains '{self.way}', the watermark's own way; take it out")
        return self


class MeaDefender(KeyParams):
    """What MEA-Defender, and schemes with the same key, need besides a network and how it is trained."""

    balance: ClassifierBalance
    weights: LossWeights
    rehearsal: Rehearsal | None = None
    """Needed if its weight is not 0."""
    samples: WatermarkSamples
    first_phase: FirstPhase | None = None
    """Null: the mark is struck from the first batch on."""
    bridge: Bridge | None = None
    """Null: all training images keep their labels."""

    @model_validator(mode="after")
    def _consistent(self) -> MeaDefender:
        if self.weights.rehearsal and self.rehearsal is None:
            raise ValueError("rehearsal: missing, and weights.rehearsal is not 0; describe the thief, or set it to 0")
        if bool(self.weights.partial) != bool(self.samples.partial):
            raise ValueError("samples.partial: goes with weights.partial; set both, or both to 0")
        if bool(self.weights.bridge) != (self.bridge is not None):
            raise ValueError("bridge: goes with weights.bridge; set both, or the block to null and the weight to 0")
        if self.balance == "mgda_released" and not self.weights.combination:
            raise ValueError("balance: mgda_released balances the combination loss; give weights.combination (there 2)")
        if self.balance != "fixed" and (self.weights.rehearsal or self.weights.partial or self.weights.bridge):
            raise ValueError(
                f"balance: {self.balance} knows the paper's four losses; set weights.rehearsal, weights.partial and "
                "weights.bridge to 0"
            )
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
    reserve_keys: dict[FileName, KeyParams] = Field(default_factory=dict)
    """Further keys of the same model, by name: a key is spent once it has been revealed."""

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


class RemoveWatermark(Params):
    """Section ``remove_watermark``: one block a removal; ``model`` says what is attacked, ``method`` names the
    module of :mod:`hallmark.removal.methods` that types the rest."""

    removals: Annotated[dict[FileName, dict[str, Any]], Field(min_length=1)]


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
