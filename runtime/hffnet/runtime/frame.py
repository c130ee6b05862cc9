"""What a frame is once it has been read: grey pixels, where they came from, and which part is picture.

Knows nothing of files (``read``), of vendors (``metadata``) or of the network (``preprocess``).
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

GreyPixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16] | npt.NDArray[np.float32]
"""One grey channel, shape (H, W), in the depth the microscope wrote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Acquisition:
    """How the microscope took the frame, as far as the file (or its sidecar) tells; None is "not said".

    ``pixel_size_um`` is micrometres per pixel and never derived from "magnification": 75,000x and 150,000x are the
    same picture on two makers' screens (JEOL, "A note on magnification").
    """

    vendor: str | None = None
    instrument: str | None = None
    pixel_size_um: float | None = None
    pixel_size_source: str | None = None
    high_voltage_kv: float | None = None
    working_distance_mm: float | None = None
    detector: str | None = None
    operator: str | None = None
    acquired_at: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop:
    """The picture without the info bar, in pixels of the stored frame; ``reason`` says who decided it."""

    top: int
    left: int
    height: int
    width: int
    reason: Literal["whole", "metadata", "detected", "setting"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One decoded frame.

    Attributes:
        pixels: everything that was stored, info bar included, (H, W), uint8, uint16 or finite float32.
        crop: the part of ``pixels`` that is picture.
        acquisition: metadata as found.
        name: path or source name, for people and records.
        sha256: of the file's bytes (of the pixels for live sources), hexadecimal.
    """

    pixels: GreyPixels
    crop: Crop
    name: str
    sha256: str
    acquisition: Acquisition = field(default_factory=Acquisition)

    @property
    def picture(self) -> GreyPixels:
        """``pixels`` inside ``crop``, a view."""
        c = self.crop
        return self.pixels[c.top : c.top + c.height, c.left : c.left + c.width]
