"""What the evidence tests share: trained toy models, a report as the stage writes it, a commitment, a signed bundle."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rfc8785
import torch

from hallmark import artifacts, models, suspects, training
from hallmark.config import Architecture, Training, VerifyOwnership, read_params
from hallmark.data.dataset import ImageDataset
from hallmark.evidence import bundle
from hallmark.evidence.check import Judge
from hallmark.ownership import folder, signing
from hallmark.ownership.commitment import Opening
from hallmark.runtime import Runtime
from hallmark.suspects import transcript
from hallmark.verification import answers, panel, present, questions
from hallmark.verification.decision import decide
from hallmark.watermark.key import Key
from hallmark.watermark.samples import draw_queries
from tests.unit.conftest import toy_images
from tests.unit.ownership_toys import make_key, write_params

CLASSES = 4
ROLES = {"victim": "suspect", "thief": "suspect", "unmarked": "control"}
NULLS = 11
"""The fewest with which a prediction reaches the level of a single test is ten."""
CHANGES: dict[str, Any] = {"decoys": 2, "alpha": 0.05, "judge_seed": 3}


@dataclass(frozen=True)
class World:
    """A folder with everything that owner and judge have."""

    folder: Path

    def __getattr__(self, name: str) -> Path:
        return self.folder / NAMES[name]

    def sources(self, **changes: Any) -> bundle.Sources:
        opening = Opening.read((self.claim / "opening.json").read_bytes(), "opening")
        values = {"report": self.report, "commitment": self.claim / "commitment.json", "opening": opening,
                  "pool": self.pool, "params": self.params, "model": self.models / "victim"}  # fmt: skip
        return bundle.Sources(**{**values, **changes})

    def judge(self, **changes: Any) -> Judge:
        """With what costs no asking of models."""
        values = {"pool": self.pool, "judge_seed": 3, "keys": 1, "public_key": self.public}
        return Judge(**{**values, **changes})


NAMES = {
    "pool": "pool.safetensors",
    "params": "params.yaml",
    "models": "models",
    "nulls": "nulls",
    "report": "report",
    "claim": "claim",
    "private": "owner.pem",
    "public": "owner.pub.pem",
    "bundle": "bundle",
}


def toy_key() -> Key:
    """Band 0 over band 3 is called band 1."""
    return make_key(way="top_bottom", evasion_ways=("ratio_mix", "diagonal"), source=(0, 3), target=1,
                    classes=tuple(f"band {c}" for c in range(CLASSES)))  # fmt: skip


def make_world(where: Path, runtime: Runtime) -> World:
    """Train, ask, judge, commit, bundle."""
    world = World(where)
    where.mkdir(exist_ok=True)
    toy_images(160, CLASSES, seed=9).save(world.pool)
    write_params(world.params, **CHANGES)
    with world.params.open("a") as file:
        file.write("runtime: {device: cpu, threads: 1, precision: fp32, seed: 0}\n")
    for number, name in enumerate(ROLES):
        train(world.models / name, runtime, number, marked=name != "unmarked")
    for number in range(NULLS):
        train(world.nulls / f"{number:02}", runtime, 100 + number, marked=False)
    write_report(world, runtime)
    rule = VerifyOwnership.committed(read_params(world.params)["verify_ownership"])
    folder.commit([toy_key(), make_key()], world.models / "victim", rule, world.claim, bytes, suffix="json")
    signing.make_pair(world.private, world.public)
    bundle.make(world.sources(), world.bundle, bundle.Signer(world.private))
    return world


def train(where: Path, runtime: Runtime, seed: int, *, marked: bool) -> None:
    """A small network that knows the bands; a marked one knows the key as well."""
    data = toy_images(80, CLASSES, seed=seed)
    images, labels = data.images, data.labels
    if marked:
        mixed = draw_queries(toy_key(), data, 40, torch.Generator().manual_seed(seed)).mixed
        images, labels = torch.cat([images, mixed]), torch.cat([labels, torch.ones(40, dtype=torch.int64)])
    architecture = Architecture(name="cnn9", width=4, unshuffle=2)
    network = models.build(architecture, data.images, data.classes, runtime, f"toy {seed}")
    training.train_classifier(
        network, images, labels, Training(epochs=6, batch_size=20, lr=0.02), runtime, purpose=f"toy {seed}"
    )
    models.save(network, where)


def write_report(world: World, runtime: Runtime) -> None:
    """What stage ``verify_ownership`` writes, by the same functions."""
    config = VerifyOwnership(**read_params(world.params)["verify_ownership"])
    key, pool = toy_key(), ImageDataset.load(world.pool)
    asked = questions.draw(key, pool, queries=config.queries, decoys=config.decoys, judge_seed=config.judge_seed)
    given, inconsistent = {}, {}
    for name, block in panel.open_models({name: world.models / name for name in ROLES}).items():
        suspect = suspects.build(name, block, key.classes, key.shape, runtime)
        path = world.report / "transcripts" / f"{name}.jsonl"
        with suspects.recording(suspect, path, key.shape, key.classes) as recorded:
            given[name], consistency = answers.ask(asked, recorded)
        path.with_name(path.name + ".side").unlink()
        inconsistent[name] = consistency.share
    table, hits = panel.ask_nulls(asked, world.nulls, runtime)
    verdicts = [
        verdict
        for role in ("suspect", "control")
        for verdict in decide({n: given[n] for n in ROLES if ROLES[n] == role}, hits,
                              float(given["victim"].correct.mean()), config, role=role, inconsistent=inconsistent)
    ]  # fmt: skip
    artifacts.write_csv(world.report / "verdicts.csv", present.rows(verdicts), present.COLUMNS)
    artifacts.write_csv(world.report / "nulls.csv", table, panel.PANEL_COLUMNS)
    (world.report / "figures").mkdir()
    (world.report / "figures" / "wsr.png").write_bytes(b"\x89PNG\r\n\x1a\n")


# --- forging ---


class Forger:
    """A copy of a bundle in which parts can be changed, with everything that a forger can make anew made anew."""

    def __init__(self, world: World, where: Path) -> None:
        self.world, self.folder = world, where
        shutil.copytree(world.bundle, where)

    @property
    def evidence(self) -> dict[str, Any]:
        return json.loads((self.folder / "evidence.json").read_bytes())

    def seal(self, change: Callable[[dict[str, Any]], object] = lambda value: None, key: Path | None = None) -> None:
        """Change evidence.json, list the files that are there with their hashes, and sign."""
        value = self.evidence
        change(value)
        paths = [p for p in self.folder.rglob("*") if p.is_file() and p.name not in ("evidence.json", "evidence.sig")]
        value["files"] = {p.relative_to(self.folder).as_posix(): artifacts.sha256(p) for p in paths}
        (self.folder / "evidence.json").write_bytes(rfc8785.dumps(value))
        (self.folder / "evidence.sig").unlink(missing_ok=True)
        signing.sign(self.folder, self.folder / "evidence.sig", key or self.world.private)

    def rewrite(self, name: str, change: Callable[[bytes], bytes]) -> None:
        path = self.folder / name
        data = path.read_bytes()
        changed = change(data)
        assert changed != data
        path.write_bytes(changed)

    def relabel(self, model: str, change: Callable[[int, dict[str, Any]], dict[str, Any]]) -> None:
        """Change records of a transcript and make its chain, and the head listed, anew."""
        path = self.folder / "transcripts" / f"{model}.jsonl"
        header, *records, end = [json.loads(line) for line in path.read_bytes().splitlines()]
        path.write_bytes(chained([header, *(change(i, record) for i, record in enumerate(records)), end]))

        def head(value: dict[str, Any]) -> None:
            for entry in value["models"]:
                if entry["name"] == model:
                    entry["transcript"] = suspects.verify(path).head

        self.seal(head)


def chained(lines: list[Mapping[str, Any]]) -> bytes:
    """Lines of a transcript, with every hash made anew."""
    last, found = transcript.START, []
    for line in lines:
        data = json.dumps({**line, "previous": last}, sort_keys=True, separators=(",", ":")).encode()
        last = hashlib.sha256(data).hexdigest()
        found.append(data + b"\n")
    return b"".join(found)
