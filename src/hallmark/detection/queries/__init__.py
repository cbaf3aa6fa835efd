"""Detectors that are given what a model was asked, one module each: ``Params`` and ``detect(log, params)``.

They guard the owner's service: against images with a trigger, and against those who ask in order to steal.  What is
returned is a :class:`~hallmark.detection.finding.Finding` whose ``items`` are the evidence against each query, and
whose ``classes`` are that against the queries answered with each class.
"""

from hallmark.detection.queries._log import Log
from hallmark.registry import Registry

registry = Registry("hallmark.detection.queries", "query detector", ("Params", "detect"))

__all__ = ["Log", "registry"]
