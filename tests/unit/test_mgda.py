"""MGDA: the min-norm point against closed forms and a general optimiser, and its use in training."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn

from hallmark.watermark.mgda import MGDA, Released, balanced, min_norm


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1, 0], [0, 1], 0.5),
        ([2, 0], [0, 1], 0.2),  # a = g2.(g2 - g1) / |g1 - g2|^2
        ([1, 0], [3, 0], 1.0),  # same direction: the shorter one
        ([3, 1], [1, 0], 0.0),
        ([1, 0], [-1, 0], 0.5),  # opposite: they cancel
        ([1e-9, 0], [0, 2e-9], 0.8),
    ],
)
def test_two_tasks_have_a_closed_form(first: list[float], second: list[float], expected: float) -> None:
    gradients = np.array([first, second], dtype=float)
    assert min_norm(gradients @ gradients.T) == pytest.approx([expected, 1 - expected])


@pytest.mark.parametrize("seed", range(8))
def test_four_tasks_agree_with_scipy(seed: int) -> None:
    gradients = np.random.default_rng(seed).normal(size=(4, 3 + 3 * (seed % 3))) + seed / 8
    gram = gradients @ gradients.T
    reference = minimize(
        lambda a: a @ gram @ a,
        np.full(4, 0.25),
        jac=lambda a: 2 * gram @ a,
        bounds=[(0, 1)] * 4,
        constraints={"type": "eq", "fun": lambda a: a.sum() - 1, "jac": lambda a: np.ones(4)},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    found = min_norm(gram)
    assert found.min() >= 0
    assert found.sum() == pytest.approx(1)
    assert found @ gram @ found == pytest.approx(reference.fun, abs=1e-8)
    assert found @ gram @ found <= reference.fun + 1e-9


def test_degenerate_gradients() -> None:
    assert min_norm(np.zeros((3, 3))).sum() == pytest.approx(1)  # nothing left to learn
    same = min_norm(np.ones((4, 4)))
    assert same.min() >= 0
    assert same.sum() == pytest.approx(1)
    with pytest.raises(ValueError, match="9 tasks"):
        min_norm(np.eye(9))


def test_gradients_are_the_combination_at_the_min_norm_point() -> None:
    w = nn.Parameter(torch.tensor([1.0, 2.0]))
    unused = nn.Parameter(torch.zeros(3))
    mgda = MGDA({"a": 2.0})
    mgda({"a": w[0], "b": w[1]}, [w, unused])  # gradients (2, 0) and (0, 1)
    assert w.grad is not None
    assert w.grad.tolist() == pytest.approx([0.4, 0.8])
    assert unused.grad is not None
    assert unused.grad.tolist() == [0, 0, 0]
    assert mgda.take_means() == pytest.approx({"a": 0.2, "b": 0.8})
    assert mgda.take_means() == {}


def test_groups_share_a_coefficient() -> None:
    w = nn.Parameter(torch.tensor([1.0, 2.0]))
    mgda = MGDA({}, [("a", "c")])
    mgda({"a": w[0], "b": w[1], "c": w[0]}, [w])  # group gradients (2, 0) and (0, 1)
    assert w.grad is not None
    assert w.grad.tolist() == pytest.approx([0.4, 0.8])
    assert mgda.take_means() == pytest.approx({"a+c": 0.2, "b": 0.8})


def test_the_released_rule_adds_a_coefficient_to_the_weight() -> None:
    w = nn.Parameter(torch.tensor([1.0, 2.0]))
    released = Released({"combination": 2.0, "b": 3.0, "d": 0.0}, ("a", "b", "d"))
    losses = {"a": w[0], "b": w[0], "combination": w[1] * w[1] / 4, "d": w[1]}
    released(losses, [w])
    # A = 4 with a gradient of (4, 0), B = 1 with one of (0, 1): divided by 10 and by 1 they are (0.4, 0) and (0, 1).
    share = 0.16 / (0.16 + 1)
    assert w.grad is not None
    assert w.grad.tolist() == pytest.approx([4, share + 2], abs=1e-4)
    assert released.take_means() == pytest.approx({"combination": share}, abs=1e-4)
    released(
        {"a": w[0], "combination": 1e-6 * w[0]}, [w]
    )  # of one direction: the shorter one alone, but for a thousandth
    assert released.take_means() == pytest.approx({"combination": 0.999})
    with pytest.raises(FloatingPointError, match="not finite"):
        released({"a": w[0], "combination": w[0] * torch.inf}, [w])


def test_a_loss_without_weight_does_not_stop_the_others() -> None:
    w = nn.Parameter(torch.tensor([1.0, 2.0]))
    mgda = MGDA({"c": 0.0}, [("a", "c")])
    mgda({"a": 2 * w[0], "b": w[1], "c": w[0]}, [w])
    assert w.grad is not None
    assert w.grad.tolist() == pytest.approx([0.4, 0.8])
    assert mgda.take_means() == pytest.approx({"a": 0.2, "b": 0.8})


def test_the_last_layer_decides_and_one_backward_pass_serves_all_losses() -> None:
    """Losses of different images: the head's gradients give the coefficients, all parameters those of the sum."""
    torch.manual_seed(0)
    trunk, head, x = nn.Linear(3, 4), nn.Linear(4, 2), torch.randn(6, 3)
    parameters, last = [*trunk.parameters(), *head.parameters()], list(head.parameters())

    def losses() -> dict[str, torch.Tensor]:
        out = head(trunk(x))
        return {"a": (out[:3] - 1).square().mean(), "b": (out[3:] + 1).square().mean(), "c": out[0, 1]}

    passes = list[torch.Tensor]()
    trunk.weight.register_hook(passes.append)
    mgda = MGDA({"c": 0.0}, compared=last)
    mgda(losses(), parameters)
    assert len(passes) == 1
    found = [parameter.grad for parameter in parameters]
    both = losses()
    gradients = [torch.autograd.grad(both[name], last, retain_graph=True) for name in "ab"]
    first, second = (torch.cat([part.flatten() for part in each]) for each in gradients)
    share = float((second @ (second - first) / (first - second).square().sum()).clamp(0, 1))
    assert 0.01 < share < 0.99
    assert mgda.take_means() == pytest.approx({"a": share, "b": 1 - share}, abs=1e-5)
    wanted = torch.autograd.grad(share * both["a"] + (1 - share) * both["b"], parameters)
    for gradient, reference in zip(found, wanted, strict=True):
        assert gradient is not None
        torch.testing.assert_close(gradient, reference, atol=1e-6, rtol=1e-4)


def test_a_balance_on_the_last_layer_wants_one() -> None:
    with pytest.raises(ValueError, match="last layer's parameters"):
        balanced("mgda_last_layer", {}, (), lambda _, __: None)


def test_gradients_that_are_not_finite_are_refused() -> None:
    """In one line: the solver would end in a traceback of LAPACK's."""
    weight = nn.Parameter(torch.ones(2))
    losses = {"a": weight.sum(), "b": (weight * torch.inf).sum()}
    with pytest.raises(FloatingPointError, match="not finite"):
        MGDA({})(losses, [weight])


def test_gradients_lie_as_the_parameters_do() -> None:
    """A fused optimizer, which a GPU gets, takes no other layout: refused there, silently wrong on a CPU."""
    network = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    outputs = network(torch.rand(2, 3, 8, 8)).flatten(1)
    parameters = list(network.parameters())
    MGDA({})({"one": outputs.square().mean(), "other": (outputs - 1).square().mean()}, parameters)
    assert [p.grad.stride() for p in parameters if p.grad is not None] == [p.stride() for p in parameters]
    same = copy.deepcopy(parameters)
    for own, other in zip(parameters, same, strict=True):
        other.grad = own.grad
    torch.optim.SGD(parameters, lr=0.1, fused=True).step()
    torch.optim.SGD(same, lr=0.1, foreach=True).step()
    assert all(torch.allclose(own, other) for own, other in zip(parameters, same, strict=True))
