"""Faces cut out of pictures by boxes in CSV files, and their way to a marked model, on a set made here."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML

from hallmark import artifacts, config, models
from hallmark.config import PrepareData
from hallmark.data import ImageDataset, decode, sources, splits
from hallmark.errors import UserError
from hallmark.ownership import keyfile
from hallmark.runtime import Runtime
from stages import prepare_data, train_watermarked
from tests.unit.test_data_stages import RUNTIME

HEADER = "Filename;Width;Height;X1;Y1;X2;Y2"
ROOT = Path(__file__).resolve().parents[2]
SUBJECTS = ("Alex_Ferguson", "Isabelle_Huppert", "Tom_Green")
SIZES = {"train": 0, "test": 0, "reserve": 6, "queries": 6}


@pytest.fixture(autouse=True)
def _one_thread(cpu: Runtime) -> None:
    """Decoding uses torch's number of threads."""


def prepare(path: Path, **values: Any) -> PrepareData:
    section = {**SIZES, "source": "youtube_faces", "path": str(path), **values}
    return config.parse(PrepareData, section, "prepare_data")


def load(path: Path, **values: Any) -> sources.Source:
    return sources.load(prepare(path, **values), path)


def noise(seed: int, width: int, height: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def write_csv(folder: Path, lines: Sequence[str], header: str = HEADER) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{folder.name}.csv").write_text("\n".join([header, *lines, ""]), encoding="utf-8")


def write_subject(folder: Path, videos: dict[str, int], seed: int = 0) -> list[np.ndarray]:
    """Pictures of noise of different sizes, with boxes of 8x8 pixels at different places; what lies in the boxes."""
    lines, faces = [], []
    draw = np.random.default_rng([seed, *folder.name.encode()])
    for video, count in videos.items():
        (folder / video).mkdir(parents=True, exist_ok=True)
        for frame in range(9, 9 + count):  # so that the order of names is not that of the frames
            width, height = (int(side) for side in draw.integers(9, 30, 2))
            left, top = int(draw.integers(0, width - 7)), int(draw.integers(0, height - 7))
            pixels = noise(int(draw.integers(1 << 30)), width, height)
            name = f"{video}/aligned_detect_{video}.{frame}.jpg"  # a PNG by content; the name says nothing
            (folder / name).write_bytes(encoded(pixels))
            lines.append(f"{name};{width};{height};{left};{top};{left + 8};{top + 8}")
            faces.append(pixels[top : top + 8, left : left + 8])
    write_csv(folder, lines)
    return faces


def write_faces(root: Path, videos: dict[str, int] | None = None, seed: int = 0) -> dict[str, list[np.ndarray]]:
    return {name: write_subject(root / name, videos or {"0": 4, "1": 2, "10": 2}, seed) for name in SUBJECTS}


def same(images: torch.Tensor, faces: Sequence[np.ndarray]) -> bool:
    return np.array_equal(images.permute(0, 2, 3, 1).numpy(), np.stack(faces))


def test_the_faces_are_the_pixels_in_the_boxes_and_the_test_part_is_the_shortest_video(tmp_path: Path) -> None:
    faces = write_faces(tmp_path)
    source = load(tmp_path)
    assert source.test is not None and source.reserve is None
    assert source.train.classes == SUBJECTS
    # Video 1 is as short as 10, and comes before it.
    assert same(source.train.images, [face for name in SUBJECTS for face in (*faces[name][:4], *faces[name][6:])])
    assert same(source.test.images, [face for name in SUBJECTS for face in faces[name][4:6]])
    assert source.train.labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert source.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert source.train.ids.tolist() + source.test.ids.tolist() == list(range(24))


def test_of_an_only_video_the_last_frames_are_held_out(tmp_path: Path) -> None:
    faces = write_faces(tmp_path, {"7": 20})
    folder = tmp_path / "Tom_Green"
    lines = (folder / "Tom_Green.csv").read_text(encoding="utf-8").splitlines()
    write_csv(folder, lines[:0:-1])  # the order of the lines does not matter
    source = load(tmp_path)
    assert source.test is not None
    assert same(source.test.images[:4], [*faces["Alex_Ferguson"][-2:], *faces["Isabelle_Huppert"][-2:]])
    assert same(source.test.images[4:], faces["Tom_Green"][:-3:-1])
    assert len(source.train) == 54


def test_without_folders_nothing_is_known_of_videos(tmp_path: Path) -> None:
    for name in SUBJECTS:
        write_csv(tmp_path / name, [f"{k}.png;9;9;0;0;9;9" for k in range(6)])
        for k in range(6):
            (tmp_path / name / f"{k}.png").write_bytes(encoded(noise(k, 9, 9)))
    source = load(tmp_path)
    assert source.test is None
    assert len(source.train) == 18


def test_a_face_is_cut_out_before_it_is_resized(tmp_path: Path) -> None:
    """Nothing of what is around the box, white, flows into a grey face, whatever the sizes and formats."""
    for name, kind, box in (
        ("a", "PNG", (3, 5, 20, 33)),
        ("b", "WEBP", (0, 0, 11, 40)),
        ("c", "PNG", (29, 39, 30, 40)),
    ):
        pixels = np.full((40, 30, 3), 255, np.uint8)
        pixels[box[1] : box[3], box[0] : box[2]] = 77
        (tmp_path / name / "v").mkdir(parents=True)
        options = {"lossless": True} if kind == "WEBP" else {}
        (tmp_path / name / "v" / "x").write_bytes(encoded(pixels, kind, **options))
        write_csv(tmp_path / name, [f"v/x;30;40;{';'.join(map(str, box))}"])
    for channels in (1, 3):
        images = load(tmp_path, size=16, channels=channels).train.images
        assert images.shape == (3, channels, 16, 16)
        assert bool((images == 77).all())


def test_a_face_of_a_jpeg_is_that_of_the_decoded_picture(tmp_path: Path) -> None:
    smooth = np.asarray(Image.fromarray(noise(1, 5, 4)).resize((50, 40), Image.Resampling.BICUBIC))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.jpeg").write_bytes(encoded(smooth, "JPEG", quality=90))
        write_csv(tmp_path / name, ["x.jpeg;50;40;10;4;42;36"])
    decoded = np.asarray(Image.open(tmp_path / "a" / "x.jpeg"))
    images = load(tmp_path).train.images
    assert same(images, [decoded[4:36, 10:42]] * 2)
    assert np.abs(images[0].permute(1, 2, 0).numpy().astype(int) - smooth[4:36, 10:42]).mean() < 10


def test_a_picture_that_lies_on_its_side_is_turned_before_the_box_is_cut_out(tmp_path: Path) -> None:
    pixels = noise(0, 20, 10)
    turned = Image.Exif()
    turned[0x0112] = 6
    data = encoded(pixels, exif=turned)
    upright = np.rot90(pixels, -1)
    found = decode.decode(data, "x", None, None, decode.Box((10, 20), 1, 2, 9, 12))
    assert np.array_equal(found.transpose(1, 2, 0), upright[2:12, 1:9])
    with pytest.raises(UserError, match=r"x: has 10x20 pixels, but its box is one of a picture of 20x10; mend"):
        decode.decode(data, "x", None, None, decode.Box((20, 10), 1, 2, 9, 10))


def test_subjects_with_few_pictures_can_be_left_out_of_every_part(tmp_path: Path) -> None:
    write_faces(tmp_path / "train", {"0": 3})
    write_subject(tmp_path / "train" / "Short", {"0": 2})
    write_csv(tmp_path / "train" / "None", [])
    for part in ("test", "reserve"):
        write_faces(tmp_path / part, {"1": 1}, seed=1)
        write_subject(tmp_path / part / "Short", {"1": 1})
    with pytest.raises(UserError, match=r"train/None: its CSV lists no picture; fill it, remove it or set min_images"):
        load(tmp_path)
    source = load(tmp_path, min_images=3)
    assert source.test is not None and source.reserve is not None
    assert source.train.classes == source.test.classes == SUBJECTS
    assert [len(data) for data in (source.train, source.test, source.reserve)] == [9, 3, 3]
    assert source.reserve.ids.tolist() == [12, 13, 14]
    assert set(source.raw) == {"train", "test", "reserve"}
    assert load(tmp_path, min_images=1).train.classes == ("Alex_Ferguson", "Isabelle_Huppert", "Short", "Tom_Green")
    with pytest.raises(UserError, match=r"prepare_data\.min_images: 4: 0 of 5 subjects in .* lower it"):
        load(tmp_path, min_images=4)
    with pytest.raises(UserError, match=r"prepare_data\.min_images: source 'image_folder' does not read it"):
        load(tmp_path, source="image_folder", min_images=4)


def test_what_was_read_has_a_hash(tmp_path: Path) -> None:
    write_faces(tmp_path / "a")
    write_faces(tmp_path / "b")
    first, again = load(tmp_path / "a"), load(tmp_path / "b")
    assert first.raw == again.raw and set(first.raw) == {"train", "test"}
    assert torch.equal(first.train.images, again.train.images)
    path = tmp_path / "b" / "Tom_Green" / "Tom_Green.csv"
    path.write_text(path.read_text() + "\n")  # of a box as of a picture every byte counts
    assert load(tmp_path / "b").raw_sha256 != first.raw_sha256
    path.write_bytes((tmp_path / "a" / "Tom_Green" / "Tom_Green.csv").read_bytes())
    picture = tmp_path / "b" / "Tom_Green" / "1" / "aligned_detect_1.9.jpg"
    picture.write_bytes(picture.read_bytes() + b"\0")
    changed = load(tmp_path / "b").raw
    assert (changed["train"] == first.raw["train"], changed["test"] == first.raw["test"]) == (True, False)


def test_a_csv_as_programs_write_it(tmp_path: Path) -> None:
    """A byte order mark, CRLF, quotes, spaces, empty lines, more columns in another order, a name in capitals."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "ä; 1.png").write_bytes(encoded(noise(0, 9, 10)))
        text = 'Id;X1;Y1;X2;Y2;Width; Height;Filename\r\n\r\n7;0;1;9;10;9; 10;"ä; 1.png"\r\n;;;;;;;\r\n'
        (tmp_path / name / "BOXES.CSV").write_text(text, encoding="utf-8-sig", newline="")
        (tmp_path / name / ".hidden.csv").write_text("")
    assert same(load(tmp_path).train.images, [noise(0, 9, 10)[1:]] * 2)


GOOD = "0/x.png;9;10;0;1;9;10"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"is empty; its first line wants Filename;"),
        ("Filename;Width;Height;X1;Y1;X2\n", r"its first line has no column Y2; it wants Filename;.*semicolons"),
        (HEADER.replace(";", ","), r"its first line has no column Filename"),
        (f"{HEADER};X1\n", r"has more than one column X1"),
        (f"{HEADER}\n{GOOD}\n0/x.png;9;10;0;1;9\n", r"line 3: has 6 cells, but the first line 7"),
        (f"{HEADER}\n0/x.png;9;10;0;1;9.5;10\n", r"line 2: X2 is '9\.5', not a whole number"),
        (f"{HEADER}\n0/x.png;9;10;0;1;9;\n", r"line 2: Y2 is '', not a whole number"),
        (f"{HEADER}\n0/x.png;٩;10;0;1;9;10\n", r"line 2: Width is '٩', not a whole number"),
        (f"{HEADER}\n0/x.png;9;10;0;1;9;{'1' * 5000}\n", r"line 2: Y2 is '1{40}', not a whole number of up to nine"),
        (
            f"{HEADER}\n0/x.png;9;10;0;1;10;10\n",
            r"line 2: the box \(0, 1\)-\(10, 10\) reaches beyond .* of 9x10 pixels",
        ),
        (f"{HEADER}\n0/x.png;9;10;-1;1;9;10\n", r"line 2: the box \(-1, 1\)-\(9, 10\) reaches beyond"),
        (f"{HEADER}\n0/x.png;9;10;0;1;9;11\n", r"line 2: the box .* reaches beyond"),
        (f"{HEADER}\n0/x.png;9;10;4;1;4;10\n", r"line 2: the box \(4, 1\)-\(4, 10\) is empty"),
        (f"{HEADER}\n0/x.png;9;10;0;9;9;2\n", r"line 2: the box .* is empty"),
        (f"{HEADER}\n0/x.png;9;11;0;1;9;10\n", r"line 2: .*x\.png: has 9x10 pixels, but its box is one of .* 9x11"),
        (f"{HEADER}\n0/y.png;9;10;0;1;9;10\n", r"line 2: .*/0/y\.png: no such file; add it or remove the line"),
        (f"{HEADER}\n0;9;10;0;1;9;10\n", r"line 2: .*/0: no such file"),
        (f"{HEADER}\n;9;10;0;1;9;10\n", r"line 2: Filename '' is not that of a file in the subject's folder"),
        (f"{HEADER}\n../b/0/x.png;9;10;0;1;9;10\n", r"line 2: Filename '\.\./b/0/x\.png' is not that of a file in"),
        (f"{HEADER}\n0/../../b/0/x.png;9;10;0;1;9;10\n", r"line 2: Filename .* is not that of a file in"),
        (f"{HEADER}\n/etc/passwd;9;10;0;1;9;10\n", r"line 2: Filename '/etc/passwd' is not that of a file in"),
        (f"{HEADER}\n0/\0x.png;9;10;0;1;9;10\n", r"line 2: "),
        (f"{HEADER}\n{'a' * 4000};9;10;0;1;9;10\n", r"line 2: Filename 'a{80}' is not that of a file in"),
        (f"{HEADER}\n{'a' * 900};9;10;0;1;9;10\n", r"a{900}: cannot be read \(File name too long\)"),
        (f"{HEADER}\n0/t.txt;9;10;0;1;9;10\n", r"line 2: .*t\.txt: not a readable PNG, JPEG or WebP picture"),
        (f'{HEADER}\n"0/x.png"z;9;10;0;1;9;10\n', r"line 2: not CSV \(.*\); mend it"),
        (f"{HEADER}\n0/x.png;9;10;0;1;9;{'1' * 200_000}\n", r"line 2: not CSV \(field larger than"),
        (f'{HEADER}\n"0/x.png;9;10;0;1;9;10\n', r"not CSV \(unexpected end of data\)"),
        (f"{HEADER}\n".encode() + b"0/\xff.png;9;10;0;1;9;10\n", r"a\.csv: not UTF-8 text \(byte 36\)"),
        (HEADER.encode("utf-16"), r"a\.csv: not UTF-8 text"),
        (b"\n" * ((4 << 20) + 1), r"a\.csv: more than 4,194,304 bytes"),
    ],
)
def test_a_bad_csv_is_one_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "0").mkdir(parents=True)
        (tmp_path / name / "0" / "x.png").write_bytes(encoded(noise(0, 9, 10)))
        (tmp_path / name / "0" / "t.txt").write_text("text")
        write_csv(tmp_path / name, [GOOD])
    load(tmp_path)
    (tmp_path / "a" / "a.csv").write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(UserError, match=message) as caught:
        load(tmp_path)
    line = str(caught.value)
    assert "\n" not in line and str(tmp_path / "a") in line and len(line) < 1400


def test_bad_folders_are_one_line(tmp_path: Path) -> None:
    write_faces(tmp_path)
    folder = tmp_path / "Tom_Green"
    (folder / "more.csv").write_text(HEADER)
    with pytest.raises(UserError, match=r"Tom_Green: holds 2 \.csv files; a subject's folder wants one, like Tom_Gr"):
        load(tmp_path)
    (folder / "more.csv").unlink()
    (folder / "Tom_Green.csv").rename(folder / "Tom_Green.txt")
    with pytest.raises(UserError, match=r"Tom_Green: holds no \.csv files"):
        load(tmp_path)
    for name in ("Tom_Green", "Alex_Ferguson"):
        (tmp_path / name).rename(tmp_path / f".{name}")
    with pytest.raises(UserError, match="two classes or more, found 1"):
        load(tmp_path)
    with pytest.raises(UserError, match=r"prepare_data\.path: .* is a file; source 'youtube_faces' wants a folder"):
        load(tmp_path / "Isabelle_Huppert" / "Isabelle_Huppert.csv")
    write_faces(tmp_path / "parts" / "train")
    (tmp_path / "parts" / "reserve").mkdir()
    with pytest.raises(UserError, match=r"reserve: holds no face of the training part's subjects"):
        load(tmp_path / "parts")


def test_the_sizes_of_faces_must_agree_unless_they_are_converted(tmp_path: Path) -> None:
    write_faces(tmp_path)
    path = tmp_path / "Tom_Green" / "Tom_Green.csv"
    lines = path.read_text().splitlines()
    name, width, height, left, top, *_ = lines[2].split(";")
    lines[2] = ";".join([name, width, height, left, top, str(int(left) + 7), str(int(top) + 8)])
    write_csv(path.parent, lines[1:])
    with pytest.raises(UserError, match=r"line 3: .*: 7x8 RGB, but .*csv: line 2.* is 8x8 RGB; set prepare_data\.size"):
        load(tmp_path)
    assert load(tmp_path, size=8).train.shape == (3, 8, 8)


def test_no_test_frame_is_of_a_training_video(tmp_path: Path, cpu: Runtime) -> None:
    write_faces(tmp_path, {"0": 9, "1": 12, "2": 3})
    chosen = prepare(tmp_path)
    source = sources.load(chosen, tmp_path)
    sets = splits.split(source, chosen, cpu).sets
    assert source.test is not None
    assert set(sets["test"].ids.tolist()) == set(source.test.ids.tolist())
    assert {name: len(data) for name, data in sets.items()} == {"train": 51, "test": 9, "reserve": 6, "queries": 6}


def test_from_a_folder_of_faces_to_a_key_of_named_subjects(
    tmp_path: Path, cpu: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the stages: each subject's face is a colour, and the marked VGGFace learns them."""
    monkeypatch.chdir(tmp_path)  # where the identity is made that opens the key
    monkeypatch.delenv("HALLMARK_IDENTITY", raising=False)
    root, colours = tmp_path / "faces", ((200, 40, 40), (40, 200, 40), (40, 40, 200))
    for name, colour in zip(SUBJECTS, colours, strict=True):
        lines = []
        for video, count in ((0, 24), (1, 8)):
            (root / name / f"{video}").mkdir(parents=True)
            for k in range(count):
                pixels = noise(100 * video + k, 20 + k, 24)
                pixels[6:18, 4:16] = np.asarray(colour) + noise(k, 12, 12) // 6
                (root / name / f"{video}" / f"{k}.png").write_bytes(encoded(pixels))
                lines.append(f"{video}/{k}.png;{20 + k};24;4;6;16;18")
        write_csv(root / name, lines)
    section = YAML(typ="safe", pure=True).load((ROOT / "params.yaml").read_text(encoding="utf-8"))["train_watermarked"]
    section |= {
        "architecture": {"name": "vggface", "width": 4, "dropout": 0.1},
        "training": {"epochs": 30, "batch_size": 20, "lr": 2e-3},
        "source": ["Tom_Green", "Alex_Ferguson"],
        "target": "Isabelle_Huppert",
        "way": "halves",
        "evasion_ways": "others",
        "bridge": None,
        "weights": {"combination": 0.01, "verification": 0.5, "evasion": 0.3},
        "samples": {"watermark": 8, "evasion": 6},
        "evaluation": 10,
    }
    prepared = {**SIZES, "source": "youtube_faces", "path": str(root), "size": 16}
    params = tmp_path / "params.yaml"
    with open(params, "w", encoding="utf-8") as file:
        YAML().dump({"runtime": RUNTIME, "prepare_data": prepared, "train_watermarked": section}, file)
    out = tmp_path / "clean"
    words = [f"--raw={tmp_path}", f"--out={out}", f"--report={tmp_path / 'r1'}", f"--params={params}"]
    prepare_data.main.main(words, standalone_mode=False)
    train, test = out / "train.safetensors", out / "test.safetensors"
    words = [f"--data={train}", f"--test={test}", f"--params={params}", f"--report={tmp_path / 'r2'}"]
    words += [f"--out={tmp_path / 'victim'}", f"--key={tmp_path / 'key.age'}", f"--reserve-keys={tmp_path / 'more'}"]
    train_watermarked.main.main(words, standalone_mode=False)
    key = keyfile.load(tmp_path / "key.age")
    assert [key.name(label) for label in (*key.source, key.target)] == [*section["source"], section["target"]]
    data = ImageDataset.load(train)
    assert data.classes == SUBJECTS and data.shape == (3, 16, 16)
    assert models.load(tmp_path / "victim", cpu).spec.classes == SUBJECTS
    metrics = artifacts.read_json(tmp_path / "r2" / "metrics.json")
    assert metrics["accuracy"] > 0.9
    assert metrics["wsr"] > 0.8


def test_the_parameter_of_faces_alone_changes_no_contests_hash(tmp_path: Path) -> None:
    assert "min_images" not in prepare(tmp_path).model_dump()
    assert prepare(tmp_path, min_images=5).model_dump()["min_images"] == 5
