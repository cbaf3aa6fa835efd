"""Sections of the data, the poison and the purification."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from hallmark.config._base import ClassLabel, Count, Params, Share
from hallmark.config._networks import Architecture, Training


class PrepareData(Params):
    """Section ``prepare_data``."""

    source: str
    path: str | None = None
    """The user's own images: a folder, or a parquet file."""
    image_column: str | None = None
    label_column: str | None = None
    min_images: Count | None = None
    """Classes with fewer images are left out; None: all are kept."""
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

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Contests know what they have measured by a hash of these values: a parameter that is new, and not used, must
        # not change it.
        values = handler(self)
        return values if self.min_images is not None else {k: v for k, v in values.items() if k != "min_images"}


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
    """Of the weights, the network's configuration, the noise schedule and Hallmark's own files together; the error
    message of an unpinned model says what it is."""


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
        if self.keep > self.steps:
            raise ValueError(f"keep: a round of {self.steps} steps has no {self.keep} states to keep; lower keep")
        if self.sampler != "ancestral" and self.keep > 1:
            raise ValueError("keep: intermediates of a fast sampler are noisy images; set keep to 1 (and tau to 1)")
        return self


Repair = Literal["restore", "drop", "restore_add_reserve", "drop_add_reserve"]
"""What becomes of flagged images: given back purified, with the label of a benign model, where that is sure of one, or
left out; with or without the trusted reserve as more training images."""
RESTORING = frozenset[Repair]({"restore", "restore_add_reserve"})
ADDING_RESERVE = frozenset[Repair]({"restore_add_reserve", "drop_add_reserve"})


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
    repair: Repair
    architecture: Architecture
    """Of the suspect model (trained on the set as given) and of the benign model."""
    training: Training
    rounds: Rounds
    restore: Restore
