"""What contests' parameter files have in common: changes from the command line, sections, hashes, names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from hallmark import config
from hallmark.config import Params, PrepareData, RuntimeConfig
from hallmark.errors import UserError, naming
from hallmark.registry import Registry


@dataclass(frozen=True)
class BasePlan:
    """A validated parameter file of a contest; a subclass has its own sections as further fields, in their order."""

    SECTIONS: ClassVar[Mapping[str, type[Params]]] = {}

    path: Path
    runtime: RuntimeConfig
    """The seed is replaced by each of the contest's."""
    prepare_data: PrepareData

    @classmethod
    def read(cls, path: Path, changes: Sequence[str] = ()) -> Self:
        """Read ``path``; ``changes`` are ``SECTION.NAME=VALUE``, the value in YAML.

        Raises:
            UserError: a parameter is wrong or missing, of a method as well.
        """
        kinds = {"runtime": RuntimeConfig, "prepare_data": PrepareData, **cls.SECTIONS}
        plan = cls(path, *read_sections(path, changes, kinds).values())
        plan.check_methods()
        return plan

    def check_methods(self) -> None:
        """Refuse what a method would refuse: a mistyped block must not become the figures of a method that failed.

        Raises:
            UserError: no such method, or its block is invalid.
        """
        raise NotImplementedError

    def at(self, seed: int) -> Self:
        """The same with ``runtime.seed``."""
        return replace(self, runtime=self.runtime.model_copy(update={"seed": seed}))


def data_values(prepare: PrepareData, dataset: str | None) -> dict[str, Any]:
    """What a hash knows the data by: where a contest names its data set, the place of the files does not count."""
    if dataset is None:
        return prepare.model_dump()
    return {**prepare.model_dump(), "path": None, "dataset": dataset}


def method_block(registry: Registry, method: str, values: Mapping[str, Any], where: str) -> Params:
    """The block ``params`` of a method that a plan names, by the method's own class.

    Args:
        where: the block that names the method, for messages.

    Raises:
        UserError: no such method, or the block is invalid.
    """
    with naming(where):
        module = registry.get(method)
    return config.parse(module.Params, values, f"{where}.params")


def known_names(where: str, *choices: tuple[str, Collection[str], Collection[str]]) -> None:
    """Refuse names that a plan does not hold.

    Args:
        where: the file and its section.
        choices: what the names are of, those given, those there are.

    Raises:
        UserError: the first unknown one.
    """
    for kind, given, known in choices:
        if unknown := [name for name in given if name not in known]:
            raise UserError(f"{where} has no {kind} '{unknown[0]}'; there are {', '.join(known)}")


def digest(values: Any) -> str:
    """SHA-256 of plain values, 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def override(values: dict[str, Any], change: str) -> None:
    """Set one parameter of a parameter file's content in place.

    A section's own block that the file leaves to its defaults is begun (``purify_data.scan.threshold=3``); one that the
    section does not know is refused when the content is read.  Other blocks are not begun, for a thief or an attack
    of another name is a valid one that nobody asked for.

    Args:
        change: ``SECTION.NAME=VALUE``, the value in YAML.

    Raises:
        UserError: no such form, no such section, or a part of the name is no block.
    """
    from ruamel.yaml import YAML, YAMLError  # noqa: PLC0415 - needed for this alone

    name, sign, text = change.partition("=")
    *blocks, last = name.split(".")
    if not sign or not blocks or not all([*blocks, last]):
        raise UserError(f"--set {change}: wants SECTION.NAME=VALUE")
    if blocks[0] not in values:
        raise UserError(f"--set {change}: there is no section '{blocks[0]}' in the parameter file")
    place: Any = values
    for depth, block in enumerate(blocks):
        place = place.setdefault(block, {}) if depth == 1 else place.get(block)
        if not isinstance(place, dict):
            raise UserError(
                f"--set {change}: there is no block '{'.'.join(blocks[: depth + 1])}' in the parameter file"
            )
    try:
        place[last] = YAML(typ="safe", pure=True).load(text)
    except YAMLError:
        raise UserError(f"--set {change}: the value is no YAML") from None


def read_sections(path: Path, changes: Sequence[str], kinds: Mapping[str, type[config.Params]]) -> dict[str, Any]:
    """Sections of a parameter file, typed, by name; ``changes`` as for :func:`override`.

    Raises:
        UserError: a parameter is wrong or missing.
    """
    values = config.read_params(path)
    for change in changes:
        override(values, change)
    return {name: config.section(values, name, kind, path) for name, kind in kinds.items()}
