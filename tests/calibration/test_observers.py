"""Observers against brute force on stored values."""

import itertools
import typing
from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hffnet.calibration.bias import WithMean
from hffnet.calibration.observers import (
    NUM_BINS,
    NUM_LEVELS,
    Entropy,
    Histogram,
    MeanCubedError,
    MeanSquaredError,
    MinMax,
    MovingAverage,
    Observer,
    ObserverName,
    Percentile,
    divergence_from_counts,
    histogram_of,
    observer_from_name,
    percentile_range,
)
from hffnet.calibration.smoothing import ChannelMoments, SmoothedValues, Smoothing
from hffnet.runtime.errors import ConfigError, GraphError

Values = npt.NDArray[np.float32]

batches = st.lists(
    arrays(np.float32, st.integers(1, 50), elements=st.floats(-(2.0**30), 2.0**30, width=32)), min_size=1, max_size=5
)


def heavy_tailed(num: int = 20_000, seed: int = 0) -> Values:
    """Student's t with 3 degrees of freedom after ReLU: a few values far out, as activations have them."""
    return np.maximum(np.random.default_rng(seed).standard_t(3, num), 0).astype(np.float32)


def mean_error(values: Values, limit: float, power: int, num_levels: int = NUM_LEVELS) -> float:
    step = limit / num_levels
    quantized = np.clip(np.rint(values / step), -num_levels, num_levels) * step
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


def tail(seed: int, freedom: float, size: int, scale: float) -> Values:
    return (scale * np.random.default_rng(seed).standard_t(freedom, size)).astype(np.float32)


tails = st.builds(tail, st.integers(0, 2**32 - 1), st.floats(1.5, 30), st.integers(200, 3000), st.floats(1e-3, 1e3))


@given(tails, st.sampled_from([127, 255]), st.sampled_from([MeanSquaredError, MeanCubedError]))
@settings(max_examples=25)
def test_least_error_of_any_tail_is_as_good_as_trying_every_range(
    values: Values, num_levels: int, kind: type[MeanSquaredError]
) -> None:
    observer = kind()
    for part in np.array_split(values, 5):
        observer.update(part)
    amax = float(np.abs(values).max())
    limits = np.geomspace(0.01, 1, 160) * amax
    best = min(mean_error(values, limit, observer.power, num_levels) for limit in limits)
    # Values count as uniform within a bin of amax / 4096 or less: an error of that size is invisible to the histogram.
    bin_error = (observer.histogram.limit / NUM_BINS) ** observer.power
    assert mean_error(values, observer.range(num_levels), observer.power, num_levels) <= 1.05 * best + bin_error
    assert 0 < observer.range(num_levels) <= amax * (1 + 1e-6)


def divergence_by_loops(counts: list[float], stop: int, levels: int) -> float:
    clipped = [*counts[: stop - 1], sum(counts[stop - 1 :])]
    spread = [0.0] * stop
    for level in range(levels):
        bins = range(level * stop // levels, (level + 1) * stop // levels)
        filled = [k for k in bins if counts[k]]
        for k in filled:
            spread[k] = sum(counts[j] for j in bins) / len(filled)
    if any(p and not q for p, q in zip(clipped, spread, strict=True)) or not sum(spread):
        return np.inf
    p_sum, q_sum = sum(clipped), sum(spread)
    pairs = [(p / p_sum, q / q_sum) for p, q in zip(clipped, spread, strict=True) if p]
    return float(sum(p * np.log(p / q) for p, q in pairs))


@given(tails)
@settings(max_examples=5, deadline=None)
def test_entropy_is_the_least_divergence_of_all_candidates(values: Values) -> None:
    observer = Entropy()
    for part in np.array_split(values, 3):
        observer.update(part)
    histogram = observer.histogram
    magnitudes = np.abs(values).astype(np.float64)
    counts = np.bincount((magnitudes * (NUM_BINS / histogram.limit)).astype(int), minlength=NUM_BINS).astype(float)
    last = int(np.flatnonzero(counts)[-1]) + 1
    counts[0] = counts[1]
    stops = [*range(128, last, 512), last]
    chosen = observer.range()
    at = last if chosen == histogram.amax else round(chosen / histogram.limit * NUM_BINS)
    least = min(divergence_by_loops(counts[:last].tolist(), stop, 128) for stop in stops)
    assert divergence_by_loops(counts[:last].tolist(), at, 128) <= least + 1e-9


@given(batches, st.floats(0.01, 0.99))
def test_moving_average_is_the_recursion_over_batches(parts: list[Values], momentum: float) -> None:
    observer = MovingAverage(momentum)
    average = float(np.abs(parts[0]).max())
    for number, part in enumerate(parts):
        observer.update(part)
        average = momentum * average + (1 - momentum) * float(np.abs(part).max()) if number else average
    assert observer.range() == pytest.approx(average)


KINDS: dict[str, Callable[[], Observer]] = {
    **{
        name: partial(observer_from_name, name, every=every)
        for name, every in zip(typing.get_args(ObserverName), itertools.cycle([1, 3]))
    },
    "with mean": lambda: WithMean(MeanCubedError(every=2), every=3),
    "moments": ChannelMoments,
    "smoothed": lambda: SmoothedValues(
        WithMean(Entropy()), Smoothing(alpha=0.5, gain=2.0, factors=np.linspace(0.5, 2, 6)), Percentile()
    ),
}


@given(
    st.lists(arrays(np.float32, (2, 3, 6), elements=st.floats(-(2.0**20), 2.0**20, width=32)), min_size=1, max_size=7),
    st.data(),
)
@settings(max_examples=25)
@pytest.mark.parametrize("kind", KINDS)
def test_an_interruption_anywhere_changes_nothing(kind: str, parts: list[Values], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(parts)))
    whole, before, after = KINDS[kind](), KINDS[kind](), KINDS[kind]()
    for part in parts:
        whole.update(part)
    for part in parts[:at]:
        before.update(part)
    after.restore({key: value.copy() for key, value in before.state().items()})
    for part in parts[at:]:
        after.update(part)
    once, again = whole.state(), after.state()
    assert once.keys() == again.keys()
    for key, value in once.items():
        np.testing.assert_array_equal(again[key], value, err_msg=key)
    assert after.range() == whole.range()


@given(batches, st.integers(1, 4))
def test_every_few_batches_are_counted_and_the_largest_of_all_is_kept(parts: list[Values], every: int) -> None:
    thinned, counted = Histogram(every), Histogram()
    for number, part in enumerate(parts):
        thinned.update(part)
        if number % every == 0:
            counted.update(part)
    assert thinned.amax == max(float(np.abs(part).max()) for part in parts)
    assert thinned.num_seen == sum(part.size for part in parts)
    assert thinned.counts.sum() == counted.counts.sum() == sum(part.size for part in parts[::every])
    if thinned.limit == counted.limit:
        np.testing.assert_array_equal(thinned.counts, counted.counts)


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=5),
    st.integers(1, 5),
    st.integers(0, 2**32 - 1),
)
def test_mean_is_that_of_every_few_frames_however_they_are_batched(sizes: list[int], every: int, seed: int) -> None:
    frames = np.random.default_rng(seed).normal(size=(sum(sizes), 3, 2)).astype(np.float32)
    observer = WithMean(MinMax(), every)
    for part in np.split(frames, np.cumsum(sizes)[:-1]):
        observer.update(part)
    assert observer.count == len(frames[::every])
    assert observer.mean is not None
    np.testing.assert_allclose(observer.mean, frames[::every].mean(axis=0, dtype=np.float64), rtol=1e-5, atol=1e-6)
    assert observer.range() == np.abs(frames).max()


@pytest.mark.parametrize("name", ["minmax", "moving-average"])
def test_observers_of_the_maximum_count_for_the_report(name: ObserverName) -> None:
    observer = observer_from_name(name)
    for amax in (4.0, 2.0):
        observer.update(np.array([amax, 0.5], np.float32))
    histogram = histogram_of(observer)
    assert histogram is not None
    assert (histogram.amax, histogram.counts.sum()) == (4.0, 4)
    assert histogram_of(MinMax()) is None


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
