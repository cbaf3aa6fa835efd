"""Low-frequency trigger (Zeng, Park, Mao, Jia 2021): a smooth perturbation without the artefacts of a patch.

The paper optimises the perturbation against a model under a low-pass constraint (their equation 4).  Here it is
drawn at random from the lowest frequencies of the discrete cosine transform and scaled, which needs no model; as
a poison it is learnt as well, for the network adapts to the trigger rather than the trigger to a network.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from hallmark import config as hallmark_config
from hallmark.config import PoisonData
from hallmark.data import ImageDataset
from hallmark.poison import Poisoned, add, deliver
from hallmark.poison._dct import basis
from hallmark.runtime import Runtime

LABEL_MODES = ("all_to_one", "all_to_all", "clean")
_DRAWS = 64


class Params(hallmark_config.Params):
    """Block ``low_frequency``; strength and cut-off are ours: the least that 10 % of poisons teach a short training."""

    strength: Annotated[float, Field(gt=0, le=255)] = 40.0
    """Largest change of a pixel, in grey levels of 255."""
    cutoff: Annotated[int, Field(ge=2, le=64)] = 4
    """So many of the lowest frequencies a side are used; the constant one never is."""


def pattern(shape: tuple[int, int, int], params: Params, generator: torch.Generator) -> Tensor:
    """A random smooth perturbation, float ``[C, H, W]``, zero on average, of magnitude ``strength``.

    The best of some draws: the one whose mean square is largest once its peak is ``strength``.  Else luck decides how
    strong the trigger is, for one that is little more than a single peak hardly changes the rest of the image.
    """
    channels, height, width = shape
    rows, columns = min(params.cutoff, height), min(params.cutoff, width)
    amplitude = torch.zeros(_DRAWS, channels, height, width)
    amplitude[..., :rows, :columns] = torch.randn(_DRAWS, channels, rows, columns, generator=generator)
    amplitude[..., 0, 0] = 0
    smooth = basis(height).T @ amplitude @ basis(width)
    smooth = smooth * (params.strength / smooth.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-9))
    return smooth[smooth.square().mean((1, 2, 3)).argmax()]


def poison(train: ImageDataset, test: ImageDataset, config: PoisonData, params: Params, runtime: Runtime) -> Poisoned:
    """The trigger on the images that the label mode wants: see :func:`hallmark.poison.deliver`."""
    signal = pattern(train.shape, params, runtime.generator("poison_data/low_frequency"))
    return deliver(train, test, config, runtime, modes=LABEL_MODES, trigger=lambda images: add(images, signal))
