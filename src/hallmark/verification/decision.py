"""The decision rule: from answers to "stolen", "not shown" or "invalid", with reasons.

A suspect is called stolen if it does the main task, fires on the watermark more than on the same
images unmixed (McNemar, Holm-corrected over the suspects), and beats the strongest control by a
margin even at the lower end of the interval.  The paper's fixed 30 % threshold (MEA-Defender, section
V) is reported and does not decide: at small scale it calls innocent models stolen.

This is the place of the full protocol (commitments, null models as replicates, evidence bundles).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hallmark import statistics
from hallmark.config import VerifyOwnership
from hallmark.statistics import Rate
from hallmark.verification.measure import Answers

PAPER_THRESHOLD = 0.30

STOLEN, NOT_SHOWN, INVALID = "stolen", "not shown", "invalid"


@dataclass(frozen=True)
class Verdict:
    """What is claimed of one model, and why.

    Attributes:
        role: ``suspect`` or ``control``.
        decision: ``stolen``, ``not shown``, or ``invalid`` (the evidence cannot support any claim).
        reasons: one clause for each condition, passed or failed.
        strongest_control: name of the control with the highest WSR (other than the model itself).
        excess, excess_low, excess_high: WSR above that control's, with its interval.
        only_mixed, only_unmixed: discordant pairs of the McNemar test.
        p_value: Holm-adjusted over all models of the same role.
        paper_says: the verdict of the paper's rule, WSR > 30 %.
    """

    name: str
    role: str
    decision: str
    reasons: tuple[str, ...]
    accuracy: Rate
    wsr: Rate
    wfpr: Rate
    plain: Rate
    strongest_control: str
    excess: float
    excess_low: float
    excess_high: float
    only_mixed: int
    only_unmixed: int
    p_value: float
    paper_says: str


def decide(
    suspects: Mapping[str, Answers],
    controls: Mapping[str, Answers],
    reference_accuracy: float,
    config: VerifyOwnership,
) -> list[Verdict]:
    """Judge every suspect against the controls, and every control against the other controls.

    Args:
        suspects, controls: answers by model name; a control never met the key.
        reference_accuracy: the watermarked model's accuracy (0-1); "does the main task" is relative to it.

    Returns:
        Verdicts, suspects first, in the order given.
    """
    verdicts = []
    for role, group in (("suspect", suspects), ("control", controls)):
        tests = {name: statistics.mcnemar_greater(a.hits, a.unmixed_hits) for name, a in group.items()}
        adjusted = statistics.holm([p for _, _, p in tests.values()])
        for name, p_value in zip(group, adjusted, strict=True):
            others = {n: a for n, a in controls.items() if not (role == "control" and n == name)}
            judge = _Judge(config, others, reference_accuracy)
            verdicts.append(judge.verdict(name, role, group[name], tests[name], p_value))
    return verdicts


@dataclass(frozen=True)
class _Judge:
    config: VerifyOwnership
    controls: Mapping[str, Answers]
    reference_accuracy: float

    def verdict(
        self, name: str, role: str, answers: Answers, mcnemar: tuple[int, int, float], p_value: float
    ) -> Verdict:
        config = self.config
        wsr = statistics.rate(answers.hits, config.confidence)
        accuracy = statistics.rate(answers.correct, config.confidence)
        rates = {n: statistics.rate(a.hits, config.confidence) for n, a in self.controls.items()}
        strongest = max(rates, key=lambda n: rates[n].rate) if rates else ""
        # Without any control the excess is taken over nothing, and the evidence is invalid anyway.
        against = rates[strongest] if rates else Rate(0, wsr.count, 0.0, 0.0)
        gap, low, high = statistics.excess(wsr, against, config.confidence)
        floor = config.min_accuracy_share * self.reference_accuracy

        evidence = {
            f"{len(rates)} controls, {config.min_controls} needed": len(rates) >= config.min_controls,
            f"strongest control {strongest or 'none'} WSR {against.rate:.1%}, {config.max_control_wsr:.1%} allowed": (
                against.rate <= config.max_control_wsr
            ),
        }
        claim = {
            f"accuracy {accuracy.rate:.1%}, {floor:.1%} needed": accuracy.rate >= floor,
            f"mixed against unmixed p = {p_value:.2g}, {config.alpha:g} needed": p_value <= config.alpha,
            f"excess over the control is at least {low:.1%}, {config.min_excess:.1%} needed": low > config.min_excess,
        }
        decision = INVALID if not all(evidence.values()) else STOLEN if all(claim.values()) else NOT_SHOWN
        checks = {**evidence, **claim}
        return Verdict(
            name=name,
            role=role,
            decision=decision,
            reasons=tuple(f"{'ok' if ok else 'NO'}: {text}" for text, ok in sorted(checks.items(), key=lambda c: c[1])),
            accuracy=accuracy,
            wsr=wsr,
            wfpr=statistics.rate(answers.false_positives, config.confidence),
            plain=statistics.rate(answers.plain, config.confidence),
            strongest_control=strongest,
            excess=gap,
            excess_low=low,
            excess_high=high,
            only_mixed=mcnemar[0],
            only_unmixed=mcnemar[1],
            p_value=p_value,
            paper_says=STOLEN if wsr.rate > PAPER_THRESHOLD else NOT_SHOWN,
        )
