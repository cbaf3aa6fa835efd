"""Extraction attacks, one module each, found by name.

A module defines ``Params`` (an :class:`~hallmark.extraction.AttackParams`) and
``steal(oracle, thief, params) -> Network``: the finished copy, in evaluation mode.
"""
