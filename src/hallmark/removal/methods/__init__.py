"""Removals, one module each, found by name.

A module defines ``Params`` (a :class:`~hallmark.removal.RemovalParams`) and
``remove(network, means, params) -> Network``: a new model in evaluation mode, with the classes of ``network``, which
itself is left as it is.
"""
