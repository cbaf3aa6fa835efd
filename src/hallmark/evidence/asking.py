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
from hallmark.suspects.answer import join
from hallmark.verification.answers import LEAN, STATISTICS, Answers, leaders, read, ruled_out, targets
from hallmark.verification.panel import PLAIN_SOURCES, ask_nulls
from hallmark.verification.questions import Questions
from hallmark.watermark.key import Key

LEAN_DIGITS = 1e-3
"""What a null model's lean may differ by on another machine, which gives other last digits of every probability."""


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
    table = {row["model"]: row for row in ask_nulls(questions, folder, started(how))}
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
        said = {**row, "accuracy": float(row["accuracy"])}
        for name in ("accuracy", *STATISTICS, *PLAIN_SOURCES):
            if not _same(said[name], artifacts.rounded(own[name]), LEAN_DIGITS if name == LEAN else 0.0):
                raise UserError(f"{row['model']}: {name} is {row[name]}, and {own[name]} when asked again")
    return f"{len(table)} null models asked again: their weights and counts are those stated"


def _same(stated: Any, own: Any, tolerance: float) -> bool:
    if stated is None or own is None:
        return stated is own
    return abs(stated - own) <= tolerance


DECISIVE = ("watermark", "first", "second", "decoys", "task")
"""The parts on whose answers a verdict hangs: all but the other ways, which are reported."""


@dataclass(frozen=True)
class Again:
    """Put questions to a suspect once more: all those on which a verdict hangs, and a random share of the rest.

    Every part is compared on its own: made up answers to one of them would drown in the rest.  How many answers may
    change says nothing of how many a verdict hangs on, so the verdict is to be found again from what is answered now.

    Attributes:
        share: of the other parts, 0-1; at least one question of each is asked.
        allowed: share of changed answers in a part, 0-1; the judge's, not that of the rule.
    """

    questions: Questions
    share: float
    seed: int
    allowed: float

    def compare(self, description: Mapping[str, Any], stated: Answer, suspect: Suspect) -> tuple[str, Answers]:
        """Ask, and say how many answers changed.

        Args:
            description: of the suspect, in the transcript's header.
            stated: the transcript's answers to the questions, in their order.

        Returns:
            what was found, and the outcomes with the new answers in the place of the stated ones.

        Raises:
            UserError: another file than the transcript is of, more changed than allowed, or scores appeared from
                nowhere.
        """
        hashes, own = description.get("sha256"), suspect.describe().get("sha256")
        if own is not None and hashes is None:
            raise UserError("the transcript does not say which file was asked: this may be another suspect")
        if hashes is not None and own is not None and hashes != own:
            raise UserError("the file has another SHA-256 than the transcript says: this is another suspect")
        index = self._index()
        before, now = stated.at(index), suspect.scores(self.questions.images[index])
        scored = before.probabilities is not None or before.top is not None
        if scored and now.probabilities is None and now.top is None:
            raise UserError("the transcript has scores, and the suspect gives none: this is another suspect")
        changed = before.labels != now.labels
        if scored:
            changed |= self._leads(before, index) != self._leads(now, index)
        found, texts = [], []
        for name, part in self.questions.parts.items():
            if (asked := (index >= part.start) & (index < part.stop)).any():
                found.append(float(changed[asked].float().mean()))
                texts.append(f"{found[-1]:.1%} of {int(asked.sum()):,} {name.replace('_', ' ')}")
        text = f"asked again (--seed {self.seed}), it answers {', '.join(texts)} questions otherwise"
        text = f"{text}, {self.allowed:.1%} allowed"
        if max(found) > self.allowed:
            raise UserError(f"{text}: this is another suspect, or the transcript was made up")
        place = torch.arange(len(self.questions.images))
        place[index] = len(place) + torch.arange(len(index))
        return text, read(self.questions, join([stated, now]).at(place))

    def _index(self) -> Tensor:
        """int64 positions of the questions, those of all parts in random order."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "verify-evidence/again"))
        chosen = []
        for name, part in self.questions.parts.items():
            size = part.stop - part.start
            count = size if name in DECISIVE else max(1, round(self.share * size))
            chosen.append(part.start + torch.randperm(size, generator=generator)[:count])
        index = torch.cat(chosen)
        return index[torch.randperm(len(index), generator=generator)]

    def _leads(self, answer: Answer, index: Tensor) -> Tensor:
        """What verdicts take from the scores, one int64 a question.

        Of a watermark query the class that leads (every other class in the target's place is a negative control), of
        any other question whether the target does: a decoy's own, for a decoy's.  The lean hangs on every probability,
        which another machine gives in other last digits: it is found again from what is answered now.
        """
        leader = leaders(answer, ruled_out(self.questions)[index])
        marked = index < self.questions.parts["watermark"].stop
        return torch.where(marked, leader, (leader == targets(self.questions)[index]).long())
