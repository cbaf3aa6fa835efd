"""Any bundle whatever is a line with NO, or one line of a UserError: never another exception.

Default: 120 mutated bundles of three answers, 40 of a verdict that stopped early, 60 mutated transcripts and null
tables.  ``HALLMARK_FUZZ=10000 pytest tests/unit/test_evidence_fuzz.py`` runs 10,000 of each.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import rfc8785
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hallmark import runtime, suspects
from hallmark.config import RuntimeConfig, VerifyOwnership
from hallmark.errors import UserError
from hallmark.evidence import recompute
from hallmark.evidence.check import NO, Checked, Judge, check
from hallmark.evidence.document import Evidence, Model, Reference
from hallmark.ownership import _documents
from hallmark.verification import answers, panel, questions
from tests.unit.conftest import toy_images
from tests.unit.evidence_toys import CHANGES, CLASSES, ROLES, chained, hashes, make_small, make_world, toy_key
from tests.unit.fuzzing import FUZZ, examples
from tests.unit.ownership_toys import CASE, RULE

JSON_FILES = ("evidence.json", "commitment.json", "opening.json")
TEXT_FILES = ("nulls.csv", "verdicts.csv", "index.html")
TRANSCRIPT = "transcripts/victim.jsonl"
DEEP = "deep"
"""Stands for lists 500 deep, which Hypothesis itself could not print."""
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([-1, 0, 1, 2, 10**6, 2**53, 2**63, 10**400, 1e-300, 1e300])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["../x", "victim", "ab" * 32, "\x1b[2J", "\ud800", "<script>", "1e5", "٣", DEEP]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def contents(bundle: Path) -> dict[str, bytes]:
    """A bundle's files by their names in it."""
    return {p.relative_to(bundle).as_posix(): p.read_bytes() for p in bundle.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A small bundle's folder, and its files' bytes."""
    where = make_small(tmp_path_factory.mktemp("small") / "w")
    return where, contents(where / "bundle")


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything within a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in items for place in places(inner, (*path, key)))] if items else [path]


def put(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    """``value`` with ``new`` at a place."""
    if not place:
        return json.loads("[" * 500 + "]" * 500) if new == DEEP else new
    value = copy.copy(value)
    value[place[0]] = put(value[place[0]], place[1:], new)
    return value


def mutated(value: Any, changes: list[tuple[int, Any]]) -> Any:
    """A JSON value with some places replaced."""
    for place, new in changes:
        value = put(value, (found := places(value)[1:] or [()])[place % len(found)], new)
    return value


def mutate(files: dict[str, bytes], name: str, changes: list[tuple[int, Any]], forger: bool) -> None:
    """Change one file; a forger makes the hash that binds it anew.

    Raises:
        ValueError, TypeError, RecursionError: that has none.
    """
    if name in JSON_FILES:
        value = mutated(json.loads(files[name]), changes)
        files[name] = json.dumps(value).encode()
        if name == "opening.json" and forger:  # then its key is used
            made = _documents.sha256(rfc8785.dumps(value))
            for other, field in (("commitment.json", "hash"), ("evidence.json", "commitment")):
                files[other] = json.dumps({**json.loads(files[other]), field: made}).encode()
    elif name in TEXT_FILES:
        cells = files[name].split(b",")
        for place, new in changes:
            cells[place % len(cells)] = str(new).encode(errors="replace")
        files[name] = b",".join(cells)
    else:
        files[name] = chained(mutated([json.loads(line) for line in files[name].splitlines()], changes))


@settings(FUZZ, max_examples=examples(120))
@given(
    name=st.sampled_from([*JSON_FILES, *JSON_FILES, *TEXT_FILES, TRANSCRIPT]),
    changes=st.lists(st.tuples(st.integers(0, 10_000), values), min_size=1, max_size=2),
    forger=st.booleans(),
)
@example(name="evidence.json", changes=[(3, DEEP)], forger=True)
@example(name="evidence.json", changes=[(2, [])], forger=True)
@example(name="opening.json", changes=[(3, DEEP)], forger=True)
@example(name=TRANSCRIPT, changes=[(3, DEEP)], forger=True)
def test_a_mutated_bundle(
    small: tuple[Path, dict[str, bytes]], name: str, changes: list[tuple[int, Any]], forger: bool
) -> None:
    folder, files = small[0] / "bundle", dict(small[1])
    try:
        mutate(files, name, changes, forger)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return
    for path, data in files.items():
        (folder / path).write_bytes(data)
    if forger and name != "evidence.json":
        seal(folder, files)
    found = checked(folder, Judge(pool=small[0] / "pool", judge_seed=3, keys=1))
    if found is not None:
        assert any(line.mark == NO for line in found.lines)  # three answers are not those to all questions


def seal(folder: Path, files: dict[str, bytes]) -> None:
    """Make the hashes anew that evidence.json lists."""
    stated = {**json.loads(files["evidence.json"]), "files": hashes(folder)}
    for each in stated["models"]:
        each["transcript"] = _documents.sha256(files[f"transcripts/{each['name']}.jsonl"].splitlines()[-1])
    (folder / "evidence.json").write_bytes(json.dumps(stated).encode())


def checked(folder: Path, judge: Judge) -> Checked | None:
    """What the check says, in lines that can be printed; None for a UserError."""
    try:
        found = check(folder, judge)
    except UserError as error:
        assert len(str(error)) < 700
        return None
    for line in found.lines:
        assert len(str(line).encode()) < 4000
        assert str(line).isprintable()
    return found


@pytest.fixture(scope="module")
def early(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Judge, dict[str, bytes], dict[str, str]]:
    """A genuine bundle whose asking stopped early, its judge, its files' bytes and its verdicts."""
    stop = {"block": 50, "least": 0.2, "miss": 0.05}
    started = runtime.start(RuntimeConfig(device="cpu", threads=1, precision="fp32", seed=0))
    world = make_world(tmp_path_factory.mktemp("early") / "w", started, stop_early=stop)
    judge = world.judge(public_key=None)
    found = check(world.bundle, judge)
    assert all(line.mark != NO for line in found.lines)
    return world.bundle, judge, contents(world.bundle), decisions(found)


def decisions(found: Checked) -> dict[str, str]:
    return {verdict.name: verdict.decision for verdict in found.verdicts}


def moved(lines: bytes, how: str, place: int) -> bytes:
    """A transcript with a record less, twice, or in the next one's place, numbered and counted as if nothing were."""
    header, *records, end = [json.loads(line) for line in lines.splitlines()]
    k = place % (len(records) - 1)
    records[k : k + 2] = {
        "drop": records[k + 1 : k + 2],
        "double": [records[k], *records[k : k + 2]],
        "swap": records[k : k + 2][::-1],
    }[how]
    records = [{**record, "position": number} for number, record in enumerate(records)]
    return chained([header, *records, {**end, "end": len(records)}])


@settings(FUZZ, max_examples=examples(40))
@given(
    name=st.sampled_from([*JSON_FILES, *TEXT_FILES, "nulls.csv", *(f"transcripts/{name}.jsonl" for name in ROLES)]),
    changes=st.lists(st.tuples(st.integers(0, 10_000), values), min_size=1, max_size=2),
    move=st.none() | st.tuples(st.sampled_from(["drop", "double", "swap"]), st.integers(0, 10_000)),
)
def test_a_mutated_verdict(
    early: tuple[Path, Judge, dict[str, bytes], dict[str, str]],
    name: str,
    changes: list[tuple[int, Any]],
    move: tuple[str, int] | None,
) -> None:
    """Whatever of a genuine bundle is changed, with all hashes made anew, is one line, also where all is read.

    That the verdicts stay is little: nobody makes the stated ones anew here; forgers who do are in test_evidence.py.
    """
    folder, judge, sound, verdicts = early
    files = dict(sound)
    try:
        if move is not None and name.startswith("transcripts"):
            files[name] = moved(files[name], *move)
        else:
            mutate(files, name, changes, forger=True)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return
    for path, data in files.items():
        (folder / path).write_bytes(data)
    if name != "evidence.json":
        seal(folder, files)
    found = checked(folder, judge)
    if found is not None and all(line.mark != NO for line in found.lines):
        assert decisions(found) == verdicts


@pytest.fixture(scope="module")
def asked() -> questions.Questions:
    return questions.draw(toy_key(), toy_images(60, CLASSES), queries=20, decoys=1, judge_seed=0)


def genuine(asked: questions.Questions, path: Path) -> list[dict[str, Any]]:
    """The lines of a transcript with probabilities."""

    class Flat(suspects.Suspect):
        def describe(self) -> dict[str, Any]:
            return {"kind": "flat"}

        def ask(self, images: torch.Tensor, arrived: Any) -> None:
            scores = images.float().flatten(1)[:, [0, 20, 40, 60]].softmax(1)
            arrived(0, suspects.Answer(scores.argmax(1), scores))

    with suspects.recording(Flat(), path, asked.key.shape, asked.key.classes) as recorded:
        answers.ask(asked, recorded)
    return [json.loads(line) for line in path.read_bytes().splitlines()]


@settings(FUZZ, max_examples=examples(60))
@given(
    rows=st.lists(st.tuples(st.integers(0, 10_000), values), max_size=3),
    forms=st.sampled_from(["label", "probabilities", "top"]),
    cells=st.lists(st.tuples(st.integers(0, 1000), values), max_size=2),
)
def test_mutated_answers_and_nulls(
    asked: questions.Questions,
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[int, Any]],
    forms: str,
    cells: list[tuple[int, Any]],
) -> None:
    folder = tmp_path_factory.getbasetemp() / "answers"
    folder.mkdir(exist_ok=True)
    if not (folder / "t.jsonl").exists():
        genuine(asked, folder / "t.jsonl")
    header, *records, end = [json.loads(line) for line in (folder / "t.jsonl").read_bytes().splitlines()]
    for place, new in rows:
        record = records[place % len(records)]
        records[place % len(records)] = {**record, forms: new} if forms != "top" else {
            **{k: v for k, v in record.items() if k != "probabilities"}, "top": new}  # fmt: skip
    table: list[list[str]] = [list(panel.PANEL_COLUMNS)]
    table += [[str(i), "0.5", "1", "2", "-0.5", "3", "4", "ab" * 32] for i in range(4)]
    for place, new in cells:
        table[1 + place % 4][place % len(table[0])] = str(new)
    (folder / "nulls.csv").write_bytes("\n".join(map(",".join, table)).encode(errors="replace") + b"\n")
    rule = VerifyOwnership(**{**RULE, **CASE, **CHANGES, "suspects": {}})
    model = Model(name="a", role="suspect", transcript="ab" * 32, description={})
    evidence = Evidence.model_construct(models=[model], reference=Reference(model="a", accuracy=0.5))
    try:
        (folder / "m.jsonl").write_bytes(chained([header, *records, end]))
    except (ValueError, TypeError):
        return
    try:
        verified = suspects.verify(folder / "m.jsonl")
        given_, consistency = answers.ask(asked, suspects.Replayed(verified, "m", asked.key.shape, asked.key.classes))
        rows_ = recompute.null_table(folder / "nulls.csv", rule)
        recompute.judge_all(evidence, {"a": given_}, {"a": consistency.share}, rows_, rule)
    except UserError as error:
        assert rows or cells, "what nobody changed is refused"
        assert len(str(error)) < 700


def test_a_replay_asks_for_exactly_what_was_asked(asked: questions.Questions, tmp_path: Path) -> None:
    genuine(asked, tmp_path / "t.jsonl")
    verified = suspects.verify(tmp_path / "t.jsonl")
    shape, classes = asked.key.shape, asked.key.classes
    replay = suspects.Replayed(verified, "t", shape, classes)
    assert replay.describe() == {"kind": "flat"}
    with pytest.raises(UserError, match="answers, 0 are asked for"):
        replay.finish()
    answers.ask(asked, replay)
    replay.finish()
    with pytest.raises(UserError, match="and more is asked"):
        replay.scores(asked.images[:1])
    with pytest.raises(UserError, match="answer 0 there is on another image"):
        suspects.Replayed(verified, "t", shape, classes).scores(asked.images[1:])
    with pytest.raises(UserError, match="about other classes"):
        suspects.Replayed(verified, "t", shape, classes[::-1])
    with pytest.raises(UserError, match="about other shape"):
        suspects.Replayed(verified, "t", (3, 8, 8), classes)
