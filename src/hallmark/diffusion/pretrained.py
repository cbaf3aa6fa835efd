"""Pretrained DDPM pipelines, from a folder or the Hugging Face hub, pinned by the hash of their files.

A backdoored diffusion model defeats the purification it serves (DIFF2, arXiv 2406.09669), and so do sound weights
with a noise schedule that adds no noise: a model from elsewhere is used only if the SHA-256 of all that is read of
it is the one in params.yaml, and its weights only as safetensors.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from hallmark import artifacts
from hallmark.config import PretrainedDiffusion
from hallmark.diffusion.model import DiffusionModel, Files, load
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


def model_sha256(folder: Path) -> str:
    """SHA-256 of all that :func:`~hallmark.diffusion.model.load` reads of the folder.

    It is the hash of the lines that ``sha256sum`` writes of those files, named from within the folder in the order of
    their names.  A line holds a hash and a name, so what is of one file is never taken for what is of the next.  A
    model of Hallmark's own has its record of training images among them: whoever pins it pins the record as well.

    Raises:
        UserError: no safetensors weights, or a file cannot be read.
    """
    files = Files(folder)
    if not files.weights.is_file():
        raise UserError(
            f"{WHERE}.model: {folder} holds no safetensors weights ({files.weights.relative_to(folder)}); other "
            "formats may run code and are not read"
        )
    lines = "".join(f"{artifacts.sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files.there())
    return hashlib.sha256(lines.encode()).hexdigest()


def _check_hash(folder: Path, config: PretrainedDiffusion) -> None:
    actual = model_sha256(folder)
    if config.sha256 is None:
        raise UserError(f"{WHERE}.sha256: not set; the files of {config.model} have {actual}: set it if you trust them")
    if actual != config.sha256.lower():
        raise UserError(
            f"{WHERE}.sha256: the files of {config.model} have {actual}, not {config.sha256}; do not use them"
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
