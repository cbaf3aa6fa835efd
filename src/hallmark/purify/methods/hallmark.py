"""The default sanitizer: DataElixir's structure with causal evidence that holds at small scale.

Rounds, transitions, target detection, benign model, selection and relabelling are DataElixir's.
What differs: an image is suspicious by *residual transplant* (what the purifier removes from it,
added to trusted images of other classes, takes the suspect model along), not by a change of its own
label, which clean images of confusable classes show as well; the evidence is smoothed over neighbours
in the suspect model's features; and the benign model votes over the *purified* copies, because a
benign model that missed a few poisons gives the raw image back to the attacker.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from hallmark import models
from hallmark.config import Count
from hallmark.config import Params as _Params
from hallmark.purify.neighbours import cluster, smooth
from hallmark.purify.repair import PURPOSE
from hallmark.purify.result import Findings, Material
from hallmark.purify.transitions import predict_candidates
from hallmark.purify.transplant import hosts_for, transplant, usable_hosts
from hallmark.runtime import derive_seed


class Params(_Params):
    """Block ``hallmark`` of section ``purify_data``."""

    hosts: Annotated[int, Field(ge=1, le=256)]
    """Trusted images that each residual is transplanted to."""
    neighbours: Count
    """Images of a class over which the evidence is averaged, the image itself included."""
    evidence: Annotated[float, Field(gt=0, le=1)]
    """Share of the hosts, averaged over the neighbours, that must follow the residual of a suspicious image."""
    clusters: Count
    """Each class is split into so many clusters of the suspect's features for the target detection."""
    least: Count
    """Clusters of fewer images are not looked at."""
    alarm: Annotated[float, Field(gt=0, le=1)]
    """A class is a target if so large a share of the hosts follows one of its clusters, beyond the trusted images'."""


def detect(material: Material, params: Params) -> Findings:
    """Find poisoned images by residual transplant.

    Raises:
        UserError: no trusted image is classified rightly by the suspect.
    """
    data = material.data
    evidence, baseline, features, flips = measure_evidence(material, params)
    class_scores = score_classes(material, evidence, baseline, features, params)
    targets = tuple((class_scores >= params.alarm).nonzero()[:, 0].tolist())
    scores = by_class(data.labels, lambda rows: smooth(evidence[rows], features[rows], params.neighbours))
    suspicious = scores >= params.evidence
    flagged = suspicious & torch.isin(data.labels, torch.tensor(targets, dtype=torch.int64))
    reasons = (suspicious.long() + flagged.long()).tolist()
    return Findings(
        flagged=flagged,
        scores=scores,
        reasons=tuple(REASONS[k] for k in reasons),
        targets=targets,
        class_scores=class_scores,
        threshold=params.alarm,
        metrics={
            "suspicious": int(suspicious.sum()),
            "flip_rate": float(flips.mean()),
            "flip_rate_flagged": float(flips[flagged].mean()) if flagged.any() else 0.0,
            "evidence_mean": float(evidence.mean()),
            "evidence_trusted_mean": float(baseline.mean()),
        },
    )


REASONS = (
    "residual carries no label",
    "residual carries the label, but its class gave no alarm",
    "residual carries the label",
)


def measure_evidence(material: Material, params: Params) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the residuals of given and of trusted images do to trusted hosts.

    Returns:
        evidence: float ``[N]``, share of the hosts that take the given label with the image's residual.
        baseline: float ``[M]``, the same of the trusted images, whose residuals hold no trigger.
        features: float ``[N, D]``, the suspect model's features of the given images.
        flips: float ``[N]``, share of the purified candidates that the suspect calls otherwise than the image.
    """
    suspect, runtime = material.suspect, material.runtime
    hosts = usable_hosts(suspect, material.reserve, runtime)
    results: list[dict[str, Tensor]] = []
    for purpose, part in ((PURPOSE, material.data), ("purify/reserve", material.reserve)):
        chosen = hosts_for(part.labels, hosts, params.hosts, runtime.generator(f"{purpose}/hosts"))

        def measure(index: Tensor, candidates: Tensor) -> dict[str, Tensor]:
            answers = predict_candidates(suspect, candidates, runtime)
            hits = transplant(
                suspect,
                candidates[:, 0],
                candidates[:, -1],
                part.labels[index],
                hosts=hosts.images[chosen[index]],
                runtime=runtime,
            )
            return {"hits": hits, "flips": (answers[:, 1:] != answers[:, :1]).float().mean(1)}

        results.append(material.purifier.scan(part.images, measure, purpose))
    features = models.features(suspect, material.data.images, runtime)
    return results[0]["hits"], results[1]["hits"], features, results[0]["flips"]


def score_classes(material: Material, evidence: Tensor, baseline: Tensor, features: Tensor, params: Params) -> Tensor:
    """How far the strongest cluster of each class exceeds its trusted images, float64 ``[K]``; NaN if empty.

    Poisons gather in clusters of their own (Activation Clustering, Chen et al. 2018); here the cluster
    is judged by what its residuals do, not by its size.
    """
    scores = torch.full((material.classes,), torch.nan, dtype=torch.float64)
    trusted = material.reserve.labels
    for label in material.data.labels.unique().tolist():
        rows = (material.data.labels == label).nonzero()[:, 0]
        groups = cluster(
            features[rows], params.clusters, derive_seed(material.runtime.seed, f"purify/clusters {label}")
        )
        size = torch.bincount(groups)
        mean = torch.zeros(len(size), dtype=torch.float64).index_add_(0, groups, evidence[rows].double()) / size
        large = size >= params.least
        # A class too small for one such cluster is looked at whole.
        mean = mean[large] if large.any() else evidence[rows].double().mean()[None]
        # A class without trusted images is measured against those of all classes.
        own = baseline[trusted == label] if (trusted == label).any() else baseline
        scores[label] = float(mean.max()) - float(own.mean())
    return scores


def by_class(labels: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """``function(rows)`` for the rows of each class, put together: float ``[N]``."""
    values = torch.zeros(len(labels))
    for label in labels.unique().tolist():
        rows = (labels == label).nonzero()[:, 0]
        values[rows] = function(rows)
    return values
