"""Multiple-gradient descent: coefficients of several losses by the min-norm point (Désidéri 2012), and ``balance``.

minimise ||sum_k a_k g_k||^2 over a_k >= 0, sum_k a_k = 1, with g_k the gradient of loss k over all
parameters (MEA-Defender section IV; Sener and Koltun 2018), or over those of the last layer, so that one backward pass
through the network serves all losses.  Sener and Koltun's own short cut takes the gradients on the features; it is for
tasks that read the same features.  Here each loss has images of its own: on the features all but two of the losses are
orthogonal whatever they want, and the loss that is learnt first takes all the weight (tried; the accuracy of a toy fell
to chance).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, combinations

import numpy as np
import torch
from torch import Tensor, nn

from hallmark.config import ClassifierBalance
from hallmark.training import Combine, EpochCallback, weighted_sum

MAX_TASKS = 8
"""The solver tries every subset of tasks: exact, and quick for as few tasks as losses have names."""
LARGEST, LEAST = 10.0, 1e-3
"""The released code's: by no more it divides a gradient, and no less than this is a coefficient, nor its complement."""


def min_norm(gram: np.ndarray) -> np.ndarray:
    """The min-norm point in the convex hull of gradients, exactly.

    Only some tasks have positive coefficients at the optimum, and on these the gradient of the
    objective is constant (Karush-Kuhn-Tucker).  So each subset of tasks gives one linear system; the
    best of the feasible solutions is the optimum.

    Args:
        gram: float64 ``[K, K]``, inner products of the K gradients.

    Returns:
        float64 ``[K]``, non-negative, sum 1.
    """
    tasks = len(gram)
    if tasks > MAX_TASKS:
        raise ValueError(f"{tasks} tasks; the exact solver is for at most {MAX_TASKS}")
    # Without this, products of tiny gradients would drown in the rounding of the constraint's row.
    scaled = gram / max(float(np.trace(gram)), np.finfo(float).tiny)
    best, smallest = np.full(tasks, 1 / tasks), np.inf
    for subset in chain.from_iterable(combinations(range(tasks), size) for size in range(1, tasks + 1)):
        members = list(subset)
        size = len(members)
        system = np.ones((size + 1, size + 1))
        system[:size, :size] = scaled[np.ix_(members, members)]
        system[size, size] = 0
        solution = np.linalg.lstsq(system, np.append(np.zeros(size), 1.0), rcond=None)[0][:size]
        if solution.min() < -1e-9 or abs(solution.sum() - 1) > 1e-6:
            continue
        candidate = np.zeros(tasks)
        candidate[members] = np.clip(solution, 0, None)
        candidate /= candidate.sum()
        norm = float(candidate @ scaled @ candidate)
        if norm < smallest - 1e-15:
            best, smallest = candidate, norm
    return best


class MGDA:
    """A :data:`hallmark.training.Combine` whose coefficients are the min-norm point of every batch.

    Args:
        weights: fixed factor of each loss, applied first; 1 where missing.  A loss of weight 0 is left out: its
            gradient, zero, is the min-norm point, so that nothing would be learnt at all.
        groups: names of losses that share one coefficient; a loss in no group stands alone.
        compared: the parameters whose gradients decide, say the last layer's; empty: all.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        groups: Sequence[Sequence[str]] = (),
        compared: Sequence[nn.Parameter] = (),
    ) -> None:
        self.weights, self.groups, self.compared = weights, groups, compared
        self._totals: dict[str, float] = {}
        self._batches = 0

    def __call__(self, losses: Mapping[str, Tensor], parameters: list[nn.Parameter]) -> None:
        grouped = self._group(losses)
        stacked = _gradients(list(grouped.values()), self.compared or parameters, keep=bool(self.compared))
        coefficients = min_norm(_gram(stacked))
        factors = torch.tensor(coefficients, dtype=torch.float32).to(stacked.device)
        if self.compared:
            (factors @ torch.stack(list(grouped.values()))).backward()
        else:
            _set_gradients(parameters, factors @ stacked)
        self._count(dict(zip(grouped, coefficients, strict=True)))

    def _count(self, coefficients: Mapping[str, float]) -> None:
        """Add those of a batch to what :meth:`take_means` gives."""
        for name, value in coefficients.items():
            self._totals[name] = self._totals.get(name, 0.0) + float(value)
        self._batches += 1

    def take_means(self) -> dict[str, float]:
        """Mean coefficient of each group since the last call, by the names of its losses joined by '+'."""
        means = {name: total / self._batches for name, total in self._totals.items()}
        self._totals, self._batches = {}, 0
        return means

    def _group(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        factors = {name: self.weights.get(name, 1.0) for name in losses}
        weighted = {name: factor * losses[name] for name, factor in factors.items() if factor}
        alone = [(name,) for name in weighted if not any(name in group for group in self.groups)]
        groups = [tuple(name for name in group if name in weighted) for group in self.groups]
        return {
            "+".join(group): torch.stack([weighted[n] for n in group]).sum() for group in [*groups, *alone] if group
        }


class Released(MGDA):
    """The released code's rule: the cross-entropies count once, the combination loss with a coefficient of MGDA's.

    The total is A + (s + w) B, with A the cross-entropies together, B the combination loss, w its fixed weight (there
    2, and 12 in every tenth epoch, which is left out here) and s its coefficient in the min-norm point of the two
    gradients, each divided by its loss times its length, or by 10 if that is less.

    Args:
        weights: fixed factor of each loss; 1 where missing.  A loss of weight 0 is left out.
        group: names of the cross-entropies; of the others there is one.
    """

    def __init__(self, weights: Mapping[str, float], group: Sequence[str]) -> None:
        super().__init__(weights, [group])

    def __call__(self, losses: Mapping[str, Tensor], parameters: list[nn.Parameter]) -> None:
        (group,) = self.groups
        (other,) = (name for name in losses if name not in group and self.weights.get(name, 1.0))
        (entropies,) = self._group({name: loss for name, loss in losses.items() if name in group}).values()
        parts = [entropies, losses[other]]
        stacked = _gradients(parts, parameters, keep=False)
        sizes = stacked.norm(dim=1) * torch.stack([part.detach().float() for part in parts])
        coefficient = float(min_norm(_gram(stacked / (sizes.clamp_max(LARGEST) + 1e-5)[:, None]))[1])
        coefficient = min(max(coefficient, LEAST), 1 - LEAST)
        _set_gradients(parameters, stacked[0] + (coefficient + self.weights.get(other, 1.0)) * stacked[1])
        self._count({other: coefficient})


def _gram(gradients: Tensor) -> np.ndarray:
    """Inner products, float64 ``[K, K]``.

    Raises:
        FloatingPointError: they are not finite.
    """
    gram = (gradients @ gradients.T).cpu().double().numpy()  # MPS has no double
    if not np.isfinite(gram).all():
        raise FloatingPointError("the gradients of the losses are not finite")
    return gram


def _set_gradients(parameters: Sequence[nn.Parameter], whole: Tensor) -> None:
    """Give the parameters their parts of a gradient ``[N]``."""
    sizes = [parameter.numel() for parameter in parameters]
    for parameter, part in zip(parameters, whole.split(sizes), strict=True):
        # In the parameter's own layout (channels last): a fused optimizer refuses another on CUDA, on a CPU it is
        # silently wrong.
        parameter.grad = torch.empty_like(parameter).copy_(part.view(parameter.shape))


def _gradients(losses: Sequence[Tensor], on: Sequence[Tensor], *, keep: bool) -> Tensor:
    """The gradient of each of K losses on all of ``on``, float32 ``[K, N]``.

    Args:
        keep: whether the graph is needed afterwards.
    """
    found = list[Tensor]()
    for k, loss in enumerate(losses):
        retain = keep or k < len(losses) - 1
        parts = torch.autograd.grad(loss, on, retain_graph=retain, allow_unused=True, materialize_grads=True)
        found.append(torch.cat([part.reshape(-1) for part in parts]).float())
    return torch.stack(found)


def balanced(
    balance: ClassifierBalance,
    weights: Mapping[str, float],
    group: Sequence[str],
    callback: EpochCallback,
    last_layer: Sequence[nn.Parameter] = (),
) -> tuple[Combine, EpochCallback]:
    """What :func:`hallmark.training.fit` needs for a balance.

    Args:
        weights: factor of each loss; 1 where missing.
        group: the losses that share a coefficient with ``mgda_two_groups`` and ``mgda_released``.
        callback: gets the mean losses, and with MGDA the mean coefficients as ``coefficient/NAME``.
        last_layer: the parameters whose gradients ``mgda_last_layer`` compares.
    """
    if balance == "fixed":
        return weighted_sum(weights), callback
    groups = [group] if balance == "mgda_two_groups" else []
    if balance == "mgda_last_layer" and not last_layer:
        raise ValueError("mgda_last_layer needs the last layer's parameters")
    if balance == "mgda_released":
        mgda = Released(weights, group)
    else:
        mgda = MGDA(weights, groups, last_layer if balance == "mgda_last_layer" else ())

    def report(epoch: int, means: Mapping[str, float]) -> None:
        callback(epoch, {**means, **{f"coefficient/{name}": value for name, value in mgda.take_means().items()}})

    return mgda, report
