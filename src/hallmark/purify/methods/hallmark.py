"""The default sanitizer: DataElixir's structure with evidence that has a known false-alarm rate.

Rounds of diffusion, benign model, selection and relabelling are DataElixir's.  What differs is how an image
becomes suspicious; a change of its own label says little, for clean images of confusable classes change as well
and many poisons do not:

1. *Doubt*: classifiers of the trusted images alone, and of their purified copies, disagree with the label of the
   image and of its purified copy.  Dirty labels, whatever the trigger, one target or many.
2. A *witness* is trained on the given and the trusted images together: where its features have no trusted image
   of the class, something is there that no clean image has.  Clean labels as well.
3. The *residual*, what the purifier takes away, carries a backdoor's label to trusted images of other classes
   (:mod:`hallmark.purify.transplant`): backdoors of a few images.

1 and 2 are tests (:mod:`hallmark.purify.occupancy`) of level ``false_alarm``, all of them together; 3 has a threshold
and no level.  Only in classes with an alarm images are judged one by one, from all of this and from benign
models that were trained without the suspicious ones (:mod:`hallmark.purify.separation`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from hallmark import models
from hallmark.config import Count, Share, Training
from hallmark.config import Params as _Params
from hallmark.models import Network
from hallmark.purify import reserve
from hallmark.purify.cross_fit import cross_fit, trigger_odds
from hallmark.purify.occupancy import groups, rarest, whitened
from hallmark.purify.repair import PURPOSE
from hallmark.purify.reserve import Judges
from hallmark.purify.result import Findings, Material
from hallmark.purify.separation import separate
from hallmark.purify.transplant import hosts_for, transplant, usable_hosts
from hallmark.runtime import derive_seed

Level = Annotated[int, Field(ge=2, le=256)]
TopShare = Annotated[float, Field(gt=0, le=0.5)]
SCARCE, PURE = 0.5, 0.2
"""Shares of clean images, as told by the trusted ones, below which a group counts as scarce, or as pure."""
UNLIKELY = 0.05
"""Probability of so few trusted images above which they are not called scarce."""
COMPONENTS = 30
"""Of the residuals: what a trigger adds to every image of a class is among the strongest."""
REST = -1
"""Stands for the classes without an alarm of their own, together."""
GROWTH = 1.25
"""So many times the seeds must be found for another pass."""
SMALLEST = 1e-4
"""Probabilities are cut off here before their logarithm is taken."""


class Params(_Params):
    """Block ``hallmark`` of section ``purify_data``."""

    false_alarm: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    """Probability that a clean set raises any alarm by doubt or by place, over all tests (Bonferroni)."""
    folds: Annotated[int, Field(ge=2, le=20)] = 4
    """Parts of the reserve, without each of which a classifier of it is trained."""
    divisions: Annotated[int, Field(ge=1, le=20)] = 3
    """How often the reserve is divided into folds: so many classifiers judge an image."""
    reserve_training: Training = Training(epochs=16, batch_size=50, lr=0.002, flip=True, shift=1)
    """Of those classifiers; epochs count the trusted images and their purified copies."""
    shares: Annotated[tuple[TopShare, ...], Field(min_length=1, strict=False)] = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3)
    """Shares of a class's most doubtful images that are tested, ascending."""
    levels: Annotated[tuple[Level, ...], Field(min_length=1, strict=False)] = (2, 3, 4, 6, 8, 12, 16)
    """Numbers of groups that each class is split into, one after another."""
    hosts: Annotated[int, Field(ge=1, le=256)] = 4
    """Trusted images that each residual is transplanted to."""
    evidence: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Share of the hosts, above the trusted images' own, that must follow the residuals of a group."""
    least: Count = 10
    """Groups of fewer images are not looked at for their residuals."""
    trigger_training: Training = Training(epochs=12, batch_size=100, lr=0.002)
    """Of the detectors of the trigger."""
    passes: Count = 3
    """Detectors of the trigger, each of which learns from what the last one found, at most."""
    suspicion: Share = 0.3
    """Confident doubt from which an image of an alarmed class is kept out of the benign models."""
    clean_weight: Annotated[float, Field(gt=0, le=100)] = 1.0
    """What it counts to flag a share of the clean images, against missing the same share of all images."""


@dataclass(frozen=True)
class Evidence:
    """What is measured of a set of images.

    Attributes:
        labels: int64 ``[N]``, the given ones.
        features: float ``[N, D]``, the witness's, of the raw image.
        confidence: float ``[N]``, the witness's probability of the label, raw image.
        purified: float ``[N, K]``, the witness's probabilities of the purified image.
        doubts: float ``[N, 2]``, the judges' doubt in the label, raw and purified image.
        hits: float ``[N]``, share of the hosts that take the label with the image's residual.
    """

    labels: Tensor
    features: Tensor
    confidence: Tensor
    purified: Tensor
    doubts: Tensor
    hits: Tensor

    def of(self, rows: Tensor) -> Evidence:
        """The evidence of some of the images (bool ``[N]``)."""
        return Evidence(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def doubt(self) -> Tensor:
        """Mean over raw and purified image, float ``[N]``."""
        return self.doubts.mean(1)

    def confident_doubt(self) -> Tensor:
        """High where a model that knows the given set is sure and those that do not disagree, float ``[N]``."""
        return self.doubt() * self.confidence


@dataclass(frozen=True)
class Alarms:
    """What the tests found.

    Attributes:
        seeds: bool ``[N]``, the images of the groups that gave an alarm.
        classes: classes with an alarm of their own; doubted: those of them that doubt gave away.
        rest: whether the remaining classes together gave one (all-to-all).
        p: smallest corrected p-value of each class, 1 at most; the remaining classes share theirs.
        counts: metrics: alarms by kind.
    """

    seeds: Tensor
    classes: tuple[int, ...]
    doubted: tuple[int, ...]
    rest: bool
    p: dict[int, float]
    counts: dict[str, int]


def detect(material: Material, params: Params) -> Findings:
    """Find poisoned images by doubt, by where trusted images are missing, and by residual transplant.

    Raises:
        UserError: no trusted image is classified rightly by the witness, or the reserve is too small.
    """
    data, trusted_data = material.data, material.reserve
    first = material.purifier.rounds.model_copy(update={"rounds": 1})  # later rounds are the repair's
    material = replace(material, purifier=replace(material.purifier, rounds=first))
    judges = reserve.train_judges(material, params.divisions, params.folds, params.reserve_training)
    both = torch.cat([data.images, trusted_data.images]), torch.cat([data.labels, trusted_data.labels])
    witness = material.train("witness", *both)
    given = measure(witness, judges, material, params, trusted=False)
    trusted = measure(witness, judges, material, params, trusted=True)
    alarms = find_alarms(given, trusted, params, material)
    flagged, scores = judge(material, given, trusted, alarms, params)
    class_scores = torch.full((material.classes,), torch.nan, dtype=torch.float64)
    for label, p in alarms.p.items():
        class_scores[label] = -math.log10(max(p, 1e-300))
    return Findings(
        flagged=flagged,
        scores=scores,
        reasons=tuple(REASONS[k] for k in flagged.long().tolist()),
        targets=tuple(data.labels[flagged].unique().tolist()),
        class_scores=class_scores,
        threshold=-math.log10(params.false_alarm),
        metrics={
            **alarms.counts,
            "doubt": float(given.doubt().mean()),
            "doubt_trusted": float(trusted.doubt().mean()),
            "residual_evidence": float(given.hits.mean()),
            "residual_evidence_trusted": float(trusted.hits.mean()),
            "evaluations_per_image": first.steps,
        },
    )


REASONS = ("no evidence against it", "belongs with images of its label that no trusted image is like")


def judge(
    material: Material, given: Evidence, trusted: Evidence, alarms: Alarms, params: Params
) -> tuple[Tensor, Tensor]:
    """Judge the images of the classes with an alarm one by one.

    What is found becomes the seeds of another detector of the trigger, as long as that finds many more.

    Returns:
        bool ``[N]``, the poisoned images, and float32 ``[N]``, the evidence against each.
    """
    data, trusted_data = material.data, material.reserve
    scores = 0.1 * given.confident_doubt()  # below every image of an alarmed class that is judged
    if not alarms.seeds.any():
        return alarms.seeds, scores
    own = torch.isin(data.labels, torch.tensor(alarms.classes, dtype=torch.int64))
    suspicious = alarms.seeds | ((own | alarms.rest) & (given.confident_doubt() >= params.suspicion))
    benign = cross_fit(material, suspicious)
    jobs = [(data.labels == c, trusted_data.labels == c, c) for c in alarms.classes]
    if alarms.rest:
        jobs.append((~own, torch.isin(trusted_data.labels, data.labels[~own].unique()), REST))
    residuals = {
        # Nobody doubts a clean label; what is left of the trigger is in the residuals.
        label: residual_components(material, rows, own_trusted)
        for rows, own_trusted, label in jobs
        if label not in (REST, *alarms.doubted)
    }
    scale, seeds = given.features.std(), alarms.seeds
    for _ in range(params.passes):
        odds = trigger_odds(material, seeds, ~own & ~suspicious, params.trigger_training)
        flagged = torch.zeros_like(seeds)
        for rows, own_trusted, label in jobs:
            in_class = label != REST
            ours = _points(given, benign[0], odds[0], rows, scale, in_class=in_class)
            theirs = _points(trusted, benign[1], odds[1], own_trusted, scale, in_class=in_class)
            if label in residuals:
                ours, theirs = (torch.cat(pair, 1) for pair in zip((ours, theirs), residuals[label], strict=True))
            probability, flagged[rows] = separate(ours, theirs, seeds[rows], params.clean_weight)
            scores[rows] = 0.1 + 0.9 * probability
        grown = int(flagged.sum()) >= GROWTH * int(seeds.sum())
        seeds = flagged
        if not grown:
            break
    return seeds, scores


def measure(witness: Network, judges: Judges, material: Material, params: Params, *, trusted: bool) -> Evidence:
    """All evidence of the given or of the trusted images, in one pass over the purified ones."""
    data, purpose = (material.reserve, reserve.PURPOSE) if trusted else (material.data, PURPOSE)
    runtime = material.runtime
    hosts = usable_hosts(witness, material.reserve, runtime)
    chosen = hosts_for(data.labels, hosts, params.hosts, runtime.generator(f"{purpose}/hosts"))
    draws = runtime.generator(f"{purpose}/judges")
    judged_by = judges.folds if trusted else judges.for_strangers(len(data), draws)

    def look(index: Tensor, candidates: Tensor) -> dict[str, Tensor]:
        labels, (image, purified) = data.labels[index], candidates.unbind(1)
        doubts = [reserve.doubt(judges, part, labels, material, judged_by[:, index]) for part in (image, purified)]
        hits = transplant(witness, image, purified, labels, hosts=hosts.images[chosen[index]], runtime=runtime)
        return {
            "confidence": models.probabilities(witness, image, runtime).gather(1, labels[:, None])[:, 0],
            "purified": models.probabilities(witness, purified, runtime),
            "doubts": torch.stack(doubts, 1),
            "hits": hits,
            "features": models.features(witness, image, runtime),
        }

    return Evidence(labels=data.labels, **material.purifier.scan(data.images, look, purpose))


def find_alarms(given: Evidence, trusted: Evidence, params: Params, material: Material) -> Alarms:
    """Test every class by doubt and by place, then those without an alarm together.

    Each of the two families of tests has half of ``false_alarm``.
    """
    classes = given.labels.unique().tolist()
    seeds, p = torch.zeros(len(given.labels), dtype=torch.bool), dict.fromkeys(classes, 1.0)
    counts: dict[str, int] = {"alarms_by_doubt": 0, "alarms_by_place": 0, "alarms_by_residual": 0}
    families = 2 * (len(classes) + 1)
    place_tests = 2 * len(classes) * sum(params.levels)
    scores = [(e.doubt(), e.confident_doubt()) for e in (given, trusted)]

    def by_doubt(rows: Tensor, own: Tensor, families: int, purpose: str) -> float:
        best, p = rarest(
            [(ours[rows], theirs[own]) for ours, theirs in zip(*scores, strict=True)],
            given.labels[rows],
            trusted.labels[own],
            params.shares,
            relevant=params.false_alarm / families,
            seed=derive_seed(material.runtime.seed, f"purify/doubt {purpose}"),
        )
        if p * families < params.false_alarm:
            seeds[rows.nonzero()[:, 0][best.members]] = True
            counts["alarms_by_doubt"] += 1
        return min(1.0, p * families)

    alarmed, doubted = [], []
    for label in classes:
        rows, own = given.labels == label, trusted.labels == label
        p[label] = by_doubt(rows, own, families, str(label))
        if seeds[rows].any():
            doubted.append(label)
        seed = derive_seed(material.runtime.seed, f"purify/groups {label}")
        by_place = find_groups(given.of(rows), trusted.of(own), place_tests, params, seed)
        p[label] = min(p[label], by_place.p * place_tests)
        unusual = by_place.p * place_tests < params.false_alarm
        counts["alarms_by_place"] += unusual
        counts["alarms_by_residual"] += by_place.carried
        if by_place.pure.any():
            seeds[rows] |= by_place.pure
        elif not seeds[rows].any():
            seeds[rows] = by_place.members
        if seeds[rows].any():
            alarmed.append(label)
    others = [label for label in classes if label not in alarmed]
    rest = False
    if others:
        # Two targets are no coincidence: classes that only their residuals gave away count again with the others.
        pool = torch.tensor(others if len(alarmed) < 2 else [c for c in classes if c not in doubted])
        rows = torch.isin(given.labels, pool)
        # A set with an alarm is not clean; the others are then tested for themselves, so that a class of an
        # all-to-all backdoor is not lost to the correction.
        before = counts["alarms_by_doubt"]
        proven = counts["alarms_by_doubt"] + counts["alarms_by_place"] > 0
        together = by_doubt(rows, torch.isin(trusted.labels, pool), 1 if proven else families, "rest")
        rest = counts["alarms_by_doubt"] > before and bool(seeds[torch.isin(given.labels, torch.tensor(others))].any())
        p.update({label: min(p[label], together) for label in others})
    return Alarms(seeds, tuple(alarmed), tuple(doubted), rest, p, counts)


@dataclass(frozen=True)
class Places:
    """What the groups of one class say, over its given images.

    Attributes:
        members: bool, of any group that alarms; pure: of those of (nearly) poisons only.
        p: the smallest p-value of a group.
        carried: an alarm by residuals.
    """

    members: Tensor
    pure: Tensor
    p: float
    carried: bool


def find_groups(given: Evidence, trusted: Evidence, tests: int, params: Params, seed: int) -> Places:
    """The groups of one class that no clean class would have.

    Args:
        given, trusted: the images of the class.
        tests: how many groups' p-values are looked at in all.
    """
    n, m = len(given.labels), len(trusted.labels)
    base = trusted.hits.mean() if m else torch.zeros(())
    members, pure, smallest, carried = given.labels < 0, given.labels < 0, 1.0, False
    for group in groups(given.features, trusted.features, params.levels, seed):
        smallest = min(smallest, group.p)
        # The share of clean images in the group, as the trusted ones in it tell.
        clean = group.trusted * n / (group.size * max(1, m))
        # A residual counts only where trusted images are at least scarce: else the texture of a class would.
        effect = float(given.hits[group.members].mean() - base)
        scarce = clean <= SCARCE and group.p <= UNLIKELY  # and not by chance, for there are few trusted images
        carries = group.size >= params.least and scarce and effect >= params.evidence
        carried |= carries
        if carries or group.p * tests < params.false_alarm:
            members |= group.members
            if clean <= PURE:
                pure |= group.members
    return Places(members, pure, smallest, carried)


def residual_components(material: Material, rows: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """Principal components, of unit variance, of what the purifier takes away from the images of one class.

    Args:
        rows: bool ``[N]``, given images; own: bool ``[M]``, trusted ones.

    Returns:
        float ``[n, D]`` and ``[m, D]``, at most :data:`COMPONENTS` components.
    """
    parts = []
    for data, chosen, purpose in ((material.data, rows, PURPOSE), (material.reserve, own, reserve.PURPOSE)):
        states = material.purifier.regenerate(data.images, chosen.nonzero()[:, 0], purpose)
        parts.append((states[:, 0].float() - states[:, 1].float()).flatten(1))
    return whitened(parts[0], parts[1], COMPONENTS)


def _points(evidence: Evidence, benign: Tensor, odds: Tensor, rows: Tensor, scale: Tensor, *, in_class: bool) -> Tensor:
    """What images are told apart by, brought to similar scales: float ``[n, D]``.

    Args:
        benign: float ``[N]``, from :func:`cross_fit`; odds: float ``[N]``, from :func:`trigger_odds`.
        rows: bool ``[N]``.
        in_class: they are of one class, so that features and the purified image's probabilities compare.
    """
    doubts = evidence.doubts[rows]
    own = benign[rows].clamp_min(SMALLEST).log10()
    witness = evidence.confidence[rows]
    points = torch.stack(
        [
            4 * doubts[:, 0],
            4 * doubts[:, 1],
            -own,
            odds[rows] / 5,
            2 * witness,
            witness.clamp_min(SMALLEST).log10() - own,
            2 * evidence.hits[rows],
            2 * evidence.confident_doubt()[rows],
        ],
        1,
    )
    if not in_class:
        return points
    return torch.cat([evidence.features[rows] / scale.clamp_min(1e-6), 3 * evidence.purified[rows], points], 1)
