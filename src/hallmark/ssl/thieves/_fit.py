"""What thieves of encoders share: asking, a fresh network, an adapter between two sizes of features, the distance."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from hallmark import models, training
from hallmark.data.dataset import to_float
from hallmark.errors import UserError
from hallmark.extraction import Oracle, Thief
from hallmark.models import Network
from hallmark.ssl.simclr import feature_size
from hallmark.ssl.thieves import ThiefParams

Draw = Callable[[Tensor], Tensor]
"""From plain images ``[B, C, H, W]`` in 0-1 to a view of each."""


def fit_features(
    oracle: Oracle, thief: Thief, params: ThiefParams, *, plain: float, views: float = 0.0, view: Draw | None = None
) -> Network:
    """Ask ``budget`` of the thief's images and fit a fresh network's features to the answers.

    loss = plain * d(s(x), v(x)) + views * d(s(view(x)), v(x)),  d = mean over features of (s - v)^2 / variance of v.

    The variance is that of the answers.  Without it a few features of large scale are all that is learnt.  A network of
    another feature size gets a linear adapter to the victim's, which is trained along and thrown away.

    Args:
        plain, views: weights of the images as asked and of their views.

    Raises:
        UserError: the budget exceeds the thief's images, or the victim's answers are no features.
    """
    device = thief.runtime.device
    images = thief.data.images[thief.choose(params.budget, "budget")]
    answers = oracle(images)
    if answers.dim() != 2 or len(answers) != len(images) or not bool(answers.isfinite().all()):
        raise UserError(f"{thief.where}: the victim gives {list(answers.shape)}, no finite features [N, D]")
    mean, spread = models.standardisation(answers)
    network = thief.network(params.architecture)
    size = feature_size(network)
    with thief.runtime.seeded(f"{thief.purpose}/adapter"):
        same = size == answers.shape[1]
        adapter = (nn.Identity() if same else nn.Linear(size, answers.shape[1])).to(device)
    images, wanted, spread = images.to(device), answers.to(device), spread.to(device)
    if not same:  # an adapter begins near zero, and so do the standardised answers
        wanted = (wanted - mean.to(device)) / spread
        spread = torch.ones_like(spread)

    def distance(x: Tensor, index: Tensor) -> Tensor:
        found = adapter(network.features(x)).float()
        return ((found - wanted[index]) / spread).square().mean()

    def losses(index: Tensor) -> Mapping[str, Tensor]:
        x = to_float(images[index]).contiguous(memory_format=torch.channels_last)
        found = {"plain": distance(x, index)} if plain else {}
        return found | {"views": distance(view(x), index)} if view is not None and views else found

    training.fit(
        nn.ModuleList([network.trunk, adapter]),
        len(images),
        losses,
        params.training,
        thief.runtime,
        purpose=thief.purpose,
        combine=training.weighted_sum({"plain": plain, "views": views}),
        callback=thief.callback,
    )
    return network.eval()
