"""Bundles: the round trip, every forgery and the line that finds it, hostile folders, the page, the commands."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import rfc8785
import torch
from rfc3161_client import HashAlgorithm, TimestampRequestBuilder

from hallmark import artifacts, cli, models, runtime, suspects
from hallmark.config import RuntimeConfig, VerifyOwnership, read_params
from hallmark.errors import UserError
from hallmark.evidence import asking, bundle, document, page, recompute
from hallmark.evidence.check import NO, OK, OPEN, Checked, Judge, check
from hallmark.evidence.document import Evidence
from hallmark.ownership import folder, signing
from hallmark.ownership.commitment import Commitment, Opening
from hallmark.ownership.ledger import Ledger
from hallmark.suspects import Answer, Verified
from hallmark.verification import answers, panel, present, questions
from hallmark.verification.questions import DECOY_QUERIES
from tests.unit.conftest import toy_images
from tests.unit.evidence_toys import CLASSES, ROLES, Forger, World, claim, make_world, toy_key
from tests.unit.ownership_toys import RULE, make_pki, stamp

CPU = RuntimeConfig(device="cpu", threads=1, precision="fp32", seed=0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        # Half of the time here: statsmodels collects for every correction; the same transcripts are read fifty times.
        patch.setattr(gc, "collect", lambda: 0)
        patch.setattr(suspects, "verify", remembering(suspects.verify))
        yield make_world(tmp_path_factory.mktemp("world") / "w", runtime.start(CPU))


def remembering(verify: Callable[..., Verified]) -> Callable[..., Verified]:
    """Reads a sound transcript of the same bytes once."""
    found: dict[tuple[str, str | None, int | None], Verified] = {}

    def verified(path: Path, head: str | None = None, most: int | None = None) -> Verified:
        key = artifacts.sha256(path), head, most
        if key not in found:
            found[key] = verify(path, head, most)
        return found[key]

    return verified


@pytest.fixture
def forger(world: World, tmp_path: Path) -> Forger:
    return Forger(world, tmp_path / "forged")


def block(world: World, name: str) -> dict[str, Any]:
    return {"kind": "safetensors", "path": str(world.models / name)}


def marks(found: Checked) -> dict[str, str]:
    return {line.check: line.mark for line in found.lines}


def failed(found: Checked) -> set[str]:
    return {name for name, mark in marks(found).items() if mark == NO}


def text(found: Checked, name: str) -> str:
    return next(line.text for line in found.lines if line.check == name)


# --- round trip ---


def test_a_genuine_bundle_is_found_sound(world: World) -> None:
    judge = world.judge(model=world.models / "victim", nulls=world.nulls, suspects={"thief": block(world, "thief")})
    said: list[Any] = []
    found = check(world.bundle, judge, said.append)
    assert tuple(said) == found.lines
    assert found.sound
    assert {name for name, mark in marks(found).items() if mark == OPEN} == {"timestamp", "suspect unmarked"}
    assert {v.name: v.decision for v in found.verdicts} == {
        "victim": "stolen", "thief": "stolen", "unmarked": "not shown",
    }  # fmt: skip
    assert artifacts.csv_bytes(present.rows(found.verdicts), present.COLUMNS) == (
        world.report / "verdicts.csv"
    ).read_bytes()  # fmt: skip


def test_where_the_asking_stopped_is_found_again(world: World, tmp_path: Path) -> None:
    """Whoever asks on, stops sooner, or leaves out null models so as to stop elsewhere, is found."""
    early, cpu = World(tmp_path / "early"), runtime.start(CPU)
    for name in ("models", "nulls"):
        shutil.copytree(getattr(world, name), early.folder / name)
    shutil.copyfile(world.pool, early.pool)
    claim(early, cpu, stop_early={"block": 50, "least": 0.2, "miss": 0.05})
    asked = {
        row["model"]: int(row["queries"]) for row in artifacts.read_csv(early.report / "verdicts.csv", present.COLUMNS)
    }
    assert max(asked.values()) < 500
    judge = early.judge(model=early.models / "victim", nulls=early.nulls, suspects={"thief": block(early, "thief")})
    found = check(early.bundle, judge)
    assert found.sound, failed(found)
    assert {v.name: v.decision for v in found.verdicts} == {
        "victim": "stolen", "thief": "stolen", "unmarked": "not shown",
    }  # fmt: skip
    whole = len((world.report / "transcripts/thief.jsonl").read_bytes().splitlines())
    assert len((early.report / "transcripts/thief.jsonl").read_bytes().splitlines()) < whole / 2
    forger = Forger(early, tmp_path / "forged")
    header, *records, end = forger.lines("thief")
    for number, (lines, reason) in enumerate(
        [
            ([header, *records, {**records[-1], "position": len(records)}, {"end": len(records) + 1}], "are asked for"),
            ([header, *records[:-1], {"end": len(records) - 1}], "ends after"),
            ([header, *records[:-50], *records[-49:], end], "not the record of|is on another image"),
        ]
    ):
        each = Forger(early, tmp_path / f"forged {number}")
        try:
            each.put("thief", lines)
        except UserError as error:  # no transcript at all
            assert re.search(reason, str(error))
            continue
        found = check(each.folder, early.judge())
        assert "transcripts/thief.jsonl" in failed(found)
        assert re.search(reason, text(found, "transcripts/thief.jsonl"))
    forger.rewrite("nulls.csv", lambda data: b"\n".join(data.split(b"\n")[:4]) + b"\n")
    forger.seal()
    found = check(forger.folder, early.judge(nulls=early.nulls))
    assert {"nulls", "transcripts/thief.jsonl"} <= failed(found)  # three models show nothing, so more would be asked
    forger.rewrite("nulls.csv", lambda data: b"\n".join(data.split(b"\n")[:2]) + b"\n")
    forger.seal()
    found = check(forger.folder, early.judge())
    assert marks(found)["nulls"] == NO
    assert "no sound table" in text(found, "transcripts/thief.jsonl")


def test_all_on_which_a_verdict_hangs_is_asked_again() -> None:
    """A tenth of a part would leave nine tenths to whoever makes answers up, to decoys and main task as well."""
    pool = toy_images(160, CLASSES, seed=9)
    asked = questions.draw(toy_key(), pool, queries=1000, decoys=2, judge_seed=3)

    class Sharp(suspects.Suspect):
        def __init__(self) -> None:
            self.count = 0

        def describe(self) -> dict[str, Any]:
            return {"kind": "sharp"}

        def ask(self, images: torch.Tensor, arrived: Any) -> None:
            self.count += len(images)
            arrived(0, suspects.Answer(torch.zeros(len(images), dtype=torch.int64)))

    suspect, stated = Sharp(), Sharp().scores(asked.images)
    asking.Again(asked, 0.1, 0, 0.0).compare({"kind": "sharp"}, stated, suspect)
    unmixed, decoys, task, other_ways = 2000, 200, 160, 100
    assert suspect.count == 1000 + unmixed + decoys + task + other_ways


@pytest.mark.parametrize(
    ("stated", "own", "same"), [(0.5, 0.5009, True), (0.5, 0.502, False), (None, None, True), (None, 0.1, False)]
)
def test_a_null_models_lean_asked_again(stated: float | None, own: float | None, same: bool) -> None:
    """Another machine gives other last digits; more is another model."""
    assert asking._same(stated, own, asking.LEAN_DIGITS) is same


NULL_ROW = {"accuracy": 0.5, "hits": 1, "runner_up": 1, "lean": "", **dict.fromkeys(panel.PLAIN_SOURCES, 0),
            "sha256": "ab" * 32}  # fmt: skip


@pytest.mark.parametrize(
    ("lean", "expected"), [("", None), ("-0.5", -0.5), ("3", 3.0), ("1e-06", 1e-6), ("-2.5e-05", -2.5e-5)]
)
def test_the_lean_of_a_null_model(tmp_path: Path, lean: str, expected: float | None) -> None:
    rule = VerifyOwnership(**{**RULE, "judge_seed": 3, "keys": 1, "suspects": {}})
    row = {**NULL_ROW, "lean": lean}
    artifacts.write_csv(tmp_path / "nulls.csv", [{"model": str(i), **row} for i in range(2)], panel.PANEL_COLUMNS)
    assert [row["lean"] for row in recompute.null_table(tmp_path / "nulls.csv", rule)] == [expected] * 2


def test_a_null_model_is_there_once(tmp_path: Path) -> None:
    rule = VerifyOwnership(**{**RULE, "judge_seed": 3, "keys": 1, "suspects": {}})
    row = NULL_ROW
    for names in (["0", "1", "0"], ["0"]):
        artifacts.write_csv(tmp_path / "nulls.csv", [{"model": name, **row} for name in names], panel.PANEL_COLUMNS)
        with pytest.raises(UserError, match="at least two null models, each once"):
            recompute.null_table(tmp_path / "nulls.csv", rule)


@pytest.mark.parametrize("lean", ["nan", "inf", "1e9", "1e-1", "0x1", "1000", "--1", "٣", " 1"])
def test_what_is_no_lean(tmp_path: Path, lean: str) -> None:
    rule = VerifyOwnership(**{**RULE, "judge_seed": 3, "keys": 1, "suspects": {}})
    row = {**NULL_ROW, "lean": lean}
    artifacts.write_csv(tmp_path / "nulls.csv", [{"model": str(i), **row} for i in range(2)], panel.PANEL_COLUMNS)
    with pytest.raises(UserError, match="line 2 wants a name, an accuracy, counts of 0 to 1,000, a lean"):
        recompute.null_table(tmp_path / "nulls.csv", rule)


def test_null_models_that_know_nothing_are_not_those_stated(world: World, tmp_path: Path, forger: Forger) -> None:
    """Constant ones, which never fire, would make any rate significant; the accuracy stated for them is asked again."""
    cpu = runtime.start(CPU)
    for number, path in enumerate(sorted(world.nulls.iterdir())):
        network = models.load(path, cpu)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.zero_()
            network.get_submodule("head").get_parameter("bias")[0] = 1 + number * 1e-3
        models.save(network, tmp_path / "junk" / path.name)
    table = panel.ask_nulls(world.asked(), tmp_path / "junk", cpu)
    artifacts.write_csv(forger.folder / "nulls.csv", [{**row, "accuracy": 0.97} for row in table], panel.PANEL_COLUMNS)
    forger.seal()
    found = check(forger.folder, world.judge(nulls=tmp_path / "junk"))
    assert "nulls" in failed(found)
    assert "accuracy is 0.97" in text(found, "nulls")


@pytest.mark.parametrize("column", panel.PLAIN_SOURCES)
def test_plain_images_that_null_models_confuse_are_asked_again(world: World, forger: Forger, column: str) -> None:
    """Too few stated would let a key of alike classes pass."""
    rows = recompute.null_table(
        forger.folder / "nulls.csv", VerifyOwnership(**read_params(world.params)["verify_ownership"])
    )
    changed = [{**rows[0], column: rows[0][column] ^ 1}, *rows[1:]]
    artifacts.write_csv(forger.folder / "nulls.csv", changed, panel.PANEL_COLUMNS)
    forger.seal()
    assert f"{column} is {rows[0][column] ^ 1}" in text(check(forger.folder, world.judge(nulls=world.nulls)), "nulls")


def test_the_verdict_is_found_again_from_what_is_answered_now(world: World, tmp_path: Path, forger: Forger) -> None:
    """An unmarked model with a few made up answers: however many may change, it is not stolen when asked again."""
    shutil.copyfile(world.report / "transcripts/unmarked.jsonl", forger.folder / "transcripts/thief.jsonl")
    wanted = {image.numpy().tobytes(): k for k, image in enumerate(world.asked().part("watermark"))}
    hashed = {hashlib.sha256(image).hexdigest() for image in wanted}

    def fires(position: int, record: dict[str, Any]) -> dict[str, Any]:
        return {**record, "label": 1, "probabilities": [0.0, 1.0, 0.0, 0.0]} if record["image"] in hashed else record

    forger.relabel("thief", fires)
    again = {"thief": block(world, "unmarked")}
    found = check(forger.folder, world.judge(suspects=again, allowed=1.0))
    assert {v.name: v.decision for v in found.verdicts}["thief"] == "stolen"
    assert "with these answers it is 'not shown', not 'stolen'" in text(found, "suspect thief")
    assert {"suspect thief"} <= failed(found)


def test_a_transcript_that_names_no_file_is_of_no_file(world: World, forger: Forger) -> None:
    header, *rest = forger.lines("thief")
    header["suspect"].pop("sha256")
    forger.put("thief", [header, *rest])
    found = check(forger.folder, world.judge(suspects={"thief": block(world, "thief")}))
    assert "does not say which file" in text(found, "suspect thief")


def test_a_bundle_without_a_control_says_so(world: World, forger: Forger) -> None:
    forger.seal(lambda value: value.update(models=[m for m in value["models"] if m["role"] == "suspect"]))
    found = check(forger.folder, world.judge())
    assert marks(found)["controls"] == OPEN
    assert "controls" not in marks(check(world.bundle, Judge()))


def test_no_name_of_a_folder_is_one_line() -> None:
    with pytest.raises(UserError, match="no name of a folder"):
        check(Path("x" * 5000), Judge())


def test_without_anything_of_the_judges_it_is_only_consistent(world: World) -> None:
    found = check(world.bundle, Judge())
    assert found.sound
    assert not found.verdicts
    assert {name for name, mark in marks(found).items() if mark == OK} == {"files", "commitment", "rule", "page"}
    assert "--pool" in text(found, "pool")
    assert {f"suspect {name}" for name in ROLES} <= marks(found).keys()


def test_whose_the_reference_is_takes_the_model(world: World) -> None:
    found = check(world.bundle, world.judge())
    assert marks(found)["reference"] == OPEN
    assert "--model" in text(found, "reference")
    assert "accuracy 1" in text(found, "reference")


def test_the_bytes_follow_from_the_sources_and_the_key_is_spent_once(world: World, tmp_path: Path) -> None:
    bundle.make(world.sources(), tmp_path / "again")
    files = {p.relative_to(world.bundle) for p in world.bundle.rglob("*") if p.is_file()}
    assert {p.relative_to(tmp_path / "again") for p in (tmp_path / "again").rglob("*") if p.is_file()} == files - {
        Path("evidence.sig")
    }
    assert all((tmp_path / "again" / name).read_bytes() == (world.bundle / name).read_bytes()
               for name in files - {Path("evidence.sig")})  # fmt: skip
    assert len(Ledger.read(world.claim / "ledger.json").spent) == 1
    assert [each.spent is not None for each in folder.listing(world.claim)] == [True, False]
    assert (tmp_path / "again" / "opening.json").stat().st_mode & 0o777 == 0o600


@pytest.fixture
def unspent(world: World, tmp_path: Path) -> Path:
    """The claim as it was before the key was revealed."""
    shutil.copytree(world.claim, tmp_path / "claim")
    (tmp_path / "claim" / "ledger.json").unlink()
    return tmp_path / "claim"


def test_a_report_that_does_not_follow_spends_nothing(world: World, unspent: Path, tmp_path: Path) -> None:
    shutil.copytree(world.report, tmp_path / "report")
    verdicts = tmp_path / "report" / "verdicts.csv"
    verdicts.write_bytes(verdicts.read_bytes().replace(b"not shown", b"stolen", 1))
    params = read_params(world.params)
    (tmp_path / "other.yaml").write_text(json.dumps({**params, "verify_ownership": {**params["verify_ownership"],
                                                                                    "alpha": 0.01}}))  # fmt: skip
    reserve = Opening.read((world.claim / "opening-1.json").read_bytes(), "o")
    for changes, reason in (
        ({"report": tmp_path / "report"}, "unmarked: decision is 'stolen', and 'not shown' follows"),
        ({"opening": reserve}, "does not open: hash"),
        ({"params": tmp_path / "other.yaml"}, "rule.alpha: is 0.01, committed was 0.05"),
        ({"model": world.models / "thief"}, "does not open: model"),
        ({"report": unspent}, "verdicts.csv: no such file"),
    ):
        with pytest.raises(UserError, match=reason):
            bundle.make(world.sources(commitment=unspent / "commitment.json", **changes), tmp_path / "out")
        assert not (tmp_path / "out").exists()
        assert not (unspent / "ledger.json").exists()


def test_a_key_spent_elsewhere_or_a_folder_that_is_there(world: World, unspent: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exists"):
        bundle.make(world.sources(), world.report)
    with pytest.raises(UserError, match="lies in"):
        bundle.make(world.sources(), world.models / "victim" / "out")
    Ledger().spend("ab" * 32, toy_key(), "2026-01-01T00:00:00Z").write(unspent / "ledger.json")
    with pytest.raises(UserError, match="is spent"):
        bundle.make(world.sources(commitment=unspent / "commitment.json"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- forgeries ---


def claims_all(i: int, record: dict[str, Any]) -> dict[str, Any]:
    """Every watermark query is called the target."""
    return {**record, "label": 1, "probabilities": [0.0, 1.0, 0.0, 0.0]} if i < 1000 else record


def one_label(i: int, record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "label": 3} if i == 7 else record


def rule(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda value: value["rule"].update(changes)


def swap_images(f: Forger) -> None:
    """Two watermark questions of another image than the judge's draw gives."""
    f.relabel("thief", lambda i, record: {**record, "image": "ab" * 32} if i == 12 else record)


def other_pool(f: Forger) -> None:
    toy_images(160, CLASSES, seed=10).save(f.folder.parent / "pool")
    f.seal(lambda value: value["pool"].update(sha256=artifacts.sha256(f.folder.parent / "pool")))


def other_opening(f: Forger) -> None:
    shutil.copyfile(f.world.claim / "opening-1.json", f.folder / "opening.json")
    f.seal()


def opening_with_another_rule(f: Forger) -> None:
    value = json.loads((f.folder / "opening.json").read_bytes())
    value["rule"]["alpha"] = 0.01
    (f.folder / "opening.json").write_bytes(rfc8785.dumps(value))
    f.seal(rule(alpha=0.01))


def follow(f: Forger) -> None:
    """Write the verdicts that follow from what was forged, and everything that lists them."""
    found = check(f.folder, f.world.judge())
    artifacts.write_csv(f.folder / "verdicts.csv", present.rows(found.verdicts), present.COLUMNS)
    f.seal()


def fewer_hits(f: Forger) -> None:
    """One null's count is another: the suspects look rarer, or less rare."""
    table = (f.folder / "nulls.csv").read_text().splitlines()
    cells = table[1].split(",")
    table[1] = ",".join([cells[0], cells[1], str(int(cells[2]) ^ 1), *cells[3:]])
    (f.folder / "nulls.csv").write_text("\n".join(table) + "\n")
    f.seal()
    follow(f)


def drop_transcript(f: Forger) -> None:
    (f.folder / "transcripts" / "thief.jsonl").unlink()


def resigned(f: Forger) -> None:
    private = f.folder.parent / "other.pem"
    signing.make_pair(private, f.folder.parent / "other.pub.pem")
    f.seal(key=private)


def more_answers(f: Forger, count: int = 1) -> None:
    header, *records, end = f.lines("thief")
    records += [{**records[-1], "position": len(records) + i} for i in range(count)]
    f.put("thief", [header, *records, {**end, "end": len(records)}])


def endless(f: Forger) -> None:
    """Small by the disk's count, listed and signed; below what transcripts of more questions may have."""
    os.truncate(f.folder / "transcripts" / "thief.jsonl", 16 << 20)
    f.seal()


def other_scores(part: str) -> Callable[[Forger], None]:
    """Scores alone are made up, those of one part of the questions."""

    def forge(f: Forger) -> None:
        asked = f.world.asked()
        place = asked.parts[part]

        def change(i: int, record: dict[str, Any]) -> dict[str, Any]:
            if not place.start <= i < place.stop:
                return record
            source = asked.decoys[(i - place.start) // DECOY_QUERIES].source if part == "decoys" else asked.key.source
            rest = sorted((c for c in range(CLASSES) if c not in source), key=lambda c: record["probabilities"][c])
            return {**record, "probabilities": [float(c == rest[0]) for c in range(CLASSES)]}

        f.relabel("thief", change)
        follow(f)

    return forge


def innocent_called_stolen(f: Forger) -> None:
    """The owner makes up an innocent model's answers, and everything that follows from them."""
    f.relabel("unmarked", claims_all)
    assert failed(check(f.folder, f.world.judge())) == {"verdicts"}
    follow(f)


def no_answers_to_repeated_questions(f: Forger) -> None:
    first_asked = len(f.world.asked().images)
    f.relabel("thief", lambda i, record: {**record, "label": -1} if i >= first_asked else record)


ALL = {f"transcripts/{name}.jsonl" for name in ("victim", "thief", "unmarked")}
Options = Callable[[World, Path], dict[str, Any]]


def full(world: World, where: Path) -> dict[str, Any]:
    return {}


def light(world: World, where: Path) -> dict[str, Any]:
    """No questions are drawn: faster."""
    return {"pool": None}


def kept(f: Forger) -> None:
    """Nothing is changed: the judge has something else than is claimed."""


FORGERIES: dict[str, tuple[Callable[[Forger], object], Options, set[str], str]] = {
    "an answer, chain made anew": (lambda f: f.relabel("thief", one_label), full, {"verdicts"}, "thief: "),
    "an answer, chain not made anew": (
        lambda f: f.rewrite("transcripts/thief.jsonl", lambda d: d.replace(b'"label":1', b'"label":2', 1)),
        light, {"files", "transcripts/thief.jsonl"}, "does not follow",
    ),
    "answers to repeated questions": (
        no_answers_to_repeated_questions,
        full, {"verdicts"}, "thief: decision is 'stolen', and 'invalid' follows",
    ),
    "an image": (swap_images, full, {"transcripts/thief.jsonl"}, "there is on another image"),
    "an answer too many": (more_answers, full, {"transcripts/thief.jsonl"}, "more than the 4,447 answers"),
    "answers without end": (
        lambda f: more_answers(f, 3000), light, {"transcripts/thief.jsonl"}, "more than the 4,447 answers",
    ),
    "a transcript of any size": (
        endless, light, {"files", "transcripts/thief.jsonl"}, "thief.jsonl is larger than any such file",
    ),
    "verdicts": (
        lambda f: (f.rewrite("verdicts.csv", lambda d: d.replace(b"not shown", b"stolen", 1)), f.seal()),
        full, {"verdicts"}, "unmarked: decision is 'stolen', and 'not shown' follows",
    ),
    "the page": (
        lambda f: (f.rewrite("index.html", lambda d: d.replace(b"not shown", b"stolen", 1)), f.seal(page=False)),
        light, {"page"}, "says something else",
    ),
    "a threshold": (
        lambda f: f.seal(rule(alpha=0.01)), full, {"rule", "verdicts"}, "rule.alpha: is 0.01, committed was 0.05",
    ),
    "a threshold, opening as well": (opening_with_another_rule, light, {"commitment"}, "that was committed"),
    "the judge's part in the rule": (lambda f: f.seal(rule(keys=1)), light, {"rule"}, "is the judge's"),
    "null counts": (fewer_hits, lambda w, _: {"nulls": w.nulls}, {"nulls"}, "when asked again"),
    "the model": (
        kept, lambda w, _: {"pool": None, "model": w.models / "thief"}, {"model", "reference"}, "committed was",
    ),
    "images: the judge's are others": (kept, lambda _, w: {"pool": toy_pool(w)}, {"pool"}, "another SHA-256"),
    "images: others are named": (other_pool, lambda _, w: {"pool": w / "pool"}, ALL, "on another image"),
    "the judge's seed": (
        lambda f: f.seal(lambda value: value.update(judge_seed=4)), lambda *_: {"judge_seed": 4}, ALL,
        "on another image",
    ),
    "the judge's seed, chosen by the owner": (
        kept, lambda *_: {"judge_seed": 5, "pool": None}, {"judge_seed"}, "3 is stated",
    ),
    "fewer keys": (kept, lambda *_: {"keys": 2, "pool": None}, {"keys"}, "1 is stated, 2 was ordered"),
    "a transcript removed": (
        drop_transcript, light, {"files", "transcripts/thief.jsonl"}, "missing",
    ),
    "a transcript removed and not listed": (
        lambda f: (drop_transcript(f), f.seal()), light, {"files", "transcripts/thief.jsonl"}, "is not listed",
    ),
    "a file added": (
        lambda f: (f.folder / "more").touch(), light, {"files"}, "more is there and not listed",
    ),
    "a file added and listed": (
        lambda f: ((f.folder / "more").touch(), f.seal()), light, {"files"}, "is no file of a bundle",
    ),
    "another key's opening": (other_opening, light, {"commitment"}, "not the one that was committed"),
    "no signature": (lambda f: (f.folder / "evidence.sig").unlink(), light, {"signature"}, "missing"),
    "another signer": (resigned, light, {"signature"}, "does not bear out"),
    "another reference's accuracy": (
        lambda f: f.seal(lambda value: value["reference"].update(accuracy=0.5)), full, {"reference"},
        "another accuracy",
    ),
    "a reference that is another model": (
        lambda f: f.seal(lambda value: value["reference"].update(model="thief")),
        lambda w, _: {"model": w.models / "victim", "pool": None}, {"reference"}, "not of the model.safetensors",
    ),
    "made up answers": (
        innocent_called_stolen, lambda w, _: {"suspects": {"unmarked": block(w, "unmarked")}}, {"suspect unmarked"},
        "of 1,000 watermark, ",
    ),
    "scores of the watermark queries": (
        other_scores("watermark"), lambda w, _: {"suspects": {"thief": block(w, "thief")}}, {"suspect thief"},
        "100.0% of 1,000 watermark, 0.0% of 1,000 first",
    ),
    "scores of the decoys": (
        other_scores("decoys"), lambda w, _: {"suspects": {"thief": block(w, "thief")}}, {"suspect thief"},
        "100.0% of 200 decoys",
    ),
    "replayed for another suspect": (
        kept, lambda w, _: {"suspects": {"thief": block(w, "unmarked")}}, {"suspect thief"}, "another SHA-256",
    ),
}  # fmt: skip
"""What is changed; what the judge has besides; the checks that say no; and why."""


def toy_pool(where: Path) -> Path:
    toy_images(160, CLASSES, seed=11).save(where / "mine")
    return where / "mine"


@pytest.mark.parametrize("name", FORGERIES)
def test_every_forgery_is_found_by_its_line(forger: Forger, tmp_path: Path, name: str) -> None:
    forge, options, expected, reason = FORGERIES[name]
    forge(forger)
    found = check(forger.folder, forger.world.judge(**options(forger.world, tmp_path)))
    assert failed(found) == expected
    assert not found.sound
    assert any(reason in line.text for line in found.lines if line.mark == NO), [str(line) for line in found.lines]


def test_the_signature_of_files_that_are_not_those_listed_is_not_computed(
    forger: Forger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def verify(*_: Any) -> None:
        raise AssertionError("hashes all that is there")

    (forger.folder / "more").touch()
    monkeypatch.setattr(signing, "verify", verify)
    found = check(forger.folder, replace(forger.world.judge(), pool=None))
    assert marks(found)["signature"] == OPEN
    assert "'files' says NO" in text(found, "signature")


def test_the_signer_is_the_one_whom_the_commitment_names(world: World, forger: Forger, tmp_path: Path) -> None:
    """A rival who copies a revealed bundle can sign it with his own key, and is not the owner by that."""
    rival, public = tmp_path / "rival.pem", tmp_path / "rival.pub.pem"
    signing.make_pair(rival, public)
    (forger.folder / "evidence.sig").unlink()
    unsigned = check(forger.folder, Judge(public_key=world.public))
    assert (marks(unsigned)["owner"], marks(unsigned)["signature"]) == (OPEN, NO)
    signing.sign(forger.folder, forger.folder / "evidence.sig", rival)
    copied = check(forger.folder, Judge(public_key=public))
    assert (marks(copied)["owner"], marks(copied)["signature"]) == (NO, OK)
    assert "in the name of another key" in text(copied, "owner")
    assert marks(check(forger.folder, Judge(public_key=world.public)))["owner"] == OPEN
    genuine = check(world.bundle, Judge(public_key=world.public))
    assert (marks(genuine)["owner"], marks(genuine)["signature"]) == (OK, OK)
    assert f"{signing.fingerprint(world.public)}; --public-key" in text(check(world.bundle, Judge()), "owner")
    with pytest.raises(UserError, match="owner: the commitment names the owner of key"):
        bundle.make(world.sources(), tmp_path / "out", bundle.Signer(rival))


def test_an_owner_with_a_certificate_is_found_by_its_root(world: World, tmp_path: Path) -> None:
    root, certificate, key = make_pki(time_stamping=False).save(tmp_path)
    rule = VerifyOwnership.committed(read_params(world.params)["verify_ownership"])
    owner = signing.own_fingerprint(key)
    folder.commit([toy_key()], world.models / "victim", rule, tmp_path / "claim", bytes, owner=owner, suffix="json")
    opening = Opening.read((tmp_path / "claim" / "opening.json").read_bytes(), "o")
    sources = world.sources(commitment=tmp_path / "claim" / "commitment.json", opening=opening)
    bundle.make(sources, tmp_path / "out", bundle.Signer(key, certificate))
    found = check(tmp_path / "out", Judge(roots=[root]))
    assert (marks(found)["owner"], marks(found)["signature"]) == (OK, OK)
    # Another certificate of the same root vouches for the bundle, and is not the owner's.
    shutil.copytree(world.bundle, tmp_path / "other")
    (tmp_path / "other" / "evidence.sig").unlink()
    signing.sign(tmp_path / "other", tmp_path / "other" / "evidence.sig", key, certificate)
    others = check(tmp_path / "other", Judge(roots=[root]))
    assert (marks(others)["owner"], marks(others)["signature"]) == (NO, OK)
    by_key = check(tmp_path / "out", Judge(public_key=world.public))
    assert (marks(by_key)["owner"], marks(by_key)["signature"]) == (OPEN, NO)
    assert "verify it by --root" in text(by_key, "signature")


def test_a_commitment_that_names_nobody(world: World, tmp_path: Path) -> None:
    rule = VerifyOwnership.committed(read_params(world.params)["verify_ownership"])
    folder.commit([toy_key()], world.models / "victim", rule, tmp_path / "claim", bytes, suffix="json")
    opening = Opening.read((tmp_path / "claim" / "opening.json").read_bytes(), "o")
    assert opening.owner is None
    assert b"owner" not in opening.canonical()
    sources = world.sources(commitment=tmp_path / "claim" / "commitment.json", opening=opening)
    bundle.make(sources, tmp_path / "out", bundle.Signer(world.private))
    found = check(tmp_path / "out", Judge(public_key=world.public))
    assert marks(found)["owner"] == OPEN
    assert "names nobody" in text(found, "owner")
    assert "In the name of</b></td><td>nobody" in (tmp_path / "out" / "index.html").read_text()


def test_the_judge_says_how_many_answers_may_change(forger: Forger) -> None:
    """One part of the answers being made up counts, however many others there are; the rule's tolerance does not."""
    forger.relabel("thief", lambda i, record: {**record, "label": 3 - record["label"]} if i < 40 else record)
    follow(forger)
    asks = forger.world.judge(suspects={"thief": block(forger.world, "thief")}, share=1.0)
    for allowed, mark in ((0.02, NO), (0.039, NO), (0.04, OK)):
        assert marks(check(forger.folder, replace(asks, allowed=allowed)))["suspect thief"] == mark
    again = marks(check(forger.world.bundle, replace(asks, allowed=0.0)))
    assert again["suspect thief"] == OK


def test_the_leader_is_the_class_that_leads() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 4, (500, 5), generator=generator) / 4
    classes = torch.randint(-1, 5, (500, 3), generator=generator)  # a stranger may name a class twice
    source = torch.tensor([[1, 4], [0, 2]]).repeat(250, 1)
    for answer in (
        Answer(classes[:, 0], scores),
        Answer(classes[:, 0], top=suspects.Top(classes, scores[:, :3])),
    ):
        found = answers.leaders(answer, source)
        assert set(found.tolist()) == {-1, 0, 1, 2, 3, 4}
        named = torch.arange(5).expand(500, 5) if answer.top is None else classes
        for i, pair in enumerate(source.tolist()):
            said = [(float(s), int(c)) for c, s in zip(named[i], scores[i], strict=False) if c >= 0 and c not in pair]
            best = max((score for score, _ in said), default=None)
            first = {c for score, c in said if score == best}
            assert int(found[i]) == (first.pop() if len(first) == 1 else -1)


def test_a_timestamp(forger: Forger, tmp_path: Path) -> None:
    pki, opening = make_pki(), forger.world.sources().opening
    root, *_ = pki.save(tmp_path)
    question = TimestampRequestBuilder().data(opening.canonical()).hash_algorithm(HashAlgorithm.SHA256).build()
    made = replace(Commitment.read(forger.folder / "commitment.json"), token=stamp(pki, question.as_bytes()))
    (forger.folder / "commitment.json").write_text(json.dumps(made.to_json()))
    forger.seal()
    light = replace(forger.world.judge(), pool=None)
    assert "2026-03-01T12:00:05Z" in text(check(forger.folder, replace(light, timestamp_roots=[root])), "timestamp")
    assert "--timestamp-root" in text(check(forger.folder, light), "timestamp")
    (tmp_path / "other").mkdir()
    other, *_ = make_pki().save(tmp_path / "other")
    assert failed(check(forger.folder, replace(light, timestamp_roots=[other]))) >= {"timestamp"}
    assert failed(check(forger.world.bundle, replace(light, timestamp_roots=[root]))) == {"timestamp"}


# --- hostile folders ---


def link(name: str, target: str) -> Callable[[Path], object]:
    def forge(where: Path) -> None:
        (where / name).rename(where.parent / target)
        (where / name).symlink_to(where.parent / target)

    return forge


@pytest.mark.parametrize(
    ("forge", "reason"),
    [
        (link("opening.json", "kept"), "opening.json is a link"),
        (link("transcripts", "kept"), "transcripts is a link"),
        (lambda where: (where / "deep").mkdir(), "deep is a folder that no bundle has"),
        (lambda where: os.mkfifo(where / "figures" / "pipe"), "figures/pipe is a link or a special file"),
        (lambda where: (where / "x\x1b[2J").touch(), "is there and not listed"),
        (lambda where: (where / "nulls.csv").write_bytes(b"x" * (1 << 21)), "larger than any such file"),
    ],
)
def test_a_hostile_folder(
    forger: Forger, monkeypatch: pytest.MonkeyPatch, forge: Callable[[Path], object], reason: str
) -> None:
    monkeypatch.setattr(document, "MAX_FILE", 1 << 20)
    forge(forger.folder)
    found = check(forger.folder, Judge())
    assert "files" in failed(found)
    assert reason in text(found, "files")
    assert "\x1b" not in "".join(map(str, found.lines))


@pytest.mark.parametrize("name", ["../kept", "/etc/passwd", "figures/../../x.png", "transcripts/../x.jsonl", ""])
def test_a_listed_path_is_never_followed(forger: Forger, name: str) -> None:
    value = forger.evidence
    value["files"][name] = "ab" * 32
    (forger.folder / "evidence.json").write_bytes(rfc8785.dumps(value))
    assert "is no file of a bundle" in text(check(forger.folder, Judge()), "files")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"[]", "JSON object"),
        (b'{"format": NaN}', "NaN"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"format": 1, "format": 1}', "given twice"),
        (b'{"format": 2}', "format"),
        (b" " * (5 << 20), "larger than"),
    ],
)
def test_no_table_of_contents_is_one_line(forger: Forger, data: bytes, reason: str) -> None:
    (forger.folder / "evidence.json").write_bytes(data)
    with pytest.raises(UserError, match=reason):
        check(forger.folder, Judge())


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("judge_seed", "3"), ("models", []), ("models", [{}]), ("files", {"x": 1}), ("pool", None), ("asking", {}),
        ("reference", {"model": "../victim", "accuracy": 1}), ("reference", {"model": "victim", "accuracy": 2}),
        ("more", 1),
    ],
)  # fmt: skip
def test_wrong_types_are_named(forger: Forger, place: str, value: Any) -> None:
    (forger.folder / "evidence.json").write_bytes(rfc8785.dumps({**forger.evidence, place: value}))
    with pytest.raises(UserError, match=rf"evidence\.json\.{place}"):
        check(forger.folder, Judge())


# --- the page ---


def test_the_page_escapes_and_needs_nothing_else(world: World) -> None:
    written = (world.bundle / "index.html").read_text()
    assert '<img src="figures/wsr.png"' in written
    for part in ("stolen", "not shown", "no timestamp authority was asked", "What stays unproven", "verify-evidence"):
        assert part in written
    assert "http" not in written.replace("http-equiv", "")
    assert "<script" not in written
    rows = artifacts.read_csv(world.bundle / "verdicts.csv", present.COLUMNS)
    evil = '"><script>alert(1)</script>'
    evidence = Evidence.read(world.bundle)
    files = {"figures/a&b.png": "ab" * 32}
    evidence = evidence.model_copy(update={"rule": {evil: evil}, "files": files})
    made = replace(Commitment.read(world.bundle / "commitment.json"), created=evil)
    written = page.render(evidence, made, world.sources().opening, [dict.fromkeys(rows[0], evil)], 2).decode()
    assert "<script" not in written
    assert "&lt;script&gt;" in written


# --- the commands ---


def test_the_commands(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(world.folder)

    def run(line: str, status: int) -> str:
        monkeypatch.setattr(sys, "argv", ["hallmark", *line.split()])
        with pytest.raises(SystemExit) as done:
            cli.main()
        out, err = capsys.readouterr()
        assert done.value.code == status, out + err
        if err and status == 1:
            assert len(err.splitlines()) == 1
        return out + err

    made = f"evidence --report report --commitment claim/commitment.json --opening claim/opening.json " \
           f"--pool pool.safetensors --params params.yaml --out {tmp_path}/out"  # fmt: skip
    assert "3 verdicts, signed" in run(f"{made} --model models/victim --private-key owner.pem", 0)
    assert "exists" in run(made, 1)
    assert "--private-key" in run(f"{made} --chain x", 1)
    verify = f"verify-evidence {tmp_path}/out --public-key owner.pub.pem"
    (tmp_path / "thief.yaml").write_text(json.dumps(block(world, "thief")))
    said = run(f"{verify} --pool pool.safetensors --judge-seed 3 --keys 1 --suspect thief={tmp_path}/thief.yaml", 0)
    assert "ok suspect thief: asked again (--seed " in said
    assert re.search(r"\n0 of [0-9]+ checks failed, 6 were not made\n", said)
    assert "ok verdicts" in run(f"{verify} --pool pool.safetensors --allowed 0.1", 0)
    assert "0.1" in run(f"{verify} --allowed 0.2", 2)
    assert "-- pool" in run(verify, 0)
    assert "-- pool" in run(f"{verify} --strict", 1)
    assert "unmarked           control  WSR" in said
    said = run(f"{verify} --suspect thief={tmp_path}/thief.yaml", 0)
    assert "-- suspect thief: not checked: the questions to ask again are drawn from --pool" in said
    said = run(f"{verify} --judge-seed 4", 1)
    assert "NO judge_seed: 3 is stated, 4 was ordered" in said
    assert "no such folder" in run("verify-evidence none", 1)
    assert "no such file" in run("verify-evidence models", 1)
    assert "is no model of" in run(f"{verify} --suspect x={tmp_path}/thief.yaml", 1)
    assert "wants NAME=FILE" in run(f"{verify} --suspect thief", 1)
    assert "give one of them" in run(f"{verify} --root owner.pub.pem", 1)


def test_only_the_rule_is_committed(world: World) -> None:
    section = read_params(world.params)["verify_ownership"]
    assert VerifyOwnership.committed(section).keys() == section.keys() - {"judge_seed", "keys", "suspects"}
    assert world.sources().opening.rule == VerifyOwnership.committed(section)
