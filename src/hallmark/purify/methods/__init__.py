"""Sanitizers, one module each: ``Params`` and ``purify(material, params) -> Purification``."""

from hallmark.registry import Registry

registry = Registry("hallmark.purify.methods", "purification method", ("Params", "purify"))
