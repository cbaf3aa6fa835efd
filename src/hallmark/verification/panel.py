"""Whom the questions are put to: suspects and controls, with every answer kept, and the null models."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hallmark import artifacts, suspects
from hallmark.config import VerifyOwnership
from hallmark.errors import UserError
from hallmark.progress import progress
from hallmark.runtime import Runtime
from hallmark.suspects import Suspect
from hallmark.suspects.adapt import Classes
from hallmark.suspects.kinds import safetensors
from hallmark.verification import power
from hallmark.verification.answers import COUNTED, LEAN, STATISTICS, Answers, Enough, ask, read
from hallmark.verification.decision import STOLEN, Nulls, Stopping, Verdict, decide
from hallmark.verification.questions import Questions
from hallmark.watermark.key import Key

PLAIN_SOURCES = ("plain_first", "plain_second")
PANEL_COLUMNS = ("model", "accuracy", *STATISTICS, *PLAIN_SOURCES, "sha256")
"""Of the table of null models: accuracy on the task questions, counts of the watermark queries, the lean (empty: it
says nothing), how many of either source class's images, unmixed, are called the target, and the weights."""
ALIKE = 0.05
"""Of a source class's plain images: if null models call more of them the target, on average, the two classes are so
much alike that labellers draw the line between them otherwise, and an innocent fires for his labels."""
WORK = Path(".hallmark/verify_ownership")
"""Transcripts of an interrupted run: what a suspect has answered is not asked, or paid for, again."""


def open_models(folders: Mapping[str, Path], key: Key, runtime: Runtime) -> dict[str, Suspect]:
    """Folders of Hallmark models as suspects.

    Raises:
        UserError: a missing or damaged folder, or other classes than the key's.
    """
    return {
        name: safetensors.open_suspect(
            safetensors.Params(kind="safetensors", path=folder.as_posix()), key.classes, key.shape, runtime, name
        )
        for name, folder in folders.items()
    }


def ask_all(
    questions: Questions,
    opened: Mapping[str, Suspect],
    transcripts: Path,
    enough: Mapping[str, Enough | None] = {},
) -> tuple[dict[str, Answers], dict[str, float]]:
    """Put the questions to every suspect and control.

    Args:
        transcripts: folder to write, one file a model, when all have answered.
        enough: by name, when it has answered enough; whoever is not in it gets all questions.

    Returns:
        answers, and the share of repeated questions that were answered otherwise, by name.

    Raises:
        UserError: one does not answer; what the others have said is kept for the next run.
    """
    given, inconsistent = {}, {}
    for name, suspect in opened.items():
        classes = getattr(suspect, "classes", None)
        if isinstance(classes, Classes) and classes.merged:
            raise UserError(
                f"{name}: mapping: several of its classes are '{classes.merged[0]}'; together they fire more often "
                "than a null model's single class, and prove nothing: map one of them, and the others to null"
            )
    asked = hashlib.sha256(questions.images.numpy().tobytes())
    places = {
        name: _place(asked.copy(), suspect, enough.get(name)) / f"{name}.jsonl" for name, suspect in opened.items()
    }
    with progress(len(opened), "suspects and controls", "model") as advance:
        for name, suspect in opened.items():
            key = questions.key
            if suspect.budget is None:  # in this process: a run of its own, which costs nothing
                shutil.rmtree(places[name].parent, ignore_errors=True)
            with suspects.recording(suspect, places[name], key.shape, key.classes) as recorded:
                given[name], consistency = ask(questions, recorded, enough.get(name))
            inconsistent[name] = consistency.share
            advance(1)
    with artifacts.replacing(transcripts) as folder:
        folder.mkdir(parents=True)
        for name in opened:
            shutil.copyfile(places[name], folder / f"{name}.jsonl")
    for place in places.values():
        shutil.rmtree(place.parent)
    return given, inconsistent


def _place(asked: hashlib._Hash, suspect: Suspect, enough: Enough | None) -> Path:
    """The folder of a suspect's unfinished transcript: another suspect, other questions or another end have another."""
    asked.update(json.dumps(suspect.describe(), sort_keys=True).encode())
    asked.update(repr(enough).encode())
    return WORK / asked.hexdigest()[:16]


def ask_nulls(questions: Questions, folder: Path, runtime: Runtime) -> list[dict[str, Any]]:
    """Put the questions to every null model.

    Args:
        folder: one subfolder a model.

    Returns:
        one row a model, under :data:`PANEL_COLUMNS`.

    Raises:
        UserError: fewer than two models, or one that does not fit.
    """
    folders = {path.name: path for path in sorted(folder.iterdir()) if path.is_dir()} if folder.is_dir() else {}
    if len(folders) < 2:
        raise UserError(f"{folder}: wants at least two null models, one subfolder each; run train_nulls")
    table = []
    with progress(len(folders), "null models", "model") as advance:
        for name, suspect in open_models(folders, questions.key, runtime).items():
            table.append(null_row(name, suspect, read(questions, suspect.scores(questions.images))))
            advance(1)
    return table


def null_row(name: str, suspect: Suspect, answers: Answers) -> dict[str, Any]:
    """A null model of :func:`open_models` and its answers, under :data:`PANEL_COLUMNS`."""
    weights = suspect.describe()["sha256"]["model.safetensors"]
    return {"model": name, "accuracy": float(answers.correct.mean()), **figures(answers), "sha256": weights}


def figures(answers: Answers) -> dict[str, Any]:
    """What is kept of a null model: two counts, a lean, which is None where it says nothing, plain source images."""
    plain = dict(zip(PLAIN_SOURCES, (int(half.sum()) for half in np.split(answers.plain, 2)), strict=True))
    counts = {statistic: int(answers.outcomes[statistic].watermark.sum()) for statistic in COUNTED}
    # Rounded as in the table, so that whoever reads that finds the same verdicts.
    return {**counts, LEAN: None if answers.lean is None else artifacts.rounded(answers.lean.value), **plain}


def stopping(table: Sequence[Mapping[str, Any]], rule: VerifyOwnership, models: Iterable[str]) -> dict[str, Enough]:
    """When each of these models, judged together, has answered enough, for :func:`ask_all`; empty: never early.

    Args:
        table: of the null models, under :data:`PANEL_COLUMNS`.
    """
    names = list(models)
    if rule.stop_early is None:
        return {}
    return dict.fromkeys(names, Stopping(tuple(null_counts(table)["hits"].tolist()), rule, len(names)))


def power_table(table: Sequence[Mapping[str, Any]], verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """What could be found of the suspects among these verdicts, under :data:`power.COLUMNS`.

    Args:
        table: of the null models, under :data:`PANEL_COLUMNS`.
    """
    suspect = next(verdict for verdict in verdicts if verdict.role == "suspect")
    return power.table(null_counts(table)["hits"], suspect.rule, suspect.level)


def null_counts(table: Sequence[Mapping[str, Any]]) -> Nulls:
    """The counts and leans in a table of null models, by statistic; no leans unless every model has one."""
    counts: dict[str, NDArray[Any]] = {name: np.array([int(row[name]) for row in table]) for name in COUNTED}
    return counts if _mute(table) else {**counts, LEAN: np.array([float(row[LEAN]) for row in table])}


def _mute(table: Sequence[Mapping[str, Any]]) -> list[str]:
    """The null models whose lean says nothing: None, or empty where the table was read from a file."""
    return [row["model"] for row in table if row[LEAN] in (None, "")]


def alike(table: Sequence[Mapping[str, Any]], queries: int) -> list[str]:
    """Why no verdict rests on this key, in words: null models call plain images of a source class the target.

    Args:
        table: under :data:`PANEL_COLUMNS`.
        queries: watermark queries, and images of each source class, that they were asked.
    """
    rates = {name: float(np.mean([int(row[name]) for row in table])) / queries for name in PLAIN_SOURCES}
    return [
        f"null models call {rate:.1%} of the plain images of the key's {name.removeprefix('plain_')} source class its "
        f"target, {ALIKE:.0%} allowed: such classes are alike, and an innocent's labels may differ there"
        for name, rate in rates.items()
        if rate > ALIKE
    ]


def null_faults(table: Sequence[Mapping[str, Any]], reference_accuracy: float, rule: VerifyOwnership) -> list[str]:
    """Why no evidence against these null models is valid, in words; empty if it can be.

    Args:
        table: under :data:`PANEL_COLUMNS`.
    """
    faults = alike(table, rule.queries)
    if len({row["sha256"] for row in table}) < len(table):
        faults.append("a null model is there twice: copies are no replicates")
    if LEAN in rule.statistics and (mute := _mute(table)):
        faults.append(f"{len(mute)} null models have no lean ({mute[0]}), which the rule names")
    floor = rule.min_accuracy_share * reference_accuracy
    if weak := [row["model"] for row in table if not float(row["accuracy"]) >= floor]:
        faults.append(f"{len(weak)} null models do not do the main task ({weak[0]}: accuracy below {floor:.1%})")
    return faults


def judge(
    given: Mapping[str, Mapping[str, Answers]],
    table: Sequence[Mapping[str, Any]],
    reference_accuracy: float,
    rule: VerifyOwnership,
    inconsistent: Mapping[str, float],
) -> list[Verdict]:
    """The verdicts on all: suspects first, then controls.

    A control is innocent: if one is called stolen, no suspect can be.

    Args:
        given: under ``suspect`` and ``control``: answers by name.
        table: of the null models, under :data:`PANEL_COLUMNS`.
        reference_accuracy, rule, inconsistent: as for :func:`hallmark.verification.decision.decide`.
    """
    nulls, faults = null_counts(table), null_faults(table, reference_accuracy, rule)

    def verdicts(role: str) -> list[Verdict]:
        return decide(given[role], nulls, reference_accuracy, rule, role=role, inconsistent=inconsistent, faults=faults)

    innocent = verdicts("control")
    faults += [f"the control {v.name}, an innocent, is called stolen" for v in innocent if v.decision == STOLEN]
    return verdicts("suspect") + innocent
