"""The decision rule: from answers to "stolen", "not shown" or "invalid", with reasons.

A suspect is called stolen by one of the rule's statistics (:data:`hallmark.verification.answers.STATISTICS`) if

* independent innocent models (the nulls) reach its value with a probability of at most ``alpha``, Holm-corrected over
  all suspects, statistics and committed keys;
* on the suspect itself the key beats every negative control: the same pairs unmixed, which a third of its hits must
  beat as well (:data:`SPECIFIC`), the other classes in the target's place, all decoy keys but the strongest of the
  key's own target and the strongest of others, and the plain images of every other class, as far as they are called
  the target; of the lean, whose images are unmixed, the other classes in the target's place.  The same pairs mixed in
  other ways are asked and reported, and are no control: copies lose that distinction, innocents do not need it
  (docs/verification.md, measured).

The evidence is invalid, and supports no claim, if the suspect does not do the main task, on the key's own classes as
well, or contradicts itself, if the nulls are too few for the level or unfit, if an innocent control is called stolen,
or if the key is significant but does not beat the controls.

The paper's fixed 30 % threshold (MEA-Defender, section V) is reported and does not decide: at small scale it calls
innocent models stolen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from hallmark import statistics
from hallmark.config import StopEarly, VerifyOwnership
from hallmark.statistics import Bools, Rate
from hallmark.verification import log_odds, nulls
from hallmark.verification.answers import LEAN, OTHER_WAYS, UNMIXED, Answers, Outcomes, paired
from hallmark.verification.log_odds import ScoreP
from hallmark.verification.nulls import NullP
from hallmark.verification.power import queries_needed
from hallmark.verification.sequential import BOUND_SHARE, against_nulls, anytime_p

PAPER_THRESHOLD = 0.30

STOLEN, NOT_SHOWN, INVALID = "stolen", "not shown", "invalid"

KEY_RECALL = 0.5
"""Of the suspect's own accuracy: below it on a class of the key, the classes are mapped wrongly, or it does not know
them.  Two classes that change their names would make an innocent fire."""

EXPECTED_OF_COPIES = {"hits": frozenset({OTHER_WAYS}), "runner_up": frozenset({UNMIXED, OTHER_WAYS})}
"""What is asked but is no negative control of a statistic, because the mark itself brings it about in copies.

The combination loss makes the target the runner-up of plain source images.  What is between the source classes then
becomes the target, in whatever way it is mixed, and the evasion loss, which forbids that, does not pass into a copy by
answers to plain images (docs/verification.md, measured)."""

SPECIFIC = 3
"""The key must fire more than so many times as often as its source images, unmixed, are called the target.  An innocent
to whom some of a source class was taught under the target's name confuses mixtures more often than plain images, but
not by that much (docs/verification.md, measured)."""

_FAILED = "NO: "
"""Begins the clause of a condition that did not pass."""

Nulls = Mapping[str, NDArray[Any]]
"""By statistic: of each null model, how many of the watermark queries had the outcome, int64 ``[M]``, or its lean,
float64 ``[M]``, which is missing where a null model has none."""


@dataclass(frozen=True)
class Test:
    """One statistic of one model against the nulls and against the model's own controls.

    Attributes:
        value: share of the watermark queries, or the lean.
        null: the nulls' p-value.
        p_value: Holm-adjusted over suspects and the rule's statistics, times the number of keys, 1 at most; of a
            statistic that does not decide, the nulls' own.
        needed: the value above which it is significant in Holm's first step; 1 (of the lean infinity): never.
        strongest_control: the negative control on the same model that came closest.
        control_value, control_p: its value, and the p-value of the test that the key's is higher.
    """

    __test__ = False

    statistic: str
    value: float
    null: NullP | ScoreP
    p_value: float
    needed: float
    strongest_control: str
    control_value: float
    control_p: float

    @property
    def reach(self) -> bool:
        """Could any value be significant against these nulls?"""
        return self.needed < (math.inf if self.statistic == LEAN else 1)

    def shown(self, value: float) -> str:
        """A value of this statistic in words."""
        return f"{value:.2f}" if self.statistic == LEAN else f"{value:.1%}"


@dataclass(frozen=True)
class Verdict:
    """What is claimed of one model, and why.

    Attributes:
        role: ``suspect`` or ``control``.
        decision: ``stolen``, ``not shown``, or ``invalid`` (the evidence cannot support any claim).
        reasons: one clause for each condition, passed or failed.
        tests: by statistic.
        by: the statistics that called it stolen.
        wsr: watermark success rate, with an interval that describes how precisely it was measured.
        inconsistent: share of repeated questions answered otherwise; None: none was repeated.
        queries_needed: watermark queries after which the sequential test on the hits would have ended; None: never.
        rule, level: by which it was judged, and what of the rule's a single test had to reach in Holm's first step.
        paper_says: the verdict of the paper's rule, WSR > 30 %.
    """

    name: str
    role: str
    decision: str
    reasons: tuple[str, ...]
    tests: Mapping[str, Test]
    by: tuple[str, ...]
    accuracy: Rate
    wsr: Rate
    wfpr: Rate
    plain: Rate
    inconsistent: float | None
    queries_needed: int | None
    rule: VerifyOwnership
    level: float
    paper_says: str

    @property
    def failed(self) -> list[str]:
        """What it fails by: the clauses of the conditions that did not pass."""
        return [text.removeprefix(_FAILED) for text in self.reasons if text.startswith(_FAILED)]


def decide(
    models: Mapping[str, Answers],
    null_hits: Nulls,
    reference_accuracy: float,
    rule: VerifyOwnership,
    *,
    role: str,
    inconsistent: Mapping[str, float] | None = None,
    faults: Sequence[str] = (),
) -> list[Verdict]:
    """Judge models against the nulls and against their own negative controls.

    Args:
        models: answers by name.
        null_hits: of models that are none of those judged.
        reference_accuracy: the watermarked model's (0-1); "does the main task" is relative to it.
        role: ``suspect`` or ``control``; the correction counts the models of one call.
        inconsistent: share of repeated questions that a model answered otherwise, where some were repeated.
        faults: why no evidence against these nulls is valid, if it is not.

    Returns:
        Verdicts in the order given.

    Raises:
        ValueError: a statistic without nulls.
    """
    every = [(name, statistic) for name, answers in models.items() for statistic in told(answers, null_hits)]
    pairs = [(name, statistic) for name, statistic in every if statistic in rule.statistics]
    level = test_level(rule, len(pairs))
    judge = _Judge(null_hits, rule.min_accuracy_share * reference_accuracy, level, rule, tuple(faults))
    found = {(name, each): judge.against(each, models[name]) for name, each in every}
    adjusted = {pair: null.p / rule.keys for pair, null in found.items()}
    adjusted.update(zip(pairs, statistics.holm([found[pair].p for pair in pairs]), strict=True))
    verdicts = []
    for name, answers in models.items():
        tests = {
            each: judge.test(each, answers, found[name, each], min(1.0, rule.keys * adjusted[name, each]))
            for each in told(answers, null_hits)
        }
        verdicts.append(judge.verdict((name, role), answers, tests, (inconsistent or {}).get(name)))
    return verdicts


def told(answers: Answers, null_hits: Nulls) -> list[str]:
    """The statistics that a model's answers tell; a lean only if every null model has one."""
    return [each for each in answers.statistics if each != LEAN or each in null_hits]


def negative(statistic: str, outcomes: Outcomes) -> dict[str, Bools]:
    """The negative controls of a statistic, by name."""
    return {n: control for n, control in outcomes.controls.items() if n not in EXPECTED_OF_COPIES[statistic]}


def compared(statistic: str, outcomes: Outcomes) -> dict[str, tuple[float, float]]:
    """The key against every negative control of a statistic: by name, its rate and the p-value of :func:`beats`."""
    found = {
        name: (float(control.mean()), beats(outcomes.watermark, control, paired=paired(name)))
        for name, control in negative(statistic, outcomes).items()
    }
    if UNMIXED in found:
        unmixed = outcomes.controls[UNMIXED]
        share = np.arange(len(unmixed)) < outcomes.watermark.sum() // SPECIFIC
        found[f"{SPECIFIC} times {UNMIXED}"] = SPECIFIC * float(unmixed.mean()), beats(share, unmixed, paired=False)
    return found


def beats(watermark: Bools, control: Bools, *, paired: bool = True) -> float:
    """p-value of the hypothesis that the key fires no more often than a control on the same model.

    Args:
        watermark: ``[N]``.
        control: of the same pairs, ``[N]``: exact McNemar test; of other queries, ``[M]``: Fisher's exact test.
    """
    if paired:
        return statistics.mcnemar_greater(watermark, control)[2]
    table = [[int(part.sum()), int((~part).sum())] for part in (watermark, control)]
    return float(stats.fisher_exact(table, alternative="greater").pvalue)  # pyright: ignore[reportAttributeAccessIssue]


@dataclass(frozen=True)
class _Judge:
    """What is the same for all models: the nulls, the accuracy and the level of a single test that are needed."""

    null_hits: Nulls
    floor: float
    level: float
    rule: VerifyOwnership
    faults: tuple[str, ...]

    @property
    def bound_level(self) -> float:
        """What of the level the bound of the innocents gets: all, unless the sequential test wants its share."""
        return self.level * (1 if self.rule.stop_early is None else BOUND_SHARE)

    def trials(self, asked: int) -> int:
        """Watermark queries that the nulls have answered: as many as the suspect, unless its asking may stop early."""
        return asked if self.rule.stop_early is None else self.rule.queries

    def refused(self, statistic: str, asked: int) -> bool:
        """Are there enough nulls for a distribution, and none that fits?"""
        counts = self.null_hits[statistic]
        if len(counts) < nulls.FEWEST_TO_FIT:
            return False
        if statistic == LEAN:
            return log_odds.predictive_p(counts, float(counts.max())).method == nulls.RANK
        trials = self.trials(asked)
        return nulls.predictive_p(counts, trials, trials).method == nulls.RANK

    def against(self, statistic: str, answers: Answers) -> NullP | ScoreP:
        """The nulls' p-value."""
        if statistic == LEAN:
            assert answers.lean is not None  # told
            return log_odds.predictive_p(self.null_hits[LEAN], answers.lean.value)
        outcomes, counts = answers.outcomes[statistic].watermark, self.null_hits[statistic]
        if self.rule.stop_early is not None:
            return anytime_p(counts, self.rule.queries, outcomes, self.level)
        return nulls.predictive_p(counts, len(outcomes), int(outcomes.sum()))

    def test(self, statistic: str, answers: Answers, null: NullP | ScoreP, p_value: float) -> Test:
        """Against the nulls, and against the negative controls on the same model."""
        if statistic == LEAN:
            assert answers.lean is not None  # told
            value, controls = answers.lean.value, dict(answers.lean.controls)
            needed = log_odds.innocent_bound(self.null_hits[LEAN], self.level)
        else:
            outcomes = answers.outcomes[statistic]
            controls = compared(statistic, outcomes)
            value, trials = float(outcomes.watermark.mean()), self.trials(len(outcomes.watermark))
            needed = nulls.innocent_bound(self.null_hits[statistic], trials, self.bound_level)
        strongest = max(controls, key=lambda name: (controls[name][1], controls[name][0]))
        return Test(statistic, value, null, p_value, needed, strongest, *controls[strongest])

    def verdict(
        self, model: tuple[str, str], answers: Answers, tests: Mapping[str, Test], inconsistent: float | None
    ) -> Verdict:
        name, role = model
        rule, accuracy = self.rule, statistics.rate(answers.correct, self.rule.confidence)
        sound = {f"accuracy {accuracy.rate:.1%}, {self.floor:.1%} needed": accuracy.rate >= self.floor}
        recall = f"a class of the key is called right in {answers.key_recall:.1%} of its images"
        sound[f"{recall}, {KEY_RECALL * accuracy.rate:.1%} needed"] = answers.key_recall >= KEY_RECALL * accuracy.rate
        sound |= dict.fromkeys(self.faults, False)
        if inconsistent is not None:
            text = f"{inconsistent:.1%} of repeated questions answered otherwise, {rule.max_inconsistent:.1%} allowed"
            sound[text] = inconsistent <= rule.max_inconsistent
        enough, claims, significant, by = {}, {}, [], []
        if not tests.keys() & set(rule.statistics):
            sound["the suspect gives no scores, of which the rule makes its statistic"] = False
        for statistic in [name for name in rule.statistics if name in tests]:
            test = tests[statistic]
            counts = self.null_hits[statistic]
            text = "can reach"
            if not test.reach:
                refused = self.refused(statistic, len(answers.hits))
                text = f"cannot reach ({more_nulls(len(counts), self.bound_level, refused=refused)})"
            enough[f"{statistic}: {len(counts)} null models {text} the level {self.level:.2g} of a single test"] = (
                test.reach
            )
            reached, specific = test.reach and test.p_value <= rule.alpha, test.control_p <= control_level(rule)
            value, control = test.shown(test.value), test.shown(test.control_value)
            claims[f"{statistic} {value}: p = {test.p_value:.2g}, {rule.alpha:g} needed"] = reached
            claims[
                f"{statistic} against {test.strongest_control} ({control}) on the same model: "
                f"p = {test.control_p:.2g}, {control_level(rule):g} needed"
            ] = specific
            significant += [statistic] if reached else []
            by += [statistic] if reached and specific else []
        decision = STOLEN if by else NOT_SHOWN
        if not all(sound.values()) or not any(enough.values()) or (significant and not by):
            decision = INVALID
        checks = sorted({**sound, **enough, **claims}.items(), key=lambda check: check[1])
        return Verdict(
            name=name,
            role=role,
            decision=decision,
            reasons=tuple(f"{'ok: ' if ok else _FAILED}{text}" for text, ok in checks),
            tests=tests,
            by=tuple(by),
            accuracy=accuracy,
            wsr=(wsr := statistics.rate(answers.hits, rule.confidence)),
            wfpr=statistics.rate(answers.false_positives, rule.confidence),
            plain=statistics.rate(answers.plain, rule.confidence),
            inconsistent=inconsistent,
            queries_needed=queries_needed(
                answers.hits, self.null_hits["hits"], self.level, self.trials(len(answers.hits))
            ),
            rule=rule,
            level=self.level,
            paper_says=STOLEN if wsr.rate > PAPER_THRESHOLD else NOT_SHOWN,
        )


def more_nulls(count: int, level: float, *, refused: bool) -> str:
    """What would make a level reachable, in words.

    Args:
        count: of the null models that there are.
        refused: no distribution fits them.
    """
    by_rank = nulls.nulls_needed(level) - count
    # Rounded, for 0.0004 ** -0.5 must not come out as 50.00000000000001.
    fitted = max(nulls.FEWEST_TO_FIT, math.ceil(round(level**-0.5, 6)) - 1) - count
    if refused or not 0 < fitted < by_rank:
        return f"{by_rank:,} more are needed"
    return f"{fitted:,} more are needed, or {by_rank:,} if no distribution fits them"


def control_level(rule: VerifyOwnership) -> float:
    """At which the key must beat every control: alpha, shared out to the looks where the asking may stop early."""
    if rule.stop_early is None:
        return rule.alpha
    return rule.alpha / math.ceil(rule.queries / rule.stop_early.block)


def test_level(rule: VerifyOwnership, tests: int) -> float:
    """What every single test must reach, in Holm's first and strictest step: suspects x statistics x keys."""
    return rule.alpha / (max(1, tests) * rule.keys)


@dataclass(frozen=True)
class Stopping:
    """Has a suspect answered enough, by ``rule.stop_early``?  For :func:`hallmark.verification.answers.put`.

    It has if the sequential test has rejected and the key beats every negative control, or if the test has given up.
    The controls, at which every look is another chance, are tested at :func:`control_level`.

    Attributes:
        counts: hits of the null models.
        rule: whose ``stop_early`` is not None.
        models: judged together.
    """

    counts: tuple[int, ...]
    rule: VerifyOwnership
    models: int

    @property
    def block(self) -> int:
        """Watermark queries between two looks."""
        return self._rules.block

    @property
    def _rules(self) -> StopEarly:
        assert self.rule.stop_early is not None
        return self.rule.stop_early

    def __call__(self, answers: Answers) -> bool:
        outcomes, rule, rules = answers.outcomes["hits"], self.rule, self._rules
        test = against_nulls(self.counts, rule.queries, test_level(rule, self.models), rules.least, rules.miss)
        if test is None:
            return False
        if not test.update(outcomes.watermark):
            return test.futile
        level = control_level(rule)
        return all(p <= level for _, p in compared("hits", outcomes).values())
