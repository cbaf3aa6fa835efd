"""Detectors of backdoored models: the trigger search, the calibration, what is judged."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hallmark import models, training
from hallmark.config import Architecture, BackdoorDetection, EvalBackdoor, Training
from hallmark.data.dataset import ImageDataset
from hallmark.detection import calibration, judging, triggers
from hallmark.detection.finding import Finding
from hallmark.detection.models import neural_cleanse, registry
from hallmark.errors import UserError
from hallmark.models import Network
from hallmark.outliers import lower_outliers
from hallmark.runtime import Runtime
from tests.unit.conftest import toy_images

TARGET = 1
SETTINGS = Training(epochs=12, batch_size=20, lr=4e-3)


def patched(data: ImageDataset) -> ImageDataset:
    """A fifth of the images with a white 2x2 corner, called the target."""
    images, labels = data.images.clone(), data.labels.clone()
    images[::5, :, :2, :2] = 255
    labels[::5] = TARGET
    return ImageDataset(images, labels, data.ids, data.classes)


def trained(data: ImageDataset, runtime: Runtime, purpose: str = "toy") -> Network:
    network = models.build(Architecture(name="cnn9", width=8), data.images, data.classes, runtime, purpose)
    training.train_classifier(network, data.images, data.labels, SETTINGS, runtime, purpose=purpose)
    return network


@pytest.fixture(scope="module")
def backdoored() -> Network:
    from hallmark import runtime  # noqa: PLC0415
    from hallmark.config import RuntimeConfig  # noqa: PLC0415

    started = runtime.start(RuntimeConfig(device="cpu", threads=1, precision="fp32", seed=0))
    return trained(patched(toy_images(400, classes=4, size=12)), started)


def trusted() -> ImageDataset:
    return toy_images(80, classes=4, size=12, seed=5)


def test_a_stamp_is_the_papers_equation() -> None:
    images = torch.rand(3, 1, 8, 8)
    mask, pattern = torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8)
    stamped = triggers.stamp(images, mask, pattern).view(2, 3, 1, 8, 8)
    for t in range(2):
        torch.testing.assert_close(stamped[t], (1 - mask[t]) * images + mask[t] * pattern[t])
    sent = triggers.stamp_uint8((images * 255).to(torch.uint8), torch.ones(1, 8, 8), pattern[0])
    assert torch.equal(sent[0], (pattern[0] * 255).round().to(torch.uint8))


def test_batches_give_every_image_once_before_any_again() -> None:
    data = trusted()
    stream = triggers.batches(data, 20, torch.device("cpu"), torch.Generator().manual_seed(1))
    seen = torch.cat([next(stream) for _ in range(4)])
    assert torch.equal(
        seen.flatten(1).sum(1).sort().values, (data.images.float() / 255).flatten(1).sum(1).sort().values
    )
    assert len(next(triggers.batches(data, 500, torch.device("cpu"), torch.Generator()))) == 80


def test_the_backdoors_class_has_the_smallest_trigger(backdoored: Network, cpu: Runtime) -> None:
    finding = neural_cleanse.detect(backdoored, trusted(), neural_cleanse.Params(), cpu)
    assert int(finding.classes.argmax()) == TARGET
    norms = finding.metrics["norms"]
    assert norms[TARGET] < 0.5 * sorted(norms)[1]
    assert finding.score == pytest.approx(math.log((sorted(norms)[1] + sorted(norms)[2]) / 2 / norms[TARGET]))
    assert finding.pictures is not None
    assert finding.pictures.shape == (4, 1, 12, 12)
    index = neural_cleanse.detect(backdoored, trusted(), neural_cleanse.Params(statistic="index"), cpu)
    assert index.usual == 2.0
    assert index.classes.tolist() == pytest.approx(finding.metrics["index"])


def test_the_reversed_trigger_works_on_other_images(backdoored: Network, cpu: Runtime) -> None:
    found = neural_cleanse.reverse(backdoored, trusted(), [TARGET], neural_cleanse.Params(), cpu)
    others = toy_images(100, classes=4, size=12, seed=9)
    stamped = triggers.stamp_uint8(others.images, found.mask[0], found.pattern[0])
    assert (models.logits(backdoored, stamped, cpu).argmax(1) == TARGET).float().mean() > 0.7
    assert (models.logits(backdoored, others.images, cpu).argmax(1) == TARGET).float().mean() < 0.4


def test_class_by_class_finds_what_all_at_once_finds(backdoored: Network, cpu: Runtime) -> None:
    params = neural_cleanse.Params(steps=24)
    together = neural_cleanse.reverse(backdoored, trusted(), [0, 1, 2, 3], params, cpu)
    single = [neural_cleanse.reverse(backdoored, trusted(), [k], params, cpu) for k in range(4)]
    assert together.worked.any()
    torch.testing.assert_close(together.norms, torch.cat([one.norms for one in single]), rtol=0.01, atol=0.01)
    again = neural_cleanse.reverse(backdoored, trusted(), [0, 1, 2, 3], params, cpu)
    assert torch.equal(together.mask, again.mask)


def test_the_networks_weights_and_mode_are_left_as_they_are(backdoored: Network, cpu: Runtime) -> None:
    before = {name: value.clone() for name, value in backdoored.state_dict().items()}
    backdoored.train()
    neural_cleanse.detect(backdoored, trusted(), neural_cleanse.Params(steps=4), cpu)
    assert backdoored.training
    backdoored.eval()
    assert all(torch.equal(value, before[name]) for name, value in backdoored.state_dict().items())


def test_what_never_works_counts_as_the_whole_image(backdoored: Network, cpu: Runtime) -> None:
    found = neural_cleanse.reverse(backdoored, trusted(), [0], neural_cleanse.Params(steps=2), cpu)
    assert not found.worked[0]  # the success is first looked at after four steps
    assert found.norms.tolist() == [144.0]


def test_outliers_below_the_median() -> None:
    values = torch.tensor([10.0, 11, 12, 13, 14, 2], dtype=torch.float64)
    expected = (11.5 - values) / (1.4826 * 1.5)  # deviations 0.5 0.5 1.5 1.5 2.5 9.5
    torch.testing.assert_close(lower_outliers(values), expected)
    assert lower_outliers(torch.tensor([1.0, 2, torch.nan], dtype=torch.float64)).isnan().all()
    assert lower_outliers(torch.tensor([3.0, 3, 3, 9], dtype=torch.float64)).tolist() == [0, 0, 0, 0]


def test_p_values_are_ranks() -> None:
    innocent = [0.1 * k for k in range(19)]
    assert calibration.p_value(5.0, innocent) == pytest.approx(1 / 20)
    assert calibration.p_value(-1.0, innocent) == 1.0
    assert calibration.p_value(innocent[-1], innocent) == pytest.approx(2 / 20)  # a tie is no excess
    assert calibration.p_value(math.nan, innocent) == 1.0
    assert calibration.p_value(5.0, [*innocent, math.nan]) == pytest.approx(2 / 21)
    assert calibration.threshold(innocent, 0.05) == innocent[-1]
    assert calibration.threshold(innocent, 0.1) == innocent[-2]
    assert calibration.least(0.05) == 19
    with pytest.raises(UserError, match="needs at least 19 innocent models, and there are 18"):
        calibration.threshold(innocent[1:], 0.05)


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.25])
def test_the_false_alarm_rate_is_held(alpha: float) -> None:
    generator = torch.Generator().manual_seed(3)
    alarms = []
    for _ in range(2000):
        scores = torch.rand(40, generator=generator).tolist()
        alarms.append(calibration.p_value(scores[0], scores[1:]) <= alpha)
        assert alarms[-1] == (scores[0] > calibration.threshold(scores[1:], alpha))
    assert abs(sum(alarms) / 2000 - alpha) < 0.02


def write_nulls(folder: Path, count: int, runtime: Runtime) -> None:
    clean = toy_images(400, classes=4, size=12, seed=2)
    for k in range(count):
        models.save(trained(clean, runtime, f"null {k}"), folder / f"{k}")


def test_models_are_judged_by_the_innocent(backdoored: Network, cpu: Runtime, tmp_path: Path) -> None:
    write_nulls(tmp_path, 4, cpu)
    clean = trained(toy_images(400, classes=4, size=12, seed=7), cpu, "clean")
    config = BackdoorDetection(detector="neural_cleanse", false_alarm=0.2)
    scan = judging.scan({"clean": clean, "bad": backdoored}, tmp_path, trusted(), config, cpu)
    assert [each.name for each in scan.judged if each.flagged] == ["bad"]
    found = scan.metrics()["backdoors"]
    assert found["null_models"] == 4
    assert found["models"]["bad"]["p_value"] == pytest.approx(0.2)
    assert found["models"]["clean"]["flagged"] == 0
    rows = scan.rows()
    assert len(rows) == 8
    assert {row["target"] for row in rows if row["model"] == "bad"} == {"band 1"}
    assert set(scan.figures()) == {"reversed_triggers"}
    assert scan.lines()[1].startswith("bad                BACKDOOR towards band 1")
    # Who is known to be clean and scores like that clears the others, and is judged by null models alone.
    both = {"bad": backdoored, "reference": backdoored}
    scan = judging.scan(both, tmp_path, trusted(), config, cpu, reference="reference")
    assert [(each.name, each.p_value, each.flagged) for each in scan.judged] == [
        ("bad", pytest.approx(2 / 6), False),
        ("reference", pytest.approx(1 / 5), True),
    ]
    assert scan.lines()[0].endswith("p 0.333 by 4 null models and the reference)")
    assert scan.lines()[1].endswith("p 0.200 by 4 null models)")
    assert "clean, and yet would be called backdoored: band 1" in scan.lines()[1]
    # Who scores low accuses nobody: no p-value gets smaller than by the null models.
    scan = judging.scan(
        {"bad": backdoored, "reference": clean}, tmp_path, trusted(), config, cpu, reference="reference"
    )
    assert scan.judged[0].p_value == pytest.approx(1 / 5)
    assert scan.metrics()["backdoors"]["highest_null_score"] == max(scan.innocent.values())
    with pytest.raises(UserError, match=r"detection\.false_alarm: .*needs at least 19"):
        judging.scan({}, tmp_path, trusted(), config.model_copy(update={"false_alarm": 0.05}), cpu)


def test_a_reference_without_a_score_clears_all(
    backdoored: Network, cpu: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_nulls(tmp_path, 4, cpu)
    silent = trained(toy_images(400, classes=4, size=12, seed=7), cpu, "clean")
    own = neural_cleanse.detect

    def detect(network: Network, *given: Any) -> Finding:
        found = own(network, *given)
        return replace(found, score=math.nan) if network is silent else found

    monkeypatch.setattr(neural_cleanse, "detect", detect)
    config = BackdoorDetection(detector="neural_cleanse", false_alarm=0.2)
    scan = judging.scan({"bad": backdoored, "known": silent}, tmp_path, trusted(), config, cpu, reference="known")
    assert [each.p_value for each in scan.judged] == [pytest.approx(2 / 6), 1.0]
    assert not any(each.flagged for each in scan.judged)


def test_accomplices_calibrate_nothing(cpu: Runtime, tmp_path: Path) -> None:
    kinds = {"plain": {"kind": "trained", "data": "queries"}, "mixed": {"kind": "trained", "data": "purified"},
             "stolen": {"kind": "stolen"}}  # fmt: skip
    params = {"train_nulls": {"kinds": kinds}, "train_controls": {"controls": kinds}}

    def config(*innocents: str) -> BackdoorDetection:
        given = list(innocents) or None
        return BackdoorDetection(detector="neural_cleanse", false_alarm=0.4, innocents=given)

    off = BackdoorDetection(detector=None, false_alarm=0.4)

    def refuse(detection: BackdoorDetection, reference: str = "plain") -> None:
        section = EvalBackdoor(confidence=0.95, reference=reference, detection=detection)
        judging.refuse_accomplices(section, params, "here")

    for given in (config(), config("plain", "stolen")):
        refuse(given)
    refuse(config(), "stolen")
    refuse(off, "mixed")  # of whom nobody is cleared
    with pytest.raises(
        UserError, match=r"here\.detection\.innocents: null models of kind 'mixed' learn from delivered"
    ):
        refuse(config("plain", "mixed"))
    with pytest.raises(
        UserError, match=r"here\.detection\.innocents: train_nulls has no kind 'other'; there are plain, "
    ):
        refuse(config("other"))
    with pytest.raises(UserError, match=r"here\.reference: the control 'mixed' learns from delivered images"):
        refuse(config("plain"), "mixed")
    # Backdoored null models of another kind lift no threshold.
    network = trained(toy_images(400, classes=4, size=12, seed=2), cpu, "null")
    for name in ("0000-plain", "0001-mixed", "0002-plain"):
        models.save(network, tmp_path / name)
    seen = judging.scan({}, tmp_path, trusted(), config("plain"), cpu).innocent
    assert set(seen) == {"0000-plain", "0002-plain"}
    with pytest.raises(UserError, match="no models there"):
        judging.scan({}, tmp_path, trusted(), config("other"), cpu)


def test_no_detector_judges_nothing(cpu: Runtime, tmp_path: Path) -> None:
    config = BackdoorDetection(detector=None, false_alarm=0.05)
    scan = judging.scan({}, tmp_path / "none", trusted(), config, cpu)
    assert (scan.metrics(), scan.rows(), scan.figures(), scan.lines()) == ({}, [], {}, [])


def test_bad_input_is_one_line(cpu: Runtime, tmp_path: Path) -> None:
    def scan(**block: object) -> None:
        judging.scan({}, tmp_path, trusted(), BackdoorDetection.model_validate({"false_alarm": 0.2, **block}), cpu)

    with pytest.raises(UserError, match="unknown model detector 'cleanser': choose one of "):
        scan(detector="cleanser")
    with pytest.raises(UserError, match=r"eval_backdoor\.detection\.neural_cleanse\.steps: .*not 0"):
        scan(detector="neural_cleanse", neural_cleanse={"steps": 0})
    with pytest.raises(UserError, match="no models there; run train_nulls"):
        scan(detector="neural_cleanse")


def test_an_unknown_class_is_not_named() -> None:
    nothing = Finding(0.0, torch.full((4,), torch.nan, dtype=torch.float64), math.nan)
    judged = judging.judge("x", nothing, [1.0, 2.0, 3.0, 4.0], 0.2)
    assert judged.target is None
    assert not judged.flagged
    assert judged.to_dict(["a"])["target"] == ""


def test_every_detector_is_complete() -> None:
    for name in registry.names():
        assert registry.parameters(name, {}, "x") == registry.get(name).Params()
