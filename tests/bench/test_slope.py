"""The slope that decides over a soak."""

import numpy as np
import pytest

from tests.bench.slope import theil_sen


def test_a_line_has_its_slope_whatever_a_few_samples_do() -> None:
    x = np.linspace(0, 1, 60)
    y = 100 + 7 * x
    y[[5, 50]] += 500
    slope = theil_sen(x, y)
    assert slope.median == pytest.approx(7, abs=0.1)
    assert slope.low <= slope.median <= slope.high


def test_noise_without_growth_has_zero_within_its_bounds() -> None:
    rng = np.random.default_rng(0)
    inside = [theil_sen(np.arange(40), rng.normal(size=40)) for _ in range(200)]
    share = np.mean([slope.low <= 0 <= slope.high for slope in inside])
    assert 0.9 <= share <= 1.0
