"""Commitments: closed forms, tampering with every field, the ledger, who was first, strangers' files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hallmark.errors import UserError
from hallmark.ownership import _documents, commitment, folder
from hallmark.ownership.commitment import Commitment, Opening
from hallmark.ownership.ledger import Ledger
from hallmark.ownership.priority import Claim, earliest
from tests.unit.fuzzing import FUZZ, examples
from tests.unit.ownership_toys import RULE, make_key, make_model

fuzz = settings(FUZZ, max_examples=examples(400))
MODEL = "ab" * 32


@pytest.fixture
def opening() -> Opening:
    return Opening.make(make_key(), RULE, MODEL)


def of(opening: Opening, **changes: Any) -> Commitment:
    return replace(Commitment(opening.hash(), "2026-02-01T00:00:00Z"), **changes)


# --- the hash ---


def test_the_hash_is_sha256_of_rfc_8785_written_by_hand() -> None:
    opening = Opening({"b": 1.0, "a": "é"}, {"x": [1e21, 0.001], "€": True}, MODEL, "00" * 32)
    text = (
        f'{{"format":1,"key":{{"a":"é","b":1}},"model":"{MODEL}",'
        f'"rule":{{"x":[1e+21,0.001],"€":true}},"salt":"{"00" * 32}"}}'
    )
    assert opening.canonical().decode() == text
    assert opening.hash() == hashlib.sha256(text.encode()).hexdigest()


def test_a_plain_opening_is_the_bytes_that_are_hashed(opening: Opening) -> None:
    again = Opening.read(opening.canonical(), "file")
    assert again == opening
    assert hashlib.sha256(again.canonical()).hexdigest() == opening.hash()
    spaced = json.dumps(json.loads(opening.canonical()), indent=3).encode()
    assert Opening.read(spaced, "file").hash() == opening.hash()


def test_a_seed_beyond_53_bits_survives(opening: Opening) -> None:
    assert opening.key["seed"] == "6917529027641081857"
    assert opening.watermark_key().to_json() == make_key().to_json()
    neighbour = Opening(dict(opening.key) | {"seed": "6917529027641081856"}, opening.rule, MODEL, opening.salt)
    assert neighbour.hash() != opening.hash()


def test_equal_secrets_have_different_salts_and_commitments(opening: Opening) -> None:
    other = Opening.make(make_key(), RULE, MODEL)
    assert other.salt != opening.salt
    assert other.hash() != opening.hash()


def test_a_salt_and_a_key_are_not_printed(opening: Opening) -> None:
    assert opening.salt not in repr(opening)
    assert "6917529027641081857" not in repr(opening)


@pytest.mark.parametrize("seed", [-1, 1 << 63])
def test_a_seed_that_no_pipeline_makes(seed: int) -> None:
    with pytest.raises(UserError, match="seed is not in"):
        Opening.make(make_key(seed=seed), RULE, MODEL)


@pytest.mark.parametrize("value", [1 << 60, float("nan"), datetime(2026, 1, 1, tzinfo=UTC), {1: 2}, "\ud800", b"x"])
def test_a_rule_without_a_canonical_form(value: object) -> None:
    with pytest.raises(UserError, match="no canonical JSON form"):
        Opening.make(make_key(), {**RULE, "more": value}, MODEL)


# --- opening ---


def test_it_opens(opening: Opening) -> None:
    made = of(opening)
    assert commitment.mismatches(made, opening, model=MODEL, rule=RULE, key=make_key()) == ()
    commitment.verify(made, opening, model=MODEL, rule={**RULE, "queries": 1000.0}, key=make_key())


KEY_CHANGES: list[tuple[str, Any]] = [
    ("seed", "6917529027641081856"),
    ("target", 0),
    ("source", [1, 0]),
    ("classes", ["sneaker", "trouser", "pullover"]),
    ("way", "halves"),
    ("way_params", {}),
    ("evasion_ways", ["donut"]),
    ("shape", [3, 8, 8]),
    ("scheme", "other"),
    ("format", 2),
]


@pytest.mark.parametrize(("name", "value"), KEY_CHANGES)
def test_every_field_of_the_key_is_bound(opening: Opening, name: str, value: Any) -> None:
    changed = replace(opening, key={**opening.key, name: value})
    assert commitment.mismatches(of(opening), changed)[0].startswith("hash: ")


def test_the_keys_fields_are_all_tried(opening: Opening) -> None:
    assert {name for name, _ in KEY_CHANGES} == set(opening.key)


@pytest.mark.parametrize("name", RULE)
def test_every_field_of_the_rule_is_bound(opening: Opening, name: str) -> None:
    other = ["runner_up"] if name == "statistics" else RULE[name] / 2
    changed = {**RULE, name: other}
    assert commitment.mismatches(of(opening), replace(opening, rule=changed))
    (clause,) = commitment.mismatches(of(opening), opening, rule=changed)
    assert clause.startswith(f"rule.{name}: is ")
    (clause,) = commitment.mismatches(of(opening), opening, rule={k: v for k, v in RULE.items() if k != name})
    assert clause.startswith(f"rule.{name}: is absent")
    (clause,) = commitment.mismatches(of(opening), opening, rule={**RULE, "more": 1})
    assert clause == "rule.more: is 1, committed was absent"


@pytest.mark.parametrize("change", [{"model": "cd" * 32}, {"salt": "cd" * 32}, {"owner": "cd" * 32}])
def test_model_salt_and_owner_are_bound(opening: Opening, change: dict[str, str]) -> None:
    assert commitment.mismatches(of(opening), replace(opening, **change))


def test_the_owner_is_named_or_nobody_is(opening: Opening) -> None:
    owner = "ef" * 32
    mine = Opening.make(make_key(), RULE, MODEL, owner)
    assert Opening.read(mine.canonical(), "o").owner == owner
    assert commitment.mismatches(of(mine), mine, owner=owner) == ()
    assert commitment.mismatches(of(mine), mine) == ()
    for shown, other in ((mine, "cd" * 32), (opening, owner)):
        (clause,) = commitment.mismatches(of(shown), shown, owner=other)
        assert clause.startswith("owner: ")
    with pytest.raises(UserError, match="owner"):
        Opening.read(mine.canonical().replace(owner.encode(), b"mine"), "o")


def test_every_part_that_differs_is_named_and_no_secret_is(opening: Opening) -> None:
    made = of(opening, hash="cd" * 32)
    other = make_key(seed=5, target=0, source=(1, 2))
    with pytest.raises(UserError) as caught:
        commitment.verify(made, opening, model="cd" * 32, rule={**RULE, "alpha": 0.05}, key=other)
    text = str(caught.value)
    for part in ("hash: ", "model: ", "rule.alpha: is 0.05, committed was 0.001", "key.seed", "key.source"):
        assert part in text
    assert "6917529027641081857" not in text
    assert "key.way" not in text


# --- files ---


def test_a_commitment_survives_its_file(opening: Opening, tmp_path: Path) -> None:
    for made in (of(opening), of(opening, index=3, token=b"\x00\xff")):
        _write(tmp_path / "c.json", made.to_json())
        assert Commitment.read(tmp_path / "c.json") == made
    assert "no timestamp authority was asked" in of(opening).to_json()["time"]


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"format": 2}, "format"),
        ({"hash": "AB" * 32}, "hash"),
        ({"hash": MODEL + "\n"}, "hash"),
        ({"created": "2026-02-30T00:00:00Z"}, "created"),
        ({"created": "yesterday"}, "created"),
        ({"index": -1}, "index"),
        ({"index": "0"}, "index"),
        ({"token": "?"}, "token"),
        ({"token": ""}, "time"),
        ({"time": "a timestamp authority said so"}, "time"),
        ({"more": 1}, "more"),
    ],
)
def test_a_damaged_commitment(opening: Opening, tmp_path: Path, change: dict[str, Any], place: str) -> None:
    _write(tmp_path / "c.json", {**of(opening).to_json(), **change})
    with pytest.raises(UserError, match=rf"c\.json\.{place}: "):
        Commitment.read(tmp_path / "c.json")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"a": 1, "a": 2}', "given twice"),
        (b'{"a": NaN}', "NaN"),
        (b"[" * 100_000, "damaged"),
        (b"1" * 5000, "damaged"),
        (b"\xff\xfe", "damaged"),
        (b"[]", "JSON object"),
    ],
)
def test_strict_json(data: bytes, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        Opening.read(data, "file")


def test_messages_do_not_quote_an_opening(opening: Opening) -> None:
    value = json.loads(opening.canonical())
    for part in ({"salt": "my secret"}, {"key": {**value["key"], "seed": "my secret"}}, {"model": "my secret"}):
        with pytest.raises(UserError) as caught:
            Opening.read(json.dumps({**value, **part}).encode(), "file")
        assert "my secret" not in str(caught.value)
    with pytest.raises(UserError) as caught:
        Opening.read(opening.canonical()[:-1], "file")
    assert opening.salt not in str(caught.value)


# --- the model ---


def test_the_models_hash_in_closed_form(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    contents = {"deep/card.md": b"card", "model.json": b"{}", "model.safetensors": b"weights"}
    listing = [{"path": name, "sha256": hashlib.sha256(data).hexdigest()} for name, data in contents.items()]
    assert commitment.model_hash(model) == hashlib.sha256(rfc8785.dumps(listing)).hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        lambda m: (m / "model.safetensors").write_bytes(b"weightt"),
        lambda m: (m / "deep/card.md").unlink(),
        lambda m: (m / ".hidden").write_bytes(b""),
        lambda m: (m / "model.json").rename(m / "model2.json"),
        lambda m: (m / "model.json").rename(m / "deep/model.json"),
    ],
)
def test_the_models_hash_binds_names_and_bytes(tmp_path: Path, change: Callable[[Path], object]) -> None:
    model = make_model(tmp_path / "m")
    before = commitment.model_hash(model)
    change(model)
    assert commitment.model_hash(model) != before


def test_a_model_that_no_hash_can_bind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(tmp_path / "m")
    with pytest.raises(UserError, match="no such folder"):
        commitment.model_hash(model / "model.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no file"):
        commitment.model_hash(tmp_path / "empty")
    monkeypatch.setattr(commitment, "MAX_FILES", 2)
    with pytest.raises(UserError, match="more than 2 files"):
        commitment.model_hash(model)
    (model / "link").symlink_to(tmp_path)
    monkeypatch.undo()
    with pytest.raises(UserError, match="is a link"):
        commitment.model_hash(model)


# --- reserve keys and the ledger ---


def test_every_reserve_key_has_its_commitment(tmp_path: Path) -> None:
    model, out = make_model(tmp_path / "m"), tmp_path / "out"
    folder.commit([make_key(), make_key(seed=1)], model, RULE, out, bytes, suffix="json")
    folder.commit([make_key(seed=2)], model, RULE, out, bytes, suffix="json")
    listed = folder.listing(out)
    assert [each.commitment.index for each in listed] == [0, 1, 2]
    assert [each.path.name for each in listed] == ["commitment.json", "commitment-1.json", "commitment-2.json"]
    for each, seed in zip(listed, (6917529027641081857, 1, 2), strict=True):
        found = Opening.read((out / each.path.name.replace("commitment", "opening")).read_bytes(), "o")
        commitment.verify(each.commitment, found, model=commitment.model_hash(model), rule=RULE)
        assert found.watermark_key().seed == seed


def test_a_revealed_key_is_spent(tmp_path: Path) -> None:
    model, out = make_model(tmp_path / "m"), tmp_path / "out"
    folder.commit([make_key(), make_key(seed=1)], model, RULE, out, bytes, suffix="json")
    found = Opening.read((out / "opening.json").read_bytes(), "o")
    with pytest.raises(UserError, match="does not open"):
        folder.reveal(out / "commitment-1.json", found, tmp_path / "judge.json")
    folder.reveal(out / "commitment.json", found, tmp_path / "judge.json")
    assert (tmp_path / "judge.json").read_bytes() == found.canonical()
    assert (tmp_path / "judge.json").stat().st_mode & 0o777 == 0o600
    assert [each.spent is not None for each in folder.listing(out)] == [True, False]
    with pytest.raises(UserError, match="is spent"):
        folder.reveal(out / "commitment.json", found, tmp_path / "again.json")
    assert not (tmp_path / "again.json").exists()
    with pytest.raises(UserError, match="is spent"):  # nor under a new commitment
        folder.commit([make_key()], model, RULE, out, bytes)
    assert len(folder.files(out)) == 2


def test_the_ledger_comes_before_the_opening(tmp_path: Path) -> None:
    out = tmp_path / "out"
    folder.commit([make_key()], make_model(tmp_path / "m"), RULE, out, bytes, suffix="json")
    found = Opening.read((out / "opening.json").read_bytes(), "o")
    (tmp_path / "file").touch()
    with pytest.raises(UserError):
        folder.reveal(out / "commitment.json", found, tmp_path / "file" / "judge.json")
    assert folder.listing(out)[0].spent is not None


def test_nothing_is_written_for_unfit_keys(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    for keys, out, reason in (
        ([], tmp_path / "out", "no key"),
        ([make_key(), make_key()], tmp_path / "out", "the same"),
        ([make_key(), make_key(seed=-1)], tmp_path / "out", "seed"),
        ([make_key()], model / "out", "lies in the model's folder"),
    ):
        with pytest.raises(UserError, match=reason):
            folder.commit(keys, model, RULE, out, bytes)
        assert not out.exists()
    with pytest.raises(UserError, match="holds no commitment"):
        folder.listing(tmp_path)


@pytest.mark.parametrize("change", [{"key": "x"}, {"revealed": "2026-13-01T00:00:00Z"}, {"more": 1}, {"commitment": 1}])
def test_a_damaged_ledger(tmp_path: Path, change: dict[str, Any]) -> None:
    entry = {"commitment": MODEL, "key": MODEL, "revealed": "2026-01-01T00:00:00Z"}
    path = tmp_path / "ledger.json"
    _write(path, {"format": 1, "spent": [entry]})
    assert Ledger.read(path).of(MODEL) is not None
    _write(path, {"format": 1, "spent": [{**entry, **change}]})
    with pytest.raises(UserError, match=r"ledger\.json"):
        Ledger.read(path)


# --- who was first ---

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def claim(name: str, hours: float, kind: Any = "rfc3161", valid: bool = True, accuracy: float = 0) -> Claim:
    return Claim(name, valid, kind, NOON + timedelta(hours=hours), timedelta(seconds=accuracy))


@pytest.mark.parametrize(
    ("claims", "first", "proven", "words"),
    [
        ([], None, False, "no commitment is valid"),
        ([claim("a", 0, valid=False)], None, False, "no commitment is valid"),
        ([claim("a", 1), claim("b", 0)], "b", True, "b was first, 2026-01-01 12:00:00 UTC by a timestamp authority"),
        ([claim("a", 1), claim("b", 0, valid=False)], "a", True, "not valid: b"),
        ([claim("a", 1), claim("b", -99, "none")], "a", True, "counts for nothing against one: b"),
        ([claim("a", 1, "none"), claim("b", 0, "none")], "b", False, "proves nothing to others"),
        ([claim("a", 0), claim("b", 0)], None, True, "a, b cannot be told apart"),
        ([claim("a", 0, accuracy=1), claim("b", 1 / 3600, accuracy=1)], None, True, "cannot be told apart"),
        ([claim("a", 0, accuracy=1), claim("b", 3 / 3600, accuracy=1)], "a", True, "a was first"),
        ([claim("a", 0), claim("b", 1, accuracy=3700)], None, True, "a, b cannot be told apart"),
        ([claim("a", 0, accuracy=3700), claim("b", 1)], None, True, "a, b cannot be told apart"),
    ],
)
def test_the_earliest_valid_commitment_wins(claims: list[Claim], first: str | None, proven: bool, words: str) -> None:
    for order in (claims, claims[::-1]):
        answer = earliest(order)
        assert (answer.first, answer.proven) == (first, proven)
        assert words in answer.words


def test_a_copied_commitment_is_nobodys() -> None:
    both = [replace(claim(name, hours), hash="ab") for name, hours in (("owner", 0), ("rival", 0))]
    with pytest.raises(UserError, match="owner and rival show the same commitment"):
        earliest(both)
    assert earliest([both[0], replace(both[1], hash="cd")]).first is None  # only the times are equal


# --- strangers' files ---

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
fields = st.dictionaries(
    st.sampled_from(
        ["format", "key", "rule", "model", "salt", "hash", "created", "index", "token", "time", "spent", "seed"]
    )
    | st.text(max_size=8),
    json_values,
    max_size=6,
)


def bounded(read: Callable[[], object]) -> None:
    """Either it is read, or one short line says what is wrong."""
    try:
        read()
    except UserError as error:
        assert len(str(error)) < 700


@fuzz
@given(data=st.binary(max_size=200) | fields.map(lambda value: json.dumps(value).encode()))
@example(data=b'{"format":1e999}')
def test_any_bytes(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "any.json"
    path.write_bytes(data)
    bounded(lambda: Opening.read(data, "any"))
    bounded(lambda: Commitment.read(path))
    bounded(lambda: Ledger.read(path))


@fuzz
@given(top=fields, key=fields, names=st.sets(st.sampled_from([name for name, _ in KEY_CHANGES])), value=json_values)
def test_a_real_opening_with_parts_replaced(top: dict, key: dict, names: set[str], value: Any) -> None:
    genuine = json.loads(Opening.make(make_key(), RULE, MODEL).canonical())
    mutant = {**genuine, "key": {**genuine["key"], **key, **dict.fromkeys(names, value)}, **top}
    bounded(lambda: Opening.read(json.dumps(mutant).encode(), "any"))


def test_a_file_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_documents, "MAX_BYTES", 100)
    (tmp_path / "c.json").write_bytes(b" " * 101)
    with pytest.raises(UserError, match="larger than 100 bytes"):
        Commitment.read(tmp_path / "c.json")


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))
