"""Weights as int8 with one scale per output channel: nearest multiples of the largest magnitude over 127."""

import numpy as np
import numpy.typing as npt

from hffnet.calibration.observers import NUM_LEVELS

# Weights of a channel smaller than this are noise, and a float16 scale below it has hardly a digit left.
SMALLEST_SCALE = 2.0**-20


def scales_from_weight(weight: npt.NDArray[np.float32], axis: int) -> npt.NDArray[np.float32]:
    """Largest magnitude of each channel along ``axis``, divided by 127; 1 for a channel of zeros.

    >>> scales_from_weight(np.array([[1.27, -2.54], [0.0, 0.0]], np.float32), 0).round(4).tolist()
    [0.019999999552965164, 1.0]
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    amax = np.maximum(weight.max(axis=others), -weight.min(axis=others))
    return np.where(amax > 0, np.maximum(amax / NUM_LEVELS, SMALLEST_SCALE), 1).astype(np.float32)


def int8_from_weight(
    weight: npt.NDArray[np.float32], scales: npt.NDArray[np.float32], axis: int
) -> npt.NDArray[np.int8]:
    """Nearest multiples of each channel's scale, -127..127 (ties to even, as QuantizeLinear has it)."""
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    levels = weight / scales.reshape(shape)
    np.rint(levels, out=levels)
    np.clip(levels, -NUM_LEVELS, NUM_LEVELS, out=levels)
    return levels.astype(np.int8)
