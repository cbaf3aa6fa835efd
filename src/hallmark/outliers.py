"""What stands out: pure functions that sanitizers of training sets and detectors of backdoors share."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import FastICA
from sklearn.exceptions import ConvergenceWarning
from sklearn.neighbors import LocalOutlierFactor
from threadpoolctl import threadpool_limits
from torch import Tensor

from hallmark.progress import Advance, silent

_BATCH = 100
"""Images that are blended at once: a constant, on which the draws depend."""
Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

MAD_TO_SIGMA = 1.4826
"""The median absolute deviation of a normal distribution times this is its standard deviation."""


def lower_outliers(values: Tensor) -> Tensor:
    """How far each value lies below the median, in units of 1.4826 MAD (Neural Cleanse, section IV-B).

    Args:
        values: float64 ``[K]``, NaN where there is none.

    Returns:
        float64 ``[K]``, negative above the median.  Fewer than three values show no outlier and give NaN; if the MAD
        is zero all values are 0.
    """
    known = ~values.isnan()
    scores = torch.full_like(values, torch.nan)
    if int(known.sum()) < 3:
        return scores
    below = values[known].quantile(0.5) - values[known]
    spread = MAD_TO_SIGMA * below.abs().quantile(0.5)
    scores[known] = below / spread if float(spread) else torch.zeros_like(below)
    return scores


def spectral_scores(features: Array) -> Array:
    """Squared correlation with the top right singular vector of the centred features: float64 ``[n]``.

    Tran, Li, Madry 2018, algorithm 1.
    """
    centred = features - features.mean(0)
    with threadpool_limits(1):  # several threads would add up in another order from run to run
        _, _, directions = np.linalg.svd(centred, full_matrices=False)
    return (centred @ directions[0]) ** 2


def two_clusters(features: Array, components: int, seed: int) -> tuple[Array, Mask]:
    """Two clusters of one class (Chen et al. 2018): independent component analysis, then k-means.

    Args:
        features: float64 ``[n, D]``, not all the same.

    Returns:
        the reduced features, and bool ``[n]``: the smaller cluster.
    """
    state = seed % (1 << 32)
    # FastICA multiplies each direction by the sign of its first entry, which is 0 if the first feature never varies.
    features = features[:, np.ptp(features, 0) > 0]
    count = min(components, *features.shape, int(np.linalg.matrix_rank(features - features.mean(0))))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # unmixed or not, the subspace is the same
        ica = FastICA(count, random_state=state, whiten="unit-variance", max_iter=400)
        reduced = np.asarray(ica.fit_transform(features))
    numbers = KMeans(2, n_init=10, random_state=state).fit_predict(reduced)  # pyright: ignore[reportArgumentType]
    return reduced, np.asarray(numbers == (0 if 2 * (numbers == 0).sum() <= len(numbers) else 1))


def entropy(probabilities: Tensor) -> Tensor:
    """Mean over the blends of -sum p log2 p (STRIP, equation 4): ``[B, M, K]`` to ``[B]``, in bits."""
    return -(probabilities * probabilities.clamp_min(1e-12).log2()).sum(2).mean(1)


def blended_entropy(
    predict: Callable[[Tensor], Tensor],
    images: Tensor,
    partners: Tensor,
    *,
    blends: int,
    weight: float | None,
    generator: torch.Generator,
    advance: Advance = silent,
) -> Tensor:
    """How unsure a model is of each image when it is blended with others: STRIP (Gao et al. 2019), section IV.

    Args:
        predict: from uint8 images ``[N, C, H, W]`` to probabilities ``[N, K]``.
        images: uint8 ``[N, C, H, W]``.
        partners: uint8 ``[M, C, H, W]``, of which ``blends`` are drawn for each image, with repetition.
        weight: of the image itself, its partner has the rest; None: both are added in full and saturate, as in the
            paper's code.  Half a trigger is no longer what the model has learnt.

    Returns:
        float ``[N]``: :func:`entropy` in bits.
    """
    parts = []
    for part in images.split(_BATCH):
        other = partners[torch.randint(len(partners), (len(part), blends), generator=generator)]
        own, theirs = (1.0, 1.0) if weight is None else (weight, 1 - weight)
        mixed = own * part[:, None].float() + theirs * other.float()
        answers = predict(mixed.round_().clamp_(max=255).to(torch.uint8).flatten(0, 1))
        parts.append(entropy(answers.view(len(part), blends, -1)))
        advance(len(part))
    return torch.cat(parts)


class Novelty:
    """Local outlier factor (Breunig, Kriegel, Ng, Sander 2000) of new points among usual ones; scikit-learn's.

    Args:
        usual: float ``[N, D]``.
        neighbours: at most N - 1 of them are used.
    """

    def __init__(self, usual: Tensor, neighbours: int) -> None:
        self._lof = LocalOutlierFactor(min(neighbours, len(usual) - 1), novelty=True)
        with threadpool_limits(1):
            self._lof.fit(usual.double().numpy())

    def scores(self, points: Tensor) -> Tensor:
        """float64 ``[M]`` of float ``[M, D]``: about 1 among the usual ones, higher is stranger."""
        with threadpool_limits(1):
            return torch.from_numpy(-self._lof.score_samples(points.double().numpy()))
