"""Where the info bar begins: by metadata, else by looking at the bottom rows, else by a setting.

The bar names instrument, operator and magnification: a classifier that sees it can learn it instead of the fracture.
Detection is made to miss rather than to cut a picture: what it looks for is drawn by software, never by a detector.
Rows of a bar are one exact grey level over most of their width, with text of high contrast in some rows and none in
others, and they begin from one row to the next over the full width.
"""

import logging
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from hffnet.runtime.errors import FrameError
from hffnet.runtime.frame import Crop, GreyPixels
from hffnet.runtime.metadata import Described

_LOG = logging.getLogger(__name__)

MIN_HEIGHT = 256
"""Frames with fewer rows are tiles or thumbnails: no detection."""

_MAX_SHARE = 0.30  # of the frame's rows: the largest bar seen is TESCAN's, 0.135
_PROBE = (0.965, 0.985)  # rows that lie inside every bar seen, above the 2 rows of picture under Zeiss's box
_MAX_ROWS_BELOW = 0.015
_MIN_ROWS = 12
_BACKGROUND_SHARE = 0.35  # of a bar's row; the row with most text and logo seen has 0.54
_LINE_SHARE = 0.95
_JUMP = 0.3
_CLEAN_SHARE = 0.94


@dataclass(frozen=True, slots=True, kw_only=True)
class BarSetting:
    """What the person at the instrument knows about its info bar.

    Attributes:
        rows: rows at the bottom that are bar.
        force: use ``rows`` always (0 keeps the whole frame), not only where metadata and detection find nothing.
    """

    rows: int
    force: bool = False


def crop_of(pixels: GreyPixels, described: Described, bar: BarSetting | None, name: str) -> Crop:
    """The picture's rectangle in the stored frame, and who decided it."""
    height = pixels.shape[0]
    if bar is not None and bar.force:
        return _crop(pixels, height - bar.rows, "setting", name)
    if (first := _first_row_stated(described, pixels.shape, name)) is not None:
        return _crop(pixels, first, "metadata", name)
    if height >= MIN_HEIGHT and (first := first_bar_row(pixels)) is not None:
        return _crop(pixels, first, "detected", name)
    return _crop(pixels, height - (bar.rows if bar is not None else 0), "setting", name)


def first_bar_row(pixels: GreyPixels) -> int | None:
    """First row of an info bar drawn into the bottom of the frame; None where there is none.

    Looks at the bottom 30 % only, and mostly at 2 % of the rows: most frames without a bar are told by those.

    Args:
        pixels: (H, W), as stored.
    """
    height = pixels.shape[0]
    start = int(height * (1 - _MAX_SHARE))
    bottom = _levels(pixels[start:])
    probe = bottom[int(height * _PROBE[0]) - start : max(int(height * _PROBE[1]), 1) - start]
    if probe.size == 0:
        return None
    level = int(np.bincount(probe.ravel(), minlength=256).argmax())
    if np.count_nonzero(probe == level) < _BACKGROUND_SHARE * probe.size:
        return None
    for tolerance in (0, 8):  # 8: bars that went through JPEG
        top = _top_of_bar(bottom, level, tolerance)
        if top is not None:
            return start + top
    return None


def _top_of_bar(bottom: npt.NDArray[np.uint8], level: int, tolerance: int) -> int | None:
    """First row of the bar whose background is ``level``, as a row of ``bottom``; None where it is no bar."""
    height, frame_height = bottom.shape[0], bottom.shape[0] / _MAX_SHARE
    background = np.asarray(cv2.inRange(bottom, level - tolerance, level + tolerance), np.uint8)
    share = background.mean(axis=1) / 255.0
    line = _full_lines(bottom, share, tolerance)
    inside = (share >= _BACKGROUND_SHARE) | line
    last = height - 1 - int(np.argmax(inside[::-1]))
    outside = np.flatnonzero(~inside[:last])
    top = int(outside[-1]) + 1 if outside.size else 0
    if height - 1 - last > max(_MAX_ROWS_BELOW * frame_height, 2):
        return None
    if not _jumps(share, line, top):
        # A dark picture looks like the bar's background; then only a line over the full width can tell them apart.
        lines = [y for y in np.flatnonzero(line) if top <= y <= last - _MIN_ROWS]
        if not lines:
            return None
        top = int(lines[0])
    return top if last - top >= _MIN_ROWS and _has_text(bottom[top : last + 1], background[top : last + 1]) else None


def _full_lines(bottom: npt.NDArray[np.uint8], share: npt.NDArray[np.float64], tolerance: int) -> npt.NDArray[np.bool_]:
    """Rows of one grey level that is not the background's: the frame drawn around a bar."""
    line = np.zeros(len(bottom), np.bool_)
    for y in np.flatnonzero(share < 1 - _LINE_SHARE):
        row = bottom[y]
        level = int(row[row.size // 2])
        line[y] = np.count_nonzero(np.abs(row.astype(np.int16) - level) <= tolerance) >= _LINE_SHARE * row.size
    return line


def _jumps(share: npt.NDArray[np.float64], line: npt.NDArray[np.bool_], top: int) -> bool:
    """The bar begins from one row to the next: no edge of a specimen is that straight."""
    if top < 3:
        return False  # higher than any bar
    above = float(np.median(share[top - 3 : top]))
    below = 1.0 if line[top] else float(np.median(share[top : top + 3]))
    return below - above >= _JUMP


def _has_text(bar: npt.NDArray[np.uint8], background: npt.NDArray[np.uint8]) -> bool:
    """Strokes of high contrast in some rows, none in others: not a blank, black or pre-allocated bottom."""
    share = background.mean(axis=1) / 255.0
    written = (share < 1 - 0.005) & (share > 1 - _LINE_SHARE)
    strokes = bar[written][background[written] == 0]
    if strokes.size < 0.003 * bar.size:
        return False
    level = float(np.median(bar))
    contrast = np.abs(strokes.astype(np.float32) - level)
    return bool(
        np.mean(contrast >= 40) >= 0.3
        and np.mean(share >= _CLEAN_SHARE) >= 0.1
        and np.mean(share > 1 - _LINE_SHARE) >= 0.8
        and np.median(share) >= 0.6
    )


def _levels(pixels: GreyPixels) -> npt.NDArray[np.uint8]:
    """Grey levels as 8 bit: detection needs no more."""
    if pixels.dtype == np.uint8:
        return np.asarray(pixels, np.uint8)
    low, high, _, _ = cv2.minMaxLoc(pixels)
    scale = 255.0 / (high - low) if high > low else 0.0
    return np.asarray(cv2.convertScaleAbs(pixels, alpha=scale, beta=-low * scale), np.uint8)


def _first_row_stated(described: Described, shape: tuple[int, ...], name: str) -> int | None:
    """First bar row by metadata; None where it states no bar or one that cannot be."""
    height, width = shape
    if described.bar_rows:
        first = height - described.bar_rows
    elif described.picture_size is not None and described.picture_size[1] == width:
        first = described.picture_size[0]
        if first == height:
            return None
    else:
        return None
    if (1 - 2 * _MAX_SHARE) * height <= first < height:
        return first
    _LOG.warning("%s: metadata puts the info bar at row %d of %d; not used", name, first, height)
    return None


def _crop(pixels: GreyPixels, rows: int, reason: Literal["metadata", "detected", "setting"], name: str) -> Crop:
    height, width = pixels.shape
    if not 0 < rows <= height:
        raise FrameError(
            f"{name}: the frame has {height} rows and the setting calls the last {height - rows} info bar, which "
            "leaves no picture. Correct the setting of this instrument."
        )
    return Crop(top=0, left=0, height=rows, width=width, reason="whole" if rows == height else reason)
