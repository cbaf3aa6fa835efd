"""The only module that reads and writes artifact files.

Writing is atomic (a temporary name, then a rename: nothing half-written, earlier outputs kept) and
byte-deterministic (the same content gives the same bytes, so DVC's hashes are meaningful).
Reading treats files as untrusted: no pickle, bounded sizes, one clear line when something is wrong.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from hallmark.errors import UserError

MAX_JSON_BYTES = 64 << 20
MAX_CSV_BYTES = 1 << 30
_DVC_IGNORED = re.compile(r"(^|/)__pycache__/|\.pyc$|\.egg-info(/|$)")
DIGITS = 6
"""Metrics are rounded to this many decimal places: what is below is noise between machines."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it takes the place of ``path``.

    Works for a file or a folder: whatever the block creates at the temporary path.  On any error the
    temporary is removed and what stood at ``path`` stays.

    Raises:
        UserError: the disk is full or the place is not writable.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    old = temporary.with_suffix(".old")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if path.is_dir() and not path.is_symlink():
            path.rename(old)
            temporary.rename(path)
            shutil.rmtree(old)
        else:
            temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; free space or mend the path") from error
    except safetensors.SafetensorError as error:
        # Libraries that write weights themselves: a full disk comes as the text of this error, not as an OSError.
        if not re.search(r"os error|I/?O ?error", str(error), re.IGNORECASE):
            raise
        raise UserError(f"cannot write {path}: {error}; free space or mend the path") from error
    finally:
        if old.exists() and not path.exists():  # stopped between the two renames
            old.rename(path)
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            with suppress(NotADirectoryError):  # the path goes through a file: the message above says so
                temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` atomically."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_secret(path: Path, data: bytes) -> None:
    """Write a new file that its owner alone may read (mode 0600); what is there already is never replaced.

    Raises:
        UserError: the path exists, or the place is not writable.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            # A rename would replace a file that another process has written meanwhile; a link fails.
            path.hardlink_to(temporary)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        if os.path.lexists(path):
            raise UserError(
                f"{path}: exists, and a secret is never overwritten; move it away or name another"
            ) from None
        raise UserError(f"cannot write {path}: {error.strerror or error}; free space or mend the path") from error


def read_bytes(path: Path, limit: int) -> bytes:
    """The content of a file of at most ``limit`` bytes.

    Raises:
        UserError: missing, not a file, or larger.
    """
    _must_be_file(path)
    with open(path, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise UserError(f"{path}: larger than {limit:,} bytes; this is not one of Hallmark's files")
    return data


def write_json(path: Path, value: Any) -> None:
    """Sorted, indented JSON; floats rounded to :data:`DIGITS`; NaN and infinities refused."""
    text = json.dumps(rounded(value), indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    write_bytes(path, (text + "\n").encode())


def read_json(path: Path) -> Any:
    """Parse a JSON file of at most :data:`MAX_JSON_BYTES`.

    Raises:
        UserError: missing, too large, or not JSON.
    """
    _must_be_small(path, MAX_JSON_BYTES)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error}); restore it with dvc checkout or rerun its stage") from None


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write :func:`csv_bytes` atomically."""
    write_bytes(path, csv_bytes(rows, columns))


def csv_bytes(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> bytes:
    """Rows under a fixed header, ``\\n`` line ends, floats rounded to :data:`DIGITS`."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({column: rounded(row[column]) for column in columns})
    return buffer.getvalue().encode()


def read_csv(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV file as text.

    Raises:
        UserError: missing file or columns, larger than :data:`MAX_CSV_BYTES`, or not CSV in UTF-8.
    """
    _must_be_small(path, MAX_CSV_BYTES)
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = set(columns) - set(reader.fieldnames or ())
            if missing:
                raise UserError(f"{path}: has no column {', '.join(sorted(missing))}; rerun the stage that wrote it")
            rows = []
            for row in reader:
                if None in row or None in row.values():
                    raise UserError(
                        f"{path}: line {reader.line_num} has not the header's number of cells; "
                        "restore it with dvc checkout or rerun its stage"
                    )
                rows.append(row)
            return rows
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid CSV ({error}); restore it with dvc checkout or rerun its stage") from None


def write_tensors(path: Path, tensors: Mapping[str, Tensor], meta: Any) -> None:
    """A safetensors file with ``meta`` as JSON under one metadata key.

    One key only: safetensors writes several in random order, and the bytes would differ.
    """
    packed = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, safetensors.torch.save(packed, {"hallmark": json.dumps(meta, sort_keys=True)}))


def read_tensors(path: Path, max_elements: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors of a safetensors file and its metadata ({} if a foreign tool wrote it).

    Raises:
        UserError: missing, truncated, corrupt, or more than ``max_elements`` elements altogether.
    """
    _must_be_file(path)
    try:
        with safetensors.safe_open(path, "pt") as file:
            names = list(file.keys())
            elements = 0
            for name in names:
                size = 1
                for length in file.get_slice(name).get_shape():
                    size *= length
                elements += size
            if elements > max_elements:
                raise UserError(f"{path}: {elements:,} elements where at most {max_elements:,} are expected")
            meta = json.loads((file.metadata() or {}).get("hallmark", "{}"))
            return {name: file.get_tensor(name) for name in names}, meta if isinstance(meta, dict) else {}
    except (safetensors.SafetensorError, ValueError, OSError) as error:
        raise UserError(
            f"{path}: corrupt or truncated safetensors file ({error}); restore it with dvc checkout or rerun its stage"
        ) from None


def rounded(value: Any) -> Any:
    """``value`` with every float in it rounded to :data:`DIGITS` places (-0.0 becomes 0.0)."""
    if isinstance(value, float):
        return round(value, DIGITS) + 0.0
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value


def md5(path: Path) -> str:
    """The hash that DVC records: of a file its MD5, of a folder that of DVC's listing, ``….dir``."""
    path = Path(path)
    if path.is_dir():
        # As DVC does: what .dvcignore names is left out, and names are sorted as whole strings.
        files = sorted((p.relative_to(path).as_posix(), p) for p in path.rglob("*") if p.is_file())
        listing = [{"md5": md5(p), "relpath": name} for name, p in files if not _DVC_IGNORED.search(name)]
        return hashlib.md5(json.dumps(listing, sort_keys=True).encode()).hexdigest() + ".dir"
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    _must_be_file(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _must_be_file(path: Path) -> None:
    if Path(path).is_dir():
        raise UserError(f"{path}: is a folder; give a file in it")
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; run the stage that writes it (dvc repro) or mend the path")


def _must_be_small(path: Path, limit: int) -> None:
    _must_be_file(path)
    if Path(path).stat().st_size > limit:
        raise UserError(f"{path}: larger than {limit >> 20} MiB; this is not one of Hallmark's files")
