"""From the revealed key, the judge's images, transcripts and null counts to the verdicts, as the stage does it."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hallmark import artifacts, suspects
from hallmark.config import VerifyOwnership
from hallmark.data.dataset import ImageDataset
from hallmark.errors import UserError
from hallmark.evidence import document
from hallmark.evidence.document import Evidence
from hallmark.ownership.commitment import Opening
from hallmark.suspects import Replayed
from hallmark.verification import panel, questions
from hallmark.verification.answers import COUNTED, LEAN, REPEATED, Answers, Enough
from hallmark.verification.decision import Verdict
from hallmark.verification.panel import PANEL_COLUMNS, PLAIN_SOURCES
from hallmark.verification.questions import DECOY_QUERIES, Questions, most_task

MAX_PIXELS = 1 << 34
"""Of all questions together."""
_COUNT = re.compile(r"0|[1-9][0-9]{0,6}")
_SHARE = re.compile(r"0(\.[0-9]{1,6})?|1(\.0{1,6})?|[1-9](\.[0-9])?e-0[5-6]")
_LEAN = re.compile(r"|-?(0|[1-9][0-9]{0,2})(\.[0-9]{1,6})?|-?[1-9](\.[0-9])?e-0[5-6]")
"""Of a model of 100,000 classes it is below 64, whatever it answers."""
_HASH = re.compile(r"[0-9a-f]{64}")
MAX_NULLS = 10_000
WHOLE = (*COUNTED, *PLAIN_SOURCES)
"""Columns of nulls.csv with whole numbers."""
_NULL = re.compile(r"[^\x00-\x1f\x7f]{1,255}")


def draw(opening: Opening, pool: ImageDataset, rule: VerifyOwnership) -> Questions:
    """The questions of an opened key, as the stage draws them.

    Raises:
        UserError: the key is not for these images, they are too few, or the questions too many for any memory.
    """
    count = _most(rule, len(pool.classes), len(pool))
    if count * pool.images[0].numel() > MAX_PIXELS:
        raise UserError(f"{count:,} questions of such images are more than {MAX_PIXELS >> 30} GiB")
    key = opening.watermark_key()
    return questions.draw(key, pool, queries=rule.queries, decoys=rule.decoys, judge_seed=rule.judge_seed)


def most_answers(rule: VerifyOwnership, classes: int, images: int) -> int:
    """As many answers as a transcript can have, of a pool of so many classes and images, the repeated ones too."""
    most = _most(rule, classes, images)
    return most + max(1, round(REPEATED * most))


def _most(rule: VerifyOwnership, classes: int, images: int) -> int:
    """As many questions as there can be."""
    return 4 * rule.queries + DECOY_QUERIES * rule.decoys + min(images, most_task(classes))


def replayed(verified: suspects.Verified, where: str, asked: Questions) -> Replayed:
    """A transcript's replay from its beginning."""
    return Replayed(verified, where, asked.key.shape, asked.key.classes)


def stopping(evidence: Evidence, table: Sequence[Mapping[str, Any]], rule: VerifyOwnership) -> dict[str, Enough]:
    """When each model had answered enough, as the stage finds it."""
    groups = ([m.name for m in evidence.models if m.role == role] for role in ("suspect", "control"))
    return {name: enough for group in groups for name, enough in panel.stopping(table, rule, group).items()}


def judge_all(
    evidence: Evidence,
    given: Mapping[str, Answers],
    inconsistent: Mapping[str, float],
    null_table: list[dict[str, Any]],
    rule: VerifyOwnership,
) -> list[Verdict]:
    """The verdicts as the stage computes them: suspects first, then controls.

    Raises:
        UserError: the nulls are too few, or the numbers are none that a verdict can be made of.
    """
    accuracy = float(given[evidence.reference.model].correct.mean())
    by_role = {
        role: {m.name: given[m.name] for m in evidence.models if m.role == role} for role in ("suspect", "control")
    }
    try:
        return panel.judge(by_role, null_table, accuracy, rule, inconsistent)
    except (ValueError, ArithmeticError) as error:
        raise UserError(f"no verdict can be made of these answers and nulls ({error})") from None


def null_table(path: Path, rule: VerifyOwnership) -> list[dict[str, Any]]:
    """Rows of nulls.csv, with whole numbers where there are counts.

    Raises:
        UserError: a cell that is none of such a table.
    """
    rows = artifacts.read_csv(path, PANEL_COLUMNS)
    for number, row in enumerate(rows, 2):
        counts = [row[name] for name in WHOLE]
        fit = set(row) == set(PANEL_COLUMNS) and _NULL.fullmatch(row["model"])
        fit = fit and _SHARE.fullmatch(row["accuracy"]) and _HASH.fullmatch(row["sha256"])
        fit = fit and _LEAN.fullmatch(row[LEAN])
        if not fit or not all(_COUNT.fullmatch(text) and int(text) <= rule.queries for text in counts):
            raise UserError(
                f"{document.NULLS}: line {number} wants a name, an accuracy, counts of 0 to {rule.queries:,}, a lean, "
                "a hash"
            )
    if len(rows) > MAX_NULLS:
        raise UserError(f"{document.NULLS}: has {len(rows):,} null models; more than {MAX_NULLS:,} are not looked at")
    if len(rows) < 2 or len({row["model"] for row in rows}) < len(rows):
        raise UserError(f"{document.NULLS}: wants at least two null models, each once")
    leans = [{LEAN: float(row[LEAN]) if row[LEAN] else None} for row in rows]
    return [{**row, **{name: int(row[name]) for name in WHOLE}, **lean} for row, lean in zip(rows, leans, strict=True)]


def difference(expected: bytes, stated: list[dict[str, str]]) -> str:
    """The first cell that differs, in words."""
    lines = expected.decode().splitlines()
    if len(lines) - 1 != len(stated):
        return f"{len(stated)} are stated, {len(lines) - 1} follow"
    for ours, theirs in zip(csv.DictReader(io.StringIO(expected.decode())), stated, strict=True):
        for column, value in ours.items():
            if theirs.get(column) != value:
                return f"{ours['model']}: {column} is '{theirs.get(column, '')[:60]}', and '{value[:60]}' follows"
    return "the file is not written as the stage writes it"
