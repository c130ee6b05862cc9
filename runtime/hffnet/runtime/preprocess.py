"""From a frame's picture to the network's input: (size, size) uint8, one code for training and for the instrument.

Antialiased resize of the whole field of view in float32, then a percentile stretch to 0..255. The stretch is the same
for every bit depth, so an 8-bit and a 16-bit file of one field give one input; mishandled 16-bit frames took a
published model from 97 % to 1 % (open-edge-platform/geti#6754). Normalisation to mean and standard deviation is not
here: it is part of the exported graph, where no device can do it differently.
"""

from typing import Annotated, Literal, Self

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from hffnet.runtime import native
from hffnet.runtime.frame import GreyPixels

_FULL_SCALE = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0, np.dtype(np.float32): 1.0}


class PreprocessSpec(BaseModel):
    """How pictures become network inputs; travels in the bundle's manifest.

    Attributes:
        size: side of the square input, pixels.
        resize: ``area``: each output pixel is the mean of the input area under it where the picture shrinks in both
            directions; interpolated linearly where it does not (OpenCV's INTER_AREA). The whole field of view is used:
            nothing at the border is lost, the aspect ratio is not kept.
        low, high: quantiles of the resized picture that become 0 and 255 (nearest rank).
        min_span: least distance of the two, as a share of full scale, so that a blank frame is not blown up to noise.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    size: Annotated[int, Field(ge=32, le=4096)] = 224
    resize: Literal["area"] = "area"
    low: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.001
    high: Annotated[float, Field(gt=0.0, le=1.0)] = 0.999
    min_span: Annotated[float, Field(gt=0.0, le=1.0)] = 1 / 64

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        return self


def preprocess(picture: GreyPixels, spec: PreprocessSpec) -> npt.NDArray[np.uint8]:
    """Network input of one picture.

    Args:
        picture: (H, W) uint8, uint16 or float32, info bar already cropped.
        spec: the bundle's or checkpoint's.

    Returns:
        (spec.size, spec.size) uint8, C-contiguous.

    >>> ramp = np.tile(np.arange(64, dtype=np.uint16) * 1000, (64, 1))
    >>> out = preprocess(ramp, PreprocessSpec(size=32))
    >>> out.dtype, out.shape, int(out.min()), int(out.max())
    (dtype('uint8'), (32, 32), 0, 255)
    """
    if native.MODULE is not None and min(picture.shape) > 0:
        return _compiled(picture, spec)
    small = cv2.resize(picture.astype(np.float32), (spec.size, spec.size), interpolation=cv2.INTER_AREA)
    ranks = [round(q * (small.size - 1)) for q in (spec.low, spec.high)]
    low, high = np.partition(small, ranks, axis=None)[ranks]
    span = max(float(high - low), spec.min_span * _FULL_SCALE[picture.dtype])
    stretched: npt.NDArray[np.uint8] = cv2.convertScaleAbs(np.maximum(small - low, 0), alpha=255.0 / span)
    return stretched


def _compiled(picture: GreyPixels, spec: PreprocessSpec) -> npt.NDArray[np.uint8]:
    assert native.MODULE is not None
    stretched: npt.NDArray[np.uint8] = native.MODULE.preprocess(
        rows_of(picture), spec.size, spec.low, spec.high, spec.min_span
    )
    return stretched


def rows_of(picture: GreyPixels) -> GreyPixels:
    """The picture with its columns side by side, as compiled forms take it; copied only where it is not."""
    side_by_side = picture.strides[1] == picture.itemsize and picture.strides[0] >= picture.shape[1] * picture.itemsize
    rows: GreyPixels = picture if side_by_side else picture.copy(order="C")
    return rows
