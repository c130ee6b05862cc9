"""Live frames of one field of view, decided on together: noise of single scans averages out, a new field starts anew.

The average is exponential and over the leaves' calibrated probabilities, so a smoothed decision holds back as a single
one does. Whether a frame still shows the same field is told by its picture: thumbnails of consecutive frames are
compared by normalised cross-correlation, which neither brightness nor contrast moves. The record of a frame keeps what
was said of the frame itself; the smoothed decision stands beside it.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from hffnet.runtime.decode import Decision, DecodeSpec, decision_from_leaves
from hffnet.runtime.record import Json, plain
from hffnet.runtime.taxonomy import Taxonomy

if TYPE_CHECKING:
    from hffnet.runtime.frame import Frame, GreyPixels

_SIDE = 48
_LEAST_SPREAD = 1e-3


class SmoothingSettings(BaseModel):
    """``[smoothing]``: decide on several live frames of one field of view together.

    Attributes:
        weight: share of the newest frame in the average; 1 is no smoothing. 0.25 averages over about 7 frames.
        same_field: least correlation of two consecutive pictures that counts as the same field of view.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    weight: Annotated[float, Field(gt=0.0, le=1.0)] = 0.25
    same_field: Annotated[float, Field(gt=-1.0, lt=1.0)] = 0.7


class Smoother:
    """The running average over one field of view; one thread uses it."""

    def __init__(self, settings: SmoothingSettings, taxonomy: Taxonomy, spec: DecodeSpec) -> None:
        self._settings, self._taxonomy, self._spec = settings, taxonomy, spec
        self._leaf_L: npt.NDArray[np.float64] | None = None
        self._last: tuple[npt.NDArray[np.float32], float | None] | None = None
        self._num = 0

    def add(self, frame: "Frame", decision: Decision) -> tuple[Decision, int]:
        """Take in what was said of a frame; the smoothed decision, and how many frames of this field are in it."""
        thumb = _thumbnail(frame.picture), frame.acquisition.pixel_size_um
        if self._last is None or not self._is_same_field(self._last, thumb):
            self._leaf_L, self._num = None, 0
        self._last = thumb
        leaf_L = np.asarray(decision.probabilities[-1], np.float64)
        if self._leaf_L is None:
            self._leaf_L = leaf_L
        else:
            self._num += 1
            # The plain mean while there are few frames, so that the first one does not weigh longest.
            weight = max(self._settings.weight, 1 / (self._num + 1))
            self._leaf_L = (1 - weight) * self._leaf_L + weight * leaf_L
            return decision_from_leaves(self._leaf_L, self._taxonomy, self._spec), self._num + 1
        return decision_from_leaves(self._leaf_L, self._taxonomy, self._spec), 1

    def _is_same_field(
        self, last: tuple[npt.NDArray[np.float32], float | None], now: tuple[npt.NDArray[np.float32], float | None]
    ) -> bool:
        return last[1] == now[1] and float((last[0] * now[0]).sum()) >= self._settings.same_field


def smoothed_details(decision: Decision, num_frames: int, taxonomy: Taxonomy) -> Mapping[str, Json]:
    """What a record holds of a smoothed decision, in the words of the record itself."""
    levels = zip(taxonomy.levels, decision.probabilities, strict=True)
    return {
        "smoothed": {
            "class_path": list(decision.path),
            "answer": list(decision.answer),
            "confidence": plain(decision.confidence),
            "probabilities": {
                level.name: dict(zip(level.classes, shares.tolist(), strict=True)) for level, shares in levels
            },
            "num_frames": num_frames,
        }
    }


def _thumbnail(picture: "GreyPixels") -> npt.NDArray[np.float32]:
    """(48, 48), mean 0 and norm 1, so that a product of two is their correlation; zeros where nothing is seen."""
    small = cv2.resize(picture, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    small -= small.mean()
    norm = float(np.linalg.norm(small))
    least = _LEAST_SPREAD * _SIDE
    return np.asarray(small / norm if norm > least else np.zeros_like(small), np.float32)
