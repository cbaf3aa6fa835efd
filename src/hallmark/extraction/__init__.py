"""Model extraction: what a thief does with a black box that answers images with probabilities.

Attacks are pure functions over a counted query (:class:`Oracle`); each is one module of
:mod:`hallmark.extraction.attacks`.
"""

from hallmark.extraction.oracle import Oracle, Query, black_box
from hallmark.extraction.thief import AttackParams, Thief, agreement, attack_params, attacks

__all__ = ["AttackParams", "Oracle", "Query", "Thief", "agreement", "attack_params", "attacks", "black_box"]
