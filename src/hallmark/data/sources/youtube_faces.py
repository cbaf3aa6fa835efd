"""YouTube Faces (Wolf, Hassner and Maoz, CVPR 2011), or any set like it: a folder a subject, with one CSV of boxes.

``path/SUBJECT/SUBJECT.csv``, or whatever the one CSV there is called; the classes are the names of the folders.  It
is UTF-8, separated by semicolons, one face a line; other columns than these may stand there and are not read::

    Filename;Width;Height;X1;Y1;X2;Y2
    0/aligned_detect_0.555.jpg;301;301;91;103;199;210

``Filename`` is that of a PNG, JPEG or WebP picture of ``Width`` x ``Height`` pixels, relative to the subject's folder
and inside of it.  Its columns X1 to X2 - 1 and rows Y1 to Y2 - 1 are the face, which is cut out before it is resized;
MEA-Defender's released code reads the same files, and its boxes so.  ``path/train/SUBJECT``, ``path/test/SUBJECT`` and
``path/reserve/SUBJECT`` are parts as those of the source image_folder.

**The test part is held out by video.**  The frames of a video are almost alike: in a random split nearly every test
image has its twin among the training images.  A picture's folder (``0`` above) is its video.  Unless there is a part
``test``, the shortest video of every subject (of several, the first) is the test part; of a subject with one video
alone, as many have, the last tenth of its frames, the best that can be had.  MEA-Defender's code tests on the first
ten frames of every subject instead, of whose video the model has seen the rest.  Where no picture lies in a folder,
nothing is known of videos, and the test split is drawn at random.  Reserve, queries and training images are drawn at
random in any case, from the same videos.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import torch

from hallmark.config import PrepareData
from hallmark.data.dataset import ImageDataset
from hallmark.data.decode import Box, Picture, decode_all, read_picture
from hallmark.data.sources import Source
from hallmark.data.sources._folders import find_parts
from hallmark.errors import UserError

READS = frozenset({"path", "min_images"})
COLUMNS = ("Filename", "Width", "Height", "X1", "Y1", "X2", "Y2")
MAX_CSV_BYTES = 4 << 20
"""Of one subject: some 80,000 frames; the longest of YouTube Faces have a tenth of it."""
MAX_NAME = 1000
HELD_OUT = 10
"""Of so many frames of a subject's only video the last one is a test image."""
_WHOLE = re.compile(r"-?[0-9]{1,9}")


class Face(NamedTuple):
    """A line of a CSV: ``where`` it stands, the subject's folder, the picture's name in it, the box."""

    where: str
    folder: Path
    name: PurePosixPath
    box: Box

    @property
    def file(self) -> Path:
        return self.folder / self.name

    @property
    def video(self) -> str:
        """The folder of the picture, in the subject's; empty: none."""
        return "" if self.name.parent == PurePosixPath(".") else str(self.name.parent)


class Table(NamedTuple):
    """The faces of a subject's CSV, or some of them, and its SHA-256."""

    subject: str
    faces: Sequence[Face]
    sha256: bytes


def load(config: PrepareData, raw: Path) -> Source:
    """Faces in the order of their subjects' names, then of the lines.

    Subjects with fewer than ``min_images`` lines in the training part are left out of every part.

    Raises:
        UserError: a folder without its CSV or with several, a CSV that is not as described, a box outside of its
            picture, a picture that is missing, unreadable or of another size than written.
    """
    root = Path(str(config.path))
    parts = find_parts(root, "youtube_faces")
    tables = {name: _table(parts.train / name) for name in parts.classes}
    classes = _enough(tables, config.min_images, parts.train)
    sets = {"train": [tables[name] for name in classes]}
    for name, part in (("test", parts.test), ("reserve", parts.reserve)):
        if part is not None:
            sets[name] = [_table(part / each) for each in classes if (part / each).is_dir()]
            if not any(table.faces for table in sets[name]):
                raise UserError(f"{part}: holds no face of the training part's subjects; add them or remove the folder")
    if parts.test is None and any(face.video for table in sets["train"] for face in table.faces):
        both = [held_out(table) for table in sets["train"]]
        if any(held.faces for _, held in both):
            sets["train"], sets["test"] = [kept for kept, _ in both], [held for _, held in both]
    data: dict[str, ImageDataset] = {}
    hashes: dict[str, str] = {}
    numbers = {name: label for label, name in enumerate(classes)}
    like, read = None, 0
    for name in (each for each in ("train", "test", "reserve") if each in sets):
        faces = [face for table in sets[name] for face in table.faces]
        digest = hashlib.sha256(b"".join(table.sha256 for table in sets[name]))
        images = decode_all(_pictures(faces, root, digest), len(faces), config.size, config.channels, like=like)
        labels = torch.tensor([numbers[table.subject] for table in sets[name] for _ in table.faces])
        data[name] = ImageDataset(images, labels, torch.arange(read, read + len(faces)), tuple(classes))
        hashes[name] = digest.hexdigest()
        like, read = like or (faces[0].where, tuple(images.shape[1:])), read + len(faces)
    return Source(data["train"], data.get("test"), hashes, data.get("reserve"))


def held_out(table: Table) -> tuple[Table, Table]:
    """A subject's training faces and its test faces, by video: see the module.  Both keep the order of the lines.

    A subject of one face alone has no test face.
    """
    frames = Counter(face.video for face in table.faces)
    if len(frames) > 1:
        shortest = min(frames, key=lambda video: (frames[video], _natural(video)))
        held = {k for k, face in enumerate(table.faces) if face.video == shortest}
    else:
        order = sorted(range(len(table.faces)), key=lambda k: _natural(table.faces[k].name.name))
        count = 0 if len(order) < 2 else max(1, len(order) // HELD_OUT)
        held = set(order[len(order) - count :])
    kept, out = ([face for k, face in enumerate(table.faces) if (k in held) is wanted] for wanted in (False, True))
    return table._replace(faces=kept), table._replace(faces=out)


def _enough(tables: Mapping[str, Table], least: int | None, root: Path) -> list[str]:
    """The subjects with at least so many faces."""
    if least is None:
        if empty := [name for name, table in tables.items() if not table.faces]:
            raise UserError(f"{root / empty[0]}: its CSV lists no picture; fill it, remove it or set min_images")
        return list(tables)
    classes = [name for name, table in tables.items() if len(table.faces) >= least]
    if len(classes) < 2:
        raise UserError(
            f"prepare_data.min_images: {least:,}: {len(classes)} of {len(tables):,} subjects in {root} have so many "
            "pictures, and two are needed; lower it"
        )
    return classes


def _table(folder: Path) -> Table:
    """The one CSV of a subject, read whole and checked but for the pictures.

    Raises:
        UserError: as :func:`load`.
    """
    visible = (p for p in sorted(folder.iterdir()) if not p.name.startswith("."))
    found = [p for p in visible if p.suffix.lower() == ".csv" and p.is_file()]
    if len(found) != 1:
        raise UserError(
            f"{folder}: holds {len(found) or 'no'} .csv files; a subject's folder wants one, like {folder.name}.csv"
        )
    path = found[0]
    with open(path, "rb") as file:
        data = file.read(MAX_CSV_BYTES + 1)
    if len(data) > MAX_CSV_BYTES:
        raise UserError(f"{path}: more than {MAX_CSV_BYTES:,} bytes; a subject's CSV may have so many")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=";", strict=True)
    faces: list[Face] = []
    columns: dict[str, int] | None = None
    width = 0
    try:
        for row in lines:
            if not any(cell.strip() for cell in row):
                continue
            if columns is None:
                columns, width = _columns(row, path), len(row)
                continue
            where = f"{path}: line {lines.line_num}"
            if len(row) != width:
                raise UserError(f"{where}: has {len(row)} cells, but the first line {width}; mend it")
            faces.append(_face({name: row[k].strip() for name, k in columns.items()}, folder, where))
    except csv.Error as error:
        raise UserError(f"{path}: line {lines.line_num}: not CSV ({error}); mend it") from None
    if columns is None:
        raise UserError(f"{path}: is empty; its first line wants {';'.join(COLUMNS)}")
    return Table(folder.name, faces, hashlib.sha256(data).digest())


def _columns(row: Sequence[str], path: Path) -> dict[str, int]:
    """Place of each of :data:`COLUMNS` in the first line."""
    names = [cell.strip() for cell in row]
    for name in COLUMNS:
        if names.count(name) != 1:
            raise UserError(
                f"{path}: its first line has {'no' if name not in names else 'more than one'} column {name}; "
                f"it wants {';'.join(COLUMNS)}, separated by semicolons"
            )
    return {name: names.index(name) for name in COLUMNS}


def _face(cells: Mapping[str, str], folder: Path, where: str) -> Face:
    name = cells["Filename"]
    inside = PurePosixPath(name)
    # Symbolic links are followed, as in every source: data under version control is often made of them.
    if not name or len(name) > MAX_NAME or not name.isprintable() or inside.is_absolute() or ".." in inside.parts:
        raise UserError(f"{where}: Filename {name[:80]!r} is not that of a file in the subject's folder; mend it")
    numbers = {}
    for column in COLUMNS[1:]:
        if not _WHOLE.fullmatch(cells[column]):
            raise UserError(f"{where}: {column} is {cells[column][:40]!r}, not a whole number of up to nine digits")
        numbers[column] = int(cells[column])
    width, height, *corners = numbers.values()
    try:
        box = Box((width, height), *corners)
    except ValueError as error:
        raise UserError(f"{where}: {error}; mend or remove the line") from None
    return Face(where, folder, inside, box)


def _pictures(faces: Sequence[Face], root: Path, digest: hashlib._Hash) -> Iterator[Picture]:
    """The encoded pictures; their names and contents go into ``digest``."""
    for face in faces:
        path = face.file
        if not path.is_file():
            raise UserError(f"{face.where}: {path}: no such file; add it or remove the line")
        data = read_picture(path, face.where)
        digest.update(os.fsencode(path.relative_to(root)) + b"\0" + hashlib.sha256(data).digest())
        yield Picture(f"{face.where}: {path}", data, face.box)


def _natural(name: str) -> list[int | str]:
    """A key by which 0.99 comes before 0.100."""
    return [int(part) if k % 2 else part for k, part in enumerate(re.split(r"([0-9]+)", name))]
