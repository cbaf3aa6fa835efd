"""The attacks that a hostile data supplier could mount: one module each, found by its file name.

An attack module defines ``Params`` (its block of params.yaml), ``LABEL_MODES`` (those that it can do, its
usual one first) and::

    poison(train, test, config, params, runtime) -> Poisoned

Nearly every attack is a pure ``trigger`` function from images to images, handed to :func:`deliver`, which
draws the images and sets the labels.  One that needs a network trains it first (:func:`surrogate`).
"""

from hallmark.poison._overview import COLUMNS, describe, manifest, measure, picture
from hallmark.poison._poisoned import (
    CHUNK,
    Covers,
    Poisoned,
    Trigger,
    add,
    apply,
    choose,
    deliver,
    label_mode,
    registry,
    wanted,
)
from hallmark.poison._surrogate import Surrogate, surrogate

__all__ = [
    "CHUNK",
    "COLUMNS",
    "Covers",
    "Poisoned",
    "Surrogate",
    "Trigger",
    "add",
    "apply",
    "choose",
    "deliver",
    "describe",
    "label_mode",
    "manifest",
    "measure",
    "picture",
    "registry",
    "surrogate",
    "wanted",
]
