"""DataElixir as published and released (Zhou et al., AAAI 2024): the authors' rule and constants.

With ``sampler: ancestral``, 150 steps, 5 rounds and 10 kept states this is the authors' procedure,
750 network evaluations an image.  At the scale of a few thousand images the rule is fragile: on
clean data it names classes through the lower side of its test, and poisons that never change label
keep the benign model backdoored.  The method ``hallmark`` is the default for that reason.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from hallmark.config import Count, Positive, Rounds, Share
from hallmark.config import Params as _Params
from hallmark.purify.relabel import choose_classified_as, consensus_fine_tuning, train_benign
from hallmark.purify.repair import PURPOSE
from hallmark.purify.result import Findings, Material
from hallmark.purify.resume import weights
from hallmark.purify.selection import distances, select
from hallmark.purify.targets import kl_divergence, mad_outliers
from hallmark.purify.transitions import kept_label_shares, predict_candidates, transition_rule


class Params(_Params):
    """Block ``dataelixir`` of section ``purify_data``."""

    rounds: Rounds = Rounds(start=150, rounds=5, sampler="ancestral", steps=150, keep=10)
    """T, n, m and the sampler: the authors' procedure, whatever ``purify_data.rounds`` says."""
    tau: Count = 5
    """From so many intermediates with the second commonest label on, all intermediates count."""
    mad_threshold: Positive = 2.0
    """Robust standard deviations from which a class is called a target."""
    percentile: Share = 0.8
    """Position of the selected candidate among those sorted by distance from the raw image."""
    fine_tune_factor: Positive = 0.2
    """Learning rate of the consensus fine-tuning as a share of the training's: the authors' 0.002 of their 0.01."""


def detect(material: Material, params: Params) -> Findings:
    """DataElixir's seven steps; what they change is flagged and handed on as ``restored``.

    Raises:
        UserError: everything is suspicious, or sampler and diffusion model do not fit.
    """
    data, runtime = material.data, material.runtime
    purifier = replace(material.purifier, rounds=params.rounds)
    purifier.check(data.shape)

    def measure(index: Tensor, candidates: Tensor) -> dict[str, Tensor]:
        return {"labels": predict_candidates(material.suspect, candidates, runtime)}

    # 1. Trajectory, 2. candidates that count.
    depends = weights(suspect=material.suspect)
    labels = purifier.scan(data.images, measure, PURPOSE, depends=depends)["labels"]
    transitions = transition_rule(labels, material.classes, params.tau)
    # 3. Target labels.
    shares, samples = kept_label_shares(transitions, data.labels, material.classes)
    found = mad_outliers(kl_divergence(shares, samples), params.mad_threshold)
    # 4. What becomes of each image.
    aimed = torch.isin(data.labels, torch.tensor(found.targets, dtype=torch.int64)) & ~transitions.unanimous
    suspicious = aimed & ~transitions.intermediates_agree
    replaced = aimed & transitions.intermediates_agree
    changed = aimed.nonzero()[:, 0]
    candidates = purifier.regenerate(data.images, changed, PURPOSE)
    images, new_labels = data.images.clone(), data.labels.clone()
    # 5. Selection.
    rows, part = changed[replaced[changed]], replaced[changed]
    distance = distances(data.images[rows], candidates[part], material.suspect, runtime)
    chosen = select(distance, transitions.kept[rows], params.percentile)
    images[rows] = candidates[part, chosen]
    new_labels[rows] = transitions.majority[rows]
    confirmed = 0
    rows, part = changed[suspicious[changed]], suspicious[changed]
    if len(rows):
        # 6. Benign model.
        benign = train_benign(material, images, new_labels, ~suspicious)
        training = material.training.model_copy(update={"lr": params.fine_tune_factor * material.training.lr})
        confirmed = consensus_fine_tuning(
            benign,
            material,
            candidates[part],
            suspicious=suspicious,
            tentative=transitions.majority[rows],
            images=images,
            labels=new_labels,
            percentile=params.percentile,
            training=training,
        )
        # 7. Labels and images of the suspicious.
        answers = predict_candidates(benign, candidates[part], runtime)
        new_labels[rows] = answers[:, 0]
        column = choose_classified_as(candidates[part], answers, answers[:, 0], material, params.percentile)
        images[rows] = candidates[part, column]
    # An image that was exchanged under its old label is given back as the rule wants it, too.
    flagged = (new_labels != data.labels) | (images != data.images).flatten(1).any(1)
    words = ("unchanging or no target", "intermediates agree", "benign model")
    kinds = (replaced.long() + 2 * suspicious.long()).tolist()
    return Findings(
        flagged=flagged,
        scores=transitions.flip_rate,
        reasons=tuple(words[k] for k in kinds),
        targets=found.targets,
        class_scores=found.scores,
        threshold=params.mad_threshold,
        restored=(new_labels[flagged], images[flagged]),
        rounds=params.rounds,
        metrics={
            "changing_share": float((~transitions.unanimous).float().mean()),
            "suspicious": int(suspicious.sum()),
            "consensus_confirmed": confirmed,
        },
    )
