"""The bundle's files and its table of contents, ``evidence.json``."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from hallmark import artifacts
from hallmark.config import FILE_NAME, FileName, Params, Share, VerifyOwnership
from hallmark.errors import UserError
from hallmark.ownership import _documents
from hallmark.ownership._documents import Sha256

FORMAT = 1
EVIDENCE, SIGNATURE = "evidence.json", "evidence.sig"
COMMITMENT, OPENING, VERDICTS, NULLS, PAGE = (
    "commitment.json",
    "opening.json",
    "verdicts.csv",
    "nulls.csv",
    "index.html",
)
MAX_MODELS, MAX_FIGURES, MAX_ENTRIES = 1000, 100, 10_000
MAX_FILE, MAX_TRANSCRIPT = 16 << 20, 1 << 30
"""Bytes of a file, and of a transcript."""
_FIGURE = re.compile(r"figures/[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\.png")


class Pool(Params):
    """The judge's images: the data set file's SHA-256, their number, class names, and (C, H, W)."""

    sha256: Sha256
    images: Annotated[int, Field(ge=1)]
    classes: Annotated[list[str], Field(max_length=100_000)]
    shape: Annotated[list[int], Field(min_length=3, max_length=3)]


class Reference(Params):
    """The watermarked model among the models: suspects must reach a share of its accuracy (0-1)."""

    model: FileName
    accuracy: Share


class Model(Params):
    """A model that was asked.

    Attributes:
        role: suspects and controls are judged, and corrected for their number, separately.
        transcript: the transcript's head.
        description: the transcript's ``suspect``: what the model said to be.
    """

    name: FileName
    role: Literal["suspect", "control"]
    transcript: Sha256
    description: dict[str, Any]


class Asking(Params):
    """How this process ran the models that it asked itself: null models are to be asked again alike."""

    precision: Literal["bf16", "fp32"]
    threads: Annotated[int, Field(ge=1, le=256)]


class Evidence(Params):
    """``evidence.json``.

    Attributes:
        commitment: the hash that opens to the key and the rule.
        judge_seed, keys: the judge's part of section ``verify_ownership``.
        rule: the committed part, as it was applied.
        models: in the order of verdicts.csv.
        files: SHA-256 of every other file but the signature, by path within the bundle.
    """

    format: Literal[1]
    commitment: Sha256
    judge_seed: int
    keys: int
    rule: dict[str, Any]
    pool: Pool
    reference: Reference
    models: Annotated[list[Model], Field(min_length=1, max_length=MAX_MODELS)]
    asking: Asking
    files: Annotated[dict[str, Sha256], Field(max_length=MAX_MODELS + MAX_FIGURES + 5)]

    @classmethod
    def read(cls, bundle: Path) -> Evidence:
        """Parse a bundle's ``evidence.json``; nothing else is opened, nothing in it is believed.

        Raises:
            UserError: not a bundle.
        """
        path = bundle / EVIDENCE
        if bundle.is_symlink() or path.is_symlink():
            raise UserError(f"{path}: is a link, or in a linked folder; give the bundle's own folder")
        value = _documents.loads(artifacts.read_bytes(path, _documents.MAX_BYTES), str(path))
        return _documents.checked(cls, value, str(path))

    def canonical(self) -> bytes:
        """The file's bytes (RFC 8785)."""
        return _documents.canonical(self.model_dump(), EVIDENCE)

    def transcripts(self) -> dict[str, str]:
        """Path within the bundle of every model's transcript, by model."""
        return {model.name: transcript(model.name) for model in self.models}

    def figures(self) -> list[str]:
        """Listed paths that are pictures, sorted."""
        return sorted(name for name in self.files if _FIGURE.fullmatch(name))

    def section(self) -> VerifyOwnership:
        """The rule and the judge's part as the section that was applied, without suspects.

        Raises:
            UserError: they do not make one.
        """
        if extra := sorted(VerifyOwnership.OF_THE_CASE & self.rule.keys()):
            raise UserError(f"rule.{extra[0]}: is the judge's, and no part of a committed rule")
        value = {**self.rule, "judge_seed": self.judge_seed, "keys": self.keys, "suspects": {}}
        return _documents.checked(VerifyOwnership, value, "rule")


def is_name(text: str) -> bool:
    """Whether a model may be called so in a bundle."""
    return re.fullmatch(FILE_NAME, text) is not None


def transcript(name: str) -> str:
    """Path within the bundle of a model's transcript."""
    return f"transcripts/{name}.jsonl"


def misfits(files: Mapping[str, Any], models: Mapping[str, str]) -> list[str]:
    """What is wrong with a list of files: those that every bundle has and it has not, and those that none has.

    Args:
        models: :meth:`Evidence.transcripts`.
    """
    wanted = {COMMITMENT, OPENING, VERDICTS, NULLS, PAGE, *models.values()}
    unknown = [name for name in files if name not in wanted and not _FIGURE.fullmatch(name)]
    return [
        *(f"{name} is not listed" for name in sorted(wanted - files.keys())),
        *(f"{name} is listed, and is no file of a bundle" for name in sorted(unknown)),
    ]


def walk(bundle: Path) -> tuple[dict[str, int], list[str]]:
    """Sizes of the regular files by path within the bundle, and what else is there."""
    found: dict[str, int] = {}
    unfit, entries = [], 0
    todo = [(bundle, "")]
    while todo:
        folder, prefix = todo.pop()
        for entry in os.scandir(folder):
            name = prefix + entry.name
            entries += 1
            if entries > MAX_ENTRIES:
                return found, [*unfit, f"there are more than {MAX_ENTRIES:,} files"]
            if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
                unfit.append(f"{name} is a link or a special file")
            elif entry.is_file():
                found[name] = entry.stat().st_size
            elif name in ("transcripts", "figures"):
                todo.append((Path(entry.path), f"{name}/"))
            else:
                unfit.append(f"{name} is a folder that no bundle has")
    return found, unfit
