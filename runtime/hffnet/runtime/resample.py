"""Frames at another scale than the train frames, brought to theirs where that can be done honestly.

The network sees the whole picture at one size, so its scale is the field of view. A picture with larger pixels shows
more than train frames did: it is cut into tiles that show as much as they (``field_of_view``). One with smaller pixels
shows less: it is made smaller and mirrored at its borders until it fills the trained field of view, and only what the
network says of the picture itself counts. Both take it that train frames had as many pixels as this one.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from hffnet.runtime.engines import Outputs
from hffnet.runtime.frame import GreyPixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Widened:
    """A picture in the middle of a field of view of the trained size.

    Attributes:
        picture: (H, W), as large as before.
        top, left, height, width: of what was seen, as shares of the picture's height and width.
    """

    picture: GreyPixels
    top: float
    left: float
    height: float
    width: float


def widened(picture: GreyPixels, scale: float) -> Widened:
    """Make a picture smaller by ``scale`` (below 1) and mirror it until it is as large as before.

    Args:
        picture: (H, W).
        scale: micrometres per pixel found over trained.
    """
    rows, columns = picture.shape
    height, width = max(round(rows * scale), 2), max(round(columns * scale), 2)
    small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    top, left = (rows - height) // 2, (columns - width) // 2
    border = cv2.BORDER_REFLECT_101
    whole = cv2.copyMakeBorder(small, top, rows - height - top, left, columns - width - left, border)
    return Widened(
        picture=np.asarray(whole, picture.dtype),  # type: ignore[arg-type]
        top=top / rows,
        left=left / columns,
        height=height / rows,
        width=width / columns,
    )


def outputs_inside(outputs: Outputs, seen: Widened) -> Outputs:
    """What the network says of the seen part: its evidence, and logits that are the mean of just that.

    Args:
        outputs: of one frame.
        seen: which part.
    """
    evidence_NChw = outputs.evidence
    rows = _cells(seen.top, seen.height, evidence_NChw.shape[2])
    columns = _cells(seen.left, seen.width, evidence_NChw.shape[3])
    inside = np.ascontiguousarray(evidence_NChw[:, :, rows, columns])
    logits: npt.NDArray[np.float32] = inside.mean(axis=(2, 3), dtype=np.float32)
    return Outputs(logits=logits, evidence=inside)


def _cells(start: float, share: float, num: int) -> slice:
    first = min(int(np.floor(start * num + 0.5)), num - 1)
    last = max(int(np.floor((start + share) * num + 0.5)), first + 1)
    return slice(first, last)
