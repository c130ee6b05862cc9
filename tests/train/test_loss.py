"""The loss is equations 1-3 of the paper, checked against a second, slower hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hffnet.runtime.taxonomy import Taxonomy
from hffnet.train.loss import LossConfig, hierarchical_loss

TREE = Taxonomy.from_paths([("a", "x"), ("a", "y"), ("b", "z")])


def _by_hand(logits: list[float], label: int, config: LossConfig) -> float:
    exponentials = [math.exp(v) for v in logits]
    shares = [e / sum(exponentials) for e in exponentials]
    smooth = [config.epsilon / len(logits) + (1 - config.epsilon) * (c == label) for c in range(len(logits))]
    cross_entropy = -sum(q * math.log(p) for q, p in zip(smooth, shares, strict=True))
    return float(config.alpha * (1 - shares[label]) ** config.gamma * cross_entropy)


@settings(deadline=None)
@given(
    logits=st.lists(st.floats(-6, 6), min_size=5, max_size=5),
    leaf=st.integers(0, 2),
    alpha=st.floats(0.1, 2),
    gamma=st.floats(0, 4),
    epsilon=st.floats(0, 0.5),
)
def test_it_is_the_papers_formula(logits: list[float], leaf: int, alpha: float, gamma: float, epsilon: float) -> None:
    config = LossConfig(alpha=alpha, gamma=gamma, epsilon=epsilon)
    first, second = TREE.indices_of_path(TREE.path_of_leaf(leaf))
    expected = _by_hand(logits[:2], first, config) + 2 * _by_hand(logits[2:], second, config)
    loss = hierarchical_loss(torch.tensor([logits]), torch.tensor([[first, second]]), TREE, config)
    # float32 against float64; where p is near 1 the focus term loses digits to cancellation.
    assert float(loss) == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_level_weights_double_downwards() -> None:
    deep = Taxonomy.from_paths([("a", "b", "c"), ("d", "e", "f")])
    logits, labels = torch.zeros(4, 6), torch.zeros(4, 3, dtype=torch.int64)
    plain = LossConfig(gamma=0.0, epsilon=0.0)
    assert float(hierarchical_loss(logits, labels, deep, plain)) == pytest.approx((1 + 2 + 4) * math.log(2))


def test_without_focus_and_smoothing_it_is_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(8, 5), torch.tensor([[0, 1], [1, 2]] * 4)
    config = LossConfig(gamma=0.0, epsilon=0.0, level_factor=1.0)
    parts = [torch.nn.functional.cross_entropy(logits[:, s], labels[:, i]) for i, s in enumerate(TREE.slices())]
    torch.testing.assert_close(hierarchical_loss(logits, labels, TREE, config), sum(parts, torch.tensor(0.0)))


def test_gradients() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[0, 1], [1, 2], [0, 0]])
    loss = hierarchical_loss(logits, labels, TREE, LossConfig())
    (gradient,) = torch.autograd.grad(loss, logits)
    step = 1e-3
    for n, c in np.ndindex(3, 5):
        moved = torch.zeros_like(logits)
        moved[n, c] = step
        with torch.no_grad():
            up, down = (hierarchical_loss(logits + d, labels, TREE, LossConfig()) for d in (moved, -moved))
        # The loss is computed in float32, so the difference quotient has about three digits.
        assert float((up - down) / (2 * step)) == pytest.approx(float(gradient[n, c]), abs=2e-3)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_a_certain_answer_has_a_finite_gradient(gamma: float) -> None:
    logits = torch.tensor([[200.0, -200.0, 200.0, -200.0, -200.0]], requires_grad=True)
    hierarchical_loss(logits, torch.tensor([[0, 0]]), TREE, LossConfig(gamma=gamma)).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())
