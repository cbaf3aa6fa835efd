"""Purifiers that may know the poisons: what they were trained on is recorded, overlap is told, hashes are pinned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline
from ruamel.yaml import YAML

from hallmark import artifacts, config
from hallmark.config import TrainDiffusion
from hallmark.data.dataset import ImageDataset, fingerprints
from hallmark.diffusion import model, training
from hallmark.diffusion.pretrained import model_sha256
from hallmark.errors import UserError
from hallmark.purify import preparation
from hallmark.runtime import Runtime
from stages import purify_data, train_diffusion
from tests.unit.conftest import toy_images

TRAINING = {"epochs": 1, "batch_size": 20, "lr": 0.001}
PARAMS: dict[str, Any] = {
    "runtime": {"device": "cpu", "threads": 1, "precision": "fp32", "seed": 0},
    "train_diffusion": {
        "source": "train",
        "trained_below": 100,
        "unshuffle": 1,
        "channels": [8, 16],
        "layers": 1,
        "ema_decay": 0.5,
        "training": TRAINING,
    },
    "purify_data": {
        "method": "reserve_disagreement",
        "repair": "drop",
        "architecture": {"name": "cnn9", "width": 4},
        "training": TRAINING,
        "rounds": {"start": 100, "rounds": 1, "sampler": "ddim", "steps": 1},
        "restore": {"confidence": 0.5, "percentile": 0.8},
        "reserve_disagreement": {"folds": 2, "training": TRAINING, "threshold": 1.0},
    },
}


def trained(images: torch.Tensor, cpu: Runtime) -> model.DiffusionModel:
    return training.train_ddpm(images, config.parse(TrainDiffusion, PARAMS["train_diffusion"], "test"), cpu)


def write_params(root: Path, **changes: Any) -> str:
    path = root / "params.yaml"
    with open(path, "w", encoding="utf-8") as file:
        YAML().dump({**PARAMS, "train_diffusion": {**PARAMS["train_diffusion"], **changes}}, file)
    return f"--params={path}"


def run_train_diffusion(root: Path, out: str, **changes: Any) -> Path:
    params = write_params(root, **changes)
    folder = root / out
    arguments = [f"--reserve={root / 'reserve.safetensors'}", f"--out={folder}", f"--report={root / 'r1'}", params]
    train_diffusion.main.main(arguments, standalone_mode=False)
    return folder


def run_purify_data(root: Path, data: str, diffusion: Path) -> dict[str, Any]:
    """The stage's metrics."""
    arguments = [
        f"--data={root / data}",
        f"--reserve={root / 'reserve.safetensors'}",
        f"--diffusion={diffusion}",
        f"--out={root / 'purified'}",
        f"--suspect={root / 'suspect'}",
        f"--report={root / 'r2'}",
        write_params(root),
    ]
    purify_data.main.main(arguments, standalone_mode=False)
    return artifacts.read_json(root / "r2" / "metrics.json")


def test_fingerprints_are_equal_for_equal_images_alone() -> None:
    images = toy_images(30).images
    found = fingerprints(images)
    assert found.dtype == torch.int64
    assert torch.equal(found[[4, 2]], fingerprints(images[[4, 2]]))
    assert torch.equal(found, fingerprints(images.transpose(2, 3).contiguous().transpose(2, 3)))
    assert len(found.unique()) == 30
    changed = images.clone()
    changed[:, 0, 3, 5] ^= 1
    assert not torch.isin(fingerprints(changed), found).any()
    assert not torch.isin(fingerprints(images.view(30, 1, 4, 16)), found).any()


def test_a_purifier_records_what_it_was_trained_on(tmp_path: Path, cpu: Runtime) -> None:
    images = toy_images(20).images
    made = trained(torch.cat([images, images[:5]]), cpu)
    assert made.trained_on is not None
    assert made.trained_on.tolist() == sorted(fingerprints(images).tolist())
    model.save(made, tmp_path / "a")
    loaded = model.load(tmp_path / "a", cpu)
    assert loaded.trained_on is not None
    assert torch.equal(loaded.trained_on, made.trained_on)
    model.save(loaded, tmp_path / "b")
    assert artifacts.md5(tmp_path / "a") == artifacts.md5(tmp_path / "b")
    DDPMPipeline.from_pretrained(str(tmp_path / "a"), use_safetensors=True, low_cpu_mem_usage=False)
    # The record is pinned with the weights: neither can be exchanged unseen.
    pinned = model_sha256(tmp_path / "a")
    (tmp_path / "b" / model.TRAINED_ON).unlink()
    assert model.load(tmp_path / "b", cpu).trained_on is None
    assert model_sha256(tmp_path / "b") != pinned
    for damaged in ({"fingerprints": torch.zeros(3)}, {"other": torch.zeros(3, dtype=torch.int64)}):
        artifacts.write_tensors(tmp_path / "b" / model.TRAINED_ON, damaged, {})
        with pytest.raises(UserError, match="not a record"):
            model.load(tmp_path / "b", cpu)


def test_overlap_is_told_in_one_line(cpu: Runtime, capsys: pytest.CaptureFixture[str]) -> None:
    data = toy_images(40)
    outside = toy_images(20, seed=1).images
    section = preparation.PurifyData.model_validate(PARAMS["purify_data"])
    cases = (
        (trained(outside, cpu), 0.0, ""),
        (trained(torch.cat([outside, data.images[:10]]), cpu), 0.25, "on 10 of the 40 images to be purified (25.0%)"),
        (model.new(data.shape, (8,), 1, 2, 100), None, "training set is unknown"),
    )
    for diffusion, overlap, words in cases:
        capsys.readouterr()
        material = preparation.prepare(
            data, toy_images(30, seed=2), diffusion, section, cpu, epochs=lambda _: lambda epoch, values: None
        )
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning:")]
        assert len(said) == bool(words)
        assert words in "".join(said)
        assert preparation.suspect_metrics(material)["purifier_overlap"] == overlap


def test_the_stages_pin_a_purifier_and_tell_its_overlap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reserve, data = toy_images(40, seed=1), toy_images(60)
    reserve.save(tmp_path / "reserve.safetensors")
    data.save(tmp_path / "data.safetensors")
    both = ImageDataset(
        torch.cat([data.images, reserve.images[:20]]),
        torch.cat([data.labels, reserve.labels[:20]]),
        torch.arange(80),
        data.classes,
    )
    both.save(tmp_path / "both.safetensors")
    own = run_train_diffusion(tmp_path, "own")
    digest = model_sha256(own)
    wrong = {"model": str(own), "sha256": "0" * 64}
    with pytest.raises(UserError, match=f"have {digest}.*do not use them"):
        run_train_diffusion(tmp_path, "pinned", source="pretrained", pretrained=wrong)
    with pytest.raises(UserError, match="not set"):
        run_train_diffusion(tmp_path, "pinned", source="pretrained", pretrained={"model": str(own)})
    assert not (tmp_path / "pinned").exists()
    right = {"model": str(own), "sha256": digest}
    pinned = run_train_diffusion(tmp_path, "pinned", source="pretrained", pretrained=right)
    assert artifacts.md5(pinned) == artifacts.md5(own)

    capsys.readouterr()
    assert run_purify_data(tmp_path, "data.safetensors", pinned)["purifier_overlap"] == 0
    assert "warning:" not in capsys.readouterr().err
    assert run_purify_data(tmp_path, "both.safetensors", pinned)["purifier_overlap"] == 0.25
    assert "warning: the diffusion model was trained on 20 of the 80 images" in capsys.readouterr().err
    (pinned / model.TRAINED_ON).unlink()
    assert run_purify_data(tmp_path, "data.safetensors", pinned)["purifier_overlap"] is None
    assert "warning: the diffusion model's training set is unknown" in capsys.readouterr().err
