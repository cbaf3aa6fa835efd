"""What the evidence tests share: trained toy models, a report as the stage writes it, a commitment, a signed bundle."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
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
from hallmark.evidence.document import Evidence
from hallmark.evidence.page import render
from hallmark.ownership import folder, signing
from hallmark.ownership.commitment import Commitment, Opening
from hallmark.runtime import Runtime
from hallmark.suspects import transcript
from hallmark.verification import answers, panel, present, questions
from hallmark.verification.questions import Questions
from hallmark.watermark.key import Key
from hallmark.watermark.samples import draw_queries
from tests.unit.conftest import toy_images
from tests.unit.ownership_toys import RULE, make_key, write_params

CLASSES = 4
ROLES = {"victim": "suspect", "thief": "suspect", "unmarked": "control"}
NULLS = 11
"""The fewest with which a prediction reaches the level of a single test is ten."""
CHANGES: dict[str, Any] = {"decoys": 2, "alpha": 0.05, "judge_seed": 3, "max_inconsistent": 0.0}
"""A whole number that is a float: canonical JSON writes 0."""


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

    def asked(self) -> Questions:
        """The questions."""
        config = VerifyOwnership(**read_params(self.params)["verify_ownership"])
        return questions.draw(toy_key(), ImageDataset.load(self.pool), queries=config.queries, decoys=config.decoys,
                              judge_seed=config.judge_seed)  # fmt: skip

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


def make_world(where: Path, runtime: Runtime, **changes: Any) -> World:
    """Train, ask, judge, commit, bundle, by the toys' rule with ``changes``."""
    world = World(where)
    where.mkdir(exist_ok=True)
    toy_images(160, CLASSES, seed=9).save(world.pool)
    for number, name in enumerate(ROLES):
        train(world.models / name, runtime, number, marked=name != "unmarked")
    for number in range(NULLS):  # a few, hardly changed: independence is not the matter here, but copies are refused
        if number < 3:
            train(world.nulls / f"{number:02}", runtime, 100 + number, marked=False)
        else:
            network = models.load(world.nulls / f"{number % 3:02}", runtime)
            with torch.no_grad():
                next(iter(network.parameters())).mul_(1 + number * 1e-6)
            models.save(network, world.nulls / f"{number:02}")
    claim(world, runtime, **changes)
    return world


def claim(world: World, runtime: Runtime, **changes: Any) -> None:
    """Ask, judge, commit, bundle, by the toys' rule with ``changes``."""
    write_params(world.params, **CHANGES, **changes)
    with world.params.open("a") as file:
        file.write("runtime: {device: cpu, threads: 1, precision: fp32, seed: 0}\n")
    write_report(world, runtime)
    rule = VerifyOwnership.committed(read_params(world.params)["verify_ownership"])
    signing.make_pair(world.private, world.public)
    folder.commit([toy_key(), make_key()], world.models / "victim", rule, world.claim, bytes,
                  owner=signing.fingerprint(world.public), suffix="json")  # fmt: skip
    bundle.make(world.sources(), world.bundle, bundle.Signer(world.private))


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
        network,
        images,
        labels,
        Training(epochs=6, batch_size=20, lr=0.02),
        runtime,
        purpose=f"toy {seed}",
    )
    models.save(network, where)


def write_report(world: World, runtime: Runtime) -> None:
    """What stage ``verify_ownership`` writes, by the same functions."""
    config = VerifyOwnership(**read_params(world.params)["verify_ownership"])
    key, asked = toy_key(), world.asked()
    table = panel.ask_nulls(asked, world.nulls, runtime)
    roles = {role: [name for name in ROLES if ROLES[name] == role] for role in ("suspect", "control")}
    enough = {n: each for names in roles.values() for n, each in panel.stopping(table, config, names).items()}
    given, inconsistent = {}, {}
    for name, suspect in panel.open_models({name: world.models / name for name in ROLES}, key, runtime).items():
        path = world.report / "transcripts" / f"{name}.jsonl"
        with suspects.recording(suspect, path, key.shape, key.classes) as recorded:
            given[name], consistency = answers.ask(asked, recorded, enough.get(name))
        path.with_name(path.name + ".side").unlink()
        inconsistent[name] = consistency.share
    by_role = {role: {name: given[name] for name in names} for role, names in roles.items()}
    verdicts = panel.judge(by_role, table, float(given["victim"].correct.mean()), config, inconsistent)
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

    def seal(
        self,
        change: Callable[[dict[str, Any]], object] = lambda value: None,
        key: Path | None = None,
        page: bool = True,
    ) -> None:
        """Change evidence.json, write the page anew, list the files that are there with their hashes, and sign."""
        value = self.evidence
        change(value)
        if page:
            (self.folder / "evidence.json").write_bytes(rfc8785.dumps(value))
            rows = artifacts.read_csv(self.folder / "verdicts.csv", present.COLUMNS)
            opening = Opening.read((self.folder / "opening.json").read_bytes(), "opening")
            nulls = len(artifacts.read_csv(self.folder / "nulls.csv", panel.PANEL_COLUMNS))
            made = Commitment.read(self.folder / "commitment.json")
            (self.folder / "index.html").write_bytes(render(Evidence.read(self.folder), made, opening, rows, nulls))
        value["files"] = hashes(self.folder)
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
        """Change records of a transcript and make its chain, and the head listed, anew.

        Args:
            change: gets a record and the number of its question; of repeated ones, a number behind the questions'.
        """
        header, *records, end = self.lines(model)
        asked = self.world.asked()
        places = torch.randperm(len(asked.images), generator=answers.order(asked)).tolist()
        places += range(len(places), len(records))
        self.put(model, [header, *(change(i, record) for i, record in zip(places, records, strict=True)), end])

    def lines(self, model: str) -> list[dict[str, Any]]:
        """A transcript's lines."""
        path = self.folder / "transcripts" / f"{model}.jsonl"
        return [json.loads(line) for line in path.read_bytes().splitlines()]

    def put(self, model: str, lines: list[dict[str, Any]]) -> None:
        """Write a transcript with its chain, head and description made anew."""
        path = self.folder / "transcripts" / f"{model}.jsonl"
        path.write_bytes(chained(lines))

        def listed(value: dict[str, Any]) -> None:
            for entry in value["models"]:
                if entry["name"] == model:
                    entry |= {"transcript": suspects.verify(path).head, "description": lines[0]["suspect"]}

        self.seal(listed)


def chained(lines: Sequence[Mapping[str, Any]]) -> bytes:
    """Lines of a transcript, with every hash made anew."""
    last, found = transcript.START, []
    for line in lines:
        data = json.dumps({**line, "previous": last}, sort_keys=True, separators=(",", ":")).encode()
        last = hashlib.sha256(data).hexdigest()
        found.append(data + b"\n")
    return b"".join(found)


def make_small(where: Path) -> Path:
    """A bundle, not signed, and its pool in a folder: well formed, but of three questions; nobody was trained."""
    where.mkdir()
    toy_images(60, CLASSES).save(where / "pool")
    bundle_folder = where / "bundle"
    (bundle_folder / "transcripts").mkdir(parents=True)
    rule = {name: value for name, value in {**RULE, **CHANGES}.items() if name not in VerifyOwnership.OF_THE_CASE}
    opening = Opening.make(toy_key(), rule, "ab" * 32)
    made = Commitment(opening.hash(), "2026-02-01T00:00:00Z")
    (bundle_folder / "opening.json").write_bytes(opening.canonical())
    (bundle_folder / "commitment.json").write_bytes(rfc8785.dumps(made.to_json()))
    pool = ImageDataset.load(where / "pool")
    entries = []
    for name in ("victim", "unmarked"):
        header = {"format": transcript.FORMAT, "suspect": {"kind": name}, "classes": list(pool.classes),
                  "shape": list(pool.shape)}  # fmt: skip
        records = [{"position": i, "image": "cd" * 32, "label": i} for i in range(3)]
        path = bundle_folder / "transcripts" / f"{name}.jsonl"
        path.write_bytes(chained([header, *records, {"end": 3}]))
        role = "suspect" if name == "victim" else "control"
        entries.append({"name": name, "role": role, "transcript": suspects.verify(path).head,
                        "description": header["suspect"]})  # fmt: skip
    row = {**dict.fromkeys(present.COLUMNS, "x"), "reasons": "ok: x; NO: y"}
    artifacts.write_csv(bundle_folder / "verdicts.csv", [row], present.COLUMNS)
    nulls = [{"model": str(i), "accuracy": 0.5, "hits": i, "runner_up": i, "lean": None,
              **dict.fromkeys(panel.PLAIN_SOURCES, i), "sha256": "ab" * 32} for i in range(4)]  # fmt: skip
    artifacts.write_csv(bundle_folder / "nulls.csv", nulls, panel.PANEL_COLUMNS)
    value = {
        "format": 1, "commitment": made.hash, "judge_seed": 3, "keys": 1, "rule": rule, "models": entries,
        "pool": {"sha256": artifacts.sha256(where / "pool"), "images": 60, "classes": list(pool.classes),
                 "shape": list(pool.shape)},
        "reference": {"model": "victim", "accuracy": 0.5}, "asking": {"precision": "fp32", "threads": 1}, "files": {},
    }  # fmt: skip
    evidence = Evidence.model_validate(value)
    (bundle_folder / "index.html").write_bytes(render(evidence, made, opening, [row], 4))
    value["files"] = hashes(bundle_folder)
    (bundle_folder / "evidence.json").write_bytes(rfc8785.dumps(value))
    return where


def hashes(where: Path) -> dict[str, str]:
    """What evidence.json lists as files."""
    paths = [p for p in where.rglob("*") if p.is_file() and p.name not in ("evidence.json", "evidence.sig")]
    return {p.relative_to(where).as_posix(): artifacts.sha256(p) for p in paths}
