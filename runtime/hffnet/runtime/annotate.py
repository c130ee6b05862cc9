"""A picture that shows what was decided and why: evidence over the frame, a scale bar, the decision in words."""

import math

import cv2
import numpy as np
import numpy.typing as npt

from hffnet.runtime.frame import GreyPixels

Colour = npt.NDArray[np.uint8]
"""(H, W, 3), blue, green, red, as OpenCV has it."""

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_LIGHT, _DARK = (240, 240, 240), (24, 24, 24)
_STRONGEST = 0.45  # of the overlay, so that the picture stays readable under it
_MOST_PX = 4096  # of the longer side: for eyes, and so that a stitched frame of 200 megapixels stays affordable


def at_most_for_eyes(picture: GreyPixels, pixel_size_um: float | None) -> tuple[GreyPixels, float | None]:
    """A picture to draw on, no side longer than 4096, and what a pixel of it measures.

    Args:
        picture: (H, W).
        pixel_size_um: micrometres per pixel; None where it is not known.
    """
    shrink = max(picture.shape) / _MOST_PX
    if shrink <= 1:
        return picture, pixel_size_um
    size = (max(round(picture.shape[1] / shrink), 1), max(round(picture.shape[0] / shrink), 1))
    small: GreyPixels = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    return small, pixel_size_um * shrink if pixel_size_um else None


def grey_for_eyes(picture: GreyPixels) -> npt.NDArray[np.uint8]:
    """Any depth as 8 bits, stretched between the 0.1 % and 99.9 % quantiles."""
    low, high = np.quantile(picture, (0.001, 0.999))
    scaled = (picture.astype(np.float32) - low) * (255.0 / max(float(high - low), 1e-6))
    shown: npt.NDArray[np.uint8] = np.clip(scaled, 0, 255).astype(np.uint8)
    return shown


def overlay(picture: GreyPixels, evidence_hw: npt.NDArray[np.floating]) -> Colour:
    """Evidence for a class over the picture: the stronger, the more colour; what speaks against it has none.

    Args:
        picture: (H, W).
        evidence_hw: any coarser grid over the same field.
    """
    height, width = picture.shape
    grey = cv2.cvtColor(grey_for_eyes(picture), cv2.COLOR_GRAY2BGR)
    top = max(float(np.max(evidence_hw)), 1e-6)
    strength = np.clip(np.asarray(evidence_hw, np.float32) / top, 0.0, 1.0)
    smooth = np.clip(cv2.resize(strength, (width, height), interpolation=cv2.INTER_LINEAR), 0.0, 1.0)
    colours = cv2.applyColorMap((smooth * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS).astype(np.float32)
    share = (_STRONGEST * smooth)[..., None]
    mixed: Colour = (grey * (1 - share) + colours * share).astype(np.uint8)
    return mixed


def bar_length_um(width: int, pixel_size_um: float) -> float:
    """A round length, 1, 2 or 5 times a power of ten, of at most a quarter of the picture's width.

    >>> bar_length_um(1024, 0.1)
    20.0
    """
    longest = width * pixel_size_um / 4
    power = 10.0 ** math.floor(math.log10(longest))
    return max(step * power for step in (1.0, 2.0, 5.0) if step * power <= longest)


def with_legend(picture: Colour, lines: list[str], pixel_size_um: float | None) -> Colour:
    """The picture with a strip below it: lines of text on the left, a scale bar on the right.

    Args:
        picture: (H, W, 3).
        lines: what to say; letters the font lacks become ``?``.
        pixel_size_um: micrometres per pixel of ``picture``; None says that the scale is not known.
    """
    width = picture.shape[1]
    scale = max(width / 1600, 0.35)
    step = round(36 * scale)
    strip = np.full((step * (len(lines) + 1), width, 3), _DARK, np.uint8)
    for row, line in enumerate(lines, start=1):
        text = line.encode("ascii", "replace").decode()
        cv2.putText(strip, text, (step // 2, row * step), _FONT, scale, _LIGHT, max(1, round(scale)), cv2.LINE_AA)
    label, length = "scale not known", 0
    if pixel_size_um is not None and pixel_size_um > 0:
        length_um = bar_length_um(width, pixel_size_um)
        length = round(length_um / pixel_size_um)
        label = f"{length_um:g} um" if length_um >= 1 else f"{length_um * 1000:g} nm"
    (text_width, _), _ = cv2.getTextSize(label, _FONT, scale, 1)
    right = width - step // 2
    cv2.putText(strip, label, (right - text_width, step), _FONT, scale, _LIGHT, 1, cv2.LINE_AA)
    if length:
        cv2.rectangle(strip, (right - length + 1, step + step // 3), (right, step + step // 2), _LIGHT, -1)
    return np.vstack([picture, strip])
