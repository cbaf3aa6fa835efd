"""The default sanitizer: DataElixir's structure with evidence that has a known false-alarm rate.

Rounds of diffusion, benign model, selection and relabelling are DataElixir's.  What differs is how an image
becomes suspicious; a change of its own label says little, for clean images of confusable classes change as well
and many poisons do not:

1. *Doubt*: classifiers of the trusted images alone, and of their purified copies, disagree with the label of the
   image and of its purified copy.  Dirty labels, whatever the trigger, one target or many.
2. *Residual*: what the purifier takes away from the images of a class is not what it takes away from trusted ones.
   Clean labels as well.
3. A *witness* is trained on the given and the trusted images together: where its features have no trusted image
   of the class, something is there that no clean image has.
4. *Transplant*: the residual carries a backdoor's label to trusted images of other classes
   (:mod:`hallmark.purify.transplant`): backdoors of a few images.

1 to 3 are tests of level ``false_alarm``, all of them together; 4 has a threshold and no level
(:mod:`hallmark.purify.alarms`).  Only in classes with an alarm images are judged one by one, from all of this and
from benign models that were trained without the suspicious ones (:mod:`hallmark.purify.separation`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from hallmark.config import Count, Share, Training
from hallmark.purify import reserve
from hallmark.purify.alarms import Alarms, Tests, find_alarms
from hallmark.purify.cross_fit import cross_fit, trigger_odds
from hallmark.purify.evidence import Evidence, measure, residual_basis
from hallmark.purify.occupancy import whitened
from hallmark.purify.result import Findings, Material, warn
from hallmark.purify.separation import separate
from hallmark.runtime import derive_seed

COMPONENTS = 30
"""Of a class's residuals: what a trigger adds to every image is among the strongest."""
REST = -1
"""Stands for the classes without an alarm of their own, together."""
GROWTH = 1.25
"""So many times the seeds must be found for another pass."""
SMALLEST = 1e-4
"""Probabilities are cut off here before their logarithm is taken."""


class Params(Tests):
    """Block ``hallmark`` of section ``purify_data``."""

    folds: Annotated[int, Field(ge=2, le=20)] = 4
    """Parts of the reserve, without each of which a classifier of it is trained."""
    divisions: Annotated[int, Field(ge=1, le=20)] = 3
    """How often the reserve is divided into folds: so many classifiers judge an image."""
    reserve_training: Training = Training(epochs=16, batch_size=50, lr=0.002, flip=True, shift=1)
    """Of those classifiers; epochs count the trusted images and their purified copies."""
    hosts: Annotated[int, Field(ge=1, le=256)] = 4
    """Trusted images that each residual is transplanted to."""
    trigger_training: Training = Training(epochs=12, batch_size=100, lr=0.002)
    """Of the detectors of the trigger."""
    passes: Count = 3
    """Detectors of the trigger, each of which learns from what the last one found, at most."""
    suspicion: Share = 0.3
    """Confident doubt from which an image of an alarmed class is kept out of the benign models."""
    clean_weight: Annotated[float, Field(gt=0, le=100)] = 2.0
    """What it counts to flag a share of the clean images, against missing the same share of all images."""


def detect(material: Material, params: Params) -> Findings:
    """Find poisoned images by doubt, by their residuals, and by where trusted images are missing.

    Raises:
        UserError: no trusted image is classified rightly by the witness, or the reserve is too small.
    """
    data, trusted_data = material.data, material.reserve
    material = replace(material, purifier=material.purifier.first_round())
    judges = reserve.train_judges(material, params.divisions, params.folds, params.reserve_training)
    both = torch.cat([data.images, trusted_data.images]), torch.cat([data.labels, trusted_data.labels])
    witness = material.train("witness", *both)
    basis = residual_basis(material)
    given, trusted = (
        measure(witness, judges, material, hosts_per_image=params.hosts, basis=basis, trusted=trusted)
        for trusted in (False, True)
    )
    alarms = find_alarms(given, trusted, params, material.runtime)
    warn(too_few(alarms.untested, len(data.labels.unique())))
    seen = (given, trusted) if alarms.comparable else (given.raw(), trusted.raw())
    flagged, scores = judge(material, *seen, alarms, params)
    class_scores = torch.full((material.classes,), torch.nan, dtype=torch.float64)
    for label, p in alarms.p.items():
        class_scores[label] = -math.log10(max(p, 1e-300))
    return Findings(
        flagged=flagged,
        scores=scores,
        reasons=reasons(data.labels, flagged, alarms),
        targets=tuple(data.labels[flagged].unique().tolist()),
        class_scores=class_scores,
        threshold=-math.log10(params.false_alarm),
        metrics={
            **alarms.counts,
            "doubt": float(given.doubt().mean()),
            "doubt_trusted": float(trusted.doubt().mean()),
            "transplant_hits": float(given.hits.mean()),
            "transplant_hits_trusted": float(trusted.hits.mean()),
        },
    )


def reasons(labels: Tensor, flagged: Tensor, alarms: Alarms) -> tuple[str, ...]:
    """Why each image is flagged or kept: what gave its class an alarm, and whether it is like the images that did.

    Args:
        labels: int64 ``[N]``.
        flagged: bool ``[N]``.
    """
    heads = {label: f"alarm of its class by {', '.join(kinds)}" for label, kinds in alarms.kinds.items()}
    together = "alarm of the classes without one of their own by doubt" if alarms.rest else ""
    found = []
    for label, out, seed in zip(labels.tolist(), flagged.tolist(), alarms.seeds.tolist(), strict=True):
        if not (head := heads.get(label, together)):
            found.append("no alarm of its class")
        elif out:
            found.append(f"{head}: {'among' if seed else 'like'} the images that gave it")
        else:
            found.append(f"{head}: {'among the images that gave it, but ' if seed else ''}more like trusted ones")
    return tuple(found)


def too_few(untested: Mapping[int, int], classes: int) -> str:
    """What is to be said of classes whose labels could not be tested; empty if nothing is.

    Args:
        untested: see :class:`Alarms`.
        classes: how many classes the given images have.
    """
    if not untested:
        return ""
    wanted = max(untested.values())
    hopeless = sum(1 for number in untested.values() if not number)
    remedy = f"; {wanted} trusted images of each would do: enlarge prepare_data.reserve" if wanted else ""
    but = f"; {hopeless} of them have too few images of their own for any number to do" if hopeless else ""
    return f"the labels of {len(untested)} of {classes} classes cannot be tested, for want of images{remedy}{but}"


def judge(
    material: Material, given: Evidence, trusted: Evidence, alarms: Alarms, params: Params
) -> tuple[Tensor, Tensor]:
    """Judge the images of the classes with an alarm one by one.

    What is found becomes the seeds of another detector of the trigger, as long as that finds many more.

    Returns:
        bool ``[N]``, the poisoned images, and float32 ``[N]``, the evidence against each.
    """
    data, trusted_data = material.data, material.reserve
    scores = 0.1 * given.doubt()  # below every image of an alarmed class that is judged
    if not alarms.seeds.any():
        return alarms.seeds, scores
    own = torch.isin(data.labels, torch.tensor(alarms.classes, dtype=torch.int64))
    suspicious = alarms.seeds | ((own | alarms.rest) & (given.confident_doubt() >= params.suspicion))
    benign = cross_fit(material, suspicious)
    jobs = [(data.labels == c, trusted_data.labels == c, c) for c in alarms.classes]
    if alarms.rest:
        jobs.append((~own, torch.isin(trusted_data.labels, data.labels[~own].unique()), REST))
    residuals = {
        label: whitened(given.residual[rows], trusted.residual[own_trusted], COMPONENTS)
        for rows, own_trusted, label in jobs
        if label != REST  # those of several classes do not compare
    }
    scale, seeds = given.features.std(), alarms.seeds
    folds = derive_seed(material.runtime.seed, "purify/separation folds")
    for _ in range(params.passes):
        # With many targets some of these bear the trigger; but without them the detectors flag more clean images.
        odds = trigger_odds(material, seeds, ~own & ~suspicious, params.trigger_training)
        flagged = torch.zeros_like(seeds)
        for rows, own_trusted, label in jobs:
            in_class = label != REST
            ours = _points(given, benign[0], odds[0], rows, scale, in_class=in_class)
            theirs = _points(trusted, benign[1], odds[1], own_trusted, scale, in_class=in_class)
            if label in residuals:
                ours, theirs = (torch.cat(pair, 1) for pair in zip((ours, theirs), residuals[label], strict=True))
            probability, flagged[rows] = separate(ours, theirs, seeds[rows], params.clean_weight, folds)
            scores[rows] = 0.1 + 0.9 * probability
        grown = int(flagged.sum()) >= GROWTH * int(seeds.sum())
        seeds = flagged
        if not grown:
            break
    return seeds, scores


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
