"""Is this frame fit to be classified? Each gate answers with a sentence, never with a guess.

The gates are those of SEM acquisition software (SBEMimage's ImageInspector): incomplete grab, blank or saturated
picture, frozen frame; sharpness is judged by tile, because fracture surfaces are deeper than the focus. They look at
the picture, after the info bar is cut: that is what catches a file that was pre-allocated with zeros, which every TIFF
reader decodes without complaint.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from hffnet.runtime import levels
from hffnet.runtime.frame import Frame, GreyPixels
from hffnet.runtime.levels import Levels

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Policy = Literal["refuse", "flag", "ignore"]
"""``refuse``: the frame is not classified. ``flag``: it is, and the record says so. ``ignore``: not asked."""


class GateSettings(BaseModel):
    """Limits of the gates; shares are of full scale or of the picture's pixels.

    Attributes:
        max_uniform_rows: rows of one single grey level allowed at the top and at the bottom.
        min_contrast: least standard deviation, as a share of full scale; 0.004 is one grey level of 255.
        max_black, max_white: largest share of pixels at zero and at full scale. Black is allowed more: a sample's
            holes and the vacuum beside it are black, while white is lost signal (charging).
        min_sharpness: least sharpness of the best quarter of tiles; None, the default, does not ask, because the
            limit depends on magnification and has to be found on the instrument's own frames.
        pixel_size: what to do where micrometres per pixel are outside the trained range; a frame that does not say
            is not asked. ``resample`` looks at it at the trained scale (``resample``) and flags it.
        pixel_size_margin: how far outside the range still counts as inside, as a factor.
        max_resample: largest factor by which the scale may be changed; beyond, the frame is only flagged.
        out_of_distribution: what to do with a frame unlike any held-out one (bundles that hold a limit only).
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    max_uniform_rows: Annotated[int, Field(ge=0)] = 0
    min_contrast: Share = 0.004
    max_black: Share = 0.9
    max_white: Share = 0.5
    min_sharpness: Annotated[float, Field(gt=0.0)] | None = None
    pixel_size: Policy | Literal["resample"] = "flag"
    pixel_size_margin: Annotated[float, Field(ge=1.0, le=100.0)] = 1.25
    max_resample: Annotated[float, Field(ge=1.0, le=16.0)] = 4.0
    out_of_distribution: Policy = "flag"


@dataclass(frozen=True, slots=True)
class GateResult:
    """Answer of one gate: ``value`` was held against ``limit``; ``reason`` is the sentence where it did not pass.

    A gate that did not pass and does not refuse leaves a flag on a frame that is classified all the same.
    """

    name: str
    passed: bool
    value: float
    limit: float
    reason: str
    refuses: bool = True

    @property
    def stops(self) -> bool:
        """Whether the frame must not be classified."""
        return self.refuses and not self.passed


@dataclass(frozen=True, slots=True)
class FrameFingerprint:
    """What tells a new frame of a live source from the last one."""

    sha256: str
    mean: float
    std: float


DEFAULT_SETTINGS = GateSettings()


def check_gates(
    frame: Frame,
    previous: FrameFingerprint | None = None,
    settings: GateSettings = DEFAULT_SETTINGS,
    *,
    trained_um: tuple[float, float] | None = None,
) -> tuple[GateResult, ...]:
    """Answers of all gates that apply.

    Args:
        frame: its picture is judged.
        previous: fingerprint of the last frame of a live source; None for files, which may well be equal.
        settings: the limits.
        trained_um: smallest and largest micrometres per pixel of the train frames, where known.
    """
    picture = frame.picture
    found = levels.levels_of(picture)
    results = [_incomplete(picture, settings), _blank(found, settings), *_saturated(found, settings)]
    if previous is not None:
        results.append(_frozen(FrameFingerprint(sha256=frame.sha256, mean=found.mean, std=found.std), previous))
    if settings.min_sharpness is not None:
        results.append(_blurred(picture, settings.min_sharpness))
    pixel_size_um = frame.acquisition.pixel_size_um
    if trained_um is not None and pixel_size_um is not None and settings.pixel_size != "ignore":
        results.append(_pixel_size(pixel_size_um, trained_um, settings))
    return tuple(results)


def fingerprint_from_frame(frame: Frame) -> FrameFingerprint:
    """Hash, mean and standard deviation of the picture (grey levels as stored)."""
    found = levels.levels_of(frame.picture)
    return FrameFingerprint(sha256=frame.sha256, mean=found.mean, std=found.std)


def full_scale(picture: GreyPixels) -> float:
    """The grey level at which the detector saturates, as far as the pixels tell (``levels.full_scale``).

    >>> full_scale(np.array([[0, 4095]], np.uint16)), full_scale(np.array([[0, 9]], np.uint8))
    (4095.0, 255.0)
    """
    return levels.full_scale(picture.dtype, cv2.minMaxLoc(picture)[1])


def _incomplete(picture: GreyPixels, settings: GateSettings) -> GateResult:
    top, bottom = _uniform_rows(picture), _uniform_rows(picture[::-1])
    worst = max(top, bottom)
    where = "bottom" if bottom >= top else "top"
    return GateResult(
        "incomplete",
        worst <= settings.max_uniform_rows,
        worst,
        settings.max_uniform_rows,
        f"{worst} of {len(picture)} rows at the {where} are one single grey level, at most {settings.max_uniform_rows} "
        "are allowed: the scan was stopped or the file is not complete.",
    )


def _uniform_rows(picture: GreyPixels) -> int:
    """Rows of one grey level before the first that has several."""
    uniform = 0
    for row in picture:
        if (row != row[0]).any():
            break
        uniform += 1
    return uniform


def _blank(found: Levels, settings: GateSettings) -> GateResult:
    contrast = found.std / found.full_scale
    return GateResult(
        "blank",
        contrast >= settings.min_contrast,
        contrast,
        settings.min_contrast,
        f"the standard deviation is {contrast:.4f} of full scale, at least {settings.min_contrast} was expected: the "
        "beam is blanked or off, or the detector is not connected.",
    )


def _saturated(found: Levels, settings: GateSettings) -> tuple[GateResult, GateResult]:
    black, white = found.black, found.white
    return (
        GateResult(
            "black",
            black <= settings.max_black,
            black,
            settings.max_black,
            f"{black:.1%} of the pixels are black, at most {settings.max_black:.1%} are allowed: brightness is too low "
            "or the scan was stopped.",
        ),
        GateResult(
            "saturated",
            white <= settings.max_white,
            white,
            settings.max_white,
            f"{white:.1%} of the pixels are at full scale, at most {settings.max_white:.1%} are allowed: contrast or "
            "brightness is too high, or the specimen is charging.",
        ),
    )


def _frozen(now: FrameFingerprint, previous: FrameFingerprint) -> GateResult:
    """Same bytes, or same mean and deviation to the last digit: a known fault where a grab returns the last frame."""
    same = now.sha256 == previous.sha256 or (now.mean == previous.mean and now.std == previous.std)
    return GateResult(
        "frozen",
        not same,
        float(same),
        0.0,
        f"the picture is the last one again (mean {now.mean:.6g}, deviation {now.std:.6g}): the scan has stopped or "
        "the source repeats a frame.",
    )


def _blurred(picture: GreyPixels, limit: float) -> GateResult:
    value = sharpness(picture)
    return GateResult(
        "blurred",
        value >= limit,
        value,
        limit,
        f"the sharpness of the best quarter of tiles is {value:.4g}, at least {limit:.4g} was expected: focus and "
        "stigmate, or lower the limit for this magnification.",
    )


def resampling(
    pixel_size_um: float | None, trained_um: tuple[float, float] | None, settings: GateSettings
) -> float | None:
    """Micrometres per pixel found, over the nearest that were trained, where the frame is to be looked at so.

    >>> settings = GateSettings(pixel_size="resample")
    >>> resampling(0.1, (0.2, 0.4), settings), resampling(0.8, (0.2, 0.4), settings)
    (0.5, 2.0)
    >>> [resampling(um, (0.2, 0.4), settings) for um in (None, 0.3, 0.19, 4.0)]
    [None, None, None, None]
    """
    if settings.pixel_size != "resample" or trained_um is None or pixel_size_um is None:
        return None
    scale = pixel_size_um / min(max(pixel_size_um, trained_um[0]), trained_um[1])
    factor = max(scale, 1 / scale)
    return scale if settings.pixel_size_margin < factor <= settings.max_resample else None


def _pixel_size(found_um: float, trained_um: tuple[float, float], settings: GateSettings) -> GateResult:
    smallest, largest = trained_um[0] / settings.pixel_size_margin, trained_um[1] * settings.pixel_size_margin
    scale = resampling(found_um, trained_um, settings)
    advice = (
        "take the frame at another magnification, or train on such frames."
        if scale is None
        else f"it was looked at as if one pixel were {found_um / scale:.4g} um."
    )
    return GateResult(
        "pixel_size",
        smallest <= found_um <= largest,
        found_um,
        smallest if found_um < smallest else largest,
        f"one pixel is {found_um:.4g} um, the model was trained on {trained_um[0]:.4g} to {trained_um[1]:.4g} um: "
        + advice,
        refuses=settings.pixel_size == "refuse",
    )


def sharpness(picture: GreyPixels, tiles: int = 4) -> float:
    """Upper quartile over tiles of gradient energy relative to variance, after halving against shot noise.

    Derivative measures beat statistical ones for SEM (Rudnaya 2010, J. Microscopy 240). Squared grey levels per pixel
    over squared grey levels, so brightness and contrast do not matter; grows with sharpness, and with noise.
    """
    small = cv2.resize(picture.astype(np.float32), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    energy = cv2.Sobel(small, cv2.CV_32F, 1, 0, scale=1 / 8) ** 2 + cv2.Sobel(small, cv2.CV_32F, 0, 1, scale=1 / 8) ** 2
    values = []
    for rows in np.array_split(np.arange(small.shape[0]), tiles):
        for columns in np.array_split(np.arange(small.shape[1]), tiles):
            if rows.size and columns.size:
                part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
                variance = float(small[part].var())
                values.append(float(energy[part].mean()) / variance if variance > 0 else 0.0)
    return float(np.quantile(values, 0.75)) if values else 0.0
