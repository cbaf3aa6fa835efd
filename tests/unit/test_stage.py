"""What stages share: names of the matrix stages' blocks, blocks of methods, whose sources run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from hallmark import poison
from hallmark.errors import UserError, naming
from hallmark.purify import methods
from hallmark.runtime import Runtime
from hallmark.stage import MODELS, Stage


def stage(cpu: Runtime, attacks: dict[Any, Any], controls: dict[Any, Any]) -> Stage:
    params = {"extract_attack": {"attacks": attacks}, "train_controls": {"controls": controls}}
    return Stage("any", Path("p.yaml"), params, cpu, cast("Any", None), Path("report"))


def test_blocks_are_named_apart_from_each_other_and_from_other_models(cpu: Runtime) -> None:
    sound = stage(cpu, {"a": {}, "b": {}}, {"c": {}})
    assert sound.names("extract_attack", "attacks") == ["a", "b"]
    assert sound.names("train_controls", "controls") == ["c"]
    clash = stage(cpu, {"a": {}}, {"a": {}})
    with pytest.raises(UserError, match=r"p\.yaml: extract_attack\.attacks\.a: .*train_controls\.controls\.a; choose"):
        clash.names("extract_attack", "attacks")
    with pytest.raises(UserError, match=r"p\.yaml: train_controls\.controls\.a: .*extract_attack\.attacks\.a; choose"):
        clash.names("train_controls", "controls")
    for name in MODELS:
        with pytest.raises(UserError, match=rf"extract_attack\.attacks\.{name}: the name is taken by a model"):
            stage(cpu, {name: {}}, {"c": {}}).names("extract_attack", "attacks")
    with pytest.raises(UserError, match=r"attacks\.1: a name must be text"):
        stage(cpu, {1: {}}, {}).names("extract_attack", "attacks")


def test_blocks_of_unused_methods_are_read_as_well() -> None:
    for blocks, message in (
        ({"foo": 1}, r"^p: s\.foo: unknown parameter"),
        ({"dataelixir": {"bogus": 1}}, r"^p: s\.dataelixir\.bogus"),
    ):
        with pytest.raises(UserError, match=message):
            methods.registry.parameters("hallmark", blocks, "p: s")
    assert poison.registry.parameters("badnets", {"badnets": {}, "blended": {}}, "p: s")


def test_the_place_is_put_before_a_message() -> None:
    with pytest.raises(UserError, match=r"^p\.yaml: x\.y: too few$"), naming("p.yaml: x.y"):
        raise UserError("too few")


@pytest.mark.parametrize("command", ["", "verify-evidence", "key"], ids=["copy", "bundle", "claim"])
@pytest.mark.parametrize("linked", [False, True], ids=["own", "link"])
def test_a_copy_of_the_repository_starts_again_once(tmp_path: Path, linked: bool, command: str) -> None:
    """But no folder of a stranger's brings code that runs."""
    import hallmark.__main__ as start  # noqa: PLC0415

    if linked:  # the very sources that run, by another name: nothing to start again with
        (tmp_path / "src").symlink_to(Path(start.__file__).parents[1])
    else:  # a copy that never comes first on the path would start itself for ever
        (tmp_path / "src" / "hallmark").mkdir(parents=True)
        (tmp_path / "src" / "hallmark" / "__main__.py").touch()
    code = (
        f"import os, sys, hallmark.__main__ as m; sys.argv = ['hallmark', '{command}', '.']; calls = [];"
        "os.execve = lambda *a: calls.append(a[2]);"
        "m.use_this_checkout(); [os.environ.update(e) for e in calls]; m.use_this_checkout(); print(len(calls))"
    )
    environment = {k: v for k, v in os.environ.items() if k != start.STARTED_WITH}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ("0" if linked or command else "1")
