"""Files: atomic, byte-deterministic, safe to open."""

from __future__ import annotations

import errno
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from hallmark import artifacts
from hallmark.data.dataset import ImageDataset
from hallmark.errors import UserError


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    artifacts.write_json(path, {"x": 1})
    with pytest.raises(RuntimeError), artifacts.replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert artifacts.read_json(path) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_failed_folder_keeps_the_old_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with artifacts.replacing(folder) as temporary:
        temporary.mkdir()
        (temporary / "old").write_text("1")
    with pytest.raises(RuntimeError), artifacts.replacing(folder) as temporary:
        temporary.mkdir()
        raise RuntimeError
    assert [p.name for p in folder.iterdir()] == ["old"]
    with artifacts.replacing(folder) as temporary:
        temporary.mkdir()
        (temporary / "new").write_text("2")
    assert [p.name for p in folder.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_folder_that_cannot_take_its_place_gives_the_old_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "old").write_text("1")
    rename, calls = Path.rename, []

    def second_fails(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == 2:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", second_fails)
    with pytest.raises(UserError, match="Input/output error"), artifacts.replacing(folder) as temporary:
        temporary.mkdir()
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert [p.name for p in folder.iterdir()] == ["old"]


def test_safetensors_own_word_for_a_disk_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write .*/m: .*os error"), artifacts.replacing(tmp_path / "m") as place:
        safetensors.torch.save_file({"w": torch.zeros(3)}, place / "no such folder" / "w")
    with pytest.raises(safetensors.SafetensorError), artifacts.replacing(tmp_path / "m"):
        raise safetensors.SafetensorError("header too large")  # a bug, not a disk


def test_damaged_tables_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.csv"
    for content in (b"id,x\n1,\xff\n", b"id,x\n1,\0" + b"a" * 200_000 + b"\n", b"id,x\n1\n", b"id,x\n1,2,3\n"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"t\.csv: ") as caught:
            artifacts.read_csv(path, ("id",))
        assert "\n" not in str(caught.value)
    path.write_bytes(b"id,x\n1,2\n")
    assert artifacts.read_csv(path, ("id",)) == [{"id": "1", "x": "2"}]
    monkeypatch.setattr(artifacts, "MAX_CSV_BYTES", 5)
    with pytest.raises(UserError, match="larger than"):
        artifacts.read_csv(path, ("id",))


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"cannot write .*a.json: No space left"),
        artifacts.replacing(tmp_path / "a.json"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_bytes_do_not_depend_on_the_process(tmp_path: Path) -> None:
    code = (
        "import torch, sys, pathlib; from hallmark import artifacts as a; p = pathlib.Path(sys.argv[1]);"
        "a.write_tensors(p / 't', {k: torch.arange(5) for k in {'b', 'a', 'c', 'd'}}, {'z': 1, 'y': [1, 2], 'x': 'w'});"
        "a.write_json(p / 'j', {k: 0.1 + 0.2 for k in {'b', 'a', 'c'}})"
    )
    digests = set()
    for seed in ("1", "2"):
        folder = tmp_path / seed
        folder.mkdir()
        subprocess.run([sys.executable, "-c", code, str(folder)], check=True, env={"PYTHONHASHSEED": seed})
        digests.add((artifacts.sha256(folder / "t"), artifacts.sha256(folder / "j")))
    assert len(digests) == 1


def test_numbers_are_rounded_and_not_finite_ones_refused(tmp_path: Path) -> None:
    artifacts.write_json(tmp_path / "m.json", {"a": [0.123456789, -1e-9], "b": {"c": 2}})
    assert (tmp_path / "m.json").read_text() == json.dumps({"a": [0.123457, 0.0], "b": {"c": 2}}, indent=2) + "\n"
    with pytest.raises(ValueError, match="not JSON compliant"):
        artifacts.write_json(tmp_path / "n.json", {"a": float("nan")})
    assert not (tmp_path / "n.json").exists()


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "missing"])
def test_damaged_tensor_files_are_one_line(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "x.safetensors"
    artifacts.write_tensors(path, {"a": torch.arange(100)}, {})
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-30])
    elif damage == "garbage":
        path.write_bytes(b"\xff" * 100)
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
    with pytest.raises(UserError, match=r"x\.safetensors"):
        artifacts.read_tensors(path, 1000)


def test_sizes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifacts.write_tensors(tmp_path / "x", {"a": torch.zeros(10, 11)}, {})
    with pytest.raises(UserError, match="110 elements where at most 100"):
        artifacts.read_tensors(tmp_path / "x", 100)
    monkeypatch.setattr(artifacts, "MAX_JSON_BYTES", 10)
    artifacts.write_json(tmp_path / "j", list(range(20)))
    with pytest.raises(UserError, match="larger than"):
        artifacts.read_json(tmp_path / "j")


def test_deep_json_does_not_crash(tmp_path: Path) -> None:
    (tmp_path / "j").write_text("[" * 200_000)
    with pytest.raises(UserError, match="not valid JSON"):
        artifacts.read_json(tmp_path / "j")


def test_dataset_round_trip(tmp_path: Path, toy: ImageDataset) -> None:
    toy.save(tmp_path / "d")
    back = ImageDataset.load(tmp_path / "d")
    assert torch.equal(back.images, toy.images)
    assert torch.equal(back.labels, toy.labels)
    assert back.classes == toy.classes


def test_a_dataset_with_a_label_out_of_range_is_refused(tmp_path: Path, toy: ImageDataset) -> None:
    tensors = {"images": toy.images, "labels": toy.labels + 1, "ids": toy.ids}
    artifacts.write_tensors(tmp_path / "d", tensors, {"classes": list(toy.classes)})
    with pytest.raises(UserError, match=r"labels must lie in 0\.\.2, found 1\.\.3"):
        ImageDataset.load(tmp_path / "d")


def test_foreign_safetensors_are_not_a_dataset(tmp_path: Path) -> None:
    safetensors.torch.save_file({"w": torch.zeros(3)}, tmp_path / "d")
    with pytest.raises(UserError, match="not a Hallmark data set"):
        ImageDataset.load(tmp_path / "d")


def test_md5_of_a_file_is_md5sum(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"hallmark")
    assert artifacts.md5(tmp_path / "f") == hashlib.md5(b"hallmark").hexdigest()
