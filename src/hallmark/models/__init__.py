"""Architectures by name, for any number of channels and classes and any image size from 8 pixels up.

A network takes float images ``[B, C, H, W]`` in 0-1 and returns logits ``[B, K]``; normalisation is
inside.  Each architecture is one module of this package with ``build(spec) -> (trunk, head)``.
"""

from hallmark.models._network import (
    ModelSpec,
    Network,
    build,
    check_images,
    features,
    features_and_logits,
    load,
    logits,
    probabilities,
    registry,
    save,
)
from hallmark.models._probe import linear_probe, standardisation

__all__ = [
    "ModelSpec",
    "Network",
    "build",
    "check_images",
    "features",
    "features_and_logits",
    "linear_probe",
    "load",
    "logits",
    "probabilities",
    "registry",
    "save",
    "standardisation",
]
