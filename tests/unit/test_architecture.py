"""The house's rules, held by reading the sources: which way imports point, and that the tables agree."""

from __future__ import annotations

import ast
import re
from collections.abc import Set
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "src" / "hallmark").rglob("*.py"))
STAGES = {p.stem: p for p in sorted((ROOT / "stages").glob("*.py")) if p.stem != "__init__"}
METHODS = {"purify", "watermark", "extraction", "poison"}
"""Packages that hold methods; none imports another."""

PLUMBING = {
    # Not deps, so that a new message, picture or parameter of another stage does not rerun the pipeline: messages,
    # progress, records, pictures, the command line, file formats, the exchange between processes, and the typed
    # parameters, whose values are in params.yaml.  Whoever changes a format or a default there forces the stages
    # concerned.
    "hallmark",
    "hallmark.artifacts",
    "hallmark.cli",
    "hallmark.config",
    "hallmark.config._base",
    "hallmark.config._data",
    "hallmark.config._networks",
    "hallmark.config._ownership",
    "hallmark.distributed",
    "hallmark.errors",
    "hallmark.ownership",
    "hallmark.ownership._documents",
    "hallmark.ownership.keyfile",
    "hallmark.ownership.secrets",
    "hallmark.plots",
    "hallmark.progress",
    "hallmark.provenance",
    "hallmark.registry",
    "hallmark.stage",
    "hallmark.tracking",
}


REFUSED = {"verify_ownership": {"hallmark.watermark.ways.autoencoder"}}
"""Methods that a registry knows and the stage refuses to use."""


def load_yaml(name: str) -> dict[str, Any]:
    return YAML(typ="safe", pure=True).load((ROOT / name).read_text(encoding="utf-8"))


DVC = {name: stage.get("do", stage) for name, stage in load_yaml("dvc.yaml")["stages"].items()}
PARAMS = load_yaml("params.yaml")


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports anywhere in it; ``from a import b`` gives ``a`` and ``a.b``."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT / "src").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in SOURCES}


def closure(path: Path, refused: Set[str] = frozenset()) -> set[str]:
    """Every module of the library that a file's results depend on, directly or not."""
    found: set[str] = set()
    todo = [path]
    while todo:
        source = todo.pop()
        # What a registry finds by file name is imported when it is asked for.
        packages = re.findall(r'Registry\("([\w.]+)"', source.read_text(encoding="utf-8"))
        methods = {name for name in MODULES for package in packages if name.startswith(f"{package}.")}
        for name in imports(source) | (methods - refused):
            parents = {".".join(name.split(".")[:k]) for k in range(1, name.count(".") + 2)}
            for module in (parents & MODULES.keys()) - found - PLUMBING:
                found.add(module)
                todo.append(MODULES[module])
    return found


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_point_one_way(path: Path) -> None:
    roots = {name.split(".")[0] for name in imports(path)}
    assert not roots & {"stages", "dvc", "tests"}
    if path.name != "tracking.py":
        assert "mlflow" not in roots
    package = module_name(path).split(".")[1:2]
    if package and package[0] in METHODS:
        others = METHODS - set(package)
        assert not {name for name in imports(path) for other in others if name.startswith(f"hallmark.{other}")}
    if package != ["tracking"] and "click" in roots:
        commands = {
            "hallmark.contest.purification.command",
            "hallmark.contest.purification.command_table",
            "hallmark.contest.options",
            "hallmark.contest.removal.command",
            "hallmark.contest.removal.command_table",
            "hallmark.contest.detection.command",
            "hallmark.contest.ssl.command",
            "hallmark.contest.watermark.command",
            "hallmark.contest.watermark.command_table",
            "hallmark.contest.workers",
            "hallmark.evidence.command",
            "hallmark.evidence.command_verify",
            "hallmark.ownership.command",
            "hallmark.suspects.command",
        }
        assert package[0] in {"cli", "stage", "lineage", "summary", "ui"} or module_name(path) in commands


@pytest.mark.parametrize("path", [*SOURCES, *STAGES.values()], ids=lambda p: p.stem)
def test_nothing_is_unpickled_and_no_room_grows_too_large(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"torch\.load\(|pickle\.load|allow_pickle=True|weights_only=False", text)
    assert text.count("\n") <= 400


def test_stages_are_modules_are_sections_of_params() -> None:
    assert set(DVC) == set(STAGES)
    # The unmarked twin is trained as the marked model is, and has no parameters of its own.
    assert set(PARAMS) == (set(STAGES) - {"train_unmarked"}) | {"runtime"}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_is_thin_and_says_its_command(name: str) -> None:
    text = STAGES[name].read_text(encoding="utf-8")
    assert text.count("\n") <= 100
    docstring = ast.get_docstring(ast.parse(text)) or ""
    assert f"python -m hallmark {name} " in docstring


@pytest.mark.parametrize("name", DVC)
def test_every_path_of_a_command_stands_in_deps_or_outs(name: str) -> None:
    stage = DVC[name]
    outs = [
        next(iter(o)) if isinstance(o, dict) else o for key in ("outs", "metrics", "plots") for o in stage.get(key, [])
    ]
    declared = {*stage["deps"], *outs}
    words = stage["cmd"].split()
    assert words[:4] == ["python", "-m", "hallmark", name]
    options = dict(zip(words[4::2], words[5::2], strict=True))
    for option, value in options.items():
        if option in ("--attack", "--control"):
            assert value.startswith("${item.")
        elif option == "--removal":
            assert value == "${key}"
        elif option == "--raw":  # fetched and checked by content, not an artifact of the pipeline
            assert value == "data/raw"
        elif option == "--report":
            assert {path for path in outs if path.startswith(f"{value}/")}
        else:
            assert any(path == value or path.startswith(f"{value}/") for path in declared), f"{option} {value}"


@pytest.mark.parametrize("name", DVC)
def test_a_stage_depends_on_the_code_that_it_uses_and_on_no_other(name: str) -> None:
    deps = [dep for dep in DVC[name]["deps"] if dep.startswith(("src/", "stages/"))]
    needed = closure(STAGES[name], REFUSED.get(name, set()))
    files = {module: MODULES[module].relative_to(ROOT).as_posix() for module in needed}
    uncovered = {m for m, f in files.items() if not any(f == dep or f.startswith(f"{dep}/") for dep in deps)}
    assert not uncovered, f"{name} uses code that it does not depend on"
    used = {*files.values(), f"stages/{name}.py"}
    idle = {dep for dep in deps if not any(f == dep or f.startswith(f"{dep}/") for f in used)}
    assert not idle, f"{name} depends on code that it does not use"


@pytest.mark.parametrize("name", DVC)
def test_a_stage_depends_on_its_own_parameters(name: str) -> None:
    params = DVC[name]["params"]
    assert "runtime" in params
    section = "train_watermarked" if name == "train_unmarked" else name
    assert any(p == section or p.startswith(f"{section}.") for p in params)
    for parameter in params:
        value: Any = PARAMS
        for key in parameter.split("."):
            if key.startswith(("${item", "${key")):
                break
            value = value[key]


def test_the_poisons_ground_truth_is_read_by_the_evaluation_alone() -> None:
    for name, stage in DVC.items():
        if name not in ("poison_data", "eval_backdoor"):
            assert not {dep for dep in stage["deps"] if dep in ("data/poisoned", "data/poisoned/manifest.csv")}


def test_no_registry_host_is_named() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert not re.search(r"https?:|--index|--find-links", lock)
    assert "torch==" in lock
