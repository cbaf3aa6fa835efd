"""What a contest of removals says of a model: the pipeline's verdict where the mark has a key, or what comes near it.

Marks of the schemes with a key are judged by :class:`hallmark.verification.court.Court`, once by hits and once by the
lean, in place of the rule's ``statistics``.  The others have no unmixed pairs and no decoys: of them the null models
alone decide, by hits and by the mean log-odds of what the queries are called.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from hallmark import models
from hallmark.config import VerifyOwnership
from hallmark.data.dataset import ImageDataset
from hallmark.models import Network
from hallmark.runtime import Runtime
from hallmark.training import accuracy
from hallmark.verification import log_odds, nulls, panel
from hallmark.verification.answers import LEAN
from hallmark.verification.court import Court
from hallmark.verification.decision import INVALID, NOT_SHOWN, STOLEN, Test, Verdict
from hallmark.watermark.key import Key
from hallmark.watermark.schemes import Mark, Queries
from hallmark.watermark.schemes._keyed import KeyMark

LOG_ODDS = "log_odds"
"""The statistic of marks without a key."""


class Judge(Protocol):
    """Judges models for one mark, against the null models."""

    def says(self, network: Network) -> dict[str, Any]:
        """``runner_up`` ... ``why_score`` of :data:`hallmark.contest.removal.plan.COLUMNS`."""
        ...


def judge_of(
    mark: Mark,
    innocents: Sequence[Network],
    *,
    test: ImageDataset,
    asked: Queries,
    rule: VerifyOwnership,
    reference: float,
    runtime: Runtime,
) -> Judge:
    """The judge of a mark.

    Args:
        innocents: the null models.
        test: labelled images that no model was trained on.
        asked: the mark's queries, which are all that a mark without a key is asked.
        reference: the victim's accuracy, 0-1.
    """
    if isinstance(mark, KeyMark):
        court = Court(rule=rule, pool=test, nulls=innocents, run=runtime, reference=reference)
        return KeyJudge(mark.key, court)
    return QueriesJudge(asked, innocents, test, rule, reference, runtime)


@dataclass(frozen=True)
class KeyJudge:
    """The pipeline's verdict."""

    key: Key
    court: Court

    def says(self, network: Network) -> dict[str, Any]:
        """See :class:`Judge`."""
        answers, inconsistent = self.court.ask(self.key, network)
        table = self.court.questions(self.key)[1]
        counts = panel.null_counts(table)
        by_hits, by_score = (
            self.court.decide(self.key, answers, inconsistent, statistics=[name]) for name in ("hits", LEAN)
        )
        found, leans = by_score.tests.get(LEAN), counts.get(LEAN)
        return {
            "runner_up": float(answers.outcomes["runner_up"].watermark.mean()),
            "null_wsr": float(counts["hits"].max()) / self.court.rule.queries,
            **_hits(by_hits.tests["hits"].null.p, by_hits.decision, _failed(by_hits)),
            "statistic": LEAN,
            "score": None if answers.lean is None else answers.lean.value,
            "null_score": None if leans is None else float(leans.max()),
            "auc": None if leans is None or answers.lean is None else _above(leans, answers.lean.value),
            **_score(_p(found), by_score.decision, _failed(by_score)),
        }


def _above(scores: ArrayLike, own: float) -> float:
    """Share of the null models with a lower score; an equal one counts half."""
    values = np.asarray(scores, dtype=np.float64)
    return float(((values < own) + 0.5 * (values == own)).mean())


def _p(test: Test | None) -> float | None:
    return None if test is None else test.null.p


def _failed(verdict: Verdict) -> str:
    return " | ".join(verdict.failed)


@dataclass(frozen=True)
class QueriesJudge:
    """Against the null models alone."""

    asked: Queries
    innocents: Sequence[Network]
    test: ImageDataset
    rule: VerifyOwnership
    reference: float
    runtime: Runtime

    @cached_property
    def nulls(self) -> list[tuple[int, float]]:
        """Hits and log-odds of the null models."""
        return [self._asked(network) for network in self.innocents]

    def _asked(self, network: Network) -> tuple[int, float]:
        found = models.probabilities(network, self.asked.images, self.runtime)
        odds = log_odds.target_log_odds(found, self.asked.labels).mean()
        return int((found.argmax(1) == self.asked.labels).sum()), float(odds)

    def says(self, network: Network) -> dict[str, Any]:
        """See :class:`Judge`; no runner-up, for without source classes that is the hits."""
        hits, odds = self._asked(network)
        counts, scores = zip(*self.nulls, strict=True)
        trials = len(self.asked.images)
        p_hits = nulls.predictive_p(counts, trials, hits).p
        p_score = log_odds.predictive_p(scores, odds).p
        found, floor = accuracy(network, self.test, self.runtime), self.rule.min_accuracy_share * self.reference

        def decided(p: float) -> tuple[str, str]:
            if found < floor:
                return INVALID, f"accuracy {found:.1%}, {floor:.1%} needed"
            if p > self.rule.alpha:
                return NOT_SHOWN, f"p = {p:.2g}, {self.rule.alpha:g} needed"
            return STOLEN, ""

        return {
            "runner_up": None,
            "null_wsr": max(counts) / trials,
            **_hits(p_hits, *decided(p_hits)),
            "statistic": LOG_ODDS,
            "score": odds,
            "null_score": max(scores),
            "auc": _above(scores, odds),
            **_score(p_score, *decided(p_score)),
        }


def _hits(p: float, verdict: str, why: str) -> dict[str, Any]:
    return {"p_hits": p, "verdict_hits": verdict, "why_hits": why}


def _score(p: float | None, verdict: str, why: str) -> dict[str, Any]:
    return {"p_score": p, "verdict_score": verdict, "why_score": why}
