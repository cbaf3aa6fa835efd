"""ABS: stimulation against a plain reference, a planted channel that must be found, bounds, determinism, bad input."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hallmark import models
from hallmark.config import Architecture, BackdoorDetection
from hallmark.data.dataset import ImageDataset, to_float
from hallmark.detection import judging, triggers
from hallmark.detection.models import abs as stimulation
from hallmark.detection.models.abs import Candidates, Params
from hallmark.errors import UserError
from hallmark.models import ModelSpec, Network
from hallmark.runtime import Runtime
from tests.unit.conftest import toy_images
from tests.unit.test_detection import patched, trained, write_nulls

TARGET, PLANTED, SIDE, CLASSES = 1, 4, 12, 4
PARAMS = Params(layers=1, per_class=1)


def toy() -> ImageDataset:
    return toy_images(80, classes=CLASSES, size=SIDE, seed=5)


def by_hand(force: float) -> Network:
    """Four hidden units see whether their class's band is bright, a fifth two bright pixels beside two dark ones.

    The fifth adds ``force`` times its activation to the target's logit: 0 makes an innocent network.
    """
    hidden, head = nn.Linear(SIDE * SIDE, CLASSES + 1), nn.Linear(CLASSES + 1, CLASSES)
    weight, bias = torch.zeros(CLASSES + 1, SIDE, SIDE), torch.tensor([-0.3] * CLASSES + [0.05])
    for label in range(CLASSES):
        weight[label, 3 * label : 3 * label + 3] = 1 / (3 * SIDE)
    weight[PLANTED, 0, :4] = torch.tensor([0.5, 0.5, -0.5, -0.5])
    out = torch.cat([10 * torch.eye(CLASSES), torch.zeros(CLASSES, 1)], 1)
    out[TARGET, PLANTED] = force
    with torch.no_grad():
        hidden.weight.copy_(weight.flatten(1))
        hidden.bias.copy_(bias)
        head.weight.copy_(out)
        head.bias.zero_()
    spec = ModelSpec(Architecture(name="cnn9"), (1, SIDE, SIDE), toy().classes, (0.0,), (1.0,))
    return Network(spec, nn.Sequential(nn.Flatten(), hidden, nn.ReLU()), head).eval()


def test_the_planted_channel_and_its_class_are_found(cpu: Runtime) -> None:
    bad, clean = by_hand(12), by_hand(0)
    for network in (bad, clean):
        assert (models.logits(network, toy().images, cpu).argmax(1) == toy().labels).float().mean() > 0.95
    finding = stimulation.detect(bad, toy(), PARAMS, cpu)
    assert int(finding.classes.argmax()) == TARGET
    assert finding.metrics["channels"][TARGET] == PLANTED
    assert finding.metrics["channels"] == [0, PLANTED, 2, 3]
    assert finding.score == float(finding.classes[TARGET]) > finding.usual == 0.88
    innocent = stimulation.detect(clean, toy(), PARAMS, cpu)
    assert innocent.metrics["channels"] == [0, 1, 2, 3]
    assert innocent.score < 0.3


def test_a_trigger_shows_what_the_channel_sees(cpu: Runtime) -> None:
    pictures = stimulation.detect(by_hand(12), toy(), PARAMS, cpu).pictures
    assert pictures is not None
    assert pictures.shape == (CLASSES, 1, SIDE, SIDE)
    bright = pictures[TARGET, 0] > 128
    assert bright[0, :2].all()
    assert int(bright.sum()) == 2  # what else the mask covers is made dark


@pytest.mark.parametrize("size", [0.01, 0.03, 0.2])
def test_triggers_are_within_their_bounds(size: float, cpu: Runtime) -> None:
    params = PARAMS.model_copy(update={"size": size})
    network, layers = by_hand(12), [2]
    found = stimulation.candidates(stimulation.elevations(network, toy(), layers, params, cpu), 2)
    mask, pattern = stimulation.reverse(network, toy(), layers, found, params=params, runtime=cpu)
    assert mask.shape == (8, 1, SIDE, SIDE)
    assert pattern.shape == (8, 1, SIDE, SIDE)
    assert mask.sum((1, 2, 3)).max() <= size * SIDE * SIDE * (1 + 1e-5)
    assert all(0 <= values.min() <= values.max() <= 1 for values in (mask, pattern))


def test_only_masks_beyond_the_bound_are_scaled() -> None:
    mask = torch.stack([torch.full((1, 2, 2), 0.1), torch.full((1, 2, 2), 0.8)])
    assert torch.equal(stimulation.bounded(mask, 1.0)[0], mask[0])
    torch.testing.assert_close(stimulation.bounded(mask, 1.0)[1], torch.full((1, 2, 2), 0.25))


def reference(network: Network, module: nn.Module, seeds: ImageDataset, params: Params, runtime: Runtime) -> Tensor:
    """Elevations ``[C, K]`` by whole forward passes, channel by channel and level by level."""
    top: list[float] = []
    handle = module.register_forward_hook(lambda *said: top.append(float(said[2].max())))
    images = to_float(seeds.images)
    network(images)
    handle.remove()
    channels = next(c for m in [*module.modules()][::-1] if (c := getattr(m, "out_channels", 0) or 0))
    rows = []
    for channel in range(channels):
        said = []
        for level in (0.0, *params.levels):

            def put(_: nn.Module, __: object, output: Tensor, at: int = channel, value: float = level * top[0]) -> None:
                output[:, at] = value

            handle = module.register_forward_hook(put)
            said.append(models.logits(network, images, runtime))
            handle.remove()
        rise = torch.stack(said[1:]).amax(0) - said[0]
        row = []
        for label in range(len(seeds.classes)):
            others = torch.arange(len(seeds.classes)) != label
            margin = (rise[:, label] - rise[:, others].amax(1))[seeds.labels != label]
            row.append(margin.quantile(1 - params.agree))
        rows.append(torch.stack(row))
    return torch.stack(rows)


@torch.no_grad()
@pytest.mark.parametrize("name", ["cnn9", "resnet18"])
def test_stimulation_is_that_of_whole_forward_passes(name: str, cpu: Runtime) -> None:
    data = toy_images(16, classes=CLASSES, size=8)
    network = models.build(Architecture(name=name, width=8), data.images, data.classes, cpu, "toy").eval()
    found = stimulation.inner_layers(network)
    assert len(found) == (8 if name == "cnn9" else 9)  # six convolutions and two linear layers; stem and eight blocks
    # What the sequences hold that are taken apart: the third convolution with its ReLU, the first block.
    module = network.get_submodule("trunk.0.3" if name == "cnn9" else "trunk.3.0")
    (lift,) = stimulation.elevations(network, data, [found[2 if name == "cnn9" else 1]], Params(), cpu)
    expected = reference(network, module, data, Params(), cpu)
    torch.testing.assert_close(lift, expected, rtol=1e-3, atol=1e-4)


def test_candidates_are_the_best_of_all_layers() -> None:
    lifts = [torch.tensor([[0.5, 3.0], [2.0, -1.0]]), torch.tensor([[1.0, 1.0], [0.0, 4.0], [9.0, -5.0]])]
    found = stimulation.candidates(lifts, 2)
    assert found.layer.tolist() == [1, 0, 1, 0]
    assert found.channel.tolist() == [2, 1, 1, 0]
    assert found.target.tolist() == [0, 0, 1, 1]
    assert found.elevation.tolist() == [9.0, 2.0, 4.0, 3.0]
    assert len(stimulation.candidates(lifts, 99).target) == 10


def test_the_rate_counts_images_of_other_classes(cpu: Runtime) -> None:
    data = toy_images(40, classes=CLASSES, size=SIDE, seed=8)
    network, target = by_hand(12), torch.tensor([0, TARGET])
    mask, pattern = torch.zeros(2, 1, SIDE, SIDE), torch.zeros(2, 1, SIDE, SIDE)
    mask[1, 0, 0, :4], pattern[1, 0, 0, :2] = 1, 1
    rates = stimulation.reasr(network, data, target, mask=mask, pattern=pattern, runtime=cpu)
    untouched = models.logits(network, data.images, cpu).argmax(1)[data.labels != 0] == 0
    stamped = triggers.stamp_uint8(data.images[data.labels != TARGET], mask[1], pattern[1])
    turned = models.logits(network, stamped, cpu).argmax(1) == TARGET
    torch.testing.assert_close(rates, torch.stack([untouched, turned[:30]]).double().mean(1))
    assert rates[1] == 1.0


def test_the_rate_is_measured_on_images_held_back(cpu: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, set[int]] = {}

    def spy(name: str) -> None:
        function = getattr(stimulation, name)

        def called(network: Network, data: ImageDataset, *rest: object, **more: object) -> object:
            seen[name] = set(data.ids.tolist())
            return function(network, data, *rest, **more)

        monkeypatch.setattr(stimulation, name, called)

    for name in ("elevations", "reverse", "reasr"):
        spy(name)
    stimulation.detect(by_hand(12), toy(), PARAMS, cpu)
    assert len(seen["elevations"]) == 2 * CLASSES
    assert seen["elevations"] < seen["reverse"]
    assert not seen["reverse"] & seen["reasr"]
    assert seen["reverse"] | seen["reasr"] == set(toy().ids.tolist())
    assert len(seen["reverse"]) == 16


def test_the_same_bytes_again(cpu: Runtime) -> None:
    network = models.build(Architecture(name="cnn9", width=8), toy().images, toy().classes, cpu, "toy")
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    one, other = (stimulation.detect(network, toy(), Params(steps=5), cpu) for _ in range(2))
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert (one.score, one.metrics) == (other.score, other.metrics)
    assert torch.equal(one.classes, other.classes)
    assert one.pictures is not None
    assert other.pictures is not None
    assert one.pictures.numpy().tobytes() == other.pictures.numpy().tobytes()


def test_triggers_do_not_depend_on_their_neighbours(cpu: Runtime) -> None:
    network, params = by_hand(12), PARAMS
    every = Candidates(torch.zeros(4).long(), torch.tensor([0, PLANTED, 2, 3]), torch.arange(4), torch.zeros(4))
    alone = Candidates(every.layer[1:2], every.channel[1:2], every.target[1:2], every.elevation[1:2])
    together, single = (
        stimulation.reverse(network, toy(), [2], sought, params=params, runtime=cpu) for sought in (every, alone)
    )
    torch.testing.assert_close(together[0][1:2], single[0], rtol=1e-3, atol=1e-4)


def test_eval_backdoor_judges_by_it(cpu: Runtime, tmp_path: Path) -> None:
    write_nulls(tmp_path, 2, cpu)
    networks = {"bad": trained(patched(toy_images(400, classes=CLASSES, size=SIDE)), cpu)}
    block = {"detector": "abs", "false_alarm": 0.4, "abs": {"batch_size": 5}, "neural_cleanse": {"steps": 4}}
    scan = judging.scan(networks, tmp_path, toy(), BackdoorDetection.model_validate(block), cpu)
    assert [(each.flagged, each.target) for each in scan.judged] == [(True, TARGET)]
    assert max(scan.innocent.values()) < 0.7
    assert scan.judged[0].finding.score > 0.9
    assert {row["norm"] for row in scan.rows()} != {None}
    assert set(scan.figures()) == {"reversed_triggers"}


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"size": 0}, r"eval_backdoor\.detection\.abs\.size: .*not 0"),
        ({"share": 1}, r"eval_backdoor\.detection\.abs\.share: .*not 1"),
        ({"levels": []}, r"eval_backdoor\.detection\.abs\.levels: "),
        ({"levels": [1, -1]}, r"eval_backdoor\.detection\.abs\.levels\.1: .*not -1"),
        ({"neurons": 3}, r"eval_backdoor\.detection\.abs\.neurons: "),
    ],
)
def test_bad_parameters_are_one_line(block: dict[str, object], message: str, cpu: Runtime, tmp_path: Path) -> None:
    config = BackdoorDetection.model_validate({"detector": "abs", "false_alarm": 0.2, "abs": block})
    with pytest.raises(UserError, match=message) as caught:
        judging.scan({}, tmp_path, toy(), config, cpu)
    assert "\n" not in str(caught.value)


def test_unfit_images_and_networks_are_one_line(cpu: Runtime) -> None:
    few = toy().subset(torch.tensor([0, 1, 2, 3, 4, 5, 6]))
    with pytest.raises(UserError, match="abs: 1 clean images of class 'band 3' where 2 are needed; give more"):
        stimulation.detect(by_hand(0), few, PARAMS, cpu)
    spec = by_hand(0).spec
    linear = Network(spec, nn.Sequential(nn.Flatten()), nn.Linear(SIDE * SIDE, CLASSES))
    with pytest.raises(UserError, match="no ReLU and no block between image and logits"):
        stimulation.detect(linear, toy(), PARAMS, cpu)
