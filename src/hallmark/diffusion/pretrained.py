"""Pretrained DDPM pipelines, from a folder or the Hugging Face hub, pinned by the hash of their weights.

A backdoored diffusion model defeats the purification it serves (DIFF2, arXiv 2406.09669): weights
from elsewhere are used only if their SHA-256 is the one in params.yaml, and only as safetensors.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from hallmark.config import PretrainedDiffusion
from hallmark.diffusion.model import DiffusionModel, load
from hallmark.diffusion.samplers import check
from hallmark.errors import UserError
from hallmark.runtime import Runtime

WHERE = "train_diffusion.pretrained"


def fetch(config: PretrainedDiffusion, shape: tuple[int, int, int], runtime: Runtime) -> DiffusionModel:
    """Find the pipeline, check its hash, and load it.

    Args:
        shape: (C, H, W) of the images to be purified.

    Raises:
        UserError: not found, no network, no safetensors weights, another hash, another image size.
    """
    folder = Path(config.model)
    if not folder.is_dir():
        folder = _download(config)
    _check_hash(folder, config)
    model = load(folder, runtime)
    check(model, shape, 1, WHERE)
    return model


def weights_sha256(folder: Path) -> str:
    """SHA-256 over the contents of the folder's safetensors files, in the order of their paths.

    A model of Hallmark's own has its record of training images among them: whoever pins it pins the record as well.

    Raises:
        UserError: there is none.
    """
    files = sorted(folder.rglob("*.safetensors"), key=lambda path: path.relative_to(folder).as_posix())
    if not files:
        raise UserError(
            f"{WHERE}.model: {folder} holds no safetensors weights; other formats may run code and are not read"
        )
    digest = hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _check_hash(folder: Path, config: PretrainedDiffusion) -> None:
    actual = weights_sha256(folder)
    if config.sha256 is None:
        raise UserError(
            f"{WHERE}.sha256: not set; the weights of {config.model} have {actual}: set it if you trust them"
        )
    if actual != config.sha256.lower():
        raise UserError(
            f"{WHERE}.sha256: the weights of {config.model} have {actual}, not {config.sha256}; do not use them"
        )


def _download(config: PretrainedDiffusion) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - slow to import
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError  # noqa: PLC0415

    try:
        folder = snapshot_download(
            config.model,
            revision=config.revision,
            allow_patterns=["*.json", "*.safetensors", "*/*.json", "*/*.safetensors"],
        )
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        detail = " ".join(str(error).split())[:200]
        raise UserError(
            f"{WHERE}.model: '{config.model}' is no folder and cannot be had from the Hugging Face hub ({detail}); "
            "give a folder or mend the network"
        ) from None
    return Path(folder)
