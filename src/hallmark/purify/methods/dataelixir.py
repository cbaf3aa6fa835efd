"""DataElixir as published and released (Zhou et al., AAAI 2024): the authors' rule and constants.

With ``sampler: ancestral``, 150 steps, 5 rounds and 10 kept states this is the authors' procedure,
750 network evaluations an image.  At the scale of a few thousand images the rule is fragile: on
clean data it names classes through the lower side of its test, and poisons that never change label
keep the benign model backdoored.  The method ``transplant`` is the default for that reason.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator

from hallmark.config import Count, Positive, Share
from hallmark.config import Params as _Params
from hallmark.purify.relabel import choose_classified_as, consensus_fine_tuning, train_benign
from hallmark.purify.result import KEPT, RELABELLED, Material, Purification
from hallmark.purify.selection import distances, select
from hallmark.purify.targets import kl_divergence, mad_outliers
from hallmark.purify.trajectory import trajectory
from hallmark.purify.transitions import kept_label_shares, predict_candidates, transition_rule


class Params(_Params):
    """Block ``dataelixir`` of section ``purify_data``."""

    start: Annotated[int, Field(ge=1, le=1000)] = 150
    """T: images are noised up to this diffusion step."""
    rounds: Annotated[int, Field(ge=1, le=50)] = 5
    """n."""
    sampler: Literal["ddim", "dpm_solver", "ancestral"] = "ancestral"
    steps: Count = 150
    """Network evaluations a round."""
    keep: Count = 10
    """m: the last so many states of a round are candidates."""
    tau: Count = 5
    """From so many intermediates with the second commonest label on, all intermediates count."""
    mad_threshold: Positive = 2.0
    """Robust standard deviations from which a class is called a target."""
    percentile: Share = 0.8
    """Position of the selected candidate among those sorted by distance from the raw image."""
    fine_tune_lr: Positive = 0.0003
    """Learning rate of the consensus fine-tuning: a fifth of the training's, as the authors' 0.002 is of their 0.01."""

    @model_validator(mode="after")
    def _consistent(self) -> Params:
        if self.steps > self.start:
            raise ValueError(f"steps: {self.steps} sampler steps do not fit into start: {self.start}; lower steps")
        if self.sampler != "ancestral" and self.keep > 1:
            raise ValueError("keep: intermediates of a fast sampler are noisy images; set keep to 1 (and tau to 1)")
        return self


def purify(material: Material, params: Params) -> Purification:
    """Purify by DataElixir's seven steps.

    Raises:
        UserError: everything is suspicious, or sampler and diffusion model do not fit.
    """
    data, runtime = material.data, material.runtime
    # 1. Trajectory.
    states = trajectory(
        material.diffusion,
        data.images,
        runtime,
        start=params.start,
        rounds=params.rounds,
        sampler=params.sampler,
        steps=params.steps,
        keep=params.keep,
        purpose="purify/train",
    )
    candidates = torch.cat([data.images[:, None], states.flatten(1, 2)], 1)
    # 2. Candidates that count.
    labels = predict_candidates(material.suspect, candidates, runtime)
    transitions = transition_rule(labels, material.classes, params.tau)
    # 3. Target labels.
    shares, samples = kept_label_shares(transitions, data.labels, material.classes)
    found = mad_outliers(kl_divergence(shares, samples), params.mad_threshold)
    # 4. What becomes of each image.
    aimed = torch.isin(data.labels, torch.tensor(found.targets, dtype=torch.int64)) & ~transitions.unanimous
    suspicious = aimed & ~transitions.intermediates_agree
    replaced = aimed & transitions.intermediates_agree
    images, new_labels = data.images.clone(), data.labels.clone()
    # 5. Selection.
    rows = replaced.nonzero()[:, 0]
    distance = distances(data.images[rows], candidates[rows], material.suspect, runtime)
    images[rows] = candidates[rows, select(distance, transitions.kept[rows], params.percentile)]
    new_labels[rows] = transitions.majority[rows]
    confirmed = 0
    rows = suspicious.nonzero()[:, 0]
    if len(rows):
        # 6. Benign model.
        benign = train_benign(material, images, new_labels, ~suspicious)
        training = material.training.model_copy(update={"lr": params.fine_tune_lr})
        confirmed = consensus_fine_tuning(
            benign,
            material,
            candidates[rows],
            suspicious=suspicious,
            tentative=transitions.majority[rows],
            images=images,
            labels=new_labels,
            percentile=params.percentile,
            training=training,
        )
        # 7. Labels and images of the suspicious.
        answers = predict_candidates(benign, candidates[rows], runtime)
        new_labels[rows] = answers[:, 0]
        images[rows] = candidates[
            rows, choose_classified_as(candidates[rows], answers, answers[:, 0], material, params.percentile)
        ]
    actions = torch.where(new_labels != data.labels, RELABELLED, KEPT)
    words = ("no target" if not found.targets else "unchanging or no target", "intermediates agree", "benign model")
    kinds = (replaced.long() + 2 * suspicious.long()).tolist()
    return Purification(
        images=images,
        labels=new_labels,
        actions=actions,
        scores=transitions.flip_rate,
        reasons=tuple(words[k] for k in kinds),
        targets=found.targets,
        class_scores=found.scores,
        threshold=params.mad_threshold,
        rounds=states[:, :, -1],
        metrics={
            "changing_share": float((~transitions.unanimous).float().mean()),
            "suspicious": int(suspicious.sum()),
            "consensus_confirmed": confirmed,
        },
    )
