"""Between our images and classes and a suspect's: size, channels, values, layout; order and names of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from hallmark.config import Params, Positive
from hallmark.errors import UserError
from hallmark.suspects.answer import NO_CLASS, Answer, Top

Side = Annotated[int, Field(ge=1, le=4096)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Meaning = Literal["logits", "probabilities"]
"""What a suspect's scores are."""
LARGEST = 1e30
"""Scores beyond are no scores; within, float32 arithmetic on them stays finite."""
GREY = (0.299, 0.587, 0.114)
"""ITU-R 601, as Pillow converts."""
TOLERANCE = 1e-3
"""Probabilities may leave 0-1, and their sum 1, by this much (some services send half precision)."""


class Input(Params):
    """Block ``input``: the images that the suspect takes."""

    size: Annotated[list[Side], Field(min_length=2, max_length=2)] | None = None
    """[height, width]; None: ours."""
    channels: Literal[1, 3] | None = None
    """None: ours.  Grey becomes RGB by repetition, RGB becomes grey by luma."""
    layout: Literal["nchw", "nhwc"] = "nchw"
    dtype: Literal["float32", "uint8"] = "float32"
    range: list[Finite] = Field(default=[0.0, 1.0], min_length=2, max_length=2)
    """What black (0) and white (255) become; before mean and std."""
    mean: Annotated[list[Finite], Field(min_length=1, max_length=3)] | None = None
    std: Annotated[list[Positive], Field(min_length=1, max_length=3)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Input:
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std: give both or none")
        if self.dtype == "uint8" and (self.range != [0.0, 1.0] or self.mean is not None):
            raise ValueError("dtype: uint8 images stay in 0-255; take out range, mean and std")
        return self


@dataclass(frozen=True)
class Adapter:
    """Makes the suspect's input of our images.

    Attributes:
        shape: (C, H, W) of ours.
    """

    input: Input
    shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = getattr(self.input, name)
            if values is not None and len(values) not in (1, self.theirs[0]):
                raise UserError(f"input.{name}: {len(values)} values for {self.theirs[0]} channels")

    @property
    def theirs(self) -> tuple[int, int, int]:
        """(C, H, W) of the suspect's images."""
        c, h, w = self.shape
        if self.input.size is not None:
            h, w = self.input.size
        return self.input.channels or c, h, w

    @property
    def expected(self) -> tuple[int, int, int]:
        """The shape of one image in the suspect's layout."""
        c, h, w = self.theirs
        return (h, w, c) if self.input.layout == "nhwc" else (c, h, w)

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 ``[N, C, H, W]`` of ours to float32 or uint8 ``[N, *expected]``, contiguous.

        Raises:
            UserError: images of another shape than :attr:`shape`.
        """
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != self.shape:
            raise UserError(
                f"images of {images.dtype} {list(images.shape)} where uint8 [N, {', '.join(map(str, self.shape))}] "
                "is expected"
            )
        c, h, w = self.theirs
        if self.input.dtype == "uint8" and self.theirs == self.shape:
            x = images
        else:
            x = images.float()
            if c < x.shape[1]:
                x = (x * torch.tensor(GREY).view(1, 3, 1, 1)).sum(1, keepdim=True)
            if (h, w) != self.shape[1:]:
                x = F.interpolate(x, (h, w), mode="bilinear", antialias=True, align_corners=False)
            x = x.expand(-1, c, -1, -1)
            x = x.round().clamp(0, 255).to(torch.uint8) if self.input.dtype == "uint8" else self._scaled(x)
        return (x.permute(0, 2, 3, 1) if self.input.layout == "nhwc" else x).contiguous()

    def _scaled(self, x: Tensor) -> Tensor:
        low, high = self.input.range
        # A division by 255 first, as everywhere in Hallmark: the same bits as a model in memory gets.
        x = x / 255
        if (low, high) != (0.0, 1.0):
            x = x * (high - low) + low
        if self.input.mean is not None and self.input.std is not None:
            x = (x - torch.tensor(self.input.mean).view(1, -1, 1, 1)) / torch.tensor(self.input.std).view(1, -1, 1, 1)
        return x


@dataclass(frozen=True)
class Classes:
    """The suspect's classes and which of ours each is.

    Attributes:
        ours, theirs: names, in label order.
        to_ours: for each of theirs the number of ours, or :data:`NO_CLASS`.
    """

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    to_ours: tuple[int, ...]

    @classmethod
    def match(cls, ours: Sequence[str], theirs: Sequence[str] | None, mapping: Mapping[str, str | None]) -> Classes:
        """Find each of the suspect's classes among ours, by ``mapping`` or else by its name.

        Args:
            theirs: None: the same names in the same order.
            mapping: from the suspect's name to ours, or to None where we have no such class.

        Raises:
            UserError: a class that is neither mapped nor one of ours, or named twice.
        """
        named = tuple(ours if theirs is None else theirs)
        if len(set(named)) != len(named):
            raise UserError("classes: a name stands there twice")
        for name in mapping:
            if name not in named:
                raise UserError(f"mapping: the suspect has no class '{name}'; it has {_list(named)}")
        numbers = []
        for name in named:
            own = mapping.get(name, name)
            if own is not None and own not in ours:
                raise UserError(
                    f"mapping: the suspect's class '{name}' is none of ours ({_list(ours)}); "
                    "map it to one of them, or to null"
                )
            numbers.append(NO_CLASS if own is None else list(ours).index(own))
        if all(number == NO_CLASS for number in numbers):
            raise UserError("mapping: none of the suspect's classes is one of ours")
        return cls(tuple(ours), named, tuple(numbers))

    @property
    def merged(self) -> tuple[str, ...]:
        """Those of ours that are several of theirs."""
        return tuple(name for number, name in enumerate(self.ours) if self.to_ours.count(number) > 1)

    def hard(self, labels: Tensor) -> Answer:
        """The answer of their labels, int64 ``[N]``.

        Raises:
            UserError: a label out of range.
        """
        return Answer(self._translated(labels))

    def soft(self, scores: Tensor, meaning: Meaning) -> Answer:
        """The answer of their scores, float ``[N, K']``; the first of equal scores wins.

        Raises:
            UserError: not finite, too large, or probabilities that are none.
        """
        scores = scores.double()
        # NaN fails every comparison, so the test is written to fail with it.
        if not bool((scores.abs() < LARGEST).all()):
            raise UserError("scores that are not finite (NaN or infinity)")
        labels = self._translated(scores.argmax(1))
        if meaning == "probabilities":
            _must_be_probabilities(scores)
        else:
            scores = scores.softmax(1)
        ours = torch.zeros(len(scores), len(self.ours) + 1, dtype=torch.float64)
        # The last column takes what is none of ours (its number is -1).
        index = torch.tensor([number % (len(self.ours) + 1) for number in self.to_ours])
        ours.index_add_(1, index, scores.clamp(0, 1))
        return Answer(labels, ours[:, :-1].clamp(0, 1).float())

    def best(self, classes: Tensor, scores: Tensor) -> Answer:
        """The answer of their best few: int64 ``[N, k]`` (-1 where fewer) and float ``[N, k]``, best first.

        Raises:
            UserError: scores that are not finite, or that rise.
        """
        if not bool((scores.abs() < LARGEST).all()):
            raise UserError("scores that are not finite (NaN or infinity)")
        named = classes >= 0
        rising = (scores[:, 1:] > scores[:, :-1]) & named[:, 1:]
        if bool(rising.any()):
            raise UserError("top classes that are not sorted, best first")
        own = torch.where(named, self._translated(classes.clamp(min=0)), NO_CLASS)
        return Answer(own[:, 0].clone(), None, Top(own, scores.float()))

    def _translated(self, labels: Tensor) -> Tensor:
        if len(labels) and not (int(labels.min()) >= 0 and int(labels.max()) < len(self.theirs)):
            raise UserError(
                f"class {int(labels.min())} to {int(labels.max())} where 0 to {len(self.theirs) - 1} are known"
            )
        return torch.tensor(self.to_ours)[labels]


def _must_be_probabilities(scores: Tensor) -> None:
    outside = bool((scores < -TOLERANCE).any()) or bool((scores > 1 + TOLERANCE).any())
    if outside or bool(((scores.sum(1) - 1).abs() > TOLERANCE * max(scores.shape[1], 10)).any()):
        raise UserError("scores that are no probabilities (0-1, adding up to 1); set scores: logits")


def _list(names: Sequence[str], count: int = 12) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
