"""Models that judge only images which they have not seen: benign ones, and detectors of a trigger.

Given and trusted images are dealt to two halves alike; each half is judged by the other's model.  So the two compare.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hallmark import models
from hallmark.config import Training
from hallmark.purify.result import Material

REPEATED = 4
"""How often the detector of a trigger sees the trusted images of a class with an alarm in an epoch."""
OTHERS = 1000
"""Given images of other classes that it sees."""


def cross_fit(material: Material, suspicious: Tensor) -> tuple[Tensor, Tensor]:
    """The probability of each image's label by a model that has seen neither it nor any suspicious image.

    Args:
        suspicious: bool ``[N]``, given images that are trained on in neither half.

    Returns:
        float ``[N]`` and ``[M]``, of the given and of the trusted images.
    """
    data, trusted = material.data, material.reserve
    images, labels = torch.cat([data.images, trusted.images]), torch.cat([data.labels, trusted.labels])
    fit = torch.cat([~suspicious, torch.ones(len(trusted), dtype=torch.bool)])
    result = torch.empty(len(labels))
    for k, (learnt, judged) in enumerate(_halves(material, suspicious)):
        rows = learnt[fit[learnt]]
        network = material.train(f"half_{k}", images[rows], labels[rows])
        answers = models.probabilities(network, images[judged], material.runtime)
        result[judged] = answers.gather(1, labels[judged, None])[:, 0]
    return result[: len(data)], result[len(data) :]


def trigger_odds(material: Material, seeds: Tensor, unlike: Tensor, training: Training) -> tuple[Tensor, Tensor]:
    """How surely an image bears what the seeds have in common, by a model that has not seen it.

    A detector tells the seeds from images of other classes and from trusted ones.  The seeds of a dirty-label
    backdoor show what those show, but for the trigger: so it learns the trigger, and knows it again on poisoned
    images whose label nobody would doubt (a coat that is called a pullover).

    Args:
        seeds: bool ``[N]``, given images that surely are poisoned.
        unlike: bool ``[N]``, given images that probably are not: of classes without an alarm.

    Returns:
        natural log-odds less their median over trusted images, float ``[N]`` and ``[M]``, of the given and of the
        trusted images.
    """
    data, trusted = material.data, material.reserve
    images = torch.cat([data.images, trusted.images])
    nobody = torch.zeros(len(trusted), dtype=torch.bool)
    seed, other = torch.cat([seeds, nobody]), torch.cat([unlike & ~seeds, nobody])
    known = torch.cat([torch.zeros(len(data), dtype=torch.bool), ~nobody])
    # The alarmed classes have trusted images only to stand for what they look like without the trigger.
    home = known & torch.isin(torch.cat([data.labels, trusted.labels]), data.labels[seeds].unique())
    result = torch.empty(len(images))
    for k, (learnt, judged) in enumerate(_halves(material, seeds)):
        clean = torch.cat([learnt[other[learnt]][:OTHERS], learnt[known[learnt]]])
        clean = torch.cat([clean, learnt[home[learnt]].repeat(REPEATED - 1)])
        found = learnt[seed[learnt]]
        if not len(found):  # all seeds are in the other half, and one detector's odds do not compare with none
            return torch.zeros(len(data)), torch.zeros(len(trusted))
        found = found.repeat(max(1, round(len(clean) / len(found))))
        rows = torch.cat([clean, found])
        answers = (torch.arange(len(rows)) >= len(clean)).long()
        network = models.build(
            material.architecture, images, ("clean", "poisoned"), material.runtime, f"purify/trigger_{k}"
        )
        material.tune(network, f"trigger_{k}", images[rows], answers, training)
        logits = models.logits(network, images[judged], material.runtime)
        odds = logits[:, 1] - logits[:, 0]
        # The two detectors need not be equally sure: both are brought to the level of the trusted images.
        theirs = odds[known[judged]]
        result[judged] = odds - (theirs.median() if len(theirs) else 0)
    return result[: len(data)], result[len(data) :]


def _halves(material: Material, special: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Positions of given and then trusted images to learn from and to judge, int64, in random order; and in turn.

    Args:
        special: bool ``[N]``; of each class, of special, other given, and trusted images each half gets as many.
    """
    labels = torch.cat([material.data.labels, material.reserve.labels])
    kind = torch.cat([special.long(), torch.full((len(material.reserve),), 2)])
    order = torch.randperm(len(labels), generator=material.runtime.generator("purify/halves"))
    rank = torch.empty_like(order)
    by_stratum = order[(3 * labels + kind)[order].argsort(stable=True)]
    rank[by_stratum] = torch.arange(len(order))
    first, second = order[rank[order] % 2 == 0], order[rank[order] % 2 == 1]
    return (first, second), (second, first)
