"""Weights as int8 with one scale per output channel: the largest magnitude over 127, or less where that errs less."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from hffnet.calibration.observers import NUM_LEVELS

# Weights of a channel smaller than this are noise, and a float16 scale below it has hardly a digit left.
SMALLEST_SCALE = 2.0**-20

_FACTORS = tuple(round(1 - 0.01 * step, 2) for step in range(41))
_BLOCK = 1 << 16  # values worked on at a time stay in a core's cache

WeightScales = Mapping[tuple[str, int], npt.NDArray[np.float32]]
"""Scales by weight and axis, for those that do not simply follow the largest magnitude."""


def scales_from_weight(weight: npt.NDArray[np.float32], axis: int) -> npt.NDArray[np.float32]:
    """Largest magnitude of each channel along ``axis``, divided by 127; 1 for a channel of zeros.

    >>> scales_from_weight(np.array([[1.27, -2.54], [0.0, 0.0]], np.float32), 0).round(4).tolist()
    [0.019999999552965164, 1.0]
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    amax = np.maximum(weight.max(axis=others), -weight.min(axis=others))
    return np.where(amax > 0, np.maximum(amax / NUM_LEVELS, SMALLEST_SCALE), 1).astype(np.float32)


def clipped_scales_from_weight(weight: npt.NDArray[np.float32], axis: int) -> npt.NDArray[np.float32]:
    """Scale of least squared error of each channel along ``axis``: 0.60 to 1.00 times that of ``scales_from_weight``.

    A smaller scale clips the largest weights and rounds all others less. Of equals the largest is taken.
    """
    largest = scales_from_weight(weight, axis)
    rows = np.moveaxis(weight, axis, 0).reshape(len(largest), -1)
    found = np.empty_like(largest)
    step = max(1, _BLOCK // max(rows.shape[1], 1))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        tried = np.maximum(largest[part] * np.array(_FACTORS, np.float32)[:, None], np.float32(SMALLEST_SCALE))
        errors = np.stack([_squared_errors(rows[part], scales) for scales in tried])
        found[part] = np.take_along_axis(tried, errors.argmin(axis=0)[None], axis=0)[0]
    return found


def _squared_errors(rows: npt.NDArray[np.float32], scales: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    lost = rows - int8_from_weight(rows, scales, 0) * scales[:, None]
    found: npt.NDArray[np.float64] = np.einsum("ck,ck->c", lost, lost, dtype=np.float64)
    return found


def rounding_errors(
    weight: npt.NDArray[np.float32], scales: npt.NDArray[np.float32], axis: int
) -> npt.NDArray[np.float32]:
    """What int8 loses of each weight."""
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    found: npt.NDArray[np.float32] = weight - int8_from_weight(weight, scales, axis) * scales.reshape(shape)
    return found


def int8_from_weight(
    weight: npt.NDArray[np.float32], scales: npt.NDArray[np.float32], axis: int
) -> npt.NDArray[np.int8]:
    """Nearest multiples of each channel's scale, -127..127 (ties to even, as QuantizeLinear has it)."""
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    levels = weight / scales.reshape(shape)
    np.rint(levels, out=levels)
    np.clip(levels, -NUM_LEVELS, NUM_LEVELS, out=levels)
    return levels.astype(np.int8)
