"""Purification by several processes, and after an interruption: the bytes of one process that was left in peace."""

from __future__ import annotations

import copy
import dataclasses
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
import torch
from torch import Tensor

from hallmark import artifacts, distributed, runtime
from hallmark.config import PurifyData, Restore, Rounds, RuntimeConfig, Training
from hallmark.data.dataset import ImageDataset
from hallmark.diffusion import model as diffusion
from hallmark.diffusion.model import DiffusionModel
from hallmark.diffusion.samplers import CHUNK
from hallmark.distributed import Group
from hallmark.errors import UserError
from hallmark.models import Network
from hallmark.purify import evidence, preparation, repair, reserve
from hallmark.purify.methods import dataelixir, hallmark, reserve_disagreement
from hallmark.purify.purifier import Measure, Purifier
from hallmark.purify.result import Findings, Material, Purification
from hallmark.purify.resume import Kept, digest
from hallmark.runtime import Runtime
from hallmark.stage import open_stage
from hallmark.training import no_callback
from stages import purify_data
from tests.unit.conftest import toy_images

CHUNKS = 3
"""The last one is not full."""
PARAMS = """
runtime: {device: cpu, threads: 1, precision: fp32, seed: 0}
purify_data:
  method: hallmark
  repair: restore
  architecture: {name: vgg_like, width: 4}
  training: {epochs: 2, batch_size: 100, lr: 0.003}
  rounds: {start: 100, rounds: 2, sampler: ancestral, steps: 2}
  restore: {confidence: 0.0, percentile: 0.8}
  hallmark:
    false_alarm: 0.3
    folds: 2
    divisions: 1
    reserve_training: {epochs: 20, batch_size: 30, lr: 0.01}
    levels: [2, 3]
    hosts: 1
    trigger_training: {epochs: 1, batch_size: 100, lr: 0.003}
    passes: 1
"""

QUICK = {"epochs": 4, "batch_size": 30, "lr": 0.01}
FEW = {"start": 100, "rounds": 2, "sampler": "ddim", "steps": 1}
SECTION = PurifyData.model_validate(
    {
        "method": "hallmark",
        "repair": "restore",
        "architecture": {"name": "vgg_like", "width": 4},
        "training": QUICK,
        "rounds": FEW,
        "restore": {"confidence": 0.0, "percentile": 0.8},
    }
)
OWN: dict[ModuleType, dict[str, Any]] = {
    dataelixir: {"rounds": FEW, "tau": 1, "mad_threshold": 0.1},
    hallmark: {
        "false_alarm": 0.4,
        "folds": 2,
        "divisions": 1,
        "reserve_training": QUICK,
        "levels": [2],
        "hosts": 1,
        "trigger_training": QUICK,
        "passes": 1,
    },
    reserve_disagreement: {"folds": 2, "training": QUICK, "threshold": 0.7},
}
JUDGES_TRAINING = {"reserve_training", "training"}


@pytest.fixture
def images() -> Tensor:
    return toy_images(CHUNK * (CHUNKS - 1) + 30).images


@pytest.fixture
def purifier(cpu: Runtime, tmp_path: Path) -> Purifier:
    torch.manual_seed(0)
    model = diffusion.new((1, 8, 8), (8,), 1, 1, 150)
    rounds = Rounds(start=100, rounds=2, sampler="ancestral", steps=2, keep=2)
    return Purifier(model, rounds, cpu, kept=Kept(tmp_path / "kept"))


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gets the size of each batch that the diffusion model's network sees."""
    seen: list[int] = []
    original = DiffusionModel.predict_noise

    def counted(self: DiffusionModel, folded: Tensor, t: Tensor | int) -> Tensor:
        seen.append(len(folded))
        return original(self, folded, t)

    monkeypatch.setattr(DiffusionModel, "predict_noise", counted)
    return seen


EVALUATIONS = 4
"""Of the fixture's purifier, for one chunk: two rounds of two steps."""


def everything(index: Tensor, candidates: Tensor) -> dict[str, Tensor]:
    return {"index": index, "candidates": candidates}


def same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def interrupted_at(chunk: int) -> Callable[[Tensor, Tensor], dict[str, Tensor]]:
    @wraps(everything)
    def measure(index: Tensor, candidates: Tensor) -> dict[str, Tensor]:
        if int(index[0]) == chunk * CHUNK:
            raise KeyboardInterrupt
        return everything(index, candidates)

    return measure


def test_a_hash_is_of_the_values_however_they_lie() -> None:
    table = torch.arange(6, dtype=torch.int64).view(2, 3)
    for part in (table[:1, 1], table[:, 1], table.T, table[1:], table[:0], torch.tensor(4), table[0].bfloat16()):
        packed = torch.empty(part.shape, dtype=part.dtype).copy_(part)
        assert digest({"a": part}) == digest({"a": packed})
    assert len({digest({"a": table}), digest({"a": table.T}), digest({"a": table + 1}), digest({"b": table})}) == 4


def test_a_scan_resumes_at_the_chunk_where_it_stopped(
    purifier: Purifier, images: Tensor, evaluations: list[int], tmp_path: Path
) -> None:
    expected = dataclasses.replace(purifier, kept=None).scan(images, everything, "p", depends={})
    assert not (tmp_path / "kept").exists()  # off unless a folder is given
    evaluations.clear()
    with pytest.raises(KeyboardInterrupt):
        purifier.scan(images, interrupted_at(1), "p", depends={})
    assert len(evaluations) == 2 * EVALUATIONS
    evaluations.clear()
    assert same(purifier.scan(images, everything, "p", depends={}), expected)
    assert len(evaluations) == (CHUNKS - 1) * EVALUATIONS
    evaluations.clear()
    chosen = torch.tensor([3, CHUNK + 1, CHUNK - 1])
    for _ in range(2):
        assert torch.equal(purifier.regenerate(images, chosen, "p"), expected["candidates"][chosen])
    assert len(evaluations) == EVALUATIONS
    assert purifier.kept is not None
    purifier.kept.clear()
    assert not (tmp_path / "kept").exists()
    purifier.kept.clear()


def flip_last_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def write(**tensors: Tensor) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        meta = artifacts.read_tensors(path, 1 << 30)[1]
        artifacts.write_tensors(path, tensors, meta)

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        flip_last_byte,
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\x80\x04K\x01."),  # a pickle
        write(index=torch.arange(CHUNK), candidates=torch.zeros(CHUNK, 5, 1, 8, 8)),
        write(candidates=torch.zeros(CHUNK, 5, 1, 8, 8, dtype=torch.uint8)),
    ],
    ids=["flipped", "truncated", "empty", "foreign", "type", "name"],
)
def test_a_broken_chunk_is_computed_again(
    damage: Callable[[Path], None], purifier: Purifier, images: Tensor, evaluations: list[int], tmp_path: Path
) -> None:
    expected = purifier.scan(images[:CHUNK], everything, "p", depends={})
    (path,) = (tmp_path / "kept").iterdir()
    sound = path.read_bytes()
    damage(path)
    evaluations.clear()
    assert same(purifier.scan(images[:CHUNK], everything, "p", depends={}), expected)
    assert len(evaluations) == EVALUATIONS
    assert path.read_bytes() == sound
    assert list((tmp_path / "kept").iterdir()) == [path]


def test_nothing_is_taken_from_another_purification(
    purifier: Purifier, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, calls = images[:20], []

    def purify(self: Purifier, raw: Tensor, index: Tensor, purpose: str) -> Tensor:
        calls.append(index)
        return raw[:, None].repeat(1, self.rounds.rounds * self.rounds.keep, 1, 1, 1)

    monkeypatch.setattr(Purifier, "_purify", purify)

    def computed(
        purpose: str = "p",
        images: Tensor = images,
        measure: Measure = everything,
        depends: Mapping[str, Tensor] | None = None,
        **changes: Any,
    ) -> bool:
        calls.clear()
        dataclasses.replace(purifier, **changes).scan(images, measure, purpose, depends=depends or {})
        return bool(calls)

    assert computed()
    assert not computed()
    other = images.clone()
    other[7, 0, 0, 0] ^= 1
    assert computed(images=other)
    assert computed(images=images.flip(0))
    assert computed(images=images[:-1])
    assert computed("q")
    assert computed(measure=lambda index, candidates: {"index": index})
    assert computed(depends={"weight": torch.zeros(2)})
    assert computed(depends={"weight": torch.ones(2)})
    assert not computed(depends={"weight": torch.zeros(2)})
    for changes in ({"start": 99}, {"sampler": "dpm_solver"}, {"keep": 1}, {"rounds": 1}, {"steps": 3}):
        assert computed(rounds=purifier.rounds.model_copy(update=changes))
    assert computed(runtime=dataclasses.replace(purifier.runtime, seed=1))
    assert computed(runtime=dataclasses.replace(purifier.runtime, dtype=torch.bfloat16))
    config = {**purifier.model.scheduler.config, "variance_type": "fixed_small"}
    schedule = type(purifier.model.scheduler).from_config(config)
    assert computed(model=dataclasses.replace(purifier.model, scheduler=schedule))
    torch.set_num_threads(2)
    assert computed()
    torch.set_num_threads(1)
    with monkeypatch.context() as patch:
        patch.setattr(artifacts, "sha256", lambda path: "other code")
        assert computed()
    assert not computed()
    with torch.no_grad():
        next(purifier.model.unet.parameters()).view(-1)[0] += 1e-3
    assert computed()


@pytest.mark.parametrize("method", [dataelixir, hallmark, reserve_disagreement], ids=lambda method: method.__name__)
def test_what_was_measured_with_other_labels_or_classifiers_is_not_taken(
    method: ModuleType, purifier: Purifier, tmp_path: Path
) -> None:
    def purified(*, kept: Kept | None, seed: int = 0, wrong: int = 7, epochs: int = 4) -> Purification:
        data = toy_images(90)
        labels = data.labels.clone()
        labels[::wrong] = 1
        given = preparation.prepare(
            ImageDataset(data.images, labels, data.ids, data.classes),
            toy_images(60, seed=1),
            purifier.model,
            SECTION,
            dataclasses.replace(purifier.runtime, seed=seed),
            epochs=lambda name: no_callback,
        )
        # The same noise: what differs are the classifiers.
        given = dataclasses.replace(given, purifier=dataclasses.replace(purifier, rounds=SECTION.rounds, kept=kept))
        own = OWN[method] | {name: QUICK | {"epochs": epochs} for name in JUDGES_TRAINING & OWN[method].keys()}
        found = method.detect(given, method.Params.model_validate(own))
        same_rows = dataclasses.replace(found, flagged=torch.arange(90) % 3 == 0, restored=None)
        return repair.repair(given, same_rows, "restore", SECTION.restore)

    def same_result(a: Purification, b: Purification) -> bool:
        pairs = [
            (a.images, b.images),
            (a.labels, b.labels),
            (a.actions, b.actions),
            (a.findings.scores, b.findings.scores),
        ]
        return all(torch.equal(one, other) for one, other in pairs) and a.metrics == b.metrics

    kept = Kept(tmp_path / "shared")
    cases: list[dict[str, int]] = [{}, {"seed": 1}, {"wrong": 5}, {"epochs": 5}]
    expected = [purified(**case, kept=None) for case in cases]
    assert not any(same_result(expected[0], other) for other in expected[1:3])
    for case, wanted in [*zip(cases, expected, strict=True), (cases[0], expected[0])]:
        assert same_result(purified(**case, kept=kept), wanted)


@pytest.fixture
def given(purifier: Purifier) -> Material:
    purifier = dataclasses.replace(purifier, rounds=SECTION.rounds, kept=None)
    made = preparation.prepare(
        toy_images(90),
        toy_images(60, seed=1),
        purifier.model,
        SECTION,
        purifier.runtime,
        epochs=lambda name: no_callback,
    )
    return dataclasses.replace(made, purifier=purifier)


def other_labels(data: ImageDataset) -> ImageDataset:
    """Of every third image another one."""
    labels = data.labels.clone()
    labels[::3] = (labels[::3] + 1) % len(data.classes)
    return dataclasses.replace(data, labels=labels)


def check_each(
    changes: Mapping[str, Callable[[Material], dict[str, Any]]],
    given: Material,
    kept: Kept,
    look: Callable[..., Mapping[str, Tensor]],
) -> None:
    """Each change by itself shows in what is measured, and nothing is taken that was measured without it."""
    keeping = dataclasses.replace(given, purifier=dataclasses.replace(given.purifier, kept=kept))
    plain = look(given)
    assert same(look(keeping), plain)
    for name, change in changes.items():
        expected = look(given, **change(given))
        assert not same(expected, plain), name
        assert same(look(keeping, **change(keeping)), expected), name
    assert same(look(keeping), plain)


@pytest.mark.parametrize("trusted", [False, True], ids=["given", "trusted"])
def test_evidence_is_taken_from_the_same_networks_hosts_and_labels_alone(
    trusted: bool, given: Material, tmp_path: Path
) -> None:
    given = dataclasses.replace(given, purifier=given.purifier.first_round())
    training = Training.model_validate(QUICK)
    judges, basis = reserve.train_judges(given, 2, 2, training), evidence.residual_basis(given)
    witness = given.train("witness", given.data.images, given.data.labels)

    def look(material: Material, **changes: Any) -> dict[str, Tensor]:
        arguments: dict[str, Any] = {"witness": witness, "judges": judges, "basis": basis} | changes
        return vars(
            evidence.measure(
                arguments["witness"],
                arguments["judges"],
                arguments.get("of", material),
                hosts_per_image=3,
                basis=arguments["basis"],
                trusted=trusted,
            )
        )

    def normalised(network: Network) -> Network:
        changed = copy.deepcopy(network)
        changed.mean += 0.2
        return changed

    def changed(material: Material, **changes: Any) -> dict[str, Any]:
        return {"of": dataclasses.replace(material, **changes)}

    mixed = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    # Judges see the labels, too: the given images' are theirs alone, so that these change by themselves.
    labelled = "reserve" if trusted else "data"
    cases: dict[str, Callable[[Material], dict[str, Any]]] = {
        "witness": lambda _: {"witness": normalised(witness)},
        "judges": lambda _: {"judges": dataclasses.replace(judges, networks=tuple(map(normalised, judges.networks)))},
        "judged by": lambda _: {"judges": dataclasses.replace(judges, folds=judges.folds[:, mixed])},
        "basis": lambda _: {"basis": basis.flip(0)},
        "labels": lambda material: changed(material, **{labelled: other_labels(getattr(material, labelled))}),
    }
    if not trusted:  # who judges a stranger is drawn
        cases["judges drawn"] = lambda material: changed(
            material, runtime=dataclasses.replace(material.runtime, seed=7)
        )
    check_each(cases, given, Kept(tmp_path / "kept"), look)


def test_copies_are_taken_as_the_same_networks_and_percentile_chose_them_alone(
    given: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flagged = torch.arange(90) % 3 == 0
    findings = Findings(flagged, flagged.float(), ("",) * 90)
    many = given.purifier.rounds.model_copy(update={"rounds": 6})  # a choice that hangs on the suspect's features
    given = dataclasses.replace(given, purifier=dataclasses.replace(given.purifier, rounds=many))
    benign, other = (given.train(name, given.data.images, given.data.labels) for name in ("one", "other"))

    def look(material: Material, model: Network = benign, percentile: float = 0.8, **changes: Any) -> dict[str, Tensor]:
        monkeypatch.setattr(repair, "train_benign", lambda *_: model)
        params = Restore(confidence=0.0, percentile=percentile)
        rows = flagged.nonzero()[:, 0]
        done, labels, images, metrics = repair.restore(dataclasses.replace(material, **changes), findings, rows, params)
        return {"done": done, "labels": labels, "images": images, "metrics": torch.tensor(list(metrics.values()))}

    cases: dict[str, Callable[[Material], dict[str, Any]]] = {
        "benign": lambda _: {"model": other},
        "suspect": lambda _: {"suspect": other},
        "percentile": lambda _: {"percentile": 0.0},
        "labels": lambda material: {"data": other_labels(material.data)},
    }
    check_each(cases, given, Kept(tmp_path / "kept"), look)


class Together:
    """Processes of one group as threads: what one gives at the barrier all get."""

    def __init__(self, size: int) -> None:
        self.given: list[dict[str, Tensor]] = [{} for _ in range(size)]
        self.barrier = threading.Barrier(size, timeout=60)

    def group(self, rank: int) -> Group:
        together = self

        class Thread(Group):
            def exchange(self, tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
                together.given[self.rank] = {name: tensor.clone() for name, tensor in tensors.items()}
                together.barrier.wait()
                found = list(together.given)
                together.barrier.wait()
                return found

        return Thread(rank, len(self.given))


def test_chunks_are_shared_and_the_first_process_alone_writes(
    purifier: Purifier, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = dataclasses.replace(purifier, kept=None).scan(images, everything, "p", depends={})
    work: Counter[str] = Counter()
    original, written = Purifier._purify, Kept.write

    def purify(self: Purifier, raw: Tensor, index: Tensor, purpose: str) -> Tensor:
        work[f"process {self.group.rank} computes {int(index[0]) // CHUNK}"] += 1
        return original(self, raw, index, purpose)

    def noted(self: Kept, key: str, tensors: Mapping[str, Tensor]) -> None:
        work[f"{threading.current_thread().name} writes"] += 1
        written(self, key, tensors)

    monkeypatch.setattr(Purifier, "_purify", purify)
    monkeypatch.setattr(Kept, "write", noted)

    def scan_in_two(measure: Callable[[Tensor, Tensor], dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        together = Together(2)

        def one(rank: int) -> dict[str, Tensor]:
            threading.current_thread().name = f"process {rank}"
            return dataclasses.replace(purifier, group=together.group(rank)).scan(images, measure, "p", depends={})

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(one, range(2)))

    assert all(same(found, expected) for found in scan_in_two(everything))
    assert work == {
        "process 0 computes 0": 1,
        "process 1 computes 1": 1,
        "process 0 computes 2": 1,
        "process 0 writes": CHUNKS,
    }
    work.clear()
    next((tmp_path / "kept").iterdir()).unlink()
    assert all(same(found, expected) for found in scan_in_two(everything))
    assert work["process 0 writes"] == 1
    assert work.total() == 2
    work.clear()
    assert same(purifier.scan(images, everything, "p", depends={}), expected)  # one process goes on where two stopped
    assert not work


def test_processes_that_differ_are_stopped() -> None:
    class Other(Group):
        def exchange(self, tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
            return [dict(tensors), {name: tensor + 1 for name, tensor in tensors.items()}]

    with pytest.raises(UserError, match=r"^the 2 processes differ in the weights; start them from the same files"):
        Other(0, 2).agree("the weights", "00ff")
    Group().agree("the weights", "00ff")


def test_a_stage_that_cannot_be_shared_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def two() -> Iterator[Group]:
        yield Group(0, 2)

    monkeypatch.setattr(distributed, "group", two)
    with (
        pytest.raises(UserError, match=r"^train_diffusion: runs in one process, not in 2; start it without torchrun"),
        open_stage("train_diffusion", tmp_path / "p.yaml", PurifyData, inputs=[], outputs=[], report=tmp_path),
    ):
        pass


def test_each_process_of_a_machine_has_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    config = RuntimeConfig(device="cuda", threads=1, precision="fp32", seed=0)
    assert runtime.start(config).device == torch.device("cuda")
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert runtime.start(config).device == torch.device("cuda", 1)
    assert chosen == [torch.device("cuda", 1)]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match=r"runtime\.device: more processes on this machine than its 2 GPUs"):
        runtime.start(config)


@pytest.fixture
def project(tmp_path: Path, cpu: Runtime, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the inputs of the stage purify_data."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(PARAMS)
    data, reserve = toy_images(CHUNK * (CHUNKS - 1) + 30), toy_images(60, seed=1)
    labels = data.labels.clone()
    labels[::7] = 1  # enough for the classifiers of the trusted images to doubt
    ImageDataset(data.images, labels, data.ids, data.classes).save(Path("train.safetensors"))
    reserve.save(Path("reserve.safetensors"))
    torch.manual_seed(0)
    diffusion.save(diffusion.new((1, 8, 8), (8,), 1, 1, 150), Path("diffusion"))
    return tmp_path


def arguments(results: str) -> list[str]:
    return [
        *("--data", "train.safetensors", "--reserve", "reserve.safetensors", "--diffusion", "diffusion"),
        *("--out", f"{results}/purified", "--suspect", f"{results}/suspect", "--report", f"{results}/report"),
    ]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def torchrun(processes: int, *command: str) -> tuple[int, str]:
    """Exit status of processes on this machine, and all that they write to the terminal."""
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m", "hallmark"]
    done = subprocess.run(
        [sys.executable, *launch, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
    )
    return done.returncode, done.stdout


def test_two_processes_and_an_interrupted_one_write_the_bytes_of_one(
    project: Path, evaluations: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    purify_data.main.main(arguments("one"), standalone_mode=False)
    expected, whole = contents(project / "one"), len(evaluations)
    assert {"purified/train.safetensors", "suspect/model.safetensors", "report/metrics.json"} <= expected.keys()
    assert b",relabelled," in expected["purified/manifest.csv"]
    assert not list(Path(".hallmark/purify").iterdir())

    with monkeypatch.context() as patch:
        original = Kept.write

        def stop(self: Kept, key: str, tensors: Mapping[str, Tensor]) -> None:
            original(self, key, tensors)
            if len(list(self.folder.iterdir())) == 7:  # the judges' copies, the residuals of all, half of the evidence
                raise KeyboardInterrupt

        patch.setattr(Kept, "write", stop)
        evaluations.clear()
        with pytest.raises(click.Abort):  # what click makes of it
            purify_data.main.main(arguments("stopped"), standalone_mode=False)
        before = len(evaluations)
    assert not Path("stopped/purified").exists()
    evaluations.clear()
    purify_data.main.main(arguments("stopped"), standalone_mode=False)
    assert 0 < before < whole
    assert len(evaluations) == whole - before
    assert contents(project / "stopped") == expected

    status, output = torchrun(2, "purify_data", *arguments("two"))
    assert status == 0, output
    assert contents(project / "two") == expected
    assert output.count("purify_data: ") == 1, output  # one process speaks
    assert sorted(path.name for path in project.iterdir()) == sorted(
        [".hallmark", "diffusion", "one", "params.yaml", "reserve.safetensors", "stopped", "train.safetensors", "two"]
    )
    assert not list(Path(".hallmark/purify").iterdir())


@pytest.mark.parametrize(
    ("processes", "how", "message"),
    [
        # The first waits for the others, and which of these is the faster does not matter.
        (3, "raise UserError('x: wants 1')", r"hallmark: x: wants 1"),
        # It has no last word; torchrun terminates the other, unless that notices before.
        (2, "os.kill(os.getpid(), signal.SIGKILL)", r"hallmark: (another of the 2 processes ended|terminated)"),
    ],
    ids=["error", "killed"],
)
def test_the_end_of_one_process_ends_all_with_one_line(
    processes: int, how: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "ending.py").write_text(
        '"""Ends."""\n'
        "import os, signal, click\n"
        "from hallmark.distributed import group\n"
        "from hallmark.errors import UserError\n"
        "@click.command()\n"
        "def main():\n"
        "    with group() as found:\n"
        "        found.exchange({})\n"
        f"        if found.rank:\n            {how}\n"
        "        found.exchange({})\n"
    )
    monkeypatch.chdir(tmp_path)
    status, output = torchrun(processes, "ending")
    assert status == 1
    said = [line for line in output.splitlines() if line.startswith("hallmark:")]
    assert len(said) == 1, output
    assert re.match(message, said[0])
