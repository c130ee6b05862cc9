"""Observers against brute force on stored values."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hffnet.calibration.observers import (
    NUM_BINS,
    NUM_LEVELS,
    Entropy,
    Histogram,
    MeanCubedError,
    MeanSquaredError,
    MinMax,
    MovingAverage,
    ObserverName,
    Percentile,
    divergence_from_counts,
    observer_from_name,
    percentile_range,
)
from hffnet.runtime.errors import ConfigError, GraphError

Values = npt.NDArray[np.float32]

batches = st.lists(
    arrays(np.float32, st.integers(1, 50), elements=st.floats(-(2.0**30), 2.0**30, width=32)), min_size=1, max_size=5
)


def heavy_tailed(num: int = 20_000, seed: int = 0) -> Values:
    """Student's t with 3 degrees of freedom after ReLU: a few values far out, as activations have them."""
    return np.maximum(np.random.default_rng(seed).standard_t(3, num), 0).astype(np.float32)


def mean_error(values: Values, limit: float, power: int) -> float:
    step = limit / NUM_LEVELS
    quantized = np.clip(np.rint(values / step), -NUM_LEVELS, NUM_LEVELS) * step
    return float(np.mean(np.abs(values - quantized) ** power, dtype=np.float64))


@given(batches)
def test_histogram_counts_as_numpy_does_in_any_order(parts: list[Values]) -> None:
    forward, backward = Histogram(), Histogram()
    for part in parts:
        forward.update(part)
    for part in reversed(parts):
        backward.update(part)
    magnitudes = np.abs(np.concatenate(parts)).astype(np.float64)
    assert forward.amax == magnitudes.max()
    np.testing.assert_array_equal(forward.counts, backward.counts)
    if forward.limit:
        assert forward.limit > forward.amax >= forward.limit / 2
        expected = np.bincount((magnitudes * (NUM_BINS / forward.limit)).astype(int), minlength=NUM_BINS)
        np.testing.assert_array_equal(forward.counts, expected)
    else:
        assert forward.counts.sum() == magnitudes.size


def test_large_tensors_are_sampled_but_their_maximum_is_not() -> None:
    histogram = Histogram()
    parts = [heavy_tailed(200_000, seed) for seed in range(8)]
    parts[3][12_345] = 777.0
    for part in parts:
        histogram.update(part)
    magnitudes = np.concatenate(parts)
    assert histogram.amax == 777.0
    assert histogram.counts.sum() < magnitudes.size / 5
    for percentile in (90.0, 99.0, 99.9):
        found = percentile_range(histogram, percentile)
        assert found == pytest.approx(
            np.percentile(magnitudes, percentile), rel=0.1, abs=2 * histogram.limit / NUM_BINS
        )


@given(batches)
def test_minmax_is_the_largest_magnitude(parts: list[Values]) -> None:
    observer = MinMax()
    for part in parts:
        observer.update(part)
    assert observer.range() == np.abs(np.concatenate(parts)).max()


@given(batches, st.floats(50, 100))
def test_percentile_is_the_ranked_value_to_one_bin(parts: list[Values], percentile: float) -> None:
    observer = Percentile(percentile)
    for part in parts:
        observer.update(part)
    magnitudes = np.sort(np.abs(np.concatenate(parts)))
    ranked = float(magnitudes[max(int(np.ceil(percentile / 100 * magnitudes.size)), 1) - 1])
    # Values below 2 ** -100 all share the first bin.
    assert ranked <= observer.range() <= ranked + observer.histogram.limit / NUM_BINS + 2.0**-100


@pytest.mark.parametrize("scale", [1e-3, 1.0, 5e4], ids=["small", "one", "large"])
@pytest.mark.parametrize("kind", [MeanSquaredError, MeanCubedError], ids=["squared", "cubed"])
def test_least_error_is_as_good_as_trying_every_range(kind: type[MeanSquaredError], scale: float) -> None:
    values = heavy_tailed() * np.float32(scale)
    observer = kind()
    for part in np.array_split(values, 7):
        observer.update(part)
    amax = float(values.max())
    best = min(mean_error(values, limit, observer.power) for limit in np.linspace(0.02, 1, 200) * amax)
    # 3 %: values are taken as uniform within a bin, and candidates are 3 % apart.
    assert mean_error(values, observer.range(), observer.power) <= 1.03 * best
    assert observer.range() <= amax


def test_cubed_error_clips_less_than_squared_error() -> None:
    squared, cubed = MeanSquaredError(), MeanCubedError()
    for observer in (squared, cubed):
        observer.update(heavy_tailed())
    assert squared.range() < cubed.range() <= cubed.histogram.amax


def test_divergence_agrees_with_a_loop_over_bins() -> None:
    counts = np.histogram(heavy_tailed(), 600, (0, 12))[0].astype(np.float64)
    stop, levels = 333, 128
    clipped = [*counts[: stop - 1], counts[stop - 1 :].sum()]
    spread = [0.0] * stop
    for level in range(levels):
        bins = [i for i in range(stop) if level * stop // levels <= i < (level + 1) * stop // levels]
        filled = [i for i in bins if counts[i] > 0]
        for i in filled:
            spread[i] = sum(counts[j] for j in bins) / len(filled)
    p, q = np.array(clipped) / sum(clipped), np.array(spread) / sum(spread)
    expected = sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)
    assert divergence_from_counts(counts, stop) == pytest.approx(expected, rel=1e-9)


def test_entropy_clips_a_lonely_outlier_and_keeps_a_uniform_range() -> None:
    rng = np.random.default_rng(1)
    lonely, uniform = Entropy(), Entropy()
    lonely.update(np.append(rng.normal(size=50_000), 40.0).astype(np.float32))
    uniform.update(rng.uniform(-3, 3, 50_000).astype(np.float32))
    assert lonely.range() < 10
    assert uniform.range() == pytest.approx(3, rel=0.02)


def test_moving_average_follows_batches() -> None:
    observer = MovingAverage(momentum=0.5)
    for amax in (4.0, 2.0, 8.0):
        observer.update(np.array([amax, 0.0], np.float32))
    assert observer.range() == pytest.approx(5.5)


@pytest.mark.parametrize("name", ["minmax", "moving-average", "percentile", "entropy", "mse", "cubed-error"])
def test_zeros_give_zero_and_nan_is_refused(name: ObserverName) -> None:
    observer = observer_from_name(name)
    observer.update(np.zeros((2, 3), np.float32))
    assert observer.range() == 0
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(GraphError, match="NaN or infinite"):
            observer.update(np.array([1.0, bad, -2.0], np.float32))


@pytest.mark.parametrize("percentile", [0.0, -1.0, 100.5])
def test_impossible_percentile_is_refused(percentile: float) -> None:
    with pytest.raises(ConfigError, match="percentile"):
        Percentile(percentile)
