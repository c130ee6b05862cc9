"""Scales of weights: by the largest magnitude, and clipped where that errs less."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from hffnet.calibration.weights import (
    clipped_scales_from_weight,
    int8_from_weight,
    rounding_errors,
    scales_from_weight,
)

Weight = npt.NDArray[np.float32]

weights = arrays(np.float32, array_shapes(min_dims=2, max_dims=4, max_side=6), elements=st.floats(-8, 8, width=32))


def squared_errors(channel: Weight, scale: float) -> float:
    levels = np.clip(np.rint(channel / np.float32(scale)), -127, 127)
    return float(np.sum((channel - levels * np.float32(scale)).astype(np.float64) ** 2))


@given(weights, st.integers(0, 3))
def test_clipped_scales_are_the_best_of_those_tried(weight: Weight, axis: int) -> None:
    axis %= weight.ndim
    largest, chosen = scales_from_weight(weight, axis), clipped_scales_from_weight(weight, axis)
    for number, channel in enumerate(np.moveaxis(weight, axis, 0)):
        tried = np.maximum(largest[number] * np.arange(60, 101, dtype=np.float32) / 100, 2.0**-20)
        best = min(squared_errors(channel, scale) for scale in tried)
        # Factors are rounded to float32 here and there in another order.
        assert squared_errors(channel, chosen[number]) <= best * (1 + 1e-3) + 1e-12
        assert squared_errors(channel, chosen[number]) <= squared_errors(channel, largest[number])
        assert chosen[number] <= largest[number]


def test_a_lonely_large_weight_is_clipped_and_uniform_ones_are_not() -> None:
    rng = np.random.default_rng(0)
    weight = rng.uniform(-1, 1, (2, 4000)).astype(np.float32)
    weight[0, 0] = 1.6
    largest, chosen = scales_from_weight(weight, 0), clipped_scales_from_weight(weight, 0)
    assert chosen[0] < 0.99 * largest[0]
    assert chosen[1] > 0.97 * largest[1]


@pytest.mark.parametrize("scales_of", [scales_from_weight, clipped_scales_from_weight], ids=["largest", "clipped"])
def test_channels_of_zeros_stay_zero(scales_of: Callable[[Weight, int], Weight]) -> None:
    weight = np.zeros((3, 2), np.float32)
    scales = scales_of(weight, 0)
    assert np.isfinite(scales).all()
    assert not int8_from_weight(weight, scales, 0).any()


@given(weights)
def test_rounding_errors_are_what_the_integers_lack(weight: Weight) -> None:
    scales = scales_from_weight(weight, 0)
    back = int8_from_weight(weight, scales, 0) * scales.reshape(-1, *[1] * (weight.ndim - 1))
    np.testing.assert_array_equal(rounding_errors(weight, scales, 0), weight - back)
