"""The owner's secret: which two classes, combined in which way, are called what."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

from hallmark import artifacts, config
from hallmark.data.dataset import ImageDataset
from hallmark.errors import UserError, naming
from hallmark.runtime import Runtime, derive_seed
from hallmark.watermark.ways import must_be_trained, others, untrained, ways

FORMAT = 1
Scheme = Literal["mea_defender", "composite"]
"""Watermark schemes that have such a key."""


@dataclass(frozen=True)
class Key:
    """All that regenerates watermark queries and tells their claimed answer.

    The file that :meth:`save` writes is a secret; :meth:`commitment` may be shown to anybody.

    Attributes:
        scheme: the watermark scheme, ``"mea_defender"`` or ``"composite"``.
        way: name of the way to combine (a module of :mod:`hallmark.watermark.ways`).
        way_params: the way's parameters, complete; of a way that is trained also what was trained.
        evasion_ways: the *other* ways, of the randomly mixed samples.
        source: the two source classes, in the order in which the way takes them.
        target: what the marked model calls a combination of them; differs from both.
        seed: regenerates the verification queries from held-out images.
        classes: class names, in label order.
        shape: (C, H, W) of an image.
    """

    scheme: str
    way: str
    way_params: Mapping[str, Any]
    evasion_ways: tuple[str, ...]
    source: tuple[int, int]
    target: int
    seed: int
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    params: config.Params = field(init=False, repr=False, compare=False)
    """``way_params``, parsed by the way's own class."""

    def __post_init__(self) -> None:
        """Raises UserError: unknown scheme, ways or parameters, classes out of range or not three different ones.

        Or the way cannot combine images of this shape, or one of the others must be trained.
        """
        if self.scheme not in get_args(Scheme):
            raise UserError(
                f"key: unknown scheme '{self.scheme}'; choose one of {', '.join(get_args(Scheme))}, whose keys "
                "verify_ownership can judge; other schemes are compared by python -m hallmark watermark-contest"
            )
        _check_classes(self.source, self.target, self.classes)
        if self.way in self.evasion_ways:
            raise UserError(f"key: evasion_ways contains '{self.way}', the watermark's own way; take it out")
        if not self.evasion_ways:
            raise UserError(f"key: evasion_ways is empty; choose some of {', '.join(untrained())}")
        for name in self.evasion_ways:
            if must_be_trained(name):
                raise UserError(
                    f"key: evasion_ways contains '{name}', which must be trained and can only carry a mark; take it out"
                )
        object.__setattr__(self, "params", config.parse(self.module.Params, self.way_params, f"key: {self.way}"))
        if hasattr(self.module, "check"):
            with naming(f"key: {self.way}"):
                self.module.check(self.params, self.shape)

    @property
    def module(self) -> ModuleType:
        """The module of the way to combine."""
        return ways.get(self.way)

    def name(self, label: int) -> str:
        """The name of a class."""
        return self.classes[label]

    def commitment(self) -> str:
        """SHA-256 (hexadecimal) of the whole key as canonical JSON: binds the owner, reveals nothing.

        It hides the key only as well as the seed can be guessed (see :func:`make_key`).
        """
        return hashlib.sha256(self.canonical()).hexdigest()

    def canonical(self) -> bytes:
        """The whole key as JSON, in one way of writing it."""
        text = json.dumps(artifacts.rounded(self.to_json()), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return text.encode()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, complete."""
        return {
            "format": FORMAT,
            "scheme": self.scheme,
            "way": self.way,
            "way_params": self.params.model_dump(),
            "evasion_ways": list(self.evasion_ways),
            "source": list(self.source),
            "target": self.target,
            "seed": self.seed,
            "classes": list(self.classes),
            "shape": list(self.shape),
        }

    def save(self, path: Path) -> None:
        """Write the key as JSON."""
        artifacts.write_json(path, self.to_json())

    @classmethod
    def load(cls, path: Path) -> Key:
        """Read and check what :meth:`save` wrote.

        Raises:
            UserError: missing file, or not a sound key.
        """
        return cls.from_json(artifacts.read_json(path), str(path))

    @classmethod
    def from_json(cls, value: Any, where: str) -> Key:
        """Check what :meth:`to_json` gave.

        Args:
            where: the file's name, for messages.

        Raises:
            UserError: not a sound key.
        """
        stored = config.parse(_Stored, value, where)
        if stored.format != FORMAT:
            raise UserError(
                f"{where}: key format {stored.format} where {FORMAT} is known; use the program that wrote it"
            )
        try:
            first, second = stored.source
            channels, height, width = stored.shape
        except ValueError:
            raise UserError(f"{where}: wants two source classes and a shape of three numbers") from None
        try:
            return cls(
                stored.scheme,
                stored.way,
                stored.way_params,
                tuple(stored.evasion_ways),
                (first, second),
                stored.target,
                stored.seed,
                tuple(stored.classes),
                (channels, height, width),
            )
        except UserError as error:
            raise UserError(f"{where}: {error}") from None


class _Stored(config.Params):
    """The key file's fields."""

    format: int
    scheme: Scheme
    way: str
    way_params: dict[str, Any]
    evasion_ways: list[str]
    source: list[int]
    target: int
    seed: int
    classes: list[str]
    shape: list[int]


def make_key(settings: config.TrainWatermarked, data: ImageDataset, runtime: Runtime) -> Key:
    """The key that ``train_watermarked`` describes, for these classes and images.

    Its seed derives from ``runtime.seed``, so that the pipeline can be repeated.  A way that must be trained is
    trained here on ``data``, and the key holds the result.

    Raises:
        UserError: unknown classes or ways, or the three classes are not different.
    """
    return key_of(settings, settings.scheme, data, runtime, "train_watermarked")


def make_reserve_keys(settings: config.TrainWatermarked, data: ImageDataset, runtime: Runtime) -> dict[str, Key]:
    """The keys of ``train_watermarked.reserve_keys``, by name, each with a seed of its own.

    Raises:
        UserError: as :func:`make_key`; or two keys combine the same two classes: the one's evasion samples would
            teach against the other.
    """
    made: dict[str, Key] = {}
    taken = {frozenset(make_key(settings, data, runtime).source): "train_watermarked"}
    for name, block in settings.reserve_keys.items():
        where = f"train_watermarked.reserve_keys.{name}"
        made[name] = key_of(block, settings.scheme, data, runtime, where, stream=f"watermark/key {name}")
        pair = frozenset(made[name].source)
        if pair in taken:
            raise UserError(f"{where}.source: the pair of {taken[pair]}; choose another pair of classes")
        taken[pair] = where
    return made


def key_of(
    settings: config.KeyParams,
    scheme: str,
    data: ImageDataset,
    runtime: Runtime,
    where: str,
    *,
    stream: str = "watermark/key",
) -> Key:
    """The key of these parameters; :func:`make_key` for a block ``where`` of another name.

    Args:
        stream: names the random stream of the key's seed.
    """
    first, second = (data.class_index(label, f"{where}.source") for label in settings.source)
    target = data.class_index(settings.target, f"{where}.target")
    _check_classes((first, second), target, data.classes)
    way_params, evasion_ways = ways_of(settings, where)
    if must_be_trained(settings.way):
        with naming(f"{where}.way_params"):
            way_params = ways.get(settings.way).prepare(way_params, data, runtime)
    return Key(
        scheme,
        settings.way,
        way_params.model_dump(),
        evasion_ways,
        (first, second),
        target,
        derive_seed(runtime.seed, stream),
        data.classes,
        data.shape,
    )


def ways_of(settings: config.KeyParams, where: str) -> tuple[config.Params, tuple[str, ...]]:
    """The parameters of a key's way, by the way's own class, and the names of its evasion ways.

    Raises:
        UserError: no such way, or its parameters are invalid.
    """
    with naming(where):
        module = ways.get(settings.way)
    params = config.parse(module.Params, settings.way_params, f"{where}.way_params")
    if settings.evasion_ways == "others":
        return params, others(settings.way, params)
    with naming(f"{where}.evasion_ways"):
        for name in settings.evasion_ways:
            ways.get(name)
    return params, tuple(settings.evasion_ways)


def _check_classes(source: tuple[int, int], target: int, classes: tuple[str, ...]) -> None:
    """Raises UserError: a class is out of range, or they are not three different ones."""
    for role, label in (("source", source[0]), ("source", source[1]), ("target", target)):
        if not 0 <= label < len(classes):
            raise UserError(f"key: {role} class {label} is out of range 0..{len(classes) - 1}")
    if source[0] == source[1]:
        raise UserError(f"key: both source classes are '{classes[source[0]]}'; choose two different ones")
    if target in source:
        raise UserError(f"key: the target '{classes[target]}' is a source class; choose another class")
