"""Sanitizers, one module each: ``Params`` and ``detect(material, params) -> Findings``.

What becomes of the images that a method flags is :mod:`hallmark.purify.repair`'s, the same for all.
"""

from hallmark.registry import Registry

registry = Registry("hallmark.purify.methods", "purification method", ("Params", "detect"))
