"""A DDPM for small images, in the files that diffusers reads.

The network is diffusers' ``UNet2DModel``, the noise schedule its ``DDPMScheduler``; the saved folder
is one that ``DDPMPipeline.from_pretrained`` reads.  For speed the network may work on images whose
pixel blocks are folded into channels (pixel unshuffle): 28x28x1 becomes 14x14x4, and one evaluation
costs a quarter.  Two files of ours lie beside diffusers' own, which diffusers ignores: ``hallmark.json``
says how images are folded (diffusers' pipeline samples folded ones), ``trained_on.safetensors`` holds
fingerprints of the images that the network was trained on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor
from torch.nn import functional as F

from hallmark import artifacts
from hallmark.errors import UserError
from hallmark.runtime import Runtime

MAX_PARAMETERS = 1 << 30
TRAINED_ON = "trained_on.safetensors"


@dataclass(frozen=True)
class DiffusionModel:
    """Network, noise schedule and how images are folded for the network.

    Attributes:
        unet: predicts the noise in ``x_t``, given ``t``; on the runtime's device.
        scheduler: diffusers' DDPM schedule (betas, variance type, clipping of x0).
        shape: (C, H, W) of an image.
        unshuffle: pixels a side that are folded into channels.
        trained_below: the network knows time steps ``0 <= t < trained_below``.
        trained_on: int64 ``[M]``, :func:`~hallmark.data.dataset.fingerprints` of the images that it was trained on,
            sorted, each once; None if nobody knows.
    """

    unet: UNet2DModel
    scheduler: DDPMScheduler
    shape: tuple[int, int, int]
    unshuffle: int
    trained_below: int
    trained_on: Tensor | None = None

    @property
    def alphas_cumprod(self) -> Tensor:
        """float32 ``[1000]``: the share of the signal's variance left at each step (DDPM, eq. 4)."""
        return self.scheduler.alphas_cumprod

    @property
    def multiple(self) -> int:
        """Height and width are padded to a multiple of this."""
        return self.unshuffle << (len(self.unet.config["block_out_channels"]) - 1)

    def fold(self, images: Tensor) -> Tensor:
        """Images in -1..1 ``[B, C, H, W]`` to what the network sees: padded (edges repeated), unshuffled."""
        h, w = images.shape[2:]
        bottom, right = -h % self.multiple, -w % self.multiple
        if bottom or right:
            images = F.pad(images, (0, right, 0, bottom), mode="replicate")
        return F.pixel_unshuffle(images, self.unshuffle)

    def unfold(self, folded: Tensor) -> Tensor:
        """The inverse of :meth:`fold`."""
        _, h, w = self.shape
        return F.pixel_shuffle(folded, self.unshuffle)[:, :, :h, :w]

    def predict_noise(self, folded: Tensor, t: Tensor | int) -> Tensor:
        """The network's estimate of the noise in ``x_t``, both folded, float32."""
        return self.unet(folded, t).sample.float()


def new(
    shape: tuple[int, int, int], channels: tuple[int, ...], layers: int, unshuffle: int, trained_below: int
) -> DiffusionModel:
    """An untrained model on the CPU: convolutional residual blocks without attention.

    Args:
        channels: of each resolution level, from the finest; multiples of 8.
        layers: residual blocks a level.
    """
    c, h, w = shape
    multiple = unshuffle << (len(channels) - 1)
    size = ((h + -h % multiple) // unshuffle, (w + -w % multiple) // unshuffle)
    if min(size) >> (len(channels) - 1) < 2:
        raise UserError(
            f"train_diffusion: {len(channels)} levels at unshuffle {unshuffle} are too many for images of {h}x{w}; "
            "use fewer channels entries or a smaller unshuffle"
        )
    folded = c * unshuffle * unshuffle
    unet = UNet2DModel(
        sample_size=size[0] if size[0] == size[1] else size,
        in_channels=folded,
        out_channels=folded,
        layers_per_block=layers,
        block_out_channels=tuple(channels),
        down_block_types=("DownBlock2D",) * len(channels),
        up_block_types=("UpBlock2D",) * len(channels),
        add_attention=False,
        norm_num_groups=8,
    )
    # The schedule of DDPM (Ho et al. 2020, section 4), with the variance that DataElixir's model uses.
    scheduler = DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        variance_type="fixed_large",
        clip_sample=True,
        prediction_type="epsilon",
    )
    return DiffusionModel(unet, scheduler, shape, unshuffle, trained_below)


def save(model: DiffusionModel, folder: Path) -> None:
    """Write ``folder`` (replaced whole) so that ``DDPMPipeline.from_pretrained(folder)`` reads it."""
    from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline  # noqa: PLC0415 - slow to import

    with artifacts.replacing(folder) as temporary:
        # The pipeline would record where the network came from; the bytes must not depend on paths.
        model.unet.register_to_config(_name_or_path="")
        pipeline = DDPMPipeline(unet=model.unet, scheduler=model.scheduler)
        pipeline.set_progress_bar_config(disable=True)
        pipeline.save_pretrained(temporary, safe_serialization=True)
        description = {
            "shape": list(model.shape),
            "unshuffle": model.unshuffle,
            "trained_below": model.trained_below,
        }
        artifacts.write_json(temporary / "hallmark.json", description)
        if model.trained_on is not None:
            artifacts.write_tensors(temporary / TRAINED_ON, {"fingerprints": model.trained_on}, {})


@dataclass(frozen=True)
class Files:
    """What :func:`load` reads of a folder, and all of it: whoever pins a model pins these.

    On the hub some pipelines hold each part in its own folder, older ones all parts at the top.

    Attributes:
        folder: the pipeline's.
    """

    folder: Path

    @property
    def weights(self) -> Path:
        """The network's."""
        return self._part("unet") / "diffusion_pytorch_model.safetensors"

    @property
    def network(self) -> Path:
        """The network's architecture."""
        return self._part("unet") / "config.json"

    @property
    def schedule(self) -> Path:
        """The noise schedule, in the one file that diffusers reads of its folder."""
        return self._part("scheduler") / "scheduler_config.json"

    @property
    def description(self) -> Path:
        """How images are folded; a foreign pipeline has none."""
        return self.folder / "hallmark.json"

    @property
    def record(self) -> Path:
        """Of the training images; a foreign pipeline has none."""
        return self.folder / TRAINED_ON

    def there(self) -> list[Path]:
        """Those that exist, in the order of their names."""
        files = (self.weights, self.network, self.schedule, self.description, self.record)
        return sorted(path for path in files if path.is_file())

    def _part(self, name: str) -> Path:
        return self.folder / name if (self.folder / name).is_dir() else self.folder


def load(folder: Path, runtime: Runtime) -> DiffusionModel:
    """Read a model written by :func:`save`, or a foreign DDPM pipeline's folder; never a pickle.

    Raises:
        UserError: a missing, corrupt or unsuitable file.
    """
    folder = Path(folder)
    if not (folder / "model_index.json").is_file():
        raise UserError(f"{folder}: no diffusion pipeline there (model_index.json is missing); run train_diffusion")
    files = Files(folder)
    tensors, _ = artifacts.read_tensors(files.weights, MAX_PARAMETERS)
    config = artifacts.read_json(files.network)
    artifacts.read_json(files.schedule)
    try:
        unet = UNet2DModel.from_config({k: v for k, v in config.items() if k != "_name_or_path"})
        scheduler = DDPMScheduler.from_pretrained(files.schedule.parent, local_files_only=True)
        if not isinstance(unet, UNet2DModel) or not isinstance(scheduler, DDPMScheduler):
            raise TypeError("not a UNet2DModel with a DDPMScheduler")
        unet.load_state_dict(tensors)
    except (OSError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        detail = " ".join(str(error).split())[:300]
        raise UserError(
            f"{folder}: not a DDPM pipeline that can be read ({detail}); run train_diffusion again"
        ) from None
    if wrong := _unsuitable(unet, scheduler):
        raise UserError(f"{folder}: {wrong}")
    shape, unshuffle, trained_below = _description(files.description, unet, len(scheduler.alphas_cumprod))
    trained_on = _trained_on(files.record)
    unet.to(runtime.device)  # pyright: ignore[reportArgumentType]
    return DiffusionModel(unet.eval().requires_grad_(False), scheduler, shape, unshuffle, trained_below, trained_on)


def _unsuitable(unet: UNet2DModel, scheduler: DDPMScheduler) -> str:
    """Why a pipeline that diffusers reads cannot be used here; empty if it can."""
    network, schedule = unet.config, scheduler.config
    if schedule["prediction_type"] != "epsilon":
        return f"predicts '{schedule['prediction_type']}'; only noise ('epsilon') will do"
    if schedule["variance_type"] not in ("fixed_small", "fixed_large"):
        return f"its variance is '{schedule['variance_type']}'; only fixed_small and fixed_large will do"
    if network["in_channels"] != network["out_channels"]:
        return f"gives {network['out_channels']} channels for {network['in_channels']}; it must predict the noise alone"
    if network["class_embed_type"] is not None or network["num_class_embeds"] is not None:
        return "wants class labels; only models without will do"
    if network["sample_size"] is None:
        return "does not say how large its images are (sample_size)"
    return ""


def _description(path: Path, unet: UNet2DModel, steps: int) -> tuple[tuple[int, int, int], int, int]:
    """(shape, unshuffle, trained_below); a foreign pipeline, without the file, does not fold and knows all steps."""
    channels, size = unet.config["in_channels"], unet.config["sample_size"]
    if not path.is_file():
        h, w = (size, size) if isinstance(size, int) else size
        return (channels, h, w), 1, steps
    value: Any = artifacts.read_json(path)
    try:
        c, h, w = (int(v) for v in value["shape"])
        unshuffle, below = int(value["unshuffle"]), int(value["trained_below"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a description of a diffusion model ({error}); run train_diffusion") from None
    if (
        c * unshuffle * unshuffle != channels
        or not 1 <= below <= steps
        or min(h, w) < 1
        or math.prod((c, h, w)) > 1 << 24
    ):
        raise UserError(f"{path}: shape, unshuffle or trained_below does not fit the network; run train_diffusion")
    return (c, h, w), unshuffle, below


def _trained_on(path: Path) -> Tensor | None:
    """The record of the training images; a foreign pipeline has none."""
    if not path.is_file():
        return None
    tensors, _ = artifacts.read_tensors(path, MAX_PARAMETERS)
    found = tensors.get("fingerprints")
    if found is None or found.dtype != torch.int64 or found.dim() != 1:
        raise UserError(f"{path}: not a record of training images; run train_diffusion again")
    return found


def to_signed(images: Tensor) -> Tensor:
    """uint8 0-255 to float32 -1..1, the diffusion model's range."""
    return images.float().div_(127.5).sub_(1)


def from_signed(images: Tensor) -> Tensor:
    """float -1..1 to uint8 0-255, clamped, rounded to nearest."""
    return images.add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
