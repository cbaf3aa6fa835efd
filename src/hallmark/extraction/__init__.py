"""Model extraction: what a thief does with a black box that answers images with probabilities, or with less.

Attacks are pure functions over a counted query (:class:`Oracle`); each is one module of
:mod:`hallmark.extraction.attacks`.
"""

from hallmark.extraction import transfer
from hallmark.extraction.oracle import Answers, Oracle, Query, black_box
from hallmark.extraction.thief import AttackParams, Stolen, Thief, agreement, attack_params, registry, steal

__all__ = [
    "Answers",
    "AttackParams",
    "Oracle",
    "Query",
    "Stolen",
    "Thief",
    "agreement",
    "attack_params",
    "black_box",
    "registry",
    "steal",
    "transfer",
]
