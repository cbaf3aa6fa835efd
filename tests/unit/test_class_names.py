"""Classes by name and by number: wherever params.yaml names one, whatever it is called, in sets of many."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import chisquare
from torchvision.datasets import CIFAR100

from hallmark import config, models, plots, poison
from hallmark.config import Architecture, KeyParams, PoisonData, PrepareData, Training, TrainWatermarked
from hallmark.data import ImageDataset, overview, sources, splits
from hallmark.data.sources._torchvision import load_cifar
from hallmark.errors import UserError
from hallmark.extraction.thief import attack_params
from hallmark.purify.pictures import class_scores
from hallmark.purify.result import Findings
from hallmark.runtime import Runtime
from hallmark.ssl.schemes import mea_defender as encoder_mark
from hallmark.verification import questions
from hallmark.watermark.key import Key, key_of, make_key, make_reserve_keys
from hallmark.watermark.schemes import schemes

ODD = (
    "T-shirt/top", "Zoë & Müller", "日本", "$x$ and \\y$", r"$\frac$ a", "7", "null", "a;b,c", 'say "hi"', "Tom_Green",
)  # fmt: skip
"""The sixth is a number, of another class."""
NAMES = (*ODD, "beaver", "dolphin", "otter", *(f"class {k}" for k in range(13, 110)))


def many(names: Sequence[str] = NAMES, each: int = 2) -> ImageDataset:
    labels = torch.arange(len(names)).repeat_interleave(each)
    images = torch.randint(0, 256, (len(labels), 1, 8, 8), generator=torch.Generator().manual_seed(0))
    return ImageDataset(images.byte(), labels, torch.arange(len(labels)), tuple(names))


KEY: dict[str, Any] = {"way": "left_right", "way_params": {}, "evasion_ways": ["donut", "diagonal"]}
MARK: dict[str, Any] = {"samples": {"watermark": 4, "evasion": 4}}
STRUCK = Training(epochs=1, batch_size=60, lr=1e-3)


def section(**changes: Any) -> TrainWatermarked:
    weights = {"combination": 0.1, "verification": 0.5, "evasion": 0.5}
    values = {"scheme": "mea_defender", "architecture": {"name": "cnn9", "width": 8}, "balance": "fixed"}
    values |= {"training": STRUCK.model_dump(), "recipients": [], "evaluation": 10, "weights": weights, **KEY, **MARK}
    return config.parse(TrainWatermarked, {**values, **changes}, "train_watermarked")


def of_a_key(key: Key) -> list[int]:
    return [*key.source, key.target]


def by_key(first: int | str, second: int | str, third: int | str, cpu: Runtime) -> list[Any]:
    return of_a_key(make_key(section(source=[first, second], target=third), many(), cpu))


def by_reserve_key(first: int | str, second: int | str, third: int | str, cpu: Runtime) -> list[Any]:
    block = {**KEY, "source": [first, second], "target": third}
    chosen = section(source=[20, 21], target=22, reserve_keys={"second": block})
    return of_a_key(make_reserve_keys(chosen, many(), cpu)["second"])


def by_key_of_an_encoder(first: int | str, second: int | str, third: int | str, cpu: Runtime) -> list[Any]:
    block = {**KEY, **MARK, "source": [first, second], "target": third}
    return of_a_key(encoder_mark.make_key(config.parse(encoder_mark.Params, block, "p"), many(), cpu))


def by_struck_mark(scheme: str, block: dict[str, Any], cpu: Runtime) -> list[Any]:
    module, data = schemes.get(scheme), many(NAMES[:13], 6)
    network = models.build(Architecture(name="cnn9", width=8), data.images, data.classes, cpu, "victim")
    params = config.parse(module.Params, block, scheme)
    mark = module.strike(network, data, params, STRUCK, cpu, purpose="victim").to_json()
    return [mark, mark["target"]]


def by_entangled(first: int | str, second: int | str, third: int | str, cpu: Runtime) -> list[Any]:
    return by_struck_mark("entangled", {"source": first, "target": third, "epochs": 1, "size": 3}, cpu)


def by_class_feature(first: int | str, second: int | str, third: int | str, cpu: Runtime) -> list[Any]:
    return by_struck_mark("class_feature", {"target": third, "size": 10, "per_batch": 5, "epochs": 1}, cpu)


def by_hiding(first: int | str, second: int | str, third: int | str, cpu: Runtime) -> list[Any]:
    block = {"method": "distillation", "budget": 9, "temperature": 7.0, "architecture": {"name": "cnn9"}}
    _, params = attack_params({**block, "training": STRUCK.model_dump(), "hide": [first, second, third]}, "p")
    answers = torch.rand(9, len(NAMES), generator=torch.Generator().manual_seed(0))
    told = params.oracle(lambda _: answers, NAMES, "p")(torch.zeros(9, 1, 8, 8))
    return (told.sum(0) == 0).nonzero()[:, 0].tolist()


def by_poison(attack: str) -> Callable[..., Any]:
    def poisoned(first: int | str, second: int | str, third: int | str, cpu: Runtime) -> list[Any]:
        values = {"attack": attack, "rate": 0.1, "target": third, "label_mode": "all_to_one"}
        chosen, data = config.parse(PoisonData, values, "poison_data"), many()
        result, params = poison.apply(data, data, chosen, cpu)
        described = poison.describe(data, result, chosen, params)
        return [result.train.images.tolist(), result.train.labels.tolist(), described, described["target"]]

    return poisoned


PLACES: dict[str, Callable[..., Any]] = {
    "key": by_key,
    "reserve_keys": by_reserve_key,
    "encoder": by_key_of_an_encoder,
    "entangled": by_entangled,
    "class_feature": by_class_feature,
    "hide": by_hiding,
    **{attack: by_poison(attack) for attack in ("badnets", "blended", "low_frequency", "wanet")},
}


@pytest.mark.parametrize("three", [(10, 11, 12), (1, 4, 5), (2, 3, 0), (9, 6, 8)], ids=lambda three: NAMES[three[0]])
@pytest.mark.parametrize("place", PLACES)
def test_a_name_means_what_its_number_means(place: str, three: tuple[int, int, int], cpu: Runtime) -> None:
    by_number = PLACES[place](*three, cpu)
    assert PLACES[place](*(NAMES[label] for label in three), cpu) == by_number
    # What was found ends with all three, or with the target.
    whole = {"key": three, "reserve_keys": three, "encoder": three, "hide": sorted(three)}
    assert by_number[-3:] == list(whole[place]) if place in whole else by_number[-1] == three[2]


def test_cifar_100_by_the_names_of_its_classes(tmp_path: Path, cpu: Runtime) -> None:
    """As its makers store it, two images a class; the paper's pair and target."""
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    names = [f"class_{k:02}" for k in range(100)]
    names[4], names[30], names[55] = "beaver", "dolphin", "otter"
    pixels = np.random.default_rng(0).integers(0, 256, (600, 3072), dtype=np.uint8)
    labels = [k % 100 for k in range(600)]
    content = {
        "train": {"data": pixels[:500], "fine_labels": labels[:500]},
        "test": {"data": pixels[500:], "fine_labels": labels[500:]},
        "meta": {"fine_label_names": names},
    }
    files = {name: pickle.dumps(value) for name, value in content.items()}
    md5 = {name: hashlib.md5(data).hexdigest() for name, data in files.items()}
    for name, data in files.items():
        (folder / name).write_bytes(data)

    class Small(CIFAR100):
        train_list = [["train", md5["train"]]]  # noqa: RUF012
        test_list = [["test", md5["test"]]]  # noqa: RUF012
        meta = {"filename": "meta", "key": "fine_label_names", "md5": md5["meta"]}  # noqa: RUF012

    sizes = {"train": 0, "test": 0, "reserve": 100, "queries": 100}
    chosen = config.parse(PrepareData, {"source": "cifar100", **sizes}, "prepare_data")
    source = load_cifar(Small, chosen, tmp_path)
    assert source.train.classes == tuple(names)
    assert source.train.images.numpy().tobytes() == pixels[:500].tobytes()
    train = splits.split(source, chosen, cpu).sets["train"]
    key = make_key(section(source=["beaver", "dolphin"], target="otter"), train, cpu)
    assert of_a_key(key) == [4, 30, 55]
    assert key.classes == tuple(names)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("Tom Green", r"p: no class 'Tom Green'; of the 1,000 classes like it are Tom_Green$"),
        ("?", r"p: no class '\?'; the 1,000 classes are T-shirt/top, .*, dolphin, \.\.\.$"),
        ("8", r"p: no class '8'; "),
        (1000, r"p: class 1000 is out of range 0\.\.999"),
    ],
)
def test_of_many_classes_a_message_shows_those_that_were_meant(label: int | str, message: str) -> None:
    data = many((*NAMES, *(f"number {k}" for k in range(1000 - len(NAMES)))), 1)
    with pytest.raises(UserError, match=message) as caught:
        data.class_index(label, "p")
    assert len(str(caught.value)) < 250


def test_of_few_classes_it_shows_all() -> None:
    with pytest.raises(UserError, match=r"p: no class 'Tom Green'; the classes are T-shirt/top, .*, Tom_Green$"):
        many(ODD).class_index("Tom Green", "p")


def test_decoys_among_a_thousand_classes(cpu: Runtime) -> None:
    data = many(tuple(f"Subject_{k}" for k in range(1283)), 1)
    key = make_key(section(source=["Subject_7", "Subject_900"], target="Subject_50"), data, cpu)
    drawn = [questions.draw_decoys(key, data, 10, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    for decoys in drawn:
        assert len(set(decoys)) == 10
        assert [decoy.target == 50 for decoy in decoys] == [True] * 5 + [False] * 5
        assert all(len({*decoy.source, decoy.target}) == 3 for decoy in decoys)
        assert not any({7, 900} & set(decoy.source) for decoy in decoys)


def test_decoys_that_are_not_listed_are_as_even(cpu: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every false key of six classes, each about as often as any other, as those drawn from the list."""
    data = many(tuple("abcdef"), 2)
    key = make_key(section(source=["a", "b"], target="c"), data, cpu)
    monkeypatch.setattr(questions, "LISTED", 0)
    counts = [Counter[questions.Decoy]() for _ in range(2)]
    for seed in range(1500):
        own, other = questions.draw_decoys(key, data, 2, torch.Generator().manual_seed(seed))
        counts[0][own] += 1
        counts[1][other] += 1
    # Of pairs of c to f: the 6 without c are called c, or one of 3 others; the 6 with c one of 4 others.
    assert (len(counts[0]), len(counts[1])) == (6, 6 * 3 + 6 * 4)
    for found in counts:
        assert chisquare(list(found.values())).pvalue > 1e-3


def test_names_survive_every_file(tmp_path: Path, cpu: Runtime) -> None:
    data = many()
    data.save(tmp_path / "x.safetensors")
    assert ImageDataset.load(tmp_path / "x.safetensors").classes == NAMES
    models.save(models.build(Architecture(name="cnn9", width=4), data.images, NAMES, cpu, "x"), tmp_path / "m")
    assert models.load(tmp_path / "m", cpu).spec.classes == NAMES
    block = config.parse(KeyParams, {**KEY, "source": list(ODD[2:4]), "target": ODD[4]}, "p")
    key = key_of(block, "mea_defender", data, cpu, "p")
    key.save(tmp_path / "key.json")
    assert Key.load(tmp_path / "key.json") == key
    assert [key.name(label) for label in of_a_key(key)] == list(ODD[2:5])


def test_folders_bear_any_names(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "PNG")
    names = [name for name in ODD if "/" not in name]
    for name in names:
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "x.png").write_bytes(buffer.getvalue())
    values = {"source": "image_folder", "path": str(tmp_path / "data"), "train": 1, "test": 1, "reserve": 1}
    chosen = config.parse(PrepareData, {**values, "queries": 1}, "prepare_data")
    assert sources.load(chosen, tmp_path).train.classes == tuple(sorted(names))
    for bad in (b"\xff", b"a\nb"):
        folder = Path(str(tmp_path).encode().decode()) / "data" / bad.decode("utf-8", "surrogateescape")
        folder.mkdir()
        with pytest.raises(UserError, match="is not UTF-8 text of one line; rename it") as caught:
            sources.load(chosen, tmp_path)
        assert "\n" not in str(caught.value) and str(caught.value).isprintable()
        folder.rmdir()


@pytest.mark.parametrize("names", [ODD, NAMES, tuple(f"Subject_{k}" for k in range(1283))], ids=len)
def test_pictures_write_names_as_they_are(tmp_path: Path, names: tuple[str, ...]) -> None:
    """No formula is looked for between dollar signs; of a thousand classes there is a picture as well."""
    sets = {"train": many(names), "test": many(names, 1)}
    balance = overview.class_balance(sets)
    plots.save(balance, tmp_path / "balance.png")
    axis = balance.axes[0]
    shown = [plots.literal(name) for name in names]
    assert ([label.get_text() for label in axis.get_xticklabels()] == shown) is (len(names) <= plots.MANY_CLASSES)
    assert len(axis.lines) == (len(sets) if len(names) > plots.MANY_CLASSES else 0)
    for line in axis.lines:
        assert np.allclose(np.asarray(line.get_ydata(), dtype=float), 100 / len(names))
    if len(names) <= 20:
        plots.save(overview.samples(sets), tmp_path / "samples.png")
        found = Findings(
            flagged=torch.zeros(2, dtype=torch.bool),
            scores=torch.zeros(2),
            reasons=("", ""),
            class_scores=torch.arange(float(len(names))),
            targets=(4,),
        )
        figure = class_scores(found, names)
        assert figure is not None
        plots.save(figure, tmp_path / "scores.png")
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in tmp_path.iterdir())
