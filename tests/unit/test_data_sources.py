"""Where images come from: the same pixels by every way, and one clear line for every bad file."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageFile
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10

from hallmark import config
from hallmark.config import PrepareData
from hallmark.data import decode, sources
from hallmark.data.sources import fashion_mnist
from hallmark.data.sources._torchvision import load_cifar
from hallmark.errors import UserError

SIZES = {"train": 0, "test": 0, "reserve": 4, "queries": 4}


@pytest.fixture(autouse=True)
def _one_thread(cpu: object) -> None:
    """Decoding uses torch's number of threads."""


def prepare(**values: Any) -> PrepareData:
    return config.parse(PrepareData, {**SIZES, **values}, "prepare_data")


def pixels(seed: int, shape: tuple[int, ...] = (9, 8)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encode(array: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return buffer.getvalue()


def write_folder(root: Path, classes: tuple[str, ...] = ("cat", "dog"), parts: tuple[str, ...] = ("train", "test")):
    seed = 0
    for part in parts:
        for name in classes:
            folder = root / part / name
            folder.mkdir(parents=True)
            for k in range(3):
                (folder / f"{k}.png").write_bytes(encode(pixels(seed)))
                seed += 1
    return root


def write_parquet(path: Path, labels: Any, images: list[bytes | None] | None = None, **columns: Any) -> None:
    images = images or [encode(pixels(k)) for k in range(len(labels))]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table(
        {
            columns.get("image", "img"): pa.array([{"bytes": b, "path": None} for b in images], kind),
            columns.get("label", "label"): pa.array(labels),
        }
    )
    if "names" in columns:
        features = {columns.get("label", "label"): {"names": columns["names"], "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def test_digits_are_scaled_to_bytes(tmp_path: Path) -> None:
    source = sources.load(prepare(source="digits"), tmp_path)
    values = load_digits().images  # pyright: ignore[reportAttributeAccessIssue]
    assert source.test is None
    assert source.train.shape == (1, 8, 8)
    assert torch.equal(source.train.images[:, 0], torch.from_numpy(np.rint(values * 255 / 16)).to(torch.uint8))


def test_digits_resized_and_coloured(tmp_path: Path) -> None:
    source = sources.load(prepare(source="digits", size=16, channels=3), tmp_path)
    assert source.train.shape == (3, 16, 16)
    assert torch.equal(source.train.images[:, 0], source.train.images[:, 2])


def test_image_folder_in_order_with_ids_after_train(tmp_path: Path) -> None:
    source = sources.load(prepare(source="image_folder", path=str(write_folder(tmp_path))), tmp_path)
    assert source.test is not None
    assert source.train.classes == ("cat", "dog")
    assert source.train.labels.tolist() == source.test.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert source.train.ids.tolist() + source.test.ids.tolist() == list(range(12))
    images = torch.cat([source.train.images, source.test.images])
    for k in range(12):
        assert np.array_equal(images[k, 0].numpy(), pixels(k))


@pytest.mark.parametrize("parts", [("train", "test", "reserve"), ("train", "reserve")])
def test_image_folder_with_a_trusted_reserve(tmp_path: Path, parts: tuple[str, ...]) -> None:
    source = sources.load(prepare(source="image_folder", path=str(write_folder(tmp_path, parts=parts))), tmp_path)
    assert source.reserve is not None
    assert set(source.raw) == set(parts)
    first = 6 * (len(parts) - 1)
    assert source.reserve.ids.tolist() == list(range(first, first + 6))
    assert all(np.array_equal(source.reserve.images[k, 0].numpy(), pixels(first + k)) for k in range(6))


def test_a_reserve_beside_class_folders_is_no_class(tmp_path: Path) -> None:
    write_folder(tmp_path, parts=(".", "reserve"))
    source = sources.load(prepare(source="image_folder", path=str(tmp_path)), tmp_path)
    assert source.train.classes == ("cat", "dog")
    assert source.reserve is not None
    (tmp_path / "reserve" / "fox").mkdir()
    with pytest.raises(UserError, match="reserve: class 'fox' is not in"):
        sources.load(prepare(source="image_folder", path=str(tmp_path)), tmp_path)


def test_image_folder_of_webp_and_jpeg_in_colour(tmp_path: Path) -> None:
    array = pixels(1, (8, 8, 3))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.webp").write_bytes(encode(array, "WEBP"))
        (tmp_path / name / "y.JPEG").write_bytes(encode(array, "JPEG"))
    source = sources.load(prepare(source="image_folder", path=str(tmp_path)), tmp_path)
    assert source.test is None
    assert source.train.shape == (3, 8, 8)
    assert np.array_equal(source.train.images[0].permute(1, 2, 0).numpy(), array)


def test_numbered_class_folders_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    write_folder(tmp_path, ("10", "2"), ("train",))
    source = sources.load(prepare(source="image_folder", path=str(tmp_path)), tmp_path)
    assert source.train.classes == ("2", "10")


def test_a_class_called_train_is_no_split(tmp_path: Path) -> None:
    for name in ("car", "train"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(encode(pixels(0)))
    source = sources.load(prepare(source="image_folder", path=str(tmp_path)), tmp_path)
    assert source.train.classes == ("car", "train")


def test_parquet_shards_names_and_columns(tmp_path: Path) -> None:
    for shard in range(2):
        images: list[bytes | None] = [encode(pixels(3 * shard + k)) for k in range(3)]
        write_parquet(
            tmp_path / "data" / f"train-{shard:05}-of-00002.parquet",
            [0, 1, 1],
            images,
            image="image",
            label="fine_label",
            names=["ant", "bee"],
        )
    source = sources.load(prepare(source="parquet", path=str(tmp_path)), tmp_path)
    assert source.train.classes == ("ant", "bee")
    assert source.train.labels.tolist() == [0, 1, 1, 0, 1, 1]
    assert all(np.array_equal(source.train.images[k, 0].numpy(), pixels(k)) for k in range(6))
    name = "train-00001-of-00002.parquet"
    assert source.raw[name] == hashlib.sha256((tmp_path / "data" / name).read_bytes()).hexdigest()
    (tmp_path / "data" / name).unlink()
    with pytest.raises(UserError, match="is one of 2 shards, but 1 are there"):
        sources.load(prepare(source="parquet", path=str(tmp_path)), tmp_path)


def test_parquet_without_names_calls_classes_by_number(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 2, 1])
    write_parquet(tmp_path / "test.parquet", [1, 0])
    source = sources.load(prepare(source="parquet", path=str(tmp_path)), tmp_path)
    assert source.train.classes == ("0", "1", "2")
    assert source.test is not None
    assert source.test.ids.tolist() == [3, 4]
    assert source.reserve is None
    before = source.raw_sha256
    write_parquet(tmp_path / "reserve-0.parquet", [2, 3])
    for there in (True, False):
        if not there:
            (tmp_path / "test.parquet").unlink()
        source = sources.load(prepare(source="parquet", path=str(tmp_path)), tmp_path)
        assert source.reserve is not None
        assert source.train.classes == ("0", "1", "2", "3")
        assert source.reserve.labels.tolist() == [2, 3]
        assert source.reserve.ids.tolist() == ([5, 6] if there else [3, 4])
    assert source.raw_sha256 != before


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([0, 2], ["a", "b"], r"label 2, out of range 0\.\.1"),
        ([0, -1], None, "without a label"),
        ([0, None], None, "without a label"),
        (["a", "b"], None, "is string, not whole numbers"),
        ([0, 0], None, "one class"),
        ([0, 10**9], None, "labels of 100,000 and more"),
    ],
)
def test_bad_labels(tmp_path: Path, labels: Any, names: Any, message: str) -> None:
    write_parquet(tmp_path / "x.parquet", labels, **({"names": names} if names else {}))
    with pytest.raises(UserError, match=message):
        sources.load(prepare(source="parquet", path=str(tmp_path / "x.parquet")), tmp_path)


def test_bad_parquet_files(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    chosen = prepare(source="parquet", path=str(path))
    write_parquet(path, [0, 1], [encode(pixels(0)), None])
    with pytest.raises(UserError, match=r"x\.parquet: row 1 has no picture bytes"):
        sources.load(chosen, tmp_path)
    write_parquet(path, [0, 1], image="photo")
    with pytest.raises(UserError, match=r"prepare_data\.image_column: .*has no column img or image; it has photo"):
        sources.load(chosen, tmp_path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"x\.parquet: not a readable parquet file"):
        sources.load(chosen, tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (encode(pixels(0))[:-30], "not a readable PNG.*truncated"),
        (encode(pixels(0, (32, 32, 3)), "JPEG")[:-200], "not a readable PNG.*truncated"),
        (b"GIF89a", "not a readable PNG"),
        (b"", "not a readable PNG"),
        (encode(pixels(0, (9, 9))), r"9x9 grey, but .*0\.png is 8x9 grey; set prepare_data\.size"),
        (encode(pixels(0, (9, 8, 3))), r"8x9 RGB, but .* is 8x9 grey; set prepare_data\.channels"),
        (encode(pixels(0, (9, 8, 4))), r"mode RGBA; set prepare_data\.channels"),
        (encode(pixels(0).astype(np.uint16)), "more than 8 bits"),
    ],
)
def test_bad_pictures_are_named(tmp_path: Path, data: bytes, message: str) -> None:
    root = write_folder(tmp_path)
    (root / "test" / "cat" / "1.png").write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        sources.load(prepare(source="image_folder", path=str(root)), tmp_path)
    assert "test/cat/1.png" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pictures_are_converted_when_asked(tmp_path: Path) -> None:
    root = write_folder(tmp_path)
    (root / "train" / "cat" / "1.png").write_bytes(encode(pixels(0, (20, 30, 3))))
    source = sources.load(prepare(source="image_folder", path=str(root), size=8, channels=1), tmp_path)
    assert source.train.shape == (1, 8, 8)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = encode(pixels(0, (8, 16)))
    monkeypatch.setattr(decode, "MAX_PICTURE_PIXELS", 100)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(UserError, match="x: 16x8 pixels; more than 100"):
        decode.decode(bomb, "x", None, None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"source": "imagenet"}, r"unknown prepare_data\.source 'imagenet': choose one of cifar10, .*parquet"),
        ({"source": "digits", "path": "x"}, r"prepare_data\.path: source 'digits' does not read it"),
        ({"source": "image_folder"}, r"prepare_data\.path: .*wants the place"),
        ({"source": "parquet", "path": "/no/such"}, r"prepare_data\.path: /no/such: no such"),
        ({"source": "digits", "train": 0, "queries": 0}, r"train and queries are 0"),
        ({"source": "digits", "test": -1}, r"prepare_data\.test: .*-1"),
    ],
)
def test_bad_parameters(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        sources.load(prepare(**values), tmp_path)


@pytest.mark.parametrize("break_", ["missing class", "empty class", "one class", "other format"])
def test_bad_folders(tmp_path: Path, break_: str) -> None:
    root = write_folder(tmp_path)
    cat = root / "train" / "cat"
    if break_ == "other format":
        (cat / "x.bmp").write_bytes(b"")
    else:
        for file in cat.iterdir():
            file.unlink()
    if break_ in ("missing class", "one class"):
        cat.rmdir()
    if break_ == "missing class":
        (root / "train" / "fox").mkdir()
        (root / "train" / "fox" / "x.png").write_bytes(encode(pixels(0)))
    messages = {
        "missing class": "test: class 'cat' is not in",
        "empty class": "cat: holds no PNG",
        "one class": "two classes or more, found 1",
        "other format": r"x\.bmp: not PNG",
    }
    with pytest.raises(UserError, match=messages[break_]):
        sources.load(prepare(source="image_folder", path=str(root)), tmp_path)


@pytest.fixture
def small_fashion(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, bytes]:
    """Stand-ins for the four files, with their own hashes; no other place or network to find them."""
    content = {}
    for part, count in (("train", 12), ("t10k", 5)):
        content[f"{part}-images-idx3-ubyte"] = bytes(16) + pixels(count, (count, 784)).tobytes()
        content[f"{part}-labels-idx1-ubyte"] = bytes(8) + bytes(k % 10 for k in range(count))
    files = {name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in content.items()}
    monkeypatch.setattr(fashion_mnist, "FILES", files)
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "debian")
    monkeypatch.setattr(fashion_mnist, "quiet_download", _refuse)
    monkeypatch.setattr(fashion_mnist, "_apt", _refuse)
    return content


def _refuse(*args: object) -> None:
    raise RuntimeError("Error:\nno network here")


def _put(folder: Path, content: dict[str, bytes], *, packed: bool = True) -> None:
    folder.mkdir(parents=True)
    for name, data in content.items():
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(data) if packed else data)


def test_fashion_mnist_is_looked_for_in_order(tmp_path: Path, small_fashion: dict[str, bytes]) -> None:
    chosen, raw = prepare(source="fashion_mnist"), tmp_path / "raw"
    with pytest.raises(UserError, match=r"could not be fetched \(torchvision: no network here; apt-get: no network"):
        sources.load(chosen, raw)
    assert not raw.exists()
    _put(tmp_path / "debian", small_fashion)
    source = sources.load(chosen, raw)
    assert not raw.exists()
    assert source.train.images[:, 0].numpy().tobytes() == small_fashion["train-images-idx3-ubyte"][16:]
    assert source.test is not None
    assert source.test.labels.tolist() == [0, 1, 2, 3, 4]
    _put(raw, small_fashion, packed=False)
    (raw / "t10k-labels-idx1-ubyte").write_bytes(b"\0" * 13)
    with pytest.raises(UserError, match=r"raw/t10k-labels-idx1-ubyte: not Fashion-MNIST's file"):
        sources.load(chosen, raw)


def test_fashion_mnist_from_apt_is_checked_and_kept(
    tmp_path: Path, small_fashion: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def apt(folder: Path) -> Path:
        _put(folder / "unpacked", small_fashion)
        return folder / "unpacked"

    monkeypatch.setattr(fashion_mnist, "_apt", apt)
    raw = tmp_path / "raw"
    sources.load(prepare(source="fashion_mnist"), raw)
    kept = {path.name: path.read_bytes() for path in (raw / "FashionMNIST" / "raw").iterdir()}
    assert kept == small_fashion


def test_a_truncated_fashion_mnist_file_is_named(tmp_path: Path, small_fashion: dict[str, bytes]) -> None:
    _put(tmp_path / "raw", small_fashion)
    path = tmp_path / "raw" / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte\.gz: truncated or damaged"):
        sources.load(prepare(source="fashion_mnist"), tmp_path / "raw")


def test_cifar_is_read_through_torchvision(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    batches = {name: pixels(k, (4, 3072)) for k, name in enumerate(("data_batch_1", "data_batch_2", "test_batch"))}
    files = {name: pickle.dumps({"data": data, "labels": [0, 1, 1, 0]}) for name, data in batches.items()}
    files["batches.meta"] = pickle.dumps({"label_names": ["cat", "dog"]})
    md5 = {name: hashlib.md5(data).hexdigest() for name, data in files.items()}
    for name, data in files.items():
        (folder / name).write_bytes(data)

    class Small(CIFAR10):
        url = "http://0.0.0.0:9/cifar.tar.gz"  # nobody answers there
        train_list = [[name, md5[name]] for name in ("data_batch_1", "data_batch_2")]  # noqa: RUF012
        test_list = [["test_batch", md5["test_batch"]]]  # noqa: RUF012
        meta = {"filename": "batches.meta", "key": "label_names", "md5": md5["batches.meta"]}  # noqa: RUF012

    source = load_cifar(Small, prepare(source="cifar10"), tmp_path)
    assert source.test is not None
    assert source.train.classes == ("cat", "dog")
    assert source.test.ids.tolist() == [8, 9, 10, 11]
    assert source.train.images.numpy().tobytes() == b"".join(batches[f"data_batch_{k}"].tobytes() for k in (1, 2))
    assert set(source.raw) == {"data_batch_1", "data_batch_2", "test_batch"}
    (folder / "data_batch_2").write_bytes(files["data_batch_2"][:-1])
    with pytest.raises(UserError, match=r"Small: not in .* could not be downloaded .*cifar-10-python\.tar\.gz"):
        load_cifar(Small, prepare(source="cifar10"), tmp_path)
