"""Parquet as on the Hugging Face hub: a column of encoded pictures, a column of labels, sharded files.

``path`` is a folder with ``train-*.parquet`` and ``test-*.parquet`` (there or in its folder ``data``),
or one file.  Without a test part the test split is drawn.  ``reserve-*.parquet`` beside them are, if there, the
images that are trusted to be clean; without them the reserve is drawn from the training part.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from hallmark import artifacts
from hallmark.config import PrepareData
from hallmark.data.dataset import ImageDataset
from hallmark.data.decode import Picture, decode_all
from hallmark.data.sources import Source
from hallmark.errors import UserError

READS = frozenset({"path", "image_column", "label_column"})
IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("label", "fine_label", "labels")
TEST_NAMES = ("test", "validation", "valid", "val")
MAX_CLASSES = 100_000
_BATCH = 2048


def load(config: PrepareData, raw: Path) -> Source:
    """Images in the order of the files' names and rows.

    Class names come from the files' Hugging Face metadata, else the classes are called by number.

    Raises:
        UserError: no or corrupt files, a missing shard or column, a label out of range, a bad picture.
    """
    path = Path(str(config.path))
    parts = {"train": [path]} if path.is_file() else _parts(path)
    train_files = parts["train"]
    hashes = {file.name: artifacts.sha256(file) for files in parts.values() for file in files}
    columns = _columns(train_files[0], config)
    labels = {name: _labels(files, columns[1]) for name, files in parts.items()}
    classes = _class_names(train_files[0], columns[1])
    if not classes:
        classes = tuple(str(k) for k in range(max(int(part.max()) for part in labels.values()) + 1))
    if len(classes) < 2:
        raise UserError(f"{path}: column '{columns[1]}' holds one class; at least two are needed")
    for name, part in labels.items():
        if int(part.max()) >= len(classes):
            raise UserError(
                f"{parts[name][0]}: column '{columns[1]}' holds label {int(part.max())}, "
                f"out of range 0..{len(classes) - 1}; mend the labels or the class names in the metadata"
            )
    data: dict[str, ImageDataset] = {}
    like, read = None, 0
    for name, files in parts.items():  # train first: the others must be like it
        count = len(labels[name])
        images = decode_all(_pictures(files, columns[0]), count, config.size, config.channels, like=like)
        data[name] = ImageDataset(images, labels[name], torch.arange(read, read + count), classes)
        like, read = (f"{train_files[0]}: row 0", tuple(data["train"].images.shape[1:])), read + count
    return Source(data["train"], data.get("test"), hashes, data.get("reserve"))


def _parts(root: Path) -> dict[str, list[Path]]:
    """The files of ``train`` and, where there are any, of ``test`` and ``reserve``, in this order."""
    for folder in (root, root / "data"):
        train = sorted(folder.glob("train*.parquet"))
        tests = [sorted(folder.glob(f"{name}*.parquet")) for name in TEST_NAMES]
        test = next((files for files in tests if files), [])
        reserve = sorted(folder.glob("reserve*.parquet"))
        if not train and not test:
            train = sorted(set(folder.glob("*.parquet")) - set(reserve))
        if train:
            parts = {name: files for name, files in (("train", train), ("test", test), ("reserve", reserve)) if files}
            for files in parts.values():
                _all_shards(files)
            return parts
        if test or reserve:
            raise UserError(f"{folder}: has {(test or reserve)[0].name} but no train*.parquet")
    raise UserError(f"prepare_data.path: {root}: holds no .parquet file")


def _all_shards(files: list[Path]) -> None:
    for file in files:
        match = re.search(r"-of-(\d+)(?=\W|$)", file.stem)
        if match and int(match[1]) != len(files):
            raise UserError(f"{file}: is one of {int(match[1])} shards, but {len(files)} are there; get the others")


def _open(file: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: not a readable parquet file ({_line(error)}); fetch it again") from None


def _columns(file: Path, config: PrepareData) -> tuple[str, str]:
    names = _open(file).schema_arrow.names
    chosen = []
    for parameter, known in (("image_column", IMAGE_COLUMNS), ("label_column", LABEL_COLUMNS)):
        given = getattr(config, parameter)
        column = given or next((name for name in known if name in names), None)
        if column is None or column not in names:
            looked = given or " or ".join(known)
            raise UserError(f"prepare_data.{parameter}: {file} has no column {looked}; it has {', '.join(names)}")
        chosen.append(column)
    return chosen[0], chosen[1]


def _labels(files: list[Path], column: str) -> torch.Tensor:
    parts = []
    for file in files:
        values = pa.chunked_array([batch.column(0) for batch in _batches(file, column)] or [pa.array([], pa.int64())])
        if not pa.types.is_integer(values.type):
            raise UserError(f"{file}: column '{column}' is {values.type}, not whole numbers; set label_column")
        if values.null_count or (len(values) and pc.min(values).as_py() < 0):  # pyright: ignore[reportAttributeAccessIssue]
            raise UserError(f"{file}: column '{column}' has rows without a label (null or negative); remove them")
        if len(values) and pc.max(values).as_py() >= MAX_CLASSES:  # pyright: ignore[reportAttributeAccessIssue]
            raise UserError(f"{file}: column '{column}' holds labels of {MAX_CLASSES:,} and more; set label_column")
        parts.append(torch.from_numpy(values.cast(pa.int64()).to_numpy().copy()))
    labels = torch.cat(parts)
    if not len(labels):
        raise UserError(f"{files[0]}: has no rows")
    return labels


def _pictures(files: list[Path], column: str) -> Iterator[Picture]:
    for file in files:
        row = 0
        for batch in _batches(file, column):
            values = batch.column(0)
            if pa.types.is_struct(values.type) and values.type.get_field_index("bytes") >= 0:
                values = values.field("bytes")
            if not (pa.types.is_binary(values.type) or pa.types.is_large_binary(values.type)):
                raise UserError(f"{file}: column '{column}' is {values.type}, not pictures; set image_column")
            for value in values:
                data = value.as_py()
                if data is None:
                    raise UserError(f"{file}: row {row} has no picture bytes; remove the row or embed the picture")
                yield Picture(f"{file}: row {row}", data)
                row += 1


def _batches(file: Path, column: str) -> Iterator[Any]:
    source = _open(file)
    if column not in source.schema_arrow.names:
        raise UserError(f"{file}: has no column {column}, unlike the other files")
    try:
        yield from source.iter_batches(_BATCH, columns=[column], use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: truncated or damaged parquet file ({_line(error)}); fetch it again") from None


def _class_names(file: Path, column: str) -> tuple[str, ...]:
    """Names of a ``ClassLabel`` feature in the ``huggingface`` metadata; () where there are none."""
    try:
        metadata = json.loads((_open(file).schema_arrow.metadata or {})[b"huggingface"])
        names = metadata["info"]["features"][column]["names"]
    except (KeyError, TypeError, ValueError):
        return ()
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
