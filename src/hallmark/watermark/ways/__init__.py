"""Ways to combine two images into one, one module each, found by name.

A module defines ``Params``, ``combine(first, second, params, generator) -> Tensor`` and ``family(params)``:

- ``first``, ``second``: ``[B, C, H, W]``, uint8 (0-255) or float (0-1), same shape, dtype and device;
- ``generator``: a CPU generator for what the way draws at random (the draws are small and move to the
  device); a way that draws nothing ignores it;
- the result has the shape, dtype and device of the arguments;
- ``family(params) -> frozenset[str]``: the kinds of picture that the way makes.  Two ways are of one family if they
  have a kind in common, which they must if they can make the very same picture of a pair, whichever image comes first,
  or nearly the same.  A mark in one way and evasion samples in another of its family would contradict each other.

It may define two more:

- ``prepare(params, data, runtime) -> Params``: for a way that must be trained.  :func:`hallmark.watermark.key.make_key`
  calls it with the training images; what it returns holds all that was trained, so that the key alone makes the
  pictures.  Such a way carries a mark, but makes no evasion samples, whose ways have their default parameters.
- ``check(params, shape) -> None``: raises UserError if it cannot combine images of ``shape`` (C, H, W).

:data:`HIDING` are the five mixers of the authors' evasion samples; any other way can carry a mark.
"""

from __future__ import annotations

from hallmark import config
from hallmark.errors import UserError
from hallmark.registry import Registry

ways = Registry("hallmark.watermark.ways", "way to combine", ("Params", "combine", "family"))

HIDING = ("ratio_split", "diagonal", "donut", "hot_dog", "ratio_mix")
"""The ways of the randomly mixed samples in the authors' released code."""


def must_be_trained(name: str) -> bool:
    """Whether a way combines nothing before it has been trained.

    Raises:
        UserError: no such way.
    """
    return hasattr(ways.get(name), "prepare")


def refuse_trained(name: str) -> None:
    """Refuse a way with which no ownership can be claimed.

    The weights are thousands of numbers of the owner's choice: found by gradient descent, they make an innocent model
    call nearly all queries the target, and neither null models nor decoys (docs/ownership.md).

    Raises:
        UserError: the way must be trained, or there is no such way.
    """
    if must_be_trained(name):
        raise UserError(
            f"way: '{name}' comes with weights of the owner's choice, with which innocent models can be made to fire: "
            "no verdict rests on such a key; mark with another way (watermark-contest studies this one)"
        )


def untrained() -> list[str]:
    """Names of the ways that combine images as they are, sorted: any of them can make evasion samples."""
    return [name for name in ways.names() if not must_be_trained(name)]


def others(name: str, params: config.Params) -> tuple[str, ...]:
    """The ways that, with their default parameters, are of another family than ``name`` with ``params``; sorted.

    The paper draws its randomly mixed samples from all ways other than the watermark's.

    Raises:
        UserError: no such way.
    """
    own = ways.get(name).family(params)

    def foreign(other: str) -> bool:
        module = ways.get(other)
        return other != name and not own & module.family(module.Params())

    return tuple(filter(foreign, untrained()))
