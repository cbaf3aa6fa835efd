"""What only asking the models again shows: that they are those of the transcripts, and the nulls those counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hallmark import artifacts, runtime, suspects
from hallmark.config import RuntimeConfig
from hallmark.errors import UserError
from hallmark.evidence.document import Asking
from hallmark.runtime import Runtime, derive_seed
from hallmark.suspects import Answer, Suspect
from hallmark.verification.answers import STATISTICS, target_leads
from hallmark.verification.panel import ask_nulls
from hallmark.verification.questions import Questions
from hallmark.watermark.key import Key


def started(how: Asking) -> Runtime:
    """A runtime of the bundle's precision and threads, on this machine's device."""
    return runtime.start(RuntimeConfig(device="auto", threads=how.threads, precision=how.precision, seed=0))


def opened(name: str, block: Mapping[str, Any], key: Key, how: Asking) -> Suspect:
    """The suspect that the judge's block describes.

    Raises:
        UserError: it cannot be opened.
    """
    return suspects.build(name, block, key.classes, key.shape, started(how))


def same_files(description: Mapping[str, Any], model: Path) -> None:
    """Refuse a reference whose transcript is of other weights than the model's.

    Raises:
        UserError: the transcript's header names other hashes, or none.
    """
    hashes = description.get("sha256")
    for name in ("model.safetensors", "model.json"):
        if not isinstance(hashes, dict) or hashes.get(name) != artifacts.sha256(model / name):
            raise UserError(f"its transcript is not of the {name} that --model has")


def nulls_again(
    stated: Sequence[Mapping[str, Any]], questions: Questions, folder: Path, how: Asking
) -> str:  # fmt: skip
    """Ask all null models again.

    Args:
        stated: rows of nulls.csv.
        folder: one subfolder a model.

    Returns:
        what was found.

    Raises:
        UserError: other models, other weights or other counts, and which.
    """
    table = {row["model"]: row for row in ask_nulls(questions, folder, started(how))[0]}
    names = {row["model"] for row in stated}
    if names != table.keys():
        missing, more = sorted(table.keys() - names), sorted(names - table.keys())
        raise UserError(
            f"the table has not {', '.join(missing[:3]) or 'less'} and has {', '.join(more[:3]) or 'nothing'} more"
        )
    for row in stated:
        own = table[row["model"]]
        if row["sha256"] != own["sha256"]:
            raise UserError(f"{row['model']}: the weights have another SHA-256 than is stated")
        for name in STATISTICS:
            if row[name] != own[name]:
                raise UserError(f"{row['model']}: {name} is {row[name]}, and {own[name]} when asked again")
    return f"{len(table)} null models asked again: their weights and counts are those stated"


@dataclass(frozen=True)
class Again:
    """Put a random share of the questions to a suspect once more.

    The watermark's questions are compared on their own: changed ones among them would drown in the rest.

    Attributes:
        share: of the questions, 0-1; at least one of each kind is asked.
        allowed: share of changed answers, 0-1.
    """

    questions: Questions
    share: float
    seed: int
    allowed: float

    def compare(self, stated: Suspect, suspect: Suspect) -> str:
        """Ask, and say how many answers changed.

        Args:
            stated: answers as the transcript has them.

        Raises:
            UserError: another file than the transcript is of, more changed than allowed, or scores appeared from
                nowhere.
        """
        hashes, own = stated.describe().get("sha256"), suspect.describe().get("sha256")
        if hashes is not None and own is not None and hashes != own:
            raise UserError("the file has another SHA-256 than the transcript says: this is another suspect")
        index = self._index()
        before = _at(stated.scores(self.questions.images), index)
        now = suspect.scores(self.questions.images[index])
        scored = before.probabilities is not None or before.top is not None
        if scored and now.probabilities is None and now.top is None:
            raise UserError("the transcript has scores, and the suspect gives none: this is another suspect")
        changed = before.labels != now.labels
        if scored:
            key = self.questions.key
            first, second = (
                torch.from_numpy(target_leads(a, slice(None), key.source, key.target)) for a in (before, now)
            )
            changed |= first != second
        marked = index < self.questions.parts["watermark"].stop
        found = {}
        for name, part in {"watermark": marked, "other": ~marked}.items():
            found[name] = float(changed[part].float().mean())
        text = ", ".join(
            f"{found[name]:.1%} of {int(part.sum()):,} {name} questions"
            for name, part in {"watermark": marked, "other": ~marked}.items()
        )
        text = f"asked again (--seed {self.seed}), it answers {text} otherwise, {self.allowed:.1%} allowed"
        if max(found.values()) > self.allowed:
            raise UserError(f"{text}: this is another suspect, or the transcript was made up")
        return text

    def _index(self) -> Tensor:
        """int64 positions of the questions, the watermark's and others in random order."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "verify-evidence/again"))
        end, total = self.questions.parts["watermark"].stop, len(self.questions.images)
        chosen = [
            start + torch.randperm(stop - start, generator=generator)[: max(1, round(self.share * (stop - start)))]
            for start, stop in ((0, end), (end, total))
        ]
        index = torch.cat(chosen)
        return index[torch.randperm(len(index), generator=generator)]


def _at(answer: Answer, index: Tensor) -> Answer:
    """The answers at these positions."""
    top = answer.top and suspects.Top(answer.top.classes[index], answer.top.scores[index])
    soft = None if answer.probabilities is None else answer.probabilities[index]
    return Answer(answer.labels[index], soft, top)
