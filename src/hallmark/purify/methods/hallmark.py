"""The default sanitizer: DataElixir's structure with evidence that has a known false-alarm rate.

Rounds of diffusion, transitions, benign model, selection and relabelling are DataElixir's.  What differs is how
an image becomes suspicious; a change of its own label says little, for clean images of confusable classes change
as well and many poisons do not:

1. A *witness* is trained on the given and the trusted images together.  If a class is clean, its given and its
   trusted images are exchangeable; groups of given images with too few trusted ones among them (an exact test,
   :mod:`hallmark.purify.occupancy`) are poisons, whatever the trigger and whether labels are dirty or clean.
2. Backdoors of a few images are too small for that test.  Their *residual*, what the purifier takes away, carries
   their label to trusted images of other classes (:mod:`hallmark.purify.transplant`).
3. The groups found are seeds; within their classes each image is judged by its features and its residual.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from hallmark import models
from hallmark.config import Count, Share
from hallmark.config import Params as _Params
from hallmark.models import Network
from hallmark.purify.occupancy import groups, separate
from hallmark.purify.repair import PURPOSE
from hallmark.purify.result import Findings, Material
from hallmark.purify.transplant import hosts_for, transplant, usable_hosts
from hallmark.runtime import derive_seed

RESIDUAL_WEIGHT = 3.0
"""Scale of the residual's evidence (0-1) beside features of unit variance."""


class Params(_Params):
    """Block ``hallmark`` of section ``purify_data``."""

    false_alarm: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    """Probability that a clean set raises any alarm by its trusted images' places (all classes and groups)."""
    levels: Annotated[list[Annotated[int, Field(ge=2, le=256)]], Field(min_length=1)] = [2, 3, 4, 6, 8, 12, 16]
    """Numbers of groups that each class is split into, one after another."""
    hosts: Annotated[int, Field(ge=1, le=256)] = 4
    """Trusted images that each residual is transplanted to."""
    evidence: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Share of the hosts, above the trusted images' own, that must follow the residuals of a group too small to test."""
    least: Count = 10
    """Groups of fewer images are not looked at for their residuals."""
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Probability of belonging with the seeds from which an image of an alarmed class is flagged."""


@dataclass(frozen=True)
class Evidence:
    """What is measured of a set of images.

    Attributes:
        features: float ``[N, D]``, the witness's.
        hits: float ``[N]``, share of the hosts that take the label with the image's residual.
        flips: float ``[N]``, share of the purified candidates that the witness calls otherwise than the image.
    """

    features: Tensor
    hits: Tensor
    flips: Tensor


def detect(material: Material, params: Params) -> Findings:
    """Find poisoned images by where trusted images are missing and by residual transplant.

    Raises:
        UserError: no trusted image is classified rightly by the witness.
    """
    data, reserve = material.data, material.reserve
    both = torch.cat([data.images, reserve.images]), torch.cat([data.labels, reserve.labels])
    witness = material.train("witness", *both)
    given, trusted = (
        measure(witness, material, part.images, part.labels, params, purpose)
        for part, purpose in ((data, PURPOSE), (reserve, "purify/reserve"))
    )
    scores, flagged = 0.1 * given.hits, torch.zeros(len(data), dtype=torch.bool)
    class_scores = torch.full((material.classes,), torch.nan, dtype=torch.float64)
    tests = len(data.labels.unique()) * sum(params.levels)
    alarms: dict[str, int] = {"alarms_by_place": 0, "alarms_by_residual": 0}
    for label in data.labels.unique().tolist():
        rows, own = (data.labels == label).nonzero()[:, 0], (reserve.labels == label).nonzero()[:, 0]
        seeds, smallest, carried = find_seeds(given, trusted, rows, own, tests, params, label, material)
        class_scores[label] = -math.log10(max(min(1.0, smallest * tests), 1e-300))
        if seeds.any():
            alarms["alarms_by_place"] += smallest * tests < params.false_alarm
            alarms["alarms_by_residual"] += carried
            probability, _ = separate(_points(given, rows), _points(trusted, own), seeds)
            scores[rows] = torch.from_numpy(probability).float()
            flagged[rows] = scores[rows] >= params.threshold
    targets = tuple(data.labels[flagged].unique().tolist())
    return Findings(
        flagged=flagged,
        scores=scores,
        reasons=tuple(REASONS[k] for k in flagged.long().tolist()),
        targets=targets,
        class_scores=class_scores,
        threshold=-math.log10(params.false_alarm),
        metrics={
            **alarms,
            "flip_rate": float(given.flips.mean()),
            "flip_rate_flagged": float(given.flips[flagged].mean()) if flagged.any() else 0.0,
            "residual_evidence": float(given.hits.mean()),
            "residual_evidence_trusted": float(trusted.hits.mean()),
        },
    )


REASONS = ("among trusted images of its class", "apart from the trusted images of its class")


def measure(
    witness: Network, material: Material, images: Tensor, labels: Tensor, params: Params, purpose: str
) -> Evidence:
    """Features and the effect of the residuals on trusted hosts, in one pass over the purified images."""
    runtime = material.runtime
    hosts = usable_hosts(witness, material.reserve, runtime)
    chosen = hosts_for(labels, hosts, params.hosts, runtime.generator(f"{purpose}/hosts"))

    def look(index: Tensor, candidates: Tensor) -> dict[str, Tensor]:
        answers = models.logits(witness, candidates.flatten(0, 1), runtime).argmax(1).view(candidates.shape[:2])
        hits = transplant(
            witness,
            candidates[:, 0],
            candidates[:, 1],
            labels[index],
            hosts=hosts.images[chosen[index]],
            runtime=runtime,
        )
        return {"hits": hits, "flips": (answers[:, 1:] != answers[:, :1]).float().mean(1)}

    found = material.purifier.scan(images, look, purpose)
    return Evidence(models.features(witness, images, runtime), found["hits"], found["flips"])


def find_seeds(
    given: Evidence,
    trusted: Evidence,
    rows: Tensor,
    own: Tensor,
    tests: int,
    params: Params,
    label: int,
    material: Material,
) -> tuple[Tensor, float, bool]:
    """The groups of one class that no clean class would have.

    Args:
        rows, own: int64, the given and the trusted images of the class.
        tests: how many groups are tested in all (Bonferroni).

    Returns:
        bool ``[len(rows)]``; the smallest p-value of a group; whether a residual gave an alarm.
    """
    seeds, smallest, carried = torch.zeros(len(rows), dtype=torch.bool), 1.0, False
    base = trusted.hits[own].mean() if len(own) else trusted.hits.mean()
    seed = derive_seed(material.runtime.seed, f"purify/groups {label}")
    for group in groups(given.features[rows], trusted.features[own], params.levels, seed):
        smallest = min(smallest, group.p)
        # A residual counts only where trusted images are at least scarce: else the texture of a class would.
        scarce = group.trusted * len(rows) <= 0.5 * group.size * len(own)
        effect = float(given.hits[rows][group.members].mean() - base)
        carries = group.size >= params.least and scarce and effect >= params.evidence
        carried |= carries
        if carries or group.p * tests < params.false_alarm:
            seeds |= group.members
    return seeds, smallest, carried


def _points(evidence: Evidence, rows: Tensor) -> Tensor:
    """What images of a class are told apart by: features of common scale, and the residual's effect."""
    scale = evidence.features.std().clamp_min(1e-6)
    return torch.cat([evidence.features[rows] / scale, RESIDUAL_WEIGHT * evidence.hits[rows, None]], 1)
