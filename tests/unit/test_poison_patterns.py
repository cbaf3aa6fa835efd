"""Attacks whose triggers are formulas: closed forms, references, and what all of them must keep."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.fft import dctn
from torch import Tensor

from hallmark import config, poison
from hallmark.config import PoisonData
from hallmark.data import ImageDataset
from hallmark.errors import UserError
from hallmark.poison import adaptive_blend, blended, ftrojan, low_frequency, sig, wanet
from hallmark.runtime import Runtime
from tests.unit.conftest import toy_images

MODES = [
    (name, mode)
    for name in ("sig", "low_frequency", "ftrojan", "adaptive_blend", "wanet")
    for mode in poison.registry.get(name).LABEL_MODES
]


def options(attack: str, mode: str, rate: float = 0.2) -> PoisonData:
    section = {"attack": attack, "rate": rate, "target": 1, "label_mode": mode}
    return config.parse(PoisonData, section, "poison_data")


def spectrum_of(plane: Tensor) -> NDArray[np.float64]:
    """The orthonormal DCT-II by a library."""
    return np.asarray(dctn(plane.double().numpy(), norm="ortho"))  # pyright: ignore[reportCallIssue, reportArgumentType]


def colourful(count: int, seed: int = 0) -> ImageDataset:
    """Toy images in colour, not square."""
    data = toy_images(count, seed=seed)
    images = torch.stack([data.images[:, 0], data.images[:, 0] // 2, 255 - data.images[:, 0]], 1)
    return replace(data, images=images[..., 1:, :].contiguous())


@pytest.mark.parametrize("make", [toy_images, colourful])
@pytest.mark.parametrize(("attack", "mode"), MODES)
def test_an_attack_changes_its_images_and_labels_and_no_others(
    attack: str, mode: str, make: Callable[[int], ImageDataset], cpu: Runtime
) -> None:
    data = make(90)
    result, _ = poison.apply(data, data, options(attack, mode), cpu)
    flags, covers = result.flags, result.covers
    assert flags is not None
    assert int(flags.sum()) == 18
    touched = flags if covers is None else flags | covers
    changed = (result.train.images != data.images).flatten(1).any(1)
    assert not bool((changed & ~touched).any())
    assert float(changed[flags].float().mean()) > 0.9
    assert torch.equal(result.train.labels[~flags], data.labels[~flags])
    if covers is not None:
        assert not bool((covers & flags).any())
        assert bool(covers.any())
    aim = {"clean": data.labels, "all_to_one": torch.ones_like(data.labels), "all_to_all": (data.labels + 1) % 3}[mode]
    assert torch.equal(result.train.labels[flags], aim[flags])
    again, _ = poison.apply(data, data, options(attack, mode), cpu)
    assert torch.equal(again.train.images, result.train.images)
    assert again.triggered is not None
    assert result.triggered is not None
    assert torch.equal(again.triggered.images, result.triggered.images)


def test_sig_is_the_sinusoid_of_its_paper() -> None:
    signal = sig.pattern((3, 5, 28), sig.Params(delta=20, frequency=6), 20)
    for i, j in ((0, 0), (4, 3), (2, 27)):
        assert signal[1, i, j].item() == pytest.approx(20 * math.sin(2 * math.pi * j * 6 / 28), abs=1e-4)


def test_sig_is_stronger_at_test_time_where_asked(toy: ImageDataset, cpu: Runtime) -> None:
    grey = replace(toy, images=torch.full_like(toy.images, 128))
    section = {"attack": "sig", "rate": 0.2, "target": 1, "sig": {"delta": 10.0, "test_delta": 30.0}}
    result, _ = poison.apply(grey, grey, config.parse(PoisonData, section, "poison_data"), cpu)
    assert result.triggered is not None
    assert result.flags is not None
    change = (result.train.images[result.flags].float() - 128).abs().amax()
    assert (result.triggered.images.float() - 128).abs().amax() > 2.5 * change


def test_added_signals_are_rounded_and_clamped() -> None:
    images = torch.tensor([0, 100, 250], dtype=torch.uint8).view(3, 1, 1, 1)
    assert poison.add(images, torch.full((1, 1, 1), 5.6)).flatten().tolist() == [6, 106, 255]
    assert poison.add(images, torch.full((1, 1, 1), -5.6)).flatten().tolist() == [0, 94, 244]


def test_a_low_frequency_trigger_has_low_frequencies_only() -> None:
    params = low_frequency.Params(strength=12.0, cutoff=3)
    signal = low_frequency.pattern((3, 16, 20), params, torch.Generator().manual_seed(1))
    assert signal.abs().max().item() == pytest.approx(12, rel=1e-5)
    for plane in signal:
        spectrum = np.abs(spectrum_of(plane))
        assert spectrum[0, 0] < 1e-3
        assert spectrum[:3, :3].max() > 1
        spectrum[:3, :3] = 0
        assert spectrum.max() < 1e-3


def test_low_frequency_triggers_are_alike_in_strength() -> None:
    params = low_frequency.Params(strength=40.0)
    powers = [
        low_frequency.pattern((1, 28, 28), params, torch.Generator().manual_seed(seed)).square().mean().sqrt().item()
        for seed in range(8)
    ]
    assert max(powers) < 1.3 * min(powers)
    assert min(powers) > 0.4 * params.strength


def test_ftrojan_adds_its_magnitude_to_its_coefficients() -> None:
    params = ftrojan.Params(block=8, frequencies=((3 / 7, 3 / 7), (1.0, 1.0)), grey_magnitude=50.0)
    signal = ftrojan.pattern((1, 16, 19), params)[0]
    for rows in (slice(0, 8), slice(8, 16)):
        spectrum = spectrum_of(signal[rows, 8:16])
        assert spectrum[3, 3] == pytest.approx(50, abs=1e-3)
        assert spectrum[7, 7] == pytest.approx(50, abs=1e-3)
        spectrum[[3, 7], [3, 7]] = 0
        assert np.abs(spectrum).max() < 1e-3
    assert signal[:, 16:].abs().max() == 0  # no whole block


def test_ftrojan_takes_its_frequencies_as_params_yaml_gives_them(toy: ImageDataset, cpu: Runtime) -> None:
    block = {"frequencies": [[0.5, 0.5], [1.0, 1.0]]}
    section = {"attack": "ftrojan", "rate": 0.2, "target": 1, "ftrojan": block}
    _, params = poison.apply(toy, toy, config.parse(PoisonData, section, "poison_data"), cpu)
    assert params.model_dump()["frequencies"] == ((0.5, 0.5), (1.0, 1.0))


def test_ftrojan_leaves_the_luminance_of_colour_images() -> None:
    signal = ftrojan.pattern((3, 32, 32), ftrojan.Params())
    luminance = 0.299 * signal[0] + 0.587 * signal[1] + 0.114 * signal[2]
    assert luminance.abs().max() < 1e-3 * signal.abs().max()
    with pytest.raises(UserError, match=r"poison_data\.ftrojan\.frequencies: 2, 0"):
        ftrojan.pattern((3, 32, 32), ftrojan.Params(frequencies=((2.0, 0.0),)))


def test_adaptive_blend_shows_whole_pieces_and_different_ones() -> None:
    params = adaptive_blend.Params(pieces=4, shown=0.5)
    masks = adaptive_blend.masks(50, (16, 20), params, torch.Generator().manual_seed(0))
    pieces = masks.view(50, 4, 4, 4, 5)
    assert bool((pieces.amax((2, 4)) == pieces.amin((2, 4))).all())
    assert bool((pieces.amax((2, 4)).sum((1, 2)) == 8).all())
    assert len({tuple(row) for row in pieces.amax((2, 4)).flatten(1).tolist()}) > 40
    with pytest.raises(UserError, match=r"adaptive_blend\.pieces: 9 a side do not fit into 5x8"):
        adaptive_blend.masks(1, (8, 5), adaptive_blend.Params(pieces=9), torch.Generator())


def test_adaptive_blend_shows_the_whole_picture_at_test_time_and_stronger(toy: ImageDataset, cpu: Runtime) -> None:
    block = {"alpha": 0.1, "test_alpha": 0.6, "covers": 0.5}
    section = {"attack": "adaptive_blend", "rate": 0.2, "target": 1, "adaptive_blend": block}
    result, _ = poison.apply(toy, toy, config.parse(PoisonData, section, "poison_data"), cpu)
    picture = blended.pattern(toy.shape, blended.Params(), cpu.generator("poison_data/blended"))
    assert result.triggered is not None
    assert torch.equal(result.triggered.images, blended.trigger(toy.images[toy.labels != 1], picture, 0.6))
    assert result.flags is not None
    assert result.covers is not None
    assert int(result.covers.sum()) == 9  # half of the 18 poisons
    touched = result.flags | result.covers
    before, after = toy.images[touched], result.train.images[touched]
    whole = blended.trigger(before, picture, 0.1)
    assert bool(((after == before) | (after == whole)).all())
    assert bool((after != whole).flatten(1).any(1).all())


def test_without_strength_wanet_leaves_an_image_as_it_is() -> None:
    images = toy_images(20).images
    size = (images.shape[2], images.shape[3])
    grid = wanet.field(size, wanet.Params(strength=0), torch.Generator().manual_seed(0))
    assert torch.equal(wanet.warp(images, grid), images)


def test_wanet_moves_a_ramp_as_far_as_its_field_says() -> None:
    ramp = (10 * torch.arange(20)).to(torch.uint8).expand(1, 1, 20, 20).contiguous()
    params = wanet.Params(strength=1.5)
    grid = wanet.field((20, 20), params, torch.Generator().manual_seed(3))
    moved = wanet.warp(ramp, grid).float()[0, 0]
    expected = 10 * (grid[0, :, :, 0] + 1) / 2 * 19  # the ramp's value where the pixel is taken from
    assert (moved - expected).abs().max() <= 0.51
    shift = (grid - wanet.identity((20, 20)))[0, 5:15, 5:15].abs() / 2 * 20
    assert 0.2 < shift.mean() < 1.5  # half of the strength, in pixels, up to interpolation


def test_covers_of_wanet_are_warped_otherwise(cpu: Runtime) -> None:
    same = replace(toy_images(90), images=toy_images(1).images.expand(90, -1, -1, -1).clone())
    section = {"attack": "wanet", "rate": 0.2, "target": 1, "wanet": {"covers": 0.5}}
    result, _ = poison.apply(same, same, config.parse(PoisonData, section, "poison_data"), cpu)
    assert result.flags is not None
    assert result.covers is not None
    poisons: Tensor = result.train.images[result.flags]
    assert bool((poisons == poisons[0]).all())
    covers = result.train.images[result.covers]
    assert bool((covers != poisons[0]).flatten(1).any(1).all())
    assert bool((covers[0] != covers[1]).any())


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_covers_of_wanet_are_warped_as_poisons_are_up_to_the_noise(cpu: Runtime, noise: float) -> None:
    ramp = (10 * torch.arange(20)).to(torch.uint8).expand(90, 1, 20, 20).contiguous()
    data = replace(toy_images(90), images=ramp)
    section = {"attack": "wanet", "rate": 0.2, "target": 1, "wanet": {"covers": 2.0, "noise": noise}}
    result, _ = poison.apply(data, data, config.parse(PoisonData, section, "poison_data"), cpu)
    assert result.flags is not None
    assert result.covers is not None
    assert int(result.covers.sum()) == 36
    warped = result.train.images[result.flags][0].int()
    assert int((warped - ramp[0].int()).abs().max()) > 10  # more than a pixel
    apart = (result.train.images[result.covers].int() - warped).abs()
    # A pixel is ten levels; the grid's 2 are 19 pixels for the sampler, 20 for the paper; two roundings.
    assert int(apart.max()) <= noise * 10 * 19 / 20 + 1
    assert int(apart.max()) >= noise * 8
