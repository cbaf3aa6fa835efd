"""What a thief's service does to queries or answers while it is asked whether it is a copy, one module each.

A module defines ``RANGE``, an :class:`Range` of strengths, and ``prepare(means, strength)``, which gives an
:class:`Evasion`.  :class:`Evading` puts it in front of a suspect; :func:`strength_at_cost` finds the strength that
costs a given accuracy.
"""

from hallmark.evasion._evasion import Evading, Evasion, Means, Range, strength_at_cost
from hallmark.registry import Registry

registry = Registry("hallmark.evasion", "evasion", ("RANGE", "prepare"))

__all__ = ["Evading", "Evasion", "Means", "Range", "registry", "strength_at_cost"]
