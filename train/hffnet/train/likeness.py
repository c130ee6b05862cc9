"""Which pictures show the same: a difference hash finds candidates, correlation of thumbnails confirms them.

The hash alone calls two pictures of parallel scratches alike, correlation alone calls two pictures with the same
shading alike; copies pass both. Measured thresholds: docs/decisions/0011-near-duplicates.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from hffnet.runtime.frame import GreyPixels

SIDE = 34
"""Side of a thumbnail."""

MAX_DISTANCE = 40
"""Of 256 hash bits; unrelated textures differ in 89 or more, re-saved copies in at most 55 (mostly under 30)."""

MIN_CORRELATION = 0.9
"""Of the thumbnails' grey levels."""

_BITS = 16
_BLOCK = 256
_BLANK = 1e-3

Thumbnail = npt.NDArray[np.float32]
"""(SIDE, SIDE), mean 0 and norm 1; all zeros for a blank picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two pictures that show the same, by their places in the given order (first < second).

    Attributes:
        distance: hash bits that differ, of 256.
        correlation: of the thumbnails, at most 1.
        turned: the second shows the first mirrored or turned by a multiple of 90°.
    """

    first: int
    second: int
    distance: int
    correlation: float
    turned: bool


def thumbnail_from_picture(picture: GreyPixels) -> Thumbnail:
    """The picture's fingerprint: small, free of brightness, contrast and bit depth.

    >>> ramp = np.tile(np.arange(64, dtype=np.uint8), (64, 1))
    >>> bool(np.allclose(thumbnail_from_picture(ramp), thumbnail_from_picture(ramp * np.uint16(257)), atol=1e-6))
    True
    """
    small = cv2.resize(picture.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    centred = small - small.mean(dtype=np.float64)
    norm = float(np.linalg.norm(centred))
    if norm <= _BLANK * max(float(np.abs(small).max()), 1e-12) * SIDE:
        return np.zeros((SIDE, SIDE), dtype=np.float32)
    return np.asarray(centred / norm, dtype=np.float32)


def pairs_from_thumbnails(thumbnails: Sequence[Thumbnail]) -> tuple[Pair, ...]:
    """All pairs of pictures that show the same, also mirrored or turned; blank pictures are like nothing.

    Time grows with the square of their number: 20,000 pictures take about two minutes on one core.
    """
    if len(thumbnails) < 2:
        return ()
    stack_NHW = np.stack(thumbnails)
    hashes_NB = _hashes(stack_NHW)
    flat_NP = stack_NHW.reshape(len(stack_NHW), -1)
    best = dict[tuple[int, int], Pair]()
    for start in range(0, len(stack_NHW), _BLOCK):
        block_NHW = stack_NHW[start : start + _BLOCK]
        for symmetry in range(8):
            seen_NHW = _seen(block_NHW, symmetry)
            agreement = _hashes(seen_NHW) @ hashes_NB[start:].T  # bits equal minus bits different
            rows, columns = np.nonzero(agreement >= hashes_NB.shape[1] - 2 * MAX_DISTANCE)
            later = columns > rows
            for row, column in zip(rows[later].tolist(), columns[later].tolist(), strict=True):
                correlation = float(seen_NHW[row].ravel() @ flat_NP[start + column])
                key = (start + row, start + column)
                if correlation < MIN_CORRELATION or (key in best and best[key].correlation >= correlation):
                    continue
                best[key] = Pair(
                    first=key[0],
                    second=key[1],
                    distance=round((hashes_NB.shape[1] - float(agreement[row, column])) / 2),
                    correlation=min(correlation, 1.0),
                    turned=symmetry > 0,
                )
    return tuple(best[key] for key in sorted(best))


def _seen(stack_NHW: npt.NDArray[np.float32], symmetry: int) -> npt.NDArray[np.float32]:
    """One of the eight symmetries of the square; number 0 leaves the pictures as they are."""
    turned = np.rot90(stack_NHW, symmetry % 4, axes=(1, 2))
    return np.ascontiguousarray(turned[:, :, ::-1] if symmetry >= 4 else turned)


def _hashes(stack_NHW: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Difference hash (Krawetz, 2013): is each of 17 × 16 cells darker than its right neighbour; ±1, blank 0."""
    cells = np.stack([cv2.resize(one, (_BITS + 1, _BITS), interpolation=cv2.INTER_AREA) for one in stack_NHW])
    signs = np.where(np.diff(cells, axis=2) > 0, np.float32(1), np.float32(-1)).reshape(len(cells), -1)
    blank = ~stack_NHW.any(axis=(1, 2))
    signs[blank] = 0
    return np.asarray(signs, dtype=np.float32)
