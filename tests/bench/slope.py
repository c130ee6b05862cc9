"""Does it grow? Theil-Sen slope with Sen's 95 % bound: one odd sample moves neither (Sen 1968, JASA 63)."""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Slope:
    """Units of y per unit of x: median over all pairs, and the bounds of its two-sided 95 % interval."""

    median: float
    low: float
    high: float


def theil_sen(x: npt.ArrayLike, y: npt.ArrayLike) -> Slope:
    """Slope of samples; needs at least four at different x."""
    xs, ys = np.asarray(x, np.float64), np.asarray(y, np.float64)
    first, second = np.triu_indices(len(xs), 1)
    slopes = np.sort((ys[second] - ys[first]) / (xs[second] - xs[first]))
    num, pairs = len(xs), len(slopes)
    # Variance of Kendall's S without ties.
    spread = NormalDist().inv_cdf(0.975) * np.sqrt(num * (num - 1) * (2 * num + 5) / 18)
    low, high = round((pairs - spread) / 2), round((pairs + spread) / 2)
    bounds = slopes[max(low, 0)], slopes[min(high, pairs - 1)]
    return Slope(float(np.median(slopes)), float(bounds[0]), float(bounds[1]))
