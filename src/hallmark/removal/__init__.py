"""Watermark removal: what a thief does to a model that he holds, so that its mark is no longer found.

Removals are plain functions; each is one module of :mod:`hallmark.removal.methods`.  They see the model whole (it is
the thief's copy, or a leaked victim), the thief's own images, and the victim as a ``query`` callable; never the key.
"""

from hallmark.removal.remover import (
    Lesson,
    Lessons,
    Means,
    RemovalParams,
    duplicate,
    registry,
    reinitialise_head,
    removal_params,
)

__all__ = [
    "Lesson",
    "Lessons",
    "Means",
    "RemovalParams",
    "duplicate",
    "registry",
    "reinitialise_head",
    "removal_params",
]
