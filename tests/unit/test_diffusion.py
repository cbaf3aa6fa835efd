"""The diffusion model: closed forms, diffusers as the reference, files that diffusers reads."""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from hallmark import artifacts
from hallmark.config import PretrainedDiffusion, TrainDiffusion, Training
from hallmark.diffusion import measures, model, pretrained, samplers, training
from hallmark.errors import UserError
from hallmark.runtime import Runtime
from hallmark.training import EpochCallback, no_callback
from tests.unit.conftest import toy_images

SHAPE = (1, 8, 8)
CONFIG = TrainDiffusion(
    source="train",
    trained_below=150,
    unshuffle=2,
    channels=[8, 16],
    layers=1,
    ema_decay=0.9,
    training=Training(epochs=2, batch_size=10, lr=1e-3, optimizer="adamw"),
)


def small(shape: tuple[int, int, int] = SHAPE, unshuffle: int = 2, below: int = 150) -> model.DiffusionModel:
    torch.manual_seed(0)
    made = model.new(shape, (8, 16), 1, unshuffle, below)
    made.unet.eval().requires_grad_(False)
    return made


def train(cpu: Runtime, below: int = 150) -> model.DiffusionModel:
    return training.train_ddpm(toy_images(40).images, CONFIG.model_copy(update={"trained_below": below}), cpu)


def test_forward_noising_is_the_closed_form_of_the_chain() -> None:
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alpha_bar = small().alphas_cumprod
    # q(x_t | x_0) by composing the chain's steps: the mean shrinks, the variances add up.
    mean, variance = 1.0, 0.0
    for beta in betas[:150].tolist():
        mean, variance = mean * (1 - beta) ** 0.5, variance * (1 - beta) + beta
    x, noise = torch.full((2, 1, 1, 1), 0.5), torch.tensor([0.0, 2.0]).view(2, 1, 1, 1)
    noisy = training.add_noise(x, noise, alpha_bar[149].repeat(2))
    assert float(noisy[0]) == pytest.approx(0.5 * mean, abs=1e-5)
    assert float(noisy[1]) == pytest.approx(0.5 * mean + 2 * variance**0.5, abs=1e-5)


def silence() -> torch.Tensor:
    raise AssertionError("a deterministic sampler draws no noise")


def test_ddim_step_equals_diffusers() -> None:
    made = small()
    x = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    timesteps = [99, 49]
    states = samplers.ddim(made, x, timesteps, silence)
    scheduler: Any = DDIMScheduler.from_config(
        made.scheduler.config, set_alpha_to_one=True, timestep_spacing="trailing"
    )
    scheduler.set_timesteps(20)  # every 50th of 1,000
    expected = x
    for t, state in zip(timesteps, states, strict=True):
        noise = made.unet(expected, t).sample
        expected = scheduler.step(noise, t, expected, use_clipped_model_output=True).prev_sample  # pyright: ignore
        torch.testing.assert_close(state, expected, atol=1e-5, rtol=1e-5)


def test_first_order_dpm_solver_reaches_what_ddim_reaches_in_one_step() -> None:
    made = small()
    x = 0.1 * torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    ours = samplers.dpm_solver(made, x, [59], silence)[0]
    alpha = made.alphas_cumprod[59]
    x0 = (x - (1 - alpha).sqrt() * made.predict_noise(x, 59)) / alpha.sqrt()
    torch.testing.assert_close(ours, x0, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("sampler", ["ddim", "dpm_solver", "ancestral"])
def test_samplers_remove_all_noise_of_a_perfect_model(sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = small()
    clean = 0.4 * torch.ones(2, 4, 4, 4)

    def perfect(self: model.DiffusionModel, x: torch.Tensor, t: int) -> torch.Tensor:
        alpha = self.alphas_cumprod[int(t)]
        return (x - alpha.sqrt() * clean) / (1 - alpha).sqrt()

    monkeypatch.setattr(model.DiffusionModel, "predict_noise", perfect)
    timesteps = samplers.segment(100, 5)
    generator = torch.Generator().manual_seed(0)

    def noise() -> torch.Tensor:
        return torch.randn(clean.shape, generator=generator)

    noisy = training.add_noise(clean, noise(), made.alphas_cumprod[99])
    end = samplers.SAMPLERS[sampler](made, noisy, timesteps, noise)[-1]
    torch.testing.assert_close(end, clean, atol=2e-2, rtol=0)


def test_segment_is_evenly_spaced_and_bounded() -> None:
    assert samplers.segment(150, 3) == [149, 99, 49]
    assert samplers.segment(150, 1) == [149]
    assert samplers.segment(4, 4) == [3, 2, 1, 0]
    with pytest.raises(UserError, match="do not fit"):
        samplers.segment(4, 5)


@pytest.mark.parametrize("variance", ["fixed_large", "fixed_small"])
def test_ancestral_step_equals_diffusers(variance: str) -> None:
    made = small()
    made.scheduler.register_to_config(variance_type=variance)
    x = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    timesteps = [99, 49]
    generator = torch.Generator().manual_seed(2)
    states = samplers.ancestral(made, x, timesteps, lambda: torch.randn(x.shape, generator=generator))
    scheduler: Any = DDPMScheduler.from_config(made.scheduler.config, timestep_spacing="trailing")
    scheduler.set_timesteps(20)  # every 50th of 1,000
    first = scheduler.step(made.predict_noise(x, 99), 99, x, generator=torch.Generator().manual_seed(2)).prev_sample
    torch.testing.assert_close(states[0], first, atol=1e-5, rtol=1e-5)
    last = scheduler.step(made.predict_noise(first, 49), 49, first).pred_original_sample
    torch.testing.assert_close(states[1], last, atol=1e-5, rtol=1e-5)


def test_noise_of_an_image_is_that_of_its_position(cpu: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers, "CHUNK", 8)
    positions = torch.tensor([17, 3, 9, 0, 16])
    few, all_ = (samplers.Noise(cpu, "p", p, (2, 3)) for p in (positions, torch.arange(24)))
    for _ in range(3):  # each call draws the next noise of every row
        assert torch.equal(few(), all_()[positions])
    assert len(all_().unique()) == 24 * 6
    assert not torch.equal(samplers.Noise(cpu, "q", positions, (2, 3))(), samplers.Noise(cpu, "p", positions, (2, 3))())


@pytest.mark.parametrize("sampler", ["ddim", "ancestral"])
def test_an_image_is_purified_alike_in_whatever_company(
    sampler: str, cpu: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samplers, "CHUNK", 8)
    made, images = small(), toy_images(20).images

    def run(rows: torch.Tensor, purpose: str = "x") -> torch.Tensor:
        made_of = [
            samplers.round_trip(
                made, images[part], part, cpu, start=20, sampler=sampler, steps=2, keep=1, purpose=purpose
            )
            for part in rows.split(8)
        ]
        return torch.cat(made_of)

    whole = run(torch.arange(20))
    assert torch.equal(whole, run(torch.arange(20)))
    assert not torch.equal(whole, run(torch.arange(20), "y"))
    for rows in ([19, 2, 11], [5], [0, 1, 2, 3, 4, 5, 6, 8]):
        assert torch.equal(run(torch.tensor(rows)), whole[rows])


@pytest.mark.parametrize(("shape", "unshuffle"), [((1, 28, 28), 2), ((3, 9, 14), 2), ((3, 8, 8), 1), ((1, 10, 10), 4)])
def test_fold_and_unfold_are_inverse(shape: tuple[int, int, int], unshuffle: int) -> None:
    made = small(shape, unshuffle)
    images = torch.randint(0, 256, (2, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    folded = made.fold(model.to_signed(images))
    assert made.predict_noise(folded, 3).shape == folded.shape
    assert torch.equal(model.from_signed(made.unfold(folded)), images)


def test_saved_folder_is_read_by_diffusers_and_byte_equal(tmp_path: Path, cpu: Runtime) -> None:
    first, second = train(cpu), train(cpu)
    model.save(first, tmp_path / "a" / "model")
    model.save(second, tmp_path / "b")
    assert artifacts.md5(tmp_path / "a" / "model") == artifacts.md5(tmp_path / "b")
    pipeline = DDPMPipeline.from_pretrained(str(tmp_path / "b"), use_safetensors=True, low_cpu_mem_usage=False)
    assert not list(tmp_path.rglob("*.bin"))
    loaded = model.load(tmp_path / "b", cpu)
    x = torch.randn(2, 4, 4, 4)
    expected = first.predict_noise(x, 5)
    assert torch.equal(loaded.predict_noise(x, 5), expected)
    assert torch.equal(pipeline.unet(x, 5).sample, expected)
    assert (loaded.shape, loaded.unshuffle, loaded.trained_below) == (SHAPE, 2, 150)
    model.save(loaded, tmp_path / "c")
    assert artifacts.md5(tmp_path / "c") == artifacts.md5(tmp_path / "b")


def test_training_keeps_the_moving_average_and_lowers_the_loss(cpu: Runtime) -> None:
    losses: list[float] = []
    longer = CONFIG.training.model_copy(update={"epochs": 10, "lr": 5e-3})
    images = toy_images(40).images

    def with_decay(decay: float, callback: EpochCallback = no_callback) -> model.DiffusionModel:
        config = CONFIG.model_copy(update={"training": longer, "ema_decay": decay})
        return training.train_ddpm(images, config, cpu, callback=callback)

    fast = with_decay(0.0, lambda _, values: losses.append(values["noise_mse"]))
    slow = with_decay(0.999)
    assert losses[-1] < 0.95 * losses[0]
    assert not torch.equal(fast.unet.conv_in.weight, slow.unet.conv_in.weight)


def test_ema_of_decay_zero_is_the_last_weights_of_the_loop(cpu: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoAverage:
        def __init__(self, parameters: object, **kwargs: object) -> None: ...
        def step(self, parameters: object) -> None: ...
        def copy_to(self, parameters: object) -> None: ...

    config = CONFIG.model_copy(update={"ema_decay": 0.0})
    averaged = training.train_ddpm(toy_images(20).images, config, cpu)
    monkeypatch.setattr(training, "EMAModel", NoAverage)
    plain = training.train_ddpm(toy_images(20).images, config, cpu)
    assert torch.equal(averaged.unet.conv_in.weight, plain.unet.conv_in.weight)


def test_measures_and_pictures_have_sound_shapes(cpu: Runtime) -> None:
    made, data = small(), toy_images(20)
    metrics = measures.measure(made, data, cpu)
    assert {"parameters", "reserve_x0_mse_t30", "reserve_x0_mse_t150"} <= set(metrics)
    rows = measures.showcase(made, data, cpu)
    assert all(images.shape == (3, *SHAPE) and images.dtype == torch.uint8 for _, images in rows)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model_index.json").unlink(), "no diffusion pipeline"),
        (lambda folder: (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"x" * 50), "corrupt"),
        (lambda folder: (folder / "unet" / "config.json").write_text("{"), "not valid JSON"),
        (lambda folder: (folder / "hallmark.json").write_text('{"shape": [1, 8]}'), "not a description"),
        (lambda folder: (folder / "hallmark.json").write_text(
            json.dumps({"shape": [3, 8, 8], "unshuffle": 2, "trained_below": 9})), "does not fit"),
        (lambda folder: (folder / "scheduler" / "scheduler_config.json").unlink(), "no such file"),
    ],
)  # fmt: skip
def test_damaged_folders_are_refused_in_one_line(tmp_path: Path, cpu: Runtime, damage, message: str) -> None:
    model.save(small(), tmp_path / "m")
    damage(tmp_path / "m")
    with pytest.raises(UserError, match=message) as caught:
        model.load(tmp_path / "m", cpu)
    assert "\n" not in str(caught.value)


def test_pretrained_is_pinned_by_hash(tmp_path: Path, cpu: Runtime) -> None:
    folder = tmp_path / "m"
    model.save(small(unshuffle=1, shape=(1, 8, 8)), folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    digest = pretrained.model_sha256(folder)
    config = PretrainedDiffusion(model=str(folder), sha256=digest)
    assert pretrained.fetch(config, SHAPE, cpu).shape == SHAPE
    with pytest.raises(UserError, match=f"not set.*{digest}"):
        pretrained.fetch(config.model_copy(update={"sha256": None}), SHAPE, cpu)
    with pytest.raises(UserError, match="do not use them"):
        pretrained.fetch(config.model_copy(update={"sha256": "0" * 64}), SHAPE, cpu)
    with pytest.raises(UserError, match=r"28x28x1.*8x8x1"):
        pretrained.fetch(config, (1, 28, 28), cpu)
    weights.rename(weights.with_name("diffusion_pytorch_model.bin"))
    with pytest.raises(UserError, match="no safetensors"):
        pretrained.fetch(config, SHAPE, cpu)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        # No noise to speak of: what is purified is what was given.
        ("scheduler/scheduler_config.json", {"beta_start": 1e-6, "beta_end": 1e-6}),
        ("unet/config.json", {"act_fn": "relu"}),
        ("hallmark.json", {"trained_below": 20}),
    ],
)
def test_the_pin_covers_all_that_is_read(tmp_path: Path, cpu: Runtime, name: str, values: dict[str, Any]) -> None:
    folder = tmp_path / "m"
    model.save(small(unshuffle=1), folder)
    config = PretrainedDiffusion(model=str(folder), sha256=pretrained.model_sha256(folder))
    before = (folder / name).read_text()
    (folder / name).write_text(json.dumps({**json.loads(before), **values}))
    model.load(folder, cpu)  # nothing else is wrong with it
    with pytest.raises(UserError, match="do not use them"):
        pretrained.fetch(config, SHAPE, cpu)
    (folder / name).write_text(before)
    pretrained.fetch(config, SHAPE, cpu)


def test_the_pin_is_what_sha256sum_says(tmp_path: Path, cpu: Runtime) -> None:
    model.save(training.train_ddpm(toy_images(20).images, CONFIG, cpu), tmp_path)
    names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    names.remove("model_index.json")  # of which only the presence counts
    lines = subprocess.run(["sha256sum", *names], cwd=tmp_path, capture_output=True, check=True).stdout
    assert pretrained.model_sha256(tmp_path) == hashlib.sha256(lines).hexdigest()
    (tmp_path / "README.md").write_text("Read by nobody.")
    assert pretrained.model_sha256(tmp_path) == hashlib.sha256(lines).hexdigest()


def test_foreign_pipeline_with_all_parts_at_the_top_is_read(tmp_path: Path, cpu: Runtime) -> None:
    model.save(small(unshuffle=1), tmp_path / "m")
    folder = tmp_path / "flat"
    folder.mkdir()
    for part in ("unet", "scheduler"):
        for file in (tmp_path / "m" / part).iterdir():
            file.rename(folder / file.name)
    (tmp_path / "m" / "model_index.json").rename(folder / "model_index.json")
    loaded = model.load(folder, cpu)
    assert (loaded.shape, loaded.unshuffle, loaded.trained_below) == (SHAPE, 1, 1000)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("unet/config.json", {"sample_size": None}, "how large its images are"),
        ("unet/config.json", {"num_class_embeds": 3}, "wants class labels"),
        ("unet/config.json", {"out_channels": 2}, "gives 2 channels for 1"),
        ("scheduler/scheduler_config.json", {"variance_type": "learned_range"}, "variance is 'learned_range'"),
        ("scheduler/scheduler_config.json", {"prediction_type": "v_prediction"}, "predicts 'v_prediction'"),
    ],
)
def test_a_pipeline_of_another_kind_is_refused(
    part: str, change: dict[str, object], message: str, tmp_path: Path, cpu: Runtime
) -> None:
    made = small(unshuffle=1)
    if part.startswith("unet"):
        own: dict[str, Any] = {name: value for name, value in made.unet.config.items() if not name.startswith("_")}
        made = replace(made, unet=type(made.unet)(**{**own, **change}))  # pyright: ignore[reportArgumentType]
    model.save(made, tmp_path)
    (tmp_path / "hallmark.json").unlink()
    config = json.loads((tmp_path / part).read_text())
    (tmp_path / part).write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=message):
        model.load(tmp_path, cpu)


def test_a_segment_beyond_the_training_and_a_lone_image_are_refused(cpu: Runtime) -> None:
    with pytest.raises(UserError, match="trained below 100"):
        samplers.check(small(below=100), SHAPE, 150, "purify_data")
    with pytest.raises(UserError, match="too few"):
        training.train_ddpm(toy_images(1).images, CONFIG, cpu)
    with pytest.raises(UserError, match="too many"):
        model.new(SHAPE, (8, 8, 8, 8), 1, 2, 9)


def test_noise_is_added_on_the_device_of_the_images() -> None:
    images = torch.zeros(2, 1, 4, 4, device="meta")
    alpha_bar = torch.tensor([0.5, 0.9])  # schedules live on the CPU
    assert training.add_noise(images, images, alpha_bar).device.type == "meta"
