"""Model extraction: what a thief does with a black box that answers images with probabilities, or with less.

Attacks are pure functions over a counted query (:class:`Oracle`); each is one module of
:mod:`hallmark.extraction.attacks`.
"""

from hallmark.extraction import transfer
from hallmark.extraction.oracle import Answers, Oracle, Query, black_box
from hallmark.extraction.thief import AttackParams, Thief, agreement, attack_params, registry

__all__ = [
    "Answers",
    "AttackParams",
    "Oracle",
    "Query",
    "Thief",
    "agreement",
    "attack_params",
    "black_box",
    "registry",
    "transfer",
]
