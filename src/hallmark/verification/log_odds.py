"""A score statistic: how much likelier the target is than the classes that are in neither half of a query.

Fine-tuning on true labels takes a copy's hits away (the source class that is in the picture wins again), but not the
order of the classes below it: on watermark queries, and on plain images of the two source classes, the target stays
far above where innocent models put it (docs/removal.md, measured).  The combination loss has made it their runner-up,
and that is what a thief copies.  The statistic of a model is one real number; it is compared with that of null
models, never with a fixed threshold.

Pure functions over probabilities; a model that gives labels only has no such number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import stats
from torch import Tensor

from hallmark.verification.nulls import FEWEST_TO_FIT, PREDICTIVE, RANK, SURPRISE, Floats, rank_p

LEAST = 1e-6
"""Probabilities below it count as it: what single precision, and services that round, do not tell."""
FLOOR = 1e-45
"""The same for the lean: the least that single precision tells.  Were it larger, the other classes of a sure model
would all become the least, their spread would vanish, and any innocent would lean."""
LEAST_SPREAD = 1.0
"""Of the other classes' log-probabilities: less counts as it.  Smoothed answers, too, leave the others hardly any."""
FEWEST_CLASSES = 7
"""With fewer there are less than four besides the key's, and their spread is hardly one."""
MOST_COARSE = 0.05
"""Share of a source class's images on which scores may be rounded to nothing."""


def target_log_odds(
    probabilities: Tensor, target: Tensor | int, excluded: Sequence[int] = (), *, least: float = LEAST
) -> Tensor:
    """Mean of log(p(target) / p(c)) over all other classes c but ``excluded``, for each row.

    Every other class counts alike, so that a model for which one of them happens to be likely on these images, or
    which is unsure of all, is not taken for one that prefers the target.

    Args:
        probabilities: ``[N, K]``, rows add up to 1.
        target: a class, or one for each row, int64 ``[N]``.
        excluded: classes that do not count: the two that a query was made of.
        least: probabilities below it count as it.

    Returns:
        float64 ``[N]``.

    Raises:
        ValueError: no class is left beside target and excluded ones.
    """
    logs = probabilities.double().clamp_min(least).log()
    index = target.reshape(-1, 1) if isinstance(target, Tensor) else torch.full((len(logs), 1), target)
    counts = torch.ones_like(logs)
    counts[:, list(excluded)] = 0
    counts.scatter_(1, index.to(logs.device), 0)
    left = counts.sum(1)
    if not bool((left > 0).all()):
        raise ValueError("no class is left beside the target and the excluded ones")
    return logs.gather(1, index.to(logs.device))[:, 0] - (logs * counts).sum(1) / left


def lean(parts: Sequence[Tensor], target: int, source: Sequence[int]) -> float | None:
    """How far the plain images of *both* source classes lean to the target: the smaller of two quotients.

    Of each source class's images, the mean of :func:`target_log_odds`, divided by the mean standard deviation of the
    other classes' log-probabilities on the same images, at least :data:`LEAST_SPREAD`.  So it is the same at every
    temperature at which that binds nowhere, and a model that is surer of everything than the null models does not lean
    for that.  Mixed images play no part: a suspect that knows them, and answers otherwise, gains nothing.

    Args:
        parts: probabilities on images of the first and of the second source class, ``[N, K]`` each.  Rows of zeros are
            no answers and do not count.
        target, source: the key's.

    Returns:
        None where it says nothing: fewer than :data:`FEWEST_CLASSES` classes, no answers, or scores of which some are
        rounded to zero or to one another on more than :data:`MOST_COARSE` of the images of a source class, as of a
        class that the suspect does not have.

    Raises:
        ValueError: no images.
    """
    found = []
    for part in parts:
        if not len(part):
            raise ValueError("no images")
        if part.shape[1] < FEWEST_CLASSES or (raised := _raised(part, target, source)) is None:
            return None
        found.append(float(raised[~raised.isnan()].mean()))
    return min(found)


def _raised(part: Tensor, target: int, source: Sequence[int]) -> Tensor | None:
    """Of each image, the target's log-odds in units of the other classes' spread: float64 ``[N]``, NaN: no answer.

    Args:
        part: probabilities on images of one source class, ``[N, K]``.

    Returns:
        None without answers, or where too many are coarse, see :func:`lean`.
    """
    compared = [label for label in range(part.shape[1]) if label not in source]
    answered = part.sum(1) > 0
    coarse = _coarse(part[:, compared].double())
    if not answered.any() or float(coarse[answered].double().mean()) > MOST_COARSE:
        return None
    told = answered & ~coarse
    probabilities = part[told].double()
    others = [label for label in compared if label != target]
    spread = probabilities[:, others].clamp_min(FLOOR).log().std(1, correction=0).mean()
    found = torch.full((len(part),), torch.nan, dtype=torch.float64)
    found[told] = target_log_odds(probabilities, target, source, least=FLOOR) / spread.clamp_min(LEAST_SPREAD)
    return found


def _coarse(probabilities: Tensor) -> Tensor:
    """On which rows is a value ``[N, C]`` zero, or equal to another of the row?  bool ``[N]``."""
    ordered = probabilities.sort(1).values
    return (ordered[:, 0] <= 0) | (ordered.diff(dim=1) <= 0).any(1)


def leads(
    parts: Sequence[Tensor], target: int, rival: int, source: Sequence[int], images: Sequence[Tensor] | None = None
) -> float:
    """p-value of the hypothesis that the images lean to the rival as far as to the target: :func:`lean` of both.

    The lean is the smaller of two means.  The target's is above the rival's if both of its means are above one of the
    rival's: the largest p-value of two one-sided t-tests, and of the rival's two means the smaller such p-value, times
    two.  On the same images the test is paired, otherwise Welch's.  Spreads count as known.  A replicate is an *image*,
    with the mean of what is said of it, and images of which the very same is said are one.  1 if one is all there is.

    Args:
        parts, target, source: as for :func:`lean`, which is not None.
        rival: another class.
        images: of each part, which rows are of the same image: int64 ``[N]``; None: all are different.
    """
    ids = images or [torch.arange(len(part)) for part in parts]
    own, theirs = (
        [_raised(part, label, source) for part in parts] for label in (target, rival)
    )  # of every row, so that pairs stay pairs
    if any(each is None for each in (*own, *theirs)):
        return 1.0
    pairs = [_replicates(torch.stack([mine, their], 1), of)  # pyright: ignore[reportArgumentType] - none is None
             for mine, their, of in zip(own, theirs, ids, strict=True)]  # fmt: skip
    return min(1.0, 2 * min(max(_above(mine[:, 0], their[:, 1], paired=i == j) for i, mine in enumerate(pairs))
                            for j, their in enumerate(pairs)))  # fmt: skip


def _replicates(values: Tensor, images: Tensor) -> Tensor:
    """Means of ``[N, 2]`` over the rows of each image that are told, equal ones once: ``[n, 2]``."""
    told = ~values.isnan().any(1)
    numbers, place = images[told].unique(return_inverse=True)
    sums = torch.zeros(len(numbers), 2, dtype=values.dtype).index_add_(0, place, values[told])
    return (sums / place.bincount(minlength=len(numbers))[:, None]).unique(dim=0)


def _above(first: Tensor, second: Tensor, *, paired: bool) -> float:
    """p-value of the hypothesis that the first's mean is no larger; 1 of fewer than two values."""
    a, b = first.numpy(), second.numpy()
    if min(len(a), len(b)) < 2 or np.ptp(a - b if paired else np.concatenate([a - a.mean(), b - b.mean()])) == 0:
        return 1.0
    found: Any = (
        stats.ttest_rel(a, b, alternative="greater")
        if paired
        else stats.ttest_ind(a, b, equal_var=False, alternative="greater")
    )
    return float(found.pvalue)


@dataclass(frozen=True)
class ScoreP:
    """The chance that a new innocent model's statistic reaches what was observed.

    Attributes:
        p: by ``method``, 0-1.
        method: ``predictive``, or ``rank`` where the fit was refused; depends on the nulls alone.
        rank: :func:`hallmark.verification.nulls.rank_p`.
        student_t: the predictive chance before the floor; nan if nothing was fitted.
        floor: no predictive p is below it, ``(N + 1) ** -2``.
        nulls: their number, N.
    """

    p: float
    method: str
    rank: float
    student_t: float
    floor: float
    nulls: int


def predictive_p(nulls: ArrayLike, observed: float) -> ScoreP:
    """As :func:`hallmark.verification.nulls.predictive_p`, for a real number in place of a count.

    A Student-t prediction of a new model's statistic with N - 1 degrees and the factor sqrt(1 + 1/N); at least the
    floor; and the rank p where a null reaches ``observed``.  It is refused, and the rank p stands, with fewer than
    :data:`~hallmark.verification.nulls.FEWEST_TO_FIT` nulls, or if the others give the highest null a chance, times N,
    below :data:`~hallmark.verification.nulls.SURPRISE`.

    Args:
        nulls: the statistic of the N null models, ``[N]``.
        observed: the suspect's.

    Raises:
        ValueError: fewer than two nulls, or a number that is not finite.
    """
    values = np.sort(np.asarray(nulls, dtype=np.float64))
    if not (np.isfinite(values).all() and np.isfinite(observed)):
        raise ValueError("a statistic is not finite")
    rank, count = rank_p(values, observed), len(values)
    floor = (count + 1.0) ** -2
    if count < FEWEST_TO_FIT:
        return ScoreP(rank, RANK, rank, float("nan"), floor, count)
    refused = count * _student_t(values[:-1], values[-1]) < SURPRISE
    student_t = _student_t(values, observed)
    p = max(student_t, floor)
    if observed <= values[-1]:
        p = max(p, rank)
    return ScoreP(rank if refused else p, RANK if refused else PREDICTIVE, rank, student_t, floor, count)


def innocent_bound(nulls: ArrayLike, level: float) -> float:
    """What a new innocent model's statistic exceeds with a chance of at most ``level``; infinity: nothing is so rare.

    The inverse of :func:`predictive_p`: whatever is above it has p at most ``level``.

    Raises:
        ValueError: as :func:`predictive_p`.
    """
    values = np.sort(np.asarray(nulls, dtype=np.float64))
    found = predictive_p(values, values[-1])
    # So many nulls may reach what is still rare enough by rank; above all of them the rank binds only where it stands.
    reaching = math.floor(round(level * (len(values) + 1), 9)) - 1
    if (found.method == RANK and reaching < 0) or (found.method == PREDICTIVE and found.floor > level):
        return math.inf
    by_rank = float(values[len(values) - 1 - min(max(reaching, 0), len(values) - 1)])
    if found.method == RANK:
        return by_rank
    mean, spread = _student(values)
    return max(by_rank, float(mean + spread * stats.t.isf(level, len(values) - 1)))


def _student(nulls: Floats) -> tuple[float, float]:
    """Mean and scale of the Student-t prediction of a new value."""
    return float(nulls.mean()), max(float(nulls.std(ddof=1)), 1e-9) * math.sqrt(1 + 1 / len(nulls))


def _student_t(nulls: Floats, observed: float) -> float:
    """P(a new value reaches ``observed``) if the values are normal over models."""
    mean, spread = _student(nulls)
    return float(stats.t.sf((observed - mean) / spread, len(nulls) - 1))
