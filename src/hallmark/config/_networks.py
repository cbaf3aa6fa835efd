"""Parameters that several stages share: the machine, networks, their training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hallmark.config._base import Count, NonNegative, Params, Positive


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
