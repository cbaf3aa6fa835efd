"""One network in every form answers alike; other sizes, values and classes; files that strangers may have written."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from torch import Tensor, nn

from hallmark import models, suspects
from hallmark.config import Architecture, parse
from hallmark.data.dataset import ImageDataset
from hallmark.errors import UserError
from hallmark.models import Network
from hallmark.runtime import Runtime
from hallmark.suspects import memory
from hallmark.suspects.adapt import Adapter, Classes, Input
from tests.unit.conftest import toy_images
from tests.unit.fuzzing import FUZZ, examples
from tests.unit.serving import images_of, serving

SHAPE = (1, 8, 8)


@pytest.fixture
def network(cpu: Runtime, toy: ImageDataset) -> Network:
    """A small network that was not trained, but calls about as many images each class."""
    network = models.build(Architecture(name="cnn9", width=4), toy.images, toy.classes, cpu, "x").eval()
    head = network.head
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        head.bias.sub_(models.logits(network, toy.images, cpu).mean(0))
    assert len(models.logits(network, toy.images, cpu).argmax(1).unique()) == 3
    return network


def write_script(network: nn.Module, path: Path, shape: tuple[int, ...] = SHAPE) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(network, torch.rand(2, *shape)), str(path))
    return path


def write_pt2(network: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        batch = torch.export.Dim("batch", min=1)
        torch.export.save(torch.export.export(network, (torch.rand(2, *SHAPE),), dynamic_shapes=({0: batch},)), path)
    return path


def write_onnx(network: nn.Module, path: Path, *, fixed: bool = False) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        axes = None if fixed else {"x": {0: "batch"}, "y": {0: "batch"}}
        images = torch.rand(7, *SHAPE)
        torch.onnx.export(
            network, (images,), str(path), input_names=["x"], output_names=["y"], dynamic_axes=axes, dynamo=False
        )
    return path


def build(block: dict[str, Any], data: ImageDataset, cpu: Runtime) -> suspects.Suspect:
    return suspects.build("s", block, data.classes, data.shape, cpu)


def test_every_form_gives_the_same_labels(cpu: Runtime, toy: ImageDataset, network: Network, tmp_path: Path) -> None:
    expected = models.logits(network, toy.images, cpu)
    models.save(network, tmp_path / "model")
    blocks: dict[str, dict[str, Any]] = {
        "safetensors": {"kind": "safetensors", "path": str(tmp_path / "model")},
        "script": {"kind": "torchscript", "path": str(write_script(network, tmp_path / "m.pt")), "trust": True},
        "pt2": {"kind": "torchscript", "path": str(write_pt2(network, tmp_path / "m.pt2")), "trust": True},
        "onnx": {"kind": "onnx", "path": str(write_onnx(network, tmp_path / "m.onnx"))},
        "fixed": {"kind": "onnx", "path": str(write_onnx(network, tmp_path / "f.onnx", fixed=True))},
    }

    def answer(body: dict[str, Any]) -> Any:
        images = images_of(body)
        scores = models.logits(network, images, cpu)
        return {"predictions": scores.tolist()} if "inputs" in body else {"scores": scores.tolist()}

    with serving(answer) as server:
        for name, extra in {
            "mlflow": {"form": "mlflow"},
            "raw": {},
            "png": {"encoding": "png"},
            "nhwc": {"input": {"layout": "nhwc"}},
        }.items():
            blocks[name] = {"kind": "http", "url": server.url, "batch": 16, **extra}
        found = {name: build(block, toy, cpu) for name, block in blocks.items()}
        found["memory"] = memory.suspect(network, cpu, Classes.match(toy.classes, None, {}), toy.shape)
        for name, suspect in found.items():
            answers = suspect.scores(toy.images)
            assert torch.equal(answers.labels, expected.argmax(1)), name
            assert torch.equal(suspect.predict(toy.images), answers.labels)
            assert answers.probabilities is not None
            torch.testing.assert_close(answers.probabilities, expected.softmax(1), atol=1e-5, rtol=0)
            assert json.dumps(suspect.describe())


def test_programs_need_trust(cpu: Runtime, toy: ImageDataset, network: Network, tmp_path: Path) -> None:
    for path in (write_script(network, tmp_path / "m.pt"), write_pt2(network, tmp_path / "m.pt2")):
        with pytest.raises(UserError, match=r"suspects\.s\.trust: .* can run code"):
            build({"kind": "torchscript", "path": str(path)}, toy, cpu)


def test_a_hostile_pt2_would_run_code_and_is_not_opened_without_trust(
    cpu: Runtime, toy: ImageDataset, network: Network, tmp_path: Path
) -> None:
    import pickle  # noqa: PLC0415 - to write a hostile file, never to read one
    import zipfile  # noqa: PLC0415

    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    source, target = write_pt2(network, tmp_path / "m.pt2"), tmp_path / "hostile.pt2"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("model_weights_config.json"):
                config = json.loads(data)
                for each in config["config"].values():
                    each["use_pickle"] = True
                data = json.dumps(config).encode()
            elif "/weights/weight_" in name:
                data = pickle.dumps(Hostile())
            new.writestr(name, data)
    block = {"kind": "torchscript", "path": str(target)}
    with pytest.raises(UserError, match="trust"):
        build(block, toy, cpu)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(UserError, match="not an exported program"):
        build(block | {"trust": True}, toy, cpu)
    assert (tmp_path / "ran").exists(), "torch no longer unpickles pt2 files: the docs can say so"


# ---------------------------------------------------------------------------------------------- images and classes


def test_sizes_channels_values_and_layout() -> None:
    images = toy_images(4, size=8).images
    x = Adapter(Input(size=[16, 12], channels=3, range=[-1.0, 1.0]), (1, 8, 8))(images)
    assert x.shape == (4, 3, 16, 12)
    assert torch.equal(x[:, 0], x[:, 2])
    assert -1 <= float(x.min()) < -0.5
    nhwc = Adapter(Input(layout="nhwc"), (1, 8, 8))(images)
    assert torch.equal(nhwc[..., 0], images[:, 0] / 255)
    normal = Adapter(Input(mean=[0.5], std=[0.25]), (1, 8, 8))(images)
    torch.testing.assert_close(normal, (images / 255 - 0.5) / 0.25)
    colour = toy_images(4, channels=3).images
    grey = Adapter(Input(channels=1, dtype="uint8"), (3, 8, 8))(colour)
    assert grey.dtype == torch.uint8
    from PIL import Image  # noqa: PLC0415

    expected = Image.fromarray(colour[0].permute(1, 2, 0).numpy()).convert("L")
    assert (torch.tensor(list(expected.tobytes())).view(8, 8) - grey[0, 0].int()).abs().max() <= 1
    small = Adapter(Input(size=[4, 4], dtype="uint8"), (1, 8, 8))(images)
    # With antialias a quarter of the size still sees every pixel.
    assert float((small.float().mean() - images.float().mean()).abs()) < 4
    with pytest.raises(UserError, match="images of"):
        Adapter(Input(), (1, 9, 9))(images)
    for wrong in ({"mean": [0.5]}, {"dtype": "uint8", "range": [0.0, 2.0]}):
        with pytest.raises(UserError):
            parse(Input, wrong, "input")
    with pytest.raises(UserError, match=r"input\.mean: 3 values for 1 channels"):
        Adapter(Input(mean=[0.0] * 3, std=[1.0] * 3), (1, 8, 8))


def test_order_and_names_of_classes() -> None:
    match = Classes.match(("cat", "dog", "owl"), ("bird", "hound", "cat", "wolf", "car"),
                          {"bird": "owl", "hound": "dog", "wolf": "dog", "car": None})  # fmt: skip
    assert match.to_ours == (2, 1, 0, 1, -1)
    assert match.hard(torch.tensor([0, 1, 2, 3, 4])).labels.tolist() == [2, 1, 0, 1, -1]
    soft = match.soft(torch.tensor([[0.1, 0.25, 0.05, 0.2, 0.4], [0.6, 0.1, 0.1, 0.1, 0.1]]), "probabilities")
    assert soft.labels.tolist() == [-1, 2]
    assert soft.probabilities is not None
    torch.testing.assert_close(soft.probabilities, torch.tensor([[0.05, 0.45, 0.1], [0.1, 0.2, 0.6]]))
    top = match.best(torch.tensor([[4, 0], [2, -1]]), torch.tensor([[0.5, 0.2], [0.9, 0.0]]))
    assert top.labels.tolist() == [-1, 0]
    assert top.top is not None
    assert top.top.classes.tolist() == [[-1, 2], [0, -1]]


@pytest.mark.parametrize(
    ("theirs", "mapping", "message"),
    [
        (["a", "x"], {}, "class 'x' is none of ours"),
        (["a", "a"], {}, "twice"),
        (["a", "b"], {"q": "a"}, "no class 'q'"),
        (["x"], {"x": None}, "none of the suspect's classes"),
        (["a", "b"], {"a": "z"}, "none of ours"),
    ],
)
def test_classes_that_do_not_match(theirs: list[str], mapping: dict[str, str | None], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Classes.match(("a", "b"), theirs, mapping)


def test_a_model_of_another_size_and_order(cpu: Runtime, toy: ImageDataset, network: Network, tmp_path: Path) -> None:
    class Other(nn.Module):
        """RGB 16x16 in -1 to 1, classes in another order."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = network

        def forward(self, x: Tensor) -> Tensor:
            small = nn.functional.avg_pool2d(x.mean(1, keepdim=True), 2)
            return self.inner((small + 1) / 2)[:, [2, 0, 1]]

    path = write_script(Other().eval(), tmp_path / "m.pt", (3, 16, 16))
    block = {
        "kind": "torchscript",
        "path": str(path),
        "trust": True,
        "classes": ["band 2", "first", "band 1"],
        "mapping": {"first": "band 0"},
        "input": {"size": [16, 16], "channels": 3, "range": [-1.0, 1.0]},
    }
    ours = models.logits(network, toy.images, cpu).argmax(1)
    agreement = (build(block, toy, cpu).predict(toy.images) == ours).float().mean()
    assert agreement > 0.9  # bilinear up and down again is not the identity
    with pytest.raises(UserError, match=r"wants|fails on images|gives"):
        build(block | {"classes": ["band 2", "band 0"], "mapping": {}}, toy, cpu)


# ------------------------------------------------------------------------------------------------- foreign files


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({}, "suspects.s.kind: wants one of encoder, http, onnx, safetensors, torchscript, not None"),
        ({"kind": "pickle"}, "wants one of"),
        ({"kind": ["http"]}, "wants one of"),
        ({"kind": "onnx"}, "suspects.s.path: field required"),
        ({"kind": "onnx", "path": "/nowhere/m.onnx"}, "no such file"),
        ({"kind": "onnx", "path": "x", "trust": True}, "unknown parameter"),
        ({"kind": "safetensors", "path": "/nowhere"}, "no such file"),
        ({"kind": "torchscript", "path": "/nowhere/m.pt", "trust": True}, "no such file"),
        ({"kind": "http", "url": "file:///etc/passwd"}, "http://"),
        ({"kind": "http", "url": "http://user:secret@host/"}, "headers_from_env"),
        ({"kind": "http", "url": "http://host:99999/"}, "no URL"),
        ({"kind": "http", "url": "http://h/", "headers_from_env": {"A": "HALLMARK_NOT_SET"}}, "is not set"),
        ({"kind": "http", "url": "http://h/", "input": {"range": [0.0, 2.0]}}, "images of 0-255"),
    ],
)
def test_a_block_that_is_wrong_is_one_line(
    cpu: Runtime, toy: ImageDataset, block: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        build(block, toy, cpu)
    assert message.lower() in str(caught.value).lower()
    assert "\n" not in str(caught.value)


def graph(nodes: list[Any], constants: list[Any] = [], **shapes: Any) -> bytes:  # noqa: B006
    """An ONNX model from ``x`` to ``y``."""
    shapes = {"x": ("n", 1, 8, 8), "y": ("n", 3)} | shapes
    inputs = [helper.make_tensor_value_info("x", shapes.get("type", TensorProto.FLOAT), shapes["x"])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, shapes["y"])]
    made = helper.make_graph(nodes, "g", inputs, outputs, constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


MEAN = helper.make_node("ReduceMean", ["x"], ["m"], axes=[2, 3], keepdims=0)
THREE = helper.make_node("Concat", ["m", "m", "m"], ["y"], axis=1)


def hostile_graphs() -> dict[str, tuple[bytes, str]]:
    huge = helper.make_tensor("s", TensorProto.INT64, [2], [1 << 20, 1 << 14])
    outside = helper.make_tensor("w", TensorProto.FLOAT, [3], [0.0, 0.0, 0.0])
    outside.ClearField("float_data")
    outside.data_location = TensorProto.EXTERNAL
    place = outside.external_data.add()
    place.key, place.value = "location", "weights.bin"
    nan = helper.make_tensor("w", TensorProto.FLOAT, [3], [float("nan")] * 3)
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["again"]), helper.make_node("Add", ["a", "a"], ["b"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("a", TensorProto.FLOAT, ("n", 3)),
        ],
        [
            helper.make_tensor_value_info("again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("b", TensorProto.FLOAT, ("n", 3)),
        ],
    )
    trips = helper.make_tensor("t", TensorProto.INT64, [], [1 << 60])
    true = helper.make_tensor("c", TensorProto.BOOL, [], [True])
    many = helper.make_node("Concat", ["m", "m", "m"], ["z"], axis=1)
    return {
        "memory": (
            graph(
                [
                    helper.make_node("ConstantOfShape", ["s"], ["b"]),
                    helper.make_node("ReduceSum", ["b"], ["r"], keepdims=0),
                    MEAN,
                    helper.make_node("Add", ["m", "r"], ["z"]),
                    helper.make_node("Concat", ["z", "z", "z"], ["y"], axis=1),
                ],
                [huge],
            ),
            "fails on images",
        ),
        "endless": (
            graph([MEAN, many, helper.make_node("Loop", ["t", "c", "z"], ["y"], body=body)], [trips, true]),
            "fails on images",
        ),
        "file": (graph([MEAN, helper.make_node("Add", ["m", "w"], ["y"])], [outside]), "not an ONNX model"),
        "nan": (graph([MEAN, helper.make_node("Add", ["m", "w"], ["y"])], [nan]), "not finite"),
        "custom": (graph([helper.make_node("Evil", ["x"], ["y"], domain="evil")]), "not an ONNX model"),
        "classes": (graph([helper.make_node("Concat", ["m"] * 4, ["y"], axis=1), MEAN][::-1], y=("n", 4)), "gives"),
        "shape": (graph([MEAN, THREE], x=("n", 1, 9, 9)), "takes images"),
        "rank": (graph([helper.make_node("Identity", ["x"], ["y"])], x=("n", 3)), "takes images"),
        "type": (
            graph([helper.make_node("Cast", ["x"], ["f"], to=1), helper.make_node("Flatten", ["f"], ["y"])],
                  type=TensorProto.INT64),
            "takes tensor",
        ),
        "batch": (graph([MEAN, THREE], x=(100_000, 1, 8, 8)), "batches of"),
    }  # fmt: skip


@pytest.mark.parametrize("name", hostile_graphs())
def test_a_hostile_graph_is_one_line(cpu: Runtime, toy: ImageDataset, tmp_path: Path, name: str) -> None:
    data, message = hostile_graphs()[name]
    (tmp_path / "m.onnx").write_bytes(data)
    begin = time.monotonic()
    with pytest.raises(UserError, match=message):
        build({"kind": "onnx", "path": str(tmp_path / "m.onnx"), "timeout": 0.5}, toy, cpu)
    assert time.monotonic() - begin < 10


def test_a_file_beside_the_model_is_not_read(cpu: Runtime, toy: ImageDataset, tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("weights.bin").write_bytes(bytes(12))
    Path("m.onnx").write_bytes(hostile_graphs()["file"][0])
    assert onnx.load("m.onnx")  # it is well-formed
    with pytest.raises(UserError, match="not an ONNX model"):
        build({"kind": "onnx", "path": "m.onnx"}, toy, cpu)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("sound")
    small = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3)).eval()
    return {
        "m.onnx": write_onnx(small, folder / "m.onnx").read_bytes(),
        "m.pt": write_script(small, folder / "m.pt").read_bytes(),
    }


def changed(data: bytes, cut: int, places: list[tuple[int, int]]) -> bytes:
    """``data`` with some bytes replaced, cut off after ``cut``."""
    copy = bytearray(data)
    for place, value in places:
        copy[place % len(copy)] = value
    return bytes(copy[: cut % (len(copy) + 1) or None])


PLACES = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=6)


@settings(FUZZ, max_examples=examples(500))
@given(cut=st.integers(0, 1 << 20), whole=st.booleans(), places=PLACES)
@example(cut=0, whole=True, places=[(1515, 128)])  # the name of the batch's length is then no text
def test_any_onnx_file_is_opened_or_refused(  # noqa: PLR0917 - pytest passes fixtures by name
    cpu: Runtime, toy: ImageDataset, sound: dict[str, bytes], tmp_path: Path, cut: int, whole: bool,
    places: list[tuple[int, int]],
) -> None:  # fmt: skip
    path = tmp_path / "m.onnx"
    path.write_bytes(changed(sound["m.onnx"], 0 if whole else cut, places))
    try:
        build({"kind": "onnx", "path": str(path), "timeout": 5.0}, toy, cpu)
    except UserError as error:
        assert str(path) in str(error)


@settings(FUZZ, max_examples=examples(300))
@given(cut=st.integers(0, 1 << 20), whole=st.booleans(), places=PLACES, description=st.booleans())
def test_any_model_folder_is_opened_or_refused(  # noqa: PLR0917 - pytest passes fixtures by name
    cpu: Runtime, toy: ImageDataset, network: Network, tmp_path: Path, cut: int, whole: bool,
    places: list[tuple[int, int]], description: bool,
) -> None:  # fmt: skip
    models.save(network, tmp_path / "model")
    path = tmp_path / "model" / ("model.json" if description else "model.safetensors")
    path.write_bytes(changed(path.read_bytes(), 0 if whole else cut, places))
    try:
        build({"kind": "safetensors", "path": str(tmp_path / "model")}, toy, cpu)
    except UserError as error:
        assert "model" in str(error)


@pytest.mark.parametrize("name", ["m.pt", "m.pt2", "m.onnx"])
@pytest.mark.parametrize("data", [b"", b"PK", b"PK\x05\x06" + bytes(18), b"\x80\x02.", b"{}" * 1000])
def test_what_is_no_model_is_refused_even_with_trust(
    cpu: Runtime, toy: ImageDataset, tmp_path: Path, name: str, data: bytes
) -> None:
    (tmp_path / name).write_bytes(data)
    extra = {"kind": "onnx"} if name == "m.onnx" else {"kind": "torchscript", "trust": True}
    with pytest.raises(UserError, match="not a"):
        build({"path": str(tmp_path / name), **extra}, toy, cpu)


def test_cut_off_programs_are_refused(cpu: Runtime, toy: ImageDataset, tmp_path: Path, sound: dict[str, bytes]) -> None:
    for length in range(1, len(sound["m.pt"]), 997):
        (tmp_path / "m.pt").write_bytes(sound["m.pt"][:length])
        with pytest.raises(UserError, match="not a TorchScript"):
            build({"kind": "torchscript", "path": str(tmp_path / "m.pt"), "trust": True}, toy, cpu)


def test_no_heavy_library_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys, hallmark.cli; assert 'torch' not in sys.modules; import hallmark.suspects.command; "
        "from hallmark.suspects import registry; [registry.get(n) for n in registry.names()]; "
        "print(sorted({'onnx', 'onnxruntime', 'httpx2', 'tenacity', 'mlflow', 'dvc'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
