"""Pictures for eyes: an 8-bit preview of what was analysed, and evidence as a transparent layer to lay over it."""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from hffnet.runtime.annotate import grey_for_eyes
from hffnet.runtime.frame import GreyPixels

MOST_SIDE = 1280
"""Longer side of a preview that is kept, pixels."""

_MOST_ALPHA = 0.62  # the picture stays readable under the strongest evidence
_PNG_LEVEL = 1  # of zlib: a quarter of the time of the default, a tenth more bytes, which travel within one machine


def reduced(picture: GreyPixels, most_side: int = MOST_SIDE) -> GreyPixels:
    """The same picture, at most so large, in its own depth; always a copy, because it outlives the frame."""
    height, width = picture.shape
    shrink = most_side / max(height, width)
    if shrink >= 1:
        return picture.copy()
    size = (max(round(width * shrink), 1), max(round(height * shrink), 1))
    return resized(picture, size)


def resized(picture: GreyPixels, size: tuple[int, int]) -> GreyPixels:
    """The picture at (width, height), smaller than it is, in its own depth."""
    smaller: Any = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    kept: GreyPixels = smaller
    return kept


def preview_png(picture: GreyPixels, width: int | None = None) -> bytes:
    """8 bits, stretched for eyes.

    Args:
        picture: (H, W), any depth.
        width: of the result at most; the picture's own where that is less.
    """
    height_now, width_now = picture.shape
    if width is not None and width < width_now:
        size = (width, max(round(height_now * width / width_now), 1))
        picture = resized(picture, size)
    return _png(grey_for_eyes(picture))


def evidence_png(evidence_hw: npt.NDArray[np.floating], strongest: float, size: tuple[int, int]) -> bytes:
    """Evidence for one class as colour over nothing: the stronger, the less transparent; what speaks against has none.

    Args:
        evidence_hw: the coarse grid.
        strongest: what counts as full strength: the strongest evidence for any class that it is compared with.
        size: (width, height) of the result.
    """
    strength = np.clip(np.asarray(evidence_hw, np.float32) / max(strongest, 1e-6), 0.0, 1.0)
    smooth = np.clip(cv2.resize(strength, size, interpolation=cv2.INTER_LINEAR), 0.0, 1.0)
    layer = np.empty((size[1], size[0], 4), np.uint8)
    layer[..., :3] = cv2.applyColorMap((smooth * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS)
    layer[..., 3] = (smooth * (255 * _MOST_ALPHA)).astype(np.uint8)
    return _png(layer)


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    is_done, data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, _PNG_LEVEL])
    assert is_done, "OpenCV encodes 8-bit pictures"
    return data.tobytes()
