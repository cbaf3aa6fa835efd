"""Parameters: every mistake is one line that names the parameter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hallmark import config
from hallmark.config import RuntimeConfig, Training
from hallmark.errors import UserError

GOOD = {"device": "cpu", "threads": 1, "precision": "fp32", "seed": 0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"device": "tpu"}, r"p: runtime\.device: .*'cpu'.*not 'tpu'"),
        ({"threads": 0}, r"p: runtime\.threads: .*greater than or equal to 1, not 0"),
        ({"threads": "2"}, r"p: runtime\.threads: .*valid integer, not '2'"),
        ({"seed": -1}, r"p: runtime\.seed: "),
        ({"sede": 1}, r"p: runtime\.sede: unknown parameter; did you mean seed\?$"),
    ],
)
def test_wrong_values_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        config.parse(RuntimeConfig, {**GOOD, **change}, "p: runtime")
    assert "\n" not in str(caught.value)


def test_a_missing_value_is_named() -> None:
    with pytest.raises(UserError, match=r"p: runtime\.seed: field required$"):
        config.parse(RuntimeConfig, {k: v for k, v in GOOD.items() if k != "seed"}, "p: runtime")


def test_not_a_number_is_refused() -> None:
    with pytest.raises(UserError, match="lr"):
        config.parse(Training, {"epochs": 1, "batch_size": 2, "lr": float("nan")}, "t")


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [1", "not valid YAML"), ("- 1", "wants sections"), ("", "wants sections"), (None, "no such file")],
)
def test_unreadable_parameter_files(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "params.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        config.read_params(path)
    assert "\n" not in str(caught.value)


def test_a_missing_section_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no section 'runtime'"):
        config.section({}, "runtime", RuntimeConfig, tmp_path)
