"""Stored samples -> one grey channel in the depth the microscope wrote. Knows no file format.

What is done to each kind of sample, so that nothing happens silently:

| stored | becomes | how |
| --- | --- | --- |
| 1, 2, 4 bit | uint8 | spread over 0..255 |
| 8 bit | uint8 | as it is |
| 9 to 16 bit | uint16 | as it is; 12 bits stay 0..4095 (the container's depth is not the detector's) |
| 17 to 32 bit, 64 bit | uint16, float32 | as it is where 16 bits hold it, else divided by the next 2^n - 1 |
| signed 8, 16 bit | uint8, uint16 | shifted by 128 or 32768: order and distances stay |
| signed 32, 64 bit | as unsigned | smallest value becomes 0 |
| float | float32 | as it is; NaN, infinity and what is beyond 1e29 are refused |
| palette | uint8, uint16 | looked up, then as colour |
| colour | as above | Rec. 601 luma, 0.299 R + 0.587 G + 0.114 B; alpha is dropped |
"""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from hffnet.runtime.errors import FrameError
from hffnet.runtime.frame import GreyPixels

MOST_REAL = 1e29
"""Largest real grey level: sums over all pixels of the largest frame stay finite in float32."""

Samples = npt.NDArray[Any]
"""(H, W) or (H, W, samples), any dtype."""


def grey_from_samples(
    samples: Samples, name: str, *, bits: int | None = None, white_is_zero: bool = False
) -> GreyPixels:
    """One finite grey channel, (H, W), C-contiguous, native byte order.

    Args:
        samples: (H, W), (H, W, 1), grey + alpha (H, W, 2), RGB (H, W, 3) or RGBA (H, W, 4).
        name: of the frame, for the error's sentence.
        bits: bits per stored sample where fewer than the dtype holds (packed 1, 4, 12 bit).
        white_is_zero: TIFF's MinIsWhite.

    Raises:
        FrameError: samples of a kind not in the table above.
    """
    depth = _depth(samples, name, bits)
    grey = _channel(depth, name)
    if white_is_zero:
        top = grey.max(initial=0) if grey.dtype == np.float32 else _top(grey, bits)
        grey = (top - grey).astype(grey.dtype)
    return np.ascontiguousarray(grey)


def grey_from_palette(indices: Samples, colormap: npt.NDArray[np.uint16], name: str) -> GreyPixels:
    """Grey levels of a palette image.

    Args:
        indices: (H, W) unsigned integers.
        colormap: (3, entries), red, green, blue, 0..65535; writers that mean 0..255 are recognised.
        name: of the frame, for the error's sentence.

    Raises:
        FrameError: an index beyond the colour map.

    >>> ramp = np.tile(np.arange(256, dtype=np.uint16) * 257, (3, 1))
    >>> grey_from_palette(np.array([[0, 7, 255]], np.uint8), ramp, "zeiss.tif")
    array([[  0,   7, 255]], dtype=uint8)
    """
    if indices.ndim != 2 or colormap.ndim != 2 or len(colormap) != 3:
        raise FrameError(
            f"{name}: a palette image of shape {indices.shape} with a colour map of shape {colormap.shape} was found, "
            "one index per pixel and three colours were expected. Save it as 8- or 16-bit grey."
        )
    table = _table(colormap)
    if int(indices.max(initial=0)) >= table.size:
        raise FrameError(
            f"{name}: palette index {int(indices.max())} was found, the colour map has {table.size} entries. "
            "The file is damaged: save the frame again."
        )
    grey: GreyPixels = table[indices]
    return grey


def _table(colormap: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """Grey level of each palette entry; 8 bit where 8 bits say the same."""
    red, green, blue = colormap.astype(np.float64)
    grey = np.rint(0.299 * red + 0.587 * green + 0.114 * blue).astype(np.uint16)
    if grey.max(initial=0) <= 255:
        return np.asarray(grey, np.uint8)
    return np.asarray(grey // 257, np.uint8) if not (colormap % 257).any() else grey


def _channel(samples: Samples, name: str) -> Samples:
    if samples.ndim == 2:
        return samples
    match samples.shape[2] if samples.ndim == 3 else 0:
        case 1 | 2:
            return samples[..., 0]
        case 3 | 4:
            return np.asarray(cv2.cvtColor(np.ascontiguousarray(samples[..., :3]), cv2.COLOR_RGB2GRAY))
    raise FrameError(
        f"{name}: samples of shape {samples.shape} were found, one grey channel, grey and alpha, RGB or RGBA were "
        "expected. Save the frame as 8- or 16-bit grey."
    )


def _depth(samples: Samples, name: str, bits: int | None) -> Samples:
    """The samples as uint8, uint16 or finite float32."""
    native = samples.astype(samples.dtype.newbyteorder("="), copy=False)
    match native.dtype.kind:
        case "b":
            return np.multiply(native.view(np.uint8), np.uint8(255))
        case "u":
            return _from_unsigned(native, bits)
        case "i" if native.itemsize <= 2:
            sign = np.array(1 << (8 * native.itemsize - 1), f"u{native.itemsize}")
            shifted: Samples = np.bitwise_xor(native.view(sign.dtype), sign)  # x + 2^(n-1)
            return shifted
        case "i":
            return _from_unsigned(np.subtract(native, native.min(initial=0)).view(f"u{native.itemsize}"), None)
        case "f":
            return _from_float(native, name)
    raise FrameError(
        f"{name}: samples of type {samples.dtype} were found, integers or real numbers were expected. "
        "Save the frame as 8- or 16-bit grey."
    )


def _from_unsigned(samples: Samples, bits: int | None) -> Samples:
    if samples.itemsize == 1 and bits is not None and bits < 8:
        return np.multiply(samples, np.uint8(255 // (2**bits - 1)))
    if samples.itemsize <= 2:
        return samples
    needed = int(samples.max(initial=0)).bit_length()
    if needed <= 16:
        return samples.astype(np.uint16)
    scaled: Samples = np.multiply(samples, 1.0 / (2**needed - 1), dtype=np.float64).astype(np.float32)
    return scaled


def _from_float(samples: Samples, name: str) -> Samples:
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite and is refused below
        grey = samples.astype(np.float32, copy=False)
    is_level = np.abs(grey) <= MOST_REAL
    if not is_level.all():
        bad = int(grey.size - np.count_nonzero(is_level))
        raise FrameError(
            f"{name}: {bad} of {grey.size} pixels are NaN or infinite (or beyond {MOST_REAL:g}), finite grey levels "
            "were expected. The frame is not complete or was computed wrongly: save it again, as 8- or 16-bit grey if "
            "possible."
        )
    return np.asarray(grey)


def _top(grey: Samples, bits: int | None) -> int:
    if grey.dtype == np.uint16 and bits is not None and bits < 16:
        return (1 << bits) - 1
    return 255 if grey.dtype == np.uint8 else 65535
