"""What the gates ask of a picture's grey levels, in one walk over its pixels.

The walk goes by pieces that stay in the processor's cache: five questions to a large 16-bit frame then cost one trip
through memory. The sums of a piece are exact and so is their total: neither depends on how a picture is cut.
"""

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from hffnet.runtime.frame import GreyPixels

_PIECE = 2**17
"""Pixels; the sum of so many squares of 16 bits is a whole number that a double holds exactly."""
_CONVERTERS = (1023.0, 4095.0, 16383.0, 65535.0)


@dataclass(frozen=True, slots=True)
class Levels:
    """Grey levels as stored.

    Attributes:
        mean, std: of all pixels.
        full_scale: where the detector saturates, see ``full_scale``.
        black, white: shares of the pixels at zero and at full scale.
    """

    mean: float
    std: float
    full_scale: float
    black: float
    white: float


def levels_of(picture: GreyPixels) -> Levels:
    """Look at every pixel once.

    >>> levels_of(np.array([[0, 255], [0, 1]], np.uint8))
    Levels(mean=64.0, std=110.27465710669881, full_scale=255.0, black=0.5, white=0.25)
    """
    size = max(picture.size, 1)
    is_real = picture.dtype == np.float32
    total, squares, num_dark, num_top, brightest = 0, 0, 0, 0, -math.inf
    for piece in [picture] if is_real else _pieces(picture):
        low, high, _, _ = cv2.minMaxLoc(piece)
        if low <= 0:
            num_dark += piece.size - cv2.countNonZero(piece)
        if high > brightest:
            brightest, num_top = high, 0
        if high == brightest and high >= full_scale(picture.dtype, high):
            num_top += int(np.count_nonzero(piece == piece.dtype.type(high)))
        if not is_real:
            total += round(cv2.sumElems(piece)[0])
            squares += round(cv2.norm(piece, cv2.NORM_L2SQR))  # a root squared: a whole number but for its last bits
    if is_real:
        means, stds = cv2.meanStdDev(picture)
        mean, std = float(means[0, 0]), float(stds[0, 0])
    else:
        # What meanStdDev computes in a third of the time: for 16 bits it has no vector form, the two sums have.
        mean = total / size
        std = math.sqrt(max(squares / size - mean * mean, 0.0))
    top = full_scale(picture.dtype, brightest)
    # 1 - (what is not black), as it was always counted: records of one frame agree to the last bit.
    black, white = 1.0 - (size - num_dark) / size, num_top / size if brightest >= top else 0.0
    return Levels(mean, std, top, black, white)


def full_scale(dtype: np.dtype[Any], brightest: float) -> float:
    """The grey level at which the detector saturates, as far as the brightest pixel tells.

    12-bit detectors store 0..4095 in 16 bits: full scale is the smallest 2^n - 1 of common converters that holds the
    brightest pixel. Real numbers have full scale 1, or their largest value where that is larger.

    >>> full_scale(np.dtype(np.uint16), 4000.0), full_scale(np.dtype(np.uint8), 9.0)
    (4095.0, 255.0)
    """
    if dtype == np.uint8:
        return 255.0
    if dtype == np.float32:
        return max(brightest, 1.0)
    return next(top for top in _CONVERTERS if brightest <= top)


def _pieces(picture: GreyPixels) -> list[GreyPixels]:
    rows = max(_PIECE // max(picture.shape[1], 1), 1)
    return [picture[first : first + rows] for first in range(0, len(picture), rows)]
