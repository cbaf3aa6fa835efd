"""From scores to decisions with a known rate of false alarms, by the scores of innocent models (or logs).

The p-value is the conformal rank (Vovk, Gammerman, Shafer 2005, chapter 2): if the innocent and the one in question are
exchangeable, it is at most alpha with a probability of at most alpha, whatever the scores' distribution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from hallmark.errors import UserError


def p_value(score: float, innocent: Sequence[float]) -> float:
    """Probability that an innocent one scores so high: (1 + how many do) / (N + 1).

    A score that is not a number is the most innocent there is; among the innocent it is the most suspicious.
    """
    if math.isnan(score):
        return 1.0
    return (1 + sum(not other < score for other in innocent)) / (len(innocent) + 1)


def least(false_alarm: float) -> int:
    """How many innocent ones a rate of false alarms needs at least."""
    return math.ceil(round(1 / false_alarm, 9)) - 1


def threshold(innocent: Sequence[float], false_alarm: float) -> float:
    """What a score must exceed for a p-value of at most ``false_alarm``.

    Raises:
        UserError: too few innocent ones for such a rate.
    """
    allowed = math.floor(round(false_alarm * (len(innocent) + 1), 9))
    if allowed < 1:
        raise UserError(
            f"a false-alarm rate of {false_alarm:g} needs at least {least(false_alarm):,} innocent models, and there "
            f"are {len(innocent):,}; give more, or raise the rate"
        )
    worst_first = sorted((math.inf if math.isnan(value) else value for value in innocent), reverse=True)
    return worst_first[allowed - 1]
