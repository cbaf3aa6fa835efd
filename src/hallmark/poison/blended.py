"""Blended injection (Chen, Liu, Li, Lu, Song 2017): a faint picture over the whole image is the trigger."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from hallmark import config as hallmark_config
from hallmark.config import PoisonData
from hallmark.data import ImageDataset
from hallmark.data.decode import decode, read_picture
from hallmark.poison import CHUNK, Poisoned, deliver
from hallmark.runtime import Runtime

LABEL_MODES = ("all_to_one", "all_to_all", "clean")
PHOTO = "photo"


class Params(hallmark_config.Params):
    """Block ``blended``."""

    alpha: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Weight of the picture, the paper's alpha; 0.2 as in BackdoorBench."""
    picture: str | None = None
    """A PNG, JPEG or WebP file, stretched to the images' size; ``photo``: scikit-learn's sample image china.jpg, of a
    temple; None: uniform noise.  The paper blends in a cartoon or noise."""


def pattern(shape: tuple[int, int, int], params: Params, generator: torch.Generator) -> Tensor:
    """The picture that is blended in, uint8 ``[C, H, W]``: a photo, the user's, or noise from ``generator``.

    Raises:
        UserError: the user's picture cannot be read.
    """
    if params.picture is None:
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    where = "poison_data.blended.picture"
    if params.picture == PHOTO:
        data = (resources.files("sklearn.datasets.images") / "china.jpg").read_bytes()
    else:
        data = read_picture(Path(params.picture), where)
    pixels = torch.tensor(decode(data, f"{where}: {params.picture}", None, shape[0]))
    stretched = F.interpolate(pixels[None].float(), shape[1:], mode="bilinear", antialias=True)[0]
    return stretched.round_().clamp_(0, 255).to(torch.uint8)


def trigger(images: Tensor, picture: Tensor, alpha: float) -> Tensor:
    """(1 - alpha) x + alpha k, their section 3.2, rounded.

    Args:
        images: uint8 ``[N, C, H, W]``.
        picture: k, uint8 ``[C, H, W]``.
    """
    overlay = alpha * picture.float() + 0.5  # + 0.5: truncation to uint8 then rounds to nearest
    # In chunks, for the floating-point copy of a large set would not fit into memory.
    return torch.cat([((1 - alpha) * part.float() + overlay).to(torch.uint8) for part in images.split(CHUNK)])


def poison(train: ImageDataset, test: ImageDataset, config: PoisonData, params: Params, runtime: Runtime) -> Poisoned:
    """The trigger on the images that the label mode wants: see :func:`hallmark.poison.deliver`."""
    picture = pattern(train.shape, params, runtime.generator("poison_data/blended"))
    return deliver(
        train, test, config, runtime, modes=LABEL_MODES, trigger=lambda images: trigger(images, picture, params.alpha)
    )
