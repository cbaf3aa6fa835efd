"""From a few surely poisoned images of a class to all of them: self-training against the trusted images."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import Tensor

ROUNDS = 6
FOLDS = 4
"""An image is judged by a model that has not seen it: the more directions, the lower lie the trusted ones it saw."""
REGULARISATION = 0.1
"""scikit-learn's C: features outnumber the images of a small class."""
REST = 0.5
"""Weight of a given image that is not (yet) taken for poisoned: it may be."""
BLOCK = 1024
"""Images whose distances from all trusted ones are held at once."""
LOWEST = 0.02
"""Probability below which no image is taken for poisoned."""


def separate(given: Tensor, trusted: Tensor, seeds: Tensor, clean_weight: float, seed: int) -> tuple[Tensor, Tensor]:
    """The probability that an image belongs with the seeds, by logistic regression.

    The seeds are groups as a whole: some poisons lie in other groups, some clean images in these.  The seeds stand
    against the trusted images, which alone are sure to be clean and weigh as much as all the rest, and against
    that rest; then the model's own decision takes the seeds' place, until it stays.

    Args:
        given: float ``[n, D]``; trusted: float ``[m, D]``.
        seeds: bool ``[n]``, not all of them false.
        clean_weight: see :func:`threshold`.
        seed: of the deal of images to folds; of seeds, other given and trusted ones each gets its share.

    Returns:
        float32 ``[n]`` in 0-1, and bool ``[n]``: those taken for poisoned.
    """
    points = torch.cat([given, trusted]).double().numpy()
    chosen, scores = seeds.clone(), seeds.double()
    kinds = np.concatenate([seeds.numpy(), np.full(len(trusted), 2)])
    order = np.random.default_rng(seed).permutation(len(points))
    fold = np.empty(len(points), np.int64)
    fold[order[kinds[order].argsort(kind="stable")]] = np.arange(len(points)) % FOLDS
    with threadpool_limits(1):
        for _ in range(ROUNDS):
            rest = int((~chosen).sum())
            weights = np.concatenate(
                [
                    np.where(chosen.numpy(), 1.0, REST),
                    np.full(len(trusted), max(1.0, rest / max(1, len(trusted)))),
                ]
            )
            labels = np.concatenate([chosen.numpy(), np.zeros(len(trusted), bool)])
            probability = torch.empty(len(points), dtype=torch.float64)
            for k in range(FOLDS):
                learnt, judged = fold != k, fold == k
                if len(set(labels[learnt])) < 2 or not judged.any():
                    return scores.float(), chosen  # too few to learn from
                model = LogisticRegression(C=REGULARISATION, max_iter=2000)
                model.fit(points[learnt], labels[learnt], sample_weight=weights[learnt])
                probability[judged] = torch.from_numpy(model.predict_proba(points[judged])[:, 1])
            scores = probability[: len(given)]
            next_ = scores >= threshold(scores, probability[len(given) :], clean_weight)
            if torch.equal(next_, chosen) or not next_.any():
                break
            chosen = next_
    return scores.float(), chosen


def threshold(given: Tensor, trusted: Tensor, clean_weight: float) -> float:
    """Where the share of the given images above, less ``clean_weight`` times that of clean ones, is greatest.

    The share of clean images above a threshold is told by the trusted ones.  There are few of those, and above the
    highest of them any number of given images would seem to be won for nothing; so their distribution is smoothed
    (logistic kernel on the log-odds, half of Silverman's bandwidth).  With weight 1 an image is taken where poisons
    are as dense as clean images are, each by its own kind's number (Youden's J); but then, where poisons are a tenth
    of a class, chance decides how many of the others are taken.  The higher the weight, the surer it must be.

    Args:
        given: float64 ``[n]``; trusted: float64 ``[m]``; without trusted images the threshold is 0.5.
    """
    if len(trusted) < 2:
        return 0.5
    above, clean = given.sort().values, trusted.clamp(1e-6, 1 - 1e-6).logit()
    candidates = above[above >= LOWEST]
    if len(candidates) == 0:
        return 1.0
    gain = (len(above) - torch.searchsorted(above, candidates)).double() / len(above)
    bandwidth = 0.5 * 1.06 * float(clean.std().clamp_min(1e-3)) * len(clean) ** -0.2
    # A logistic distribution has 1.81 times its scale as standard deviation.
    odds = candidates.clamp(1e-6, 1 - 1e-6).logit()
    per_unit = 1.81 / bandwidth
    loss = torch.cat([torch.sigmoid((clean - part[:, None]) * per_unit).mean(1) for part in odds.split(BLOCK)])
    return float(candidates[int((gain - clean_weight * loss).argmax())])
