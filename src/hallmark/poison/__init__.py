"""The attacks that a hostile data supplier could mount: one module each, found by its file name.

An attack module defines ``Params`` (its block of params.yaml) and::

    poison(train, test, config, params, runtime) -> Poisoned

which may relabel, alter or leave images as the attack needs (all-to-all, clean label, sample-specific
triggers) and may train networks of its own.  The usual all-to-one attack is a pure ``trigger`` function
handed to :func:`all_to_one`.
"""

from hallmark.poison._overview import describe, manifest, measure, picture
from hallmark.poison._poisoned import Poisoned, all_to_one, apply, choose, registry

__all__ = [
    "Poisoned",
    "all_to_one",
    "apply",
    "choose",
    "describe",
    "manifest",
    "measure",
    "picture",
    "registry",
]
