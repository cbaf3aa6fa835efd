"""What becomes of flagged images: restored or dropped, with or without the reserve to make up for what is lost.

The same for every sanitizer, so that they can be compared: steps 6 and 7 of DataElixir, or less.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hallmark.config import ADDING_RESERVE, RESTORING, Repair, Restore
from hallmark.purify.relabel import choose_classified_as, opinions, train_benign
from hallmark.purify.result import (
    DROPPED,
    KEPT,
    NO_OTHER,
    PURIFIED,
    RELABELLED,
    UNSURE,
    Findings,
    Material,
    Purification,
)
from hallmark.purify.resume import weights

PURPOSE = "purify/train"
"""Names the noise of the given images in every pass over them."""


def repair(material: Material, findings: Findings, mode: Repair, params: Restore) -> Purification:
    """Carry out ``mode`` (section ``purify_data``, parameter ``repair``) on the flagged images.

    Raises:
        UserError: everything is flagged, so that no benign model can be trained.
    """
    data = material.data
    images, labels = data.images.clone(), data.labels.clone()
    actions = torch.where(findings.flagged, DROPPED, KEPT)
    reasons, metrics = list(findings.reasons), {}
    rows = findings.flagged.nonzero()[:, 0]
    if mode in RESTORING and len(rows):
        if findings.restored is None:
            done, new_labels, new_images, metrics = restore(material, findings, rows, params)
        else:
            new_labels, new_images = findings.restored
            done = torch.ones_like(rows, dtype=torch.bool)
        confirmed = new_labels == data.labels[rows]
        back = rows[done]
        images[back], labels[back] = new_images[done], new_labels[done]
        actions[back] = torch.where(labels[back] == data.labels[back], PURIFIED, RELABELLED)
        for row, same in zip(rows[~done].tolist(), confirmed[~done].tolist(), strict=True):
            reasons[row] += f"; {NO_OTHER if same else UNSURE}"
        metrics = {**metrics, "restored_share": float(done.float().mean())}
    added = material.reserve if mode in ADDING_RESERVE else None
    return Purification(findings, images, labels, actions, tuple(reasons), added, metrics)


def restore(
    material: Material, findings: Findings, rows: Tensor, params: Restore
) -> tuple[Tensor, Tensor, Tensor, dict[str, float]]:
    """Purified images of the flagged ones, labelled by a model that has seen none of them.

    The benign model votes over the *purified* copies and the raw image is never chosen: a benign model that
    missed a few poisons still obeys the trigger, and asked about the raw image it would give it back.

    Args:
        rows: int64 ``[S]``, the flagged images.

    Returns:
        done: bool ``[S]``; false where the benign model is not sure, or a dirty label would be confirmed.
        labels, images: int64 ``[S]``, uint8 ``[S, C, H, W]``.
        metrics.
    """
    data = material.data
    benign = train_benign(material, data.images, data.labels, ~findings.flagged)

    def choose(index: Tensor, candidates: Tensor) -> dict[str, Tensor]:
        answers, labels, confidence = opinions(benign, candidates, material.runtime)
        raw = answers[:, 0].clone()
        answers[:, 0] = -1  # the raw image holds the trigger: never selected
        column = choose_classified_as(candidates, answers, labels, material, params.percentile)
        copies = candidates[torch.arange(len(index)), column.clamp_min(0)]
        return {"labels": labels, "confidence": confidence, "raw": raw, "column": column, "images": copies}

    found = material.purifier.scan(
        data.images,
        choose,
        PURPOSE,
        rows=rows,
        depends={
            "percentile": torch.tensor(params.percentile, dtype=torch.float64),
            **weights(benign=benign, suspect=material.suspect),
        },
    )
    labels, confidence = found["labels"], found["confidence"]
    done = (labels != data.labels[rows]) & (confidence >= params.confidence) & (found["column"] >= 0)
    metrics = {
        "benign_confidence": float(confidence.mean()),
        # High if the benign model still obeys the trigger: too many poisons were missed.
        "benign_returns_given_label": float((found["raw"] == data.labels[rows]).float().mean()),
    }
    return done, labels, found["images"], metrics
