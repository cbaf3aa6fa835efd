"""A court in memory: verdicts on many short-lived networks under any key, for contests and benchmarks.

Questions, answers and the decision are those of stages/verify_ownership.py, but each suspect is judged
alone: nothing is corrected for the number of suspects, and no innocent control is judged beside it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from safetensors.torch import save

from hallmark.config import VerifyOwnership
from hallmark.data.dataset import ImageDataset
from hallmark.models import Network
from hallmark.runtime import Runtime
from hallmark.suspects import Suspect, memory
from hallmark.suspects.adapt import Classes
from hallmark.verification import panel, questions
from hallmark.verification.answers import Answers, ask, read
from hallmark.verification.decision import Verdict, decide
from hallmark.verification.questions import Questions
from hallmark.watermark.key import Key


@dataclass(kw_only=True)
class Court:
    """Judge and null models.

    Attributes:
        pool: labelled images that no model was trained on, of which the questions are drawn.
        nulls: innocent models.
        reference: accuracy of the marked model, 0-1; "does the main task" is relative to it.
    """

    rule: VerifyOwnership
    pool: ImageDataset
    nulls: Sequence[Network]
    run: Runtime
    reference: float = 1.0
    _drawn: dict[str, tuple[Questions, list[dict[str, Any]]]] = field(default_factory=dict, repr=False)

    def suspect(self, network: Network) -> Suspect:
        """A network as what answers questions."""
        return memory.suspect(network, self.run, Classes.match(self.pool.classes, None, {}), self.pool.shape)

    def questions(self, key: Key) -> tuple[Questions, list[dict[str, Any]]]:
        """For a key, and the figures of every null model, under :data:`hallmark.verification.panel.PANEL_COLUMNS`."""
        if key.commitment() not in self._drawn:
            rule = self.rule
            asked = questions.draw(key, self.pool, queries=rule.queries, decoys=rule.decoys, judge_seed=rule.judge_seed)
            counted = asked.only("watermark", "first", "second", "task")
            table = []
            for k, network in enumerate(self.nulls):
                answers = read(counted, self.suspect(network).scores(counted.images))
                accuracy = float(answers.correct.mean())
                weights = _sha256(network)
                row = {"model": f"{k:04d}", "accuracy": accuracy, **panel.figures(answers), "sha256": weights}
                table.append(row)
            self._drawn[key.commitment()] = asked, table
        return self._drawn[key.commitment()]

    def ask(self, key: Key, suspect: Suspect | Network) -> tuple[Answers, float | None]:
        """A suspect's answers, and the share of repeated questions that it answered otherwise."""
        suspect = self.suspect(suspect) if isinstance(suspect, Network) else suspect
        answers, consistency = ask(self.questions(key)[0], suspect)
        return answers, consistency.share

    def decide(self, key: Key, answers: Answers, inconsistent: float | None, **changes: Any) -> Verdict:
        """The verdict on these answers.

        Args:
            changes: of the rule.
        """
        table, rule = self.questions(key)[1], self.rule.model_copy(update=changes)
        (verdict,) = decide(
            {"suspect": answers},
            panel.null_counts(table),
            self.reference,
            rule,
            role="suspect",
            inconsistent={} if inconsistent is None else {"suspect": inconsistent},
            faults=panel.null_faults(table, self.reference, rule),
        )
        return verdict

    def verdict(self, key: Key, suspect: Suspect | Network, **changes: Any) -> Verdict:
        """Ask one suspect and decide."""
        return self.decide(key, *self.ask(key, suspect), **changes)


def _sha256(network: Network) -> str:
    return hashlib.sha256(
        save({name: each.cpu().contiguous() for name, each in network.state_dict().items()})
    ).hexdigest()
