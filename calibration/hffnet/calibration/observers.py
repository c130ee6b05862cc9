"""From the values a tensor takes over the calibration frames to the symmetric range it is quantized in.

An observer is fed one batch of values after the other and keeps constant memory. ``range()`` is the magnitude that
becomes the largest integer; larger values are clipped. All observers but the two that only follow the maximum share
one histogram of magnitudes whose bins never have to be guessed: its limit is a power of two and doubles when a larger
value comes, two bins becoming one. The maximum is that of all values; of a tensor with more than 32768 values only
every k-th is counted, beginning elsewhere each time, or counting would take longer than the network itself.

Knows nothing of graphs (``placement``) or of how values are obtained (``statistics``).
"""

import math
from typing import Literal, Protocol, assert_never

import cv2
import numpy as np
import numpy.typing as npt

from hffnet.runtime.errors import ConfigError, GraphError

Values = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]
State = dict[str, npt.NDArray[np.float64] | npt.NDArray[np.int64]]

ObserverName = Literal["minmax", "moving-average", "percentile", "entropy", "mse", "cubed-error"]

NUM_BINS = 4096
NUM_LEVELS = 127
"""Levels on each side of zero of a symmetric int8 tensor; -128 is not used."""

NUM_UNSIGNED_LEVELS = 255
"""Levels above zero of a uint8 tensor."""

_BLOCK = 1 << 17  # both buffers stay in a core's L2 cache; calcHist counts each call exactly below 2^24
_MOST_COUNTED = 1 << 15  # of one tensor in one batch; of 128 frames that is four million
_SMALLEST = 2.0**-100  # below this a power-of-two limit would make the bin factor overflow in float32


class Observer(Protocol):
    """What ``statistics`` feeds."""

    def update(self, values: Values) -> None:
        """Take the values of one batch, any shape.

        Raises:
            GraphError: a value is NaN or infinite.
        """

    def range(self, num_levels: int = NUM_LEVELS) -> float:
        """The magnitude that becomes the largest integer; 0 where nothing but zeros was seen.

        Args:
            num_levels: above zero: ``NUM_LEVELS`` of int8, ``NUM_UNSIGNED_LEVELS`` of uint8. With more levels the
                best range is wider.
        """

    def state(self) -> State:
        """Everything seen so far, as arrays; ``restore`` of a fresh observer takes it."""

    def restore(self, state: State) -> None:
        """Take up where ``state`` was."""


def amax_from_values(values: Values) -> float:
    """Largest magnitude, without a copy of ``values``; 0 for none.

    Raises:
        GraphError: a value is NaN or infinite.

    >>> amax_from_values(np.array([1.0, -3.0], np.float32))
    3.0
    """
    if not values.size:
        return 0.0
    highest, lowest = float(values.max()), float(values.min())
    if not math.isfinite(highest) or not math.isfinite(lowest):  # both are NaN where a value is
        raise GraphError("a value is NaN or infinite; expected finite activations, so the float graph itself is broken")
    return max(highest, -lowest)


class Histogram:
    """Counts of magnitudes in ``NUM_BINS`` equal bins from 0 to ``limit``, a power of two above every value seen.

    Args:
        every: only each ``every``-th batch is counted; the largest magnitude is that of all.

    Attributes:
        counts: (NUM_BINS,) int64; of all values, or of a sample of large tensors.
        limit: upper edge of the last bin; 0 until a value other than zero is seen.
        amax: largest magnitude seen.
        num_seen: values seen, whether counted or not.
    """

    def __init__(self, every: int = 1) -> None:
        self._every = every
        self.counts: Counts = np.zeros(NUM_BINS, np.int64)
        self.limit = 0.0
        self.amax = 0.0
        self.num_seen = 0
        self._turn = 0
        self._scaled = np.empty(_BLOCK, np.float32)
        self._bins = np.empty((1, _BLOCK), np.uint16)

    @property
    def edges(self) -> npt.NDArray[np.float64]:
        """The ``NUM_BINS + 1`` edges."""
        return np.linspace(0.0, self.limit, NUM_BINS + 1)

    def update(self, values: Values) -> None:
        """Count ``values``; about 2 ns per counted value on one core, without the interpreter's lock."""
        amax = amax_from_values(values)
        self.amax = max(self.amax, amax)
        self.num_seen += values.size
        if amax >= max(self.limit, _SMALLEST):
            self._widen(amax)
        self._turn += 1
        if (self._turn - 1) % self._every:
            return
        flat = self._counted(values.reshape(-1))
        if not self.limit:
            self.counts[0] += flat.size
            return
        # limit and NUM_BINS are powers of two, so the product below is exact and its integer part is the bin.
        factor = np.float32(NUM_BINS / self.limit)
        for start in range(0, flat.size, _BLOCK):
            block = flat[start : start + _BLOCK]
            scaled, bins = self._scaled[: block.size], self._bins[:, : block.size]
            np.abs(block, out=scaled)
            np.multiply(scaled, factor, out=scaled)
            np.copyto(bins[0], scaled, casting="unsafe")
            # numpy.bincount would first widen to 64 bits and look for the extremes: 1.5 times slower.
            counts = cv2.calcHist([bins], [0], None, [NUM_BINS], [0, NUM_BINS])
            self.counts += counts.reshape(-1).astype(np.int64)

    def _counted(self, flat: Values) -> Values:
        """All of a small tensor, evenly spread values of a large one."""
        step = -(-flat.size // _MOST_COUNTED)
        if step <= 1:
            return flat
        while step % 2 == 0 or step % 7 == 0:  # rows of 7 times a power of two: never the same columns only
            step += 1
        return flat[self._turn // self._every % step :: step]

    def state(self) -> State:
        """See ``Observer``."""
        ends, whole = np.array([self.limit, self.amax]), np.array([self._turn, self.num_seen])
        return {"counts": self.counts, "ends": ends, "whole": whole}

    def restore(self, state: State) -> None:
        """See ``Observer``."""
        self.counts = state["counts"].astype(np.int64)
        self.limit, self.amax = (float(end) for end in state["ends"])
        self._turn, self.num_seen = (int(number) for number in state["whole"])

    def _widen(self, amax: float) -> None:
        limit = 2.0 ** math.frexp(amax)[1]
        if self.limit:
            merged = self.counts
            for _ in range(min(round(math.log2(limit / self.limit)), NUM_BINS.bit_length() - 1)):
                merged = merged.reshape(-1, 2).sum(axis=1)
            self.counts = np.zeros(NUM_BINS, np.int64)
            self.counts[: merged.size] = merged
        self.limit = limit


class MinMax:
    """The largest magnitude seen: nothing is clipped.

    Args:
        histogram: also counts, for the report; the range does not need it.
    """

    def __init__(self, histogram: Histogram | None = None) -> None:
        self.histogram = histogram
        self._amax = 0.0

    def update(self, values: Values) -> None:
        """See ``Observer``."""
        if self.histogram is None:
            self._amax = max(self._amax, amax_from_values(values))
            return
        self.histogram.update(values)
        self._amax = self.histogram.amax

    def range(self, num_levels: int = NUM_LEVELS) -> float:  # noqa: ARG002 (the same for any number of levels)
        """See ``Observer``."""
        return self._amax

    def state(self) -> State:
        """See ``Observer``."""
        return {"amax": np.array(self._amax), **(self.histogram.state() if self.histogram else {})}

    def restore(self, state: State) -> None:
        """See ``Observer``."""
        self._amax = float(state["amax"])
        if self.histogram:
            self.histogram.restore(state)


class MovingAverage:
    """Exponential moving average of each batch's largest magnitude: one odd batch does not decide.

    Args:
        momentum: weight of what was before.
        histogram: also counts, for the report; the range does not need it.
    """

    def __init__(self, momentum: float = 0.9, histogram: Histogram | None = None) -> None:
        self.histogram = histogram
        self._momentum = momentum
        self._average: float | None = None

    def update(self, values: Values) -> None:
        """See ``Observer``."""
        amax = amax_from_values(values)
        if self.histogram:
            self.histogram.update(values)
        old = amax if self._average is None else self._average
        self._average = self._momentum * old + (1 - self._momentum) * amax

    def range(self, num_levels: int = NUM_LEVELS) -> float:  # noqa: ARG002 (the same for any number of levels)
        """See ``Observer``."""
        return self._average or 0.0

    def state(self) -> State:
        """See ``Observer``."""
        own: State = {"average": np.array(math.nan if self._average is None else self._average)}
        return {**own, **(self.histogram.state() if self.histogram else {})}

    def restore(self, state: State) -> None:
        """See ``Observer``."""
        average = float(state["average"])
        self._average = None if math.isnan(average) else average
        if self.histogram:
            self.histogram.restore(state)


class Percentile:
    """The magnitude that ``percentile`` percent of the values do not exceed."""

    def __init__(self, percentile: float = 99.99, every: int = 1) -> None:
        if not 0 < percentile <= 100:
            raise ConfigError(f"percentile is {percentile}; expected above 0 and at most 100, for instance 99.99")
        self._percentile = percentile
        self.histogram = Histogram(every)

    def update(self, values: Values) -> None:
        """See ``Observer``."""
        self.histogram.update(values)

    def range(self, num_levels: int = NUM_LEVELS) -> float:  # noqa: ARG002 (the same for any number of levels)
        """See ``Observer``."""
        return percentile_range(self.histogram, self._percentile)

    def state(self) -> State:
        """See ``Observer``."""
        return self.histogram.state()

    def restore(self, state: State) -> None:
        """See ``Observer``."""
        self.histogram.restore(state)


class Entropy:
    """The range that keeps most of the distribution's information (Kullback-Leibler divergence)."""

    def __init__(self, every: int = 1) -> None:
        self.histogram = Histogram(every)

    def update(self, values: Values) -> None:
        """See ``Observer``."""
        self.histogram.update(values)

    def range(self, num_levels: int = NUM_LEVELS) -> float:
        """See ``Observer``."""
        return entropy_range(self.histogram, num_levels)

    def state(self) -> State:
        """See ``Observer``."""
        return self.histogram.state()

    def restore(self, state: State) -> None:
        """See ``Observer``."""
        self.histogram.restore(state)


class MeanSquaredError:
    """The range with the least mean squared error between float and quantized values."""

    power = 2

    def __init__(self, every: int = 1) -> None:
        self.histogram = Histogram(every)

    def update(self, values: Values) -> None:
        """See ``Observer``."""
        self.histogram.update(values)

    def range(self, num_levels: int = NUM_LEVELS) -> float:
        """See ``Observer``."""
        return least_error_range(self.histogram, num_levels, self.power)

    def state(self) -> State:
        """See ``Observer``."""
        return self.histogram.state()

    def restore(self, state: State) -> None:
        """See ``Observer``."""
        self.histogram.restore(state)


class MeanCubedError(MeanSquaredError):
    """The range with the least mean of the errors' cubed magnitude: it clips less than the squared error does.

    Rounding errors are independent and average out in the next sum; clipping errors all point to zero and stand side
    by side in the same frame, so they add up. The square does not know that; the cube makes up for it.
    """

    power = 3


def observer_from_name(name: ObserverName, *, percentile: float = 99.99, every: int = 1) -> Observer:
    """A fresh observer.

    Args:
        name: which.
        percentile: of that observer.
        every: see ``Histogram``; what only follows the maximum sees every batch.

    >>> type(observer_from_name("mse")).__name__
    'MeanSquaredError'
    """
    match name:
        case "minmax":
            return MinMax(Histogram(every))
        case "moving-average":
            return MovingAverage(histogram=Histogram(every))
        case "percentile":
            return Percentile(percentile, every)
        case "entropy":
            return Entropy(every)
        case "mse":
            return MeanSquaredError(every)
        case "cubed-error":
            return MeanCubedError(every)
        case _:
            assert_never(name)


def histogram_of(observer: Observer) -> Histogram | None:
    """What an observer of ``observer_from_name`` has counted; None of others."""
    kinds = MinMax | MovingAverage | Percentile | Entropy | MeanSquaredError
    return observer.histogram if isinstance(observer, kinds) else None


def percentile_range(histogram: Histogram, percentile: float) -> float:
    """Upper edge of the bin that holds the ``percentile`` (nearest rank over all values, zeros included)."""
    rank = math.ceil(percentile / 100 * int(histogram.counts.sum()))
    bin_index = int(np.searchsorted(np.cumsum(histogram.counts), max(rank, 1)))
    return min(float(histogram.edges[bin_index + 1]), histogram.amax) if histogram.limit else histogram.amax


def least_error_range(
    histogram: Histogram, num_levels: int = NUM_LEVELS, power: int = 2, num_candidates: int = 160
) -> float:
    """Range of least expected error (its magnitude to ``power``), values taken as uniform inside their bin.

    The error of rounding to multiples of s and clipping at the last level is integrated exactly over each bin, so bins
    wider than a step do no harm. Candidates run geometrically from amax / 100 to amax.
    """
    if not histogram.limit:
        return histogram.amax
    candidates = histogram.amax * np.geomspace(0.01, 1.0, num_candidates)
    errors = errors_of_ranges(histogram, candidates, num_levels, power)
    return float(candidates[int(np.argmin(errors))])


def errors_of_ranges(
    histogram: Histogram, limits: npt.NDArray[np.float64], num_levels: int = NUM_LEVELS, power: int = 2
) -> npt.NDArray[np.float64]:
    """Sum over all counted values of |error| ** ``power`` when quantizing to ``limits``, one for each limit."""
    last = int(np.flatnonzero(histogram.counts)[-1])
    edges = histogram.edges[: last + 2]
    # The top bin reaches beyond amax; nothing lies there.
    edges[-1] = min(edges[-1], max(histogram.amax, float(edges[-2]) + histogram.limit / NUM_BINS / 16))
    weight = histogram.counts[: last + 1] / np.diff(edges)
    weight[0] = 0.0  # zeros (after ReLU most values) are exact at every scale
    integrals = (np.diff(_error_integral(edges, limit, num_levels, power)) for limit in limits)
    return np.array([float(weight @ integral) for integral in integrals])


def _error_integral(x: npt.NDArray[np.float64], limit: float, num_levels: int, power: int) -> npt.NDArray[np.float64]:
    """Integral from 0 to ``x`` of the quantization error's ``power`` at range ``limit``."""
    step = limit / num_levels
    level = np.minimum(np.rint(x / step), num_levels)
    # Each full step contributes twice that of half a step, then comes the distance to the level (also when clipped).
    rest = x - level * step
    distance = np.abs(rest)
    for _ in range(power):
        rest *= distance
    found: npt.NDArray[np.float64] = (2 * (step / 2) ** (power + 1) * level + rest) / (power + 1)
    return found


def entropy_range(histogram: Histogram, num_levels: int = NUM_LEVELS, stride: int = 16) -> float:
    """Range of least KL divergence between the clipped and the quantized histogram.

    After S. Migacz, "8-bit inference with TensorRT", GTC 2017: for each candidate the bins beyond it are clipped into
    the last one (P), the bins within are merged to the levels (128 for int8, with zero) and spread again over those
    that were not empty (Q). The first bin is set to the second's count, as nvidia's pytorch-quantization does: zeros
    cost nothing at any scale.
    """
    if not histogram.limit:
        return histogram.amax
    last = int(np.flatnonzero(histogram.counts)[-1]) + 1
    counts = histogram.counts[:last].astype(np.float64)
    if last > 1:
        counts[0] = counts[1]
    if last <= num_levels + 1 or not counts.any():
        return histogram.amax
    stops = [*range(num_levels + 1, last, stride), last]
    divergences = [divergence_from_counts(counts, stop, num_levels + 1) for stop in stops]
    return min(float(histogram.edges[stops[int(np.argmin(divergences))]]), histogram.amax)


def divergence_from_counts(counts: npt.NDArray[np.float64], stop: int, num_levels: int = 128) -> float:
    """KL divergence in nats of ``counts`` clipped at bin ``stop`` from the same in ``num_levels`` levels.

    Infinite where the quantized distribution misses a bin that the clipped one has.
    """
    inside = counts[:stop]
    clipped = inside.copy()
    clipped[-1] += counts[stop:].sum()
    starts = (np.arange(num_levels) * stop) // num_levels
    filled = inside > 0
    sums = np.add.reduceat(inside, starts)
    num_filled = np.add.reduceat(filled.astype(np.float64), starts)
    means = np.divide(sums, num_filled, out=np.zeros_like(sums), where=num_filled > 0)
    spread = np.repeat(means, np.diff(starts, append=stop)) * filled
    total = spread.sum()
    if total == 0 or np.any((clipped > 0) & (spread == 0)):
        return math.inf
    some = clipped > 0
    p, q = clipped[some] / clipped.sum(), spread[some] / total
    return float(np.sum(p * np.log(p / q)))
