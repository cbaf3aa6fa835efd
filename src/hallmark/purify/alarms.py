"""Is anything wrong with a class at all?  Tests with a known rate of false alarms, and one rule without.

Where given images are clean, they and the trusted ones of their class are exchangeable.  Three families of tests
look for what is not, each with a third of ``false_alarm`` (Bonferroni over classes):

* *doubt*: too few trusted images among those whose label the judges doubt most.  Of trusted images so few that not
  even none of them on top would be rare, the class is not tested, and :attr:`Alarms.untested` says so;
* *place*: groups of the witness's features with too few trusted images;
* *residual*: what the purifier takes away from the given images differs in the mean.

The rule: a group with few trusted images whose residuals carry the label to trusted images of other classes
(:mod:`hallmark.purify.transplant`).

A purifier that knows the trusted images by heart does not treat both alike: then only what the raw images show counts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from pydantic import Field, model_validator
from scipy.stats import mannwhitneyu
from torch import Tensor

from hallmark.config import Count
from hallmark.config import Params as _Params
from hallmark.purify.evidence import Evidence
from hallmark.purify.occupancy import Group, attainable, displaced, groups, rarest, sufficient, tops, whitened
from hallmark.runtime import Runtime, derive_seed

Level = Annotated[int, Field(ge=2, le=256)]
TopShare = Annotated[float, Field(gt=0, le=0.5)]
SCARCE, PURE = 0.5, 0.2
"""Shares of clean images, as told by the trusted ones, below which a group counts as scarce, or as pure."""
WIDER = (0.5, 0.7)
"""Shares of the most doubtful images that are tested besides, one after the other, where trusted images are so few
that the others could not give an alarm: they show only a backdoor of most of a class."""
UNLIKELY = 0.05
"""Probability of so few trusted images above which they are not called scarce."""
DIRECTIONS = (1, 2, 4, 8)
"""Principal components of a class's residuals whose mean is tested: what a trigger adds to every image is strong."""
FAMILIES = 3
HEART = 0.15
"""What the probability that a given image loses more than a trusted one may exceed 1/2 by, in three quarters of the
classes: a backdoor of a tenth of every class adds 0.05 at most."""
TOP = 0.05
"""Share of a class's trusted images, those whose residuals carry the label best, that a group must surpass."""
KINDS = ("doubt", "place", "residual", "transplant")


class Tests(_Params):
    """What the alarms depend on; part of block ``hallmark`` of section ``purify_data``."""

    __test__ = False

    false_alarm: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    """Probability that a clean set raises any alarm by a test, over all tests (Bonferroni)."""
    shares: Annotated[tuple[TopShare, ...], Field(min_length=1, strict=False)] = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3)
    """Shares of a class's most doubtful images that are tested, ascending."""
    levels: Annotated[tuple[Level, ...], Field(min_length=1, strict=False)] = (2, 3, 4, 6, 8, 12, 16)
    """Numbers of groups that each class is split into, one after another."""
    evidence: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Share of the hosts, above the trusted images' own, that must follow the residuals of a group."""
    least: Count = 10
    """Groups of fewer images are not looked at for what their residuals carry."""

    @model_validator(mode="after")
    def _ascending(self) -> Tests:
        if list(self.shares) != sorted(set(self.shares)):
            raise ValueError("shares: must ascend, each once")
        return self


@dataclass(frozen=True)
class Alarms:
    """What the tests found.

    Attributes:
        seeds: bool ``[N]``, the images of the groups that gave an alarm.
        classes: classes with an alarm of their own.
        rest: whether the remaining classes together gave one, by doubt (all-to-all).
        kinds: what gave each of ``classes`` its alarm, of :data:`KINDS`.
        p: smallest corrected p-value of each class, 1 at most; the remaining classes share theirs.  What residuals
            carry has no p-value: a class that only this gave away may have 1.  Untested classes without an alarm,
            their own or the remaining classes', have none.
        untested: classes whose doubt alone could give no alarm, whatever the images, and how many trusted images of
            the class would do; 0: no number, its given images are too few.
        comparable: whether the purifier treats given and trusted images alike; if not, :meth:`Evidence.raw` was tested.
        counts: metrics: alarms by kind, whether residuals did not compare, and the number of untested classes.
    """

    seeds: Tensor
    classes: tuple[int, ...]
    rest: bool
    kinds: Mapping[int, tuple[str, ...]]
    p: Mapping[int, float]
    untested: Mapping[int, int]
    comparable: bool
    counts: Mapping[str, int]


def find_alarms(given: Evidence, trusted: Evidence, tests: Tests, runtime: Runtime) -> Alarms:
    """Test every class, then those without an alarm together, by doubt."""
    classes = given.labels.unique().tolist()
    seeds, p = torch.zeros(len(given.labels), dtype=torch.bool), {}
    # Of this p-value on an alarm is one: doubt has one test more, of the rest.
    level = tests.false_alarm / FAMILIES
    kinds: dict[int, tuple[str, ...]] = {}
    untested: dict[int, int] = {}
    comparable = not known_by_heart(given, trusted)
    if not comparable:
        given, trusted = given.raw(), trusted.raw()
    for label in classes:
        rows, own = given.labels == label, trusted.labels == label
        ours, theirs = given.of(rows), trusted.of(own)
        seed = derive_seed(runtime.seed, f"purify/alarms {label}")
        clusters = tuple(groups(ours.features, theirs.features, tests.levels, seed))
        limit = level / (len(classes) + 1)
        shares = telling_shares(ours, theirs, tests, limit)
        if not shares:
            untested[label] = sufficient(len(ours.labels), (*tests.shares, *WIDER), limit)
        found = {
            "doubt": by_doubt(ours, theirs, shares, limit, seed),
            "place": by_place(ours, theirs, clusters, level / len(classes)),
            "residual": by_residual(ours, theirs, tests, level / len(classes), seed),
            "transplant": by_transplant(ours, theirs, clusters, tests),
        }
        p[label] = min(1.0, *(FAMILIES * (len(classes) + (k == "doubt")) * f.p for k, f in found.items()))
        kinds[label] = tuple(kind for kind in KINDS if found[kind].members.any())
        seeds[rows] = _surest(found)
    alarmed = [label for label in classes if kinds[label]]
    doubted = [label for label in alarmed if "doubt" in kinds[label]]
    counts = Counter(kind for found in kinds.values() for kind in found)
    others = [label for label in classes if label not in alarmed]
    rest = False
    if others:
        # Two targets are no coincidence: classes that only what their residuals carry gave away count again.
        carried = [label for label in alarmed if kinds[label] == ("transplant",)]
        pool = torch.tensor(others + carried if len(alarmed) > 1 else others)
        rows, own = torch.isin(given.labels, pool), torch.isin(trusted.labels, pool)
        # With several targets there may well be more; the others are then tested for themselves, so that a class of
        # an all-to-all backdoor is not lost to the correction.
        limit = tests.false_alarm if len(doubted) > 1 else level / (len(classes) + 1)
        seed = derive_seed(runtime.seed, "purify/alarms rest")
        ours, theirs = given.of(rows), trusted.of(own)
        together = by_doubt(ours, theirs, telling_shares(ours, theirs, tests, limit), limit, seed)
        seeds[rows] |= together.members
        counts["doubt"] += bool(together.members.any())
        rest = bool(seeds[torch.isin(given.labels, torch.tensor(others))].any())
        p.update({k: min(p[k], together.p * (tests.false_alarm / limit)) for k in others})
    p = {label: value for label, value in p.items() if rest or label in alarmed or label not in untested}
    counts = {f"alarms_by_{kind}": counts[kind] for kind in KINDS}
    counts |= {"residuals_abstain": int(not comparable), "classes_untested": len(untested)}
    own_kinds = {label: kinds[label] for label in alarmed}
    return Alarms(seeds, tuple(alarmed), rest, own_kinds, p, untested, comparable, counts)


@dataclass(frozen=True)
class Finding:
    """What one test says of the images of a class.

    Attributes:
        members: bool ``[n]``, of what gave an alarm.
        p: the smallest p-value, corrected for what was looked at in this class.
        pure: bool ``[n]``, those members that are with (nearly) no clean image.
    """

    members: Tensor
    p: float
    pure: Tensor


def telling_shares(given: Evidence, trusted: Evidence, tests: Tests, level: float) -> tuple[float, ...]:
    """The shares to test by doubt, ``tests.shares`` and as many of :data:`WIDER` as an alarm wants; none if none do."""
    for count in range(len(WIDER) + 1):
        shares = tests.shares + WIDER[:count]
        if attainable(given.labels, trusted.labels, shares) < level:
            return shares
    return ()


def by_doubt(given: Evidence, trusted: Evidence, shares: Sequence[float], level: float, seed: int) -> Finding:
    """The images whose labels are doubted most; of one class, or of several together."""
    scores = [(e.doubt(), e.confident_doubt()) for e in (given, trusted)]
    best, p = rarest(list(zip(*scores, strict=True)), given.labels, trusted.labels, shares, relevant=level, seed=seed)
    members = best.members if p < level else torch.zeros_like(best.members)
    return Finding(members, p, torch.zeros_like(members))


def by_place(given: Evidence, trusted: Evidence, clusters: Sequence[Group], level: float) -> Finding:
    """Groups of the witness's features that hold too few trusted images."""
    found, smallest = _nothing(given), 1.0
    for group in clusters:
        smallest = min(smallest, group.p)
        if group.p * len(clusters) < level:
            found.members.logical_or_(group.members)
            if _clean_share(group, given, trusted) <= PURE:
                found.pure.logical_or_(group.members)
    return replace(found, p=min(1.0, smallest * len(clusters)))


def by_residual(given: Evidence, trusted: Evidence, tests: Tests, level: float, seed: int) -> Finding:
    """Residuals whose mean is not that of the trusted images' residuals.

    The images that are taken for the cause lie farthest in the direction of the difference.
    """
    ours, theirs = whitened(given.residual, trusted.residual, DIRECTIONS[-1])
    p, count = displaced(ours, theirs, DIRECTIONS, relevant=level, seed=seed)
    if p >= level:
        return _nothing(given, p)
    ours, theirs = ours[:, :count], theirs[:, :count]
    means = ours.mean(0), theirs.mean(0)
    # The direction without the image itself, lest the trusted ones, who are few, lie low for having made it.
    scores = [
        (part * (means[0] - means[1] - sign * (part - mean) / max(1, len(part) - 1))).sum(1)
        for part, mean, sign in zip((ours, theirs), means, (1, -1), strict=True)
    ]
    found = list(tops(scores[0], scores[1], given.labels, trusted.labels, tests.shares))
    pure = [group for group in found if _clean_share(group, given, trusted) <= PURE]
    best = pure[-1] if pure else min(found, key=lambda group: group.p)
    return Finding(best.members, p, best.members)


def by_transplant(given: Evidence, trusted: Evidence, clusters: Sequence[Group], tests: Tests) -> Finding:
    """Groups of few trusted images whose residuals carry the label to other classes; a rule, with a p-value of 1."""
    found = _nothing(given)
    if not len(trusted.labels):
        return found
    # Not their mean: clean images of a peculiar texture may carry the label, and lie together as poisons do.
    base = trusted.hits.topk(math.ceil(TOP * len(trusted.hits))).values.mean()
    for group in clusters:
        clean = _clean_share(group, given, trusted)
        # A residual counts only where trusted images are at least scarce: else the texture of a class would.
        scarce = clean <= SCARCE and group.p <= UNLIKELY  # and not by chance, for there are few trusted images
        effect = float(given.hits[group.members].mean() - base)
        if group.size >= tests.least and scarce and effect >= tests.evidence:
            found.members.logical_or_(group.members)
            if clean <= PURE:
                found.pure.logical_or_(group.members)
    return found


def known_by_heart(given: Evidence, trusted: Evidence) -> bool:
    """Whether trusted images lose less to the purifier than given ones, in three quarters of the classes.

    So it is with a purifier that was trained on them and has learnt them by heart; the residuals of the two then do
    not compare.  A backdoor of some classes does not look like that.
    """
    excess = []
    for label in given.labels.unique().tolist():
        ours = given.residual[given.labels == label].square().sum(1)
        theirs = trusted.residual[trusted.labels == label].square().sum(1)
        n, m = len(ours), len(theirs)
        if m:
            test = mannwhitneyu(ours.double().numpy(), theirs.double().numpy(), method="asymptotic")
            excess.append(test.statistic / (n * m) - 0.5)
    return not excess or sorted(excess)[len(excess) // 4] > HEART


def _surest(found: Mapping[str, Finding]) -> Tensor:
    """What a detector of the trigger may learn from: the purest of what gave an alarm."""
    pure = torch.stack([finding.pure for finding in found.values()]).any(0)
    doubted = found["doubt"].members
    if pure.any() or doubted.any():
        return pure | doubted
    return torch.stack([finding.members for finding in found.values()]).any(0)


def _clean_share(group: Group, given: Evidence, trusted: Evidence) -> float:
    """The share of clean images in a group, as the trusted ones in it tell."""
    return group.trusted * len(given.labels) / (group.size * max(1, len(trusted.labels)))


def _nothing(given: Evidence, p: float = 1.0) -> Finding:
    none = torch.zeros(len(given.labels), dtype=torch.bool)
    return Finding(none, p, none.clone())
