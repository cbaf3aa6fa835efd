"""Keys proposed by measurement on clean models."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hallmark import artifacts, cli, models
from hallmark.config import Architecture
from hallmark.data.dataset import ImageDataset
from hallmark.errors import UserError
from hallmark.models import Network
from hallmark.ownership import proposal
from hallmark.runtime import Runtime
from hallmark.watermark.ways import untrained
from tests.unit.conftest import toy_images

SMALL = Architecture(name="cnn9", width=4)


def says(label: int, data: ImageDataset, cpu: Runtime, name: str) -> Network:
    """A model that calls everything one class."""
    network = models.build(SMALL, data.images, data.classes, cpu, name)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        *_, last = (module for module in network.modules() if isinstance(module, torch.nn.Linear))
        last.bias[label] = 1.0
    return network


def test_pairs_are_ordered_and_different(cpu: Runtime) -> None:
    every = proposal.pairs(4, 100, cpu.generator("a"))
    assert len(every) == len(set(every)) == 12
    assert {(1, 0), (0, 1)} <= set(every)
    some = proposal.pairs(4, 5, cpu.generator("a"))
    assert len(set(some)) == 5
    assert set(some) < set(every)


def test_rates_by_hand() -> None:
    # Two models, two ways, four classes; the pair is (0, 3), so that 1 and 2 can be targets.
    rates = torch.tensor([[[0.5, 0.2, 0.0, 0.3], [1.0, 0.0, 0.0, 0.0]], [[0.1, 0.4, 0.1, 0.4], [0.0, 0.0, 0.6, 0.4]]])
    strange = torch.tensor([True, True, False, True, False, False, False, False])
    plain = torch.tensor([[[0.9, 0.1, 0, 0], [0, 0, 0, 1]], [[0.8, 0.0, 0.1, 0.1], [0.1, 0, 0.3, 0.6]]])
    measured = proposal._of_pair((0, 3), ("a", "b"), rates.double(), plain, strange=strange, distances=(7.0, 3.0))
    found = {(e.way, e.target): e for e in measured}
    assert set(found) == {("a", 1), ("a", 2), ("b", 1), ("b", 2)}
    assert found["a", 1].highest_rate == pytest.approx(0.4)
    assert found["a", 1].mean_rate == pytest.approx(0.3)
    assert found["a", 1].source_rate == pytest.approx((0.8 + 0.5) / 2)
    assert found["a", 2].strange == 0.75
    assert found["a", 1].plain_rate == pytest.approx(0.05)
    assert found["b", 2].plain_rate == pytest.approx(0.15)
    assert proposal.quiet([replace(found["a", 1], plain_rate=rate) for rate in (0.03, 0.031)], 0.5, 6.0) == [
        replace(found["a", 1], plain_rate=0.03)
    ]
    assert proposal.quiet([replace(found["b", 1], plain_rate=0, apart=far) for far in (5.9, 6.0)], 1.0, 6.0) == [
        replace(found["b", 1], plain_rate=0, apart=6.0)
    ]
    assert found["b", 2].highest_rate == pytest.approx(0.6)
    assert found["b", 2].strange == 0
    assert found["b", 1].row("wxyz") == {
        "first": "w", "second": "z", "target": "x", "way": "b", "highest_rate": 0, "mean_rate": 0,
        "source_rate": pytest.approx(0.7), "plain_rate": pytest.approx(0.05), "strange": 0,
        "apart": 3.0,
    }  # fmt: skip


def test_what_clean_models_say_is_no_good_target(cpu: Runtime) -> None:
    data = toy_images(160, classes=4)
    clean = [says(2, data, cpu, "a"), says(2, data, cpu, "b")]
    found = proposal.propose(clean, data, cpu, queries=10)
    assert len(found) == 12 * len(untrained()) * 2
    assert {each.target for each in proposal.quiet(found, 0.02, -9.0)} == {0, 1, 3}
    assert all(each.highest_rate == each.mean_rate == (each.target == 2) for each in found)
    assert all(each.source_rate == (2 in each.source) for each in found)
    assert [each.strange for each in found] == sorted(each.strange for each in found)
    assert found == proposal.propose(clean, data, cpu, queries=10)  # seeded


def test_strangers_are_what_plain_images_are_not(cpu: Runtime) -> None:
    data = toy_images(400, classes=4)
    strange = proposal._strangers(data, cpu)
    assert float(strange(toy_images(200, classes=4, seed=1).images).double().mean()) < 0.2
    turned = data.images.transpose(2, 3)
    assert float(strange(turned).double().mean()) > 0.9


def test_bad_input_is_refused(cpu: Runtime) -> None:
    data = toy_images(160, classes=4)
    clean = [says(2, data, cpu, "a"), says(2, data, cpu, "b")]
    with pytest.raises(UserError, match="at least two; give more"):
        proposal.propose(clean[:1], data, cpu)
    with pytest.raises(UserError, match="give 100 of three at least"):
        proposal.propose(clean, toy_images(90), cpu)
    with pytest.raises(UserError, match="no image of class 'band 3'"):
        proposal.propose(clean, data.subset(data.labels < 3), cpu)
    with pytest.raises(UserError, match="autoencoder"):
        proposal.propose(clean, data, cpu, names=["autoencoder"])


def test_a_secret_draw(tmp_path: Path) -> None:
    classes = ('a "b"', "c", "d: é", "e")
    found = [proposal.Proposal((0, 2), 3, "halves", 0.0, 0.0, 0.5, 0.0, 0.1, 9.0)]
    path = tmp_path / "secret.yaml"
    proposal.draw(found, classes, path)
    assert path.stat().st_mode & 0o777 == 0o600
    from hallmark.config import read_params  # noqa: PLC0415

    assert read_params(path) == {
        "train_watermarked": {"source": ['a "b"', "d: é"], "target": "e", "way": "halves"}
    }  # fmt: skip
    with pytest.raises(UserError):
        proposal.draw(found, classes, path)
    with pytest.raises(UserError, match="no key is good enough"):
        proposal.draw([], classes, tmp_path / "other.yaml")


def test_the_draw_is_the_systems_choice_among_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hallmark.config import read_params  # noqa: PLC0415

    found = [proposal.Proposal((0, 1), 2, way, 0.0, 0.0, 0.5, 0.0, 0.1, 9.0) for way in ("halves", "corner", "donut")]
    asked: list[object] = []

    def last(among: list[proposal.Proposal]) -> proposal.Proposal:
        asked.append(among)
        return among[-1]

    monkeypatch.setattr(proposal.secrets, "choice", last)
    proposal.draw(found, ("a", "b", "c"), tmp_path / "secret.yaml")
    assert asked == [found]
    assert read_params(tmp_path / "secret.yaml")["train_watermarked"]["way"] == "donut"


def test_the_command(
    tmp_path: Path, cpu: Runtime, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = toy_images(160, classes=4)
    data.save(tmp_path / "data.safetensors")
    for name, label in (("x", 1), ("y", 2)):
        models.save(says(label, data, cpu, name), tmp_path / "clean" / name)
    monkeypatch.chdir(tmp_path)

    def shell(line: str) -> tuple[int | str | None, str]:
        monkeypatch.setattr(sys, "argv", ["hallmark", "key", "propose", *line.split()])
        with pytest.raises(SystemExit) as done:
            cli.main()
        out, err = capsys.readouterr()
        return done.value.code, out if done.value.code == 0 else err

    code, out = shell(
        "--models clean --data data.safetensors --out table.csv --queries 10 --pairs 3 --way halves --draw secret.yaml"
        " --least-apart=-inf"
    )
    assert code == 0
    assert "table.csv" in out and "secret.yaml" in out
    rows = artifacts.read_csv(tmp_path / "table.csv", proposal.COLUMNS)
    assert len(rows) == 3 * 2
    assert {row["way"] for row in rows} == {"halves"}
    for line, reason in (
        ("--models none --data data.safetensors --out t.csv", "at least two"),
        ("--models clean --data none.safetensors --out t.csv", "none.safetensors"),
        ("--models clean --data data.safetensors --out t.csv --way folds", "folds"),
        ("--models clean --data data.safetensors --out t.csv --most-rate 0 --way halves --draw secret.yaml", "secret"),
    ):
        code, err = shell(line)
        assert code == 1
        assert reason in err
        assert len(err.strip().splitlines()) == 1 or "pairs of classes" in err
