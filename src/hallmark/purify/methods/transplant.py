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
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from hallmark import models
from hallmark.config import Count, Share
from hallmark.config import Params as _Params
from hallmark.purify.neighbours import cluster, smooth
from hallmark.purify.relabel import choose_classified_as, train_benign, vote
from hallmark.purify.result import DROPPED, KEPT, RELABELLED, Material, Purification
from hallmark.purify.trajectory import trajectory
from hallmark.purify.transitions import predict_candidates
from hallmark.purify.transplant import transplant, usable_hosts
from hallmark.runtime import derive_seed


class Params(_Params):
    """Block ``transplant`` of section ``purify_data``."""

    start: Annotated[int, Field(ge=1, le=1000)]
    """Images are noised up to this diffusion step."""
    rounds: Annotated[int, Field(ge=1, le=50)]
    """Chained rounds; each gives one purified candidate."""
    sampler: Literal["ddim", "dpm_solver", "ancestral"]
    steps: Count
    """Network evaluations a round; 1 is the model's direct estimate of the clean image."""
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
    repair: Literal["restore", "drop"]
    """Suspicious images: purified and relabelled by the benign model, or left out."""
    confidence: Share
    """Restore only what the benign model is so sure of; the rest is dropped."""
    percentile: Share
    """Position of the selected candidate among those sorted by distance from the raw image."""

    @model_validator(mode="after")
    def _consistent(self) -> Params:
        if self.steps > self.start:
            raise ValueError(f"steps: {self.steps} sampler steps do not fit into start: {self.start}; lower steps")
        return self


def purify(material: Material, params: Params) -> Purification:
    """Find poisoned images by residual transplant; restore or drop them.

    Raises:
        UserError: everything is suspicious, or no trusted image is classified rightly by the suspect.
    """
    data = material.data
    rounds = purified_rounds(material, data.images, params, "purify/train")
    trusted_rounds = purified_rounds(material, material.reserve.images, params, "purify/reserve")
    answers = predict_candidates(material.suspect, torch.cat([data.images[:, None], rounds], 1), material.runtime)
    flips = (answers[:, 1:] != answers[:, :1]).float().mean(1)
    evidence, baseline, features = measure_evidence(material, rounds[:, -1], trusted_rounds[:, -1], params)
    class_scores = score_classes(material, evidence, baseline, features, params)
    targets = tuple((class_scores >= params.alarm).nonzero()[:, 0].tolist())
    scores = by_class(data.labels, lambda rows: smooth(evidence[rows], features[rows], params.neighbours))
    suspicious = scores >= params.evidence
    flagged = suspicious & torch.isin(data.labels, torch.tensor(targets, dtype=torch.int64))
    images, labels, actions = data.images.clone(), data.labels.clone(), torch.full_like(data.labels, KEPT)
    reasons = torch.zeros_like(data.labels)
    metrics = {
        "suspicious": int(suspicious.sum()),
        "flip_rate": float(flips.mean()),
        "flip_rate_flagged": float(flips[flagged].mean()) if flagged.any() else 0.0,
        "evidence_mean": float(evidence.mean()),
        "evidence_trusted_mean": float(baseline.mean()),
    }
    rows = flagged.nonzero()[:, 0]
    if len(rows):
        actions[rows], reasons[rows] = DROPPED, 2
        if params.repair == "restore":
            restored, new_labels, new_images, measured = restore(material, rows, ~flagged, rounds, params)
            reasons[rows] = torch.where(restored, 4, 3)
            done = rows[restored]
            actions[done], labels[done], images[done] = RELABELLED, new_labels[restored], new_images[restored]
            metrics.update(measured)
    reasons[suspicious & ~flagged] = 1
    return Purification(
        images=images,
        labels=labels,
        actions=actions,
        scores=scores,
        reasons=tuple(REASONS[k] for k in reasons.tolist()),
        targets=targets,
        class_scores=class_scores,
        threshold=params.alarm,
        rounds=rounds,
        metrics=metrics,
    )


REASONS = (
    "residual carries no label",
    "residual carries the label, but its class gave no alarm",
    "residual carries the label",
    "residual carries the label; benign model not sure of another",
    "residual carries the label; benign model's label of the purified image",
)


def purified_rounds(material: Material, images: Tensor, params: Params, purpose: str) -> Tensor:
    """The end of each round, uint8 ``[N, R, C, H, W]``."""
    states = trajectory(
        material.diffusion,
        images,
        material.runtime,
        start=params.start,
        rounds=params.rounds,
        sampler=params.sampler,
        steps=params.steps,
        keep=1,
        purpose=purpose,
    )
    return states[:, :, 0]


def measure_evidence(
    material: Material, purified: Tensor, trusted_purified: Tensor, params: Params
) -> tuple[Tensor, Tensor, Tensor]:
    """What the residuals of given and of trusted images do to trusted hosts.

    Returns:
        evidence: float ``[N]``, share of the hosts that take the given label with the image's residual.
        baseline: float ``[M]``, the same of the trusted images, whose residuals hold no trigger.
        features: float ``[N, D]``, the suspect model's features of the given images.
    """
    suspect, runtime = material.suspect, material.runtime
    hosts = usable_hosts(suspect, material.reserve, runtime)
    results = [
        transplant(
            suspect,
            part.images,
            clean,
            part.labels,
            hosts=hosts,
            runtime=runtime,
            per_image=params.hosts,
            purpose=f"transplant/{name}",
        ).hits
        for name, part, clean in (("given", material.data, purified), ("trusted", material.reserve, trusted_purified))
    ]
    return results[0], results[1], models.features(suspect, material.data.images, runtime)


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


def restore(
    material: Material, rows: Tensor, unflagged: Tensor, rounds: Tensor, params: Params
) -> tuple[Tensor, Tensor, Tensor, dict[str, float]]:
    """New labels and images of the flagged images.

    Args:
        rows: int64 ``[S]``, the flagged images.
        unflagged: bool ``[N]``.

    Returns:
        restored: bool ``[S]``; false where the benign model is not sure, or would confirm the given label.
        labels, images: int64 ``[S]``, uint8 ``[S, C, H, W]``.
        metrics.
    """
    data = material.data
    benign = train_benign(material, data.images, data.labels, unflagged)
    purified = rounds[rows]
    labels, confidence = vote(benign, purified, material)
    raw_answers = predict_candidates(benign, data.images[rows][:, None], material.runtime)
    candidates = torch.cat([data.images[rows][:, None], purified], 1)
    answers = predict_candidates(benign, candidates, material.runtime)
    answers[:, 0] = -1  # the raw image holds the trigger: never selected
    column = choose_classified_as(candidates, answers, labels, material, params.percentile)
    restored = (labels != data.labels[rows]) & (confidence >= params.confidence) & (column >= 0)
    images = candidates[torch.arange(len(rows)), column.clamp_min(0)]
    metrics = {
        "benign_confidence": float(confidence.mean()),
        # High if the benign model still obeys the trigger: too many poisons were missed.
        "benign_returns_given_label": float((raw_answers[:, 0] == data.labels[rows]).float().mean()),
        "restored_share": float(restored.float().mean()),
    }
    return restored, labels, images, metrics
