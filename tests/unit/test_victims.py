"""The stage that steals: a victim in a folder, in a file, behind HTTP; what it records."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from hallmark import artifacts, models, tracking, training
from hallmark.config import Architecture, Training
from hallmark.data.dataset import ImageDataset
from hallmark.errors import UserError
from hallmark.models import Network
from hallmark.runtime import Runtime
from stages import extract_attack
from tests.unit import serving
from tests.unit.conftest import toy_images
from tests.unit.serving import Server, images_of

ATTACK: dict[str, Any] = {
    "method": "distillation",
    "budget": 60,
    "temperature": 1.0,
    "architecture": {"name": "cnn9", "width": 4},
    "training": {"epochs": 12, "batch_size": 10, "lr": 0.005},
}
DFME: dict[str, Any] = {
    "method": "dfme",
    "budget": 2000,
    "step": 0.8,
    "latent": 16,
    "width": 8,
    "architecture": {"name": "cnn9", "width": 4},
    "training": {"epochs": 2, "batch_size": 25, "lr": 0.003},
}
HTTP = {"kind": "http", "batch": 16, "attempts": 3, "backoff": 0.01, "timeout": 10.0, "scores": "probabilities"}
HELD_OUT = 45


@pytest.fixture
def victim(cpu: Runtime) -> Network:
    images = toy_images(200, seed=5)
    network = models.build(Architecture(name="cnn9", width=6), images.images, images.classes, cpu, "v")
    config = Training(epochs=10, batch_size=20, lr=0.005)
    training.train_classifier(network, images.images, images.labels, config, cpu, purpose="v")
    return network


@pytest.fixture
def root(tmp_path: Path, victim: Network, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    toy_images(90, seed=1).save(tmp_path / "queries.safetensors")
    toy_images(HELD_OUT, seed=2).save(tmp_path / "test.safetensors")
    models.save(victim, tmp_path / "victim")
    return tmp_path


Answering = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture
def answers(victim: Network, cpu: Runtime) -> dict[str, Answering]:
    """The victim as a service that gives probabilities, its two best classes, or labels."""

    def probabilities(body: dict[str, Any]) -> torch.Tensor:
        return models.probabilities(victim, images_of(body), cpu)

    def top(body: dict[str, Any]) -> dict[str, Any]:
        best = probabilities(body).topk(2)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return {"top": [[[k, p] for k, p in zip(*row, strict=True)] for row in pairs]}

    return {
        "scores": lambda body: {"scores": probabilities(body).tolist()},
        "top": top,
        "labels": lambda body: {"labels": probabilities(body).argmax(1).tolist()},
    }


@pytest.fixture
def serve(answers: dict[str, Answering]) -> Iterator[Callable[[str], Server]]:
    opened: list[Any] = []

    def start(kind: str) -> Server:
        opened.append(serving.serving(answers[kind]))
        return opened[-1].__enter__()

    yield start
    for context in opened:
        context.__exit__(None, None, None)


def run(root: Path, attack: dict[str, Any], block: dict[str, Any] | None, *, folder: bool = True) -> dict[str, Any]:
    """The stage's metrics."""
    section = {"victim": block, "attacks": {"theft": attack}}
    with (root / "params.yaml").open("w", encoding="utf-8") as file:
        runtime = {"device": "cpu", "threads": 1, "precision": "fp32", "seed": 0}
        YAML().dump({"runtime": runtime, "extract_attack": section}, file)
    options = ["--attack=theft", f"--queries={root / 'queries.safetensors'}", f"--test={root / 'test.safetensors'}"]
    options += [f"--out={root / 'copy'}", f"--report={root / 'report'}", f"--params={root / 'params.yaml'}"]
    options += [f"--victim={root / 'victim'}"] if folder else []
    extract_attack.main(options, standalone_mode=False)
    return artifacts.read_json(root / "report/metrics.json")


def test_a_service_is_stolen_as_the_folder_is(
    root: Path, serve: Callable[[str], Server], cpu: Runtime, victim: Network
) -> None:
    folder = run(root, ATTACK, None)
    own = models.load(root / "copy", cpu)
    server = serve("scores")
    remote = run(root, ATTACK, {**HTTP, "url": server.url, "budget": 60 + HELD_OUT}, folder=False)
    copy = models.load(root / "copy", cpu)
    # Every query of the attack, and every held-out image once for the agreement.
    assert len(server.images) == 60 + HELD_OUT
    assert remote["queries"] == folder["queries"] == 60
    test = ImageDataset.load(root / "test.safetensors")
    named, truth = (models.logits(network, test.images, cpu).argmax(1) for network in (copy, victim))
    assert remote["fidelity"] == pytest.approx(float((named == truth).float().mean()))
    assert remote["fidelity"] > 0.8
    assert torch.allclose(models.logits(copy, test.images, cpu), models.logits(own, test.images, cpu), atol=0.05)


def test_a_service_that_says_less_wants_the_form_said(root: Path, serve: Callable[[str], Server]) -> None:
    labels, top = ({**HTTP, "url": serve(kind).url} for kind in ("labels", "top"))
    with pytest.raises(
        UserError, match=r"extract_attack\.victim: gives labels only; set the attack's answers to labels"
    ):
        run(root, ATTACK, labels)
    with pytest.raises(UserError, match=r"gives its best 2 classes only; .*\{form: top_k, k: 2\}"):
        run(root, ATTACK, top)
    with pytest.raises(UserError, match="gives its best 2 classes only"):
        run(root, {**ATTACK, "answers": {"form": "top_k", "k": 3}}, top)
    for answers, block in (("labels", labels), ({"form": "top_k", "k": 2}, top), ("labels", top)):
        assert run(root, {**ATTACK, "answers": answers}, block)["fidelity"] > 0.6


def test_top_classes_of_a_service_teach_what_those_of_the_folder_do(
    root: Path, serve: Callable[[str], Server], cpu: Runtime
) -> None:
    attack, images = {**ATTACK, "answers": {"form": "top_k", "k": 2}}, toy_images(30, seed=9).images
    copies = []
    for block in (None, {**HTTP, "url": serve("top").url}):
        run(root, attack, block)
        copies.append(models.logits(models.load(root / "copy", cpu), images, cpu))
    assert torch.allclose(*copies, atol=0.05)


def test_a_service_is_stolen_without_any_images(root: Path, serve: Callable[[str], Server]) -> None:
    server = serve("scores")
    metrics = run(root, DFME, {**HTTP, "url": server.url, "batch": 128})
    assert metrics["queries"] == 2000 // 175 * 175 == len(server.images) - HELD_OUT
    assert len(set(server.images)) > 1800
    with pytest.raises(UserError, match=r"theft\.step: 0\.001 is lost on a victim of 8-bit images; set it to 0\.8"):
        run(root, {**DFME, "step": 0.001}, {**HTTP, "url": server.url})


def test_a_file_is_stolen_as_the_folder_is(root: Path, cpu: Runtime) -> None:
    images, copies = toy_images(30, seed=9).images, []
    for block in (None, {"kind": "safetensors", "path": str(root / "victim")}):
        metrics = run(root, ATTACK, block)
        copies.append((metrics, models.logits(models.load(root / "copy", cpu), images, cpu)))
    assert copies[0][0] == copies[1][0]
    assert torch.allclose(copies[0][1], copies[1][1], atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 60 + HELD_OUT - 1}, r"extract_attack\.victim\.budget: query budget exceeded: 105 images to send"),
        ({"kind": "magic"}, r"extract_attack\.victim\.kind: wants one of"),
        ({"classes": ["x", "y", "z"]}, r"extract_attack\.victim: mapping: the suspect's class 'x' is none of ours"),
        ({"batch": 0}, r"extract_attack\.victim\.batch"),
    ],
)
def test_bad_victims_are_named_before_anything_is_sent(
    changes: dict[str, Any], message: str, root: Path, serve: Callable[[str], Server]
) -> None:
    server = serve("scores")
    with pytest.raises(UserError, match=message):
        run(root, ATTACK, {**HTTP, "url": server.url, **changes})
    assert not server.images


def test_no_victim_at_all_is_said(root: Path) -> None:
    with pytest.raises(UserError, match=r"extract_attack\.victim: is null; give --victim a model folder"):
        run(root, ATTACK, None, folder=False)


def test_what_was_done_is_tagged(root: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[[str], Server]) -> None:
    tags: dict[str, str] = {}
    monkeypatch.setattr(tracking.Run, "set_tags", lambda self, values: tags.update(values))
    metrics = run(root, ATTACK, None)
    expected = {"victim": "model folder", "answers": "soft", "images": "queries", "queries": "60"}
    assert tags == expected | {"fidelity": f"{metrics['fidelity']:.4f}"}
    tags.clear()
    attack = {**ATTACK, "answers": {"form": "top_k", "k": 2}, "images": {"source": "digits"}}
    run(root, attack, {**HTTP, "url": serve("scores").url})
    assert (tags["victim"], tags["answers"], tags["images"]) == ("http", "top_k 2 spread", "digits")
    assert len(tags["images.sha256"]) == 64
