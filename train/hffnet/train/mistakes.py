"""The worst mistakes as pictures: the frame as the network saw it, and what spoke for the wrong class."""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from hffnet.runtime.assessment import Judged
from hffnet.runtime.decode import Decision
from hffnet.runtime.taxonomy import ClassPath, Taxonomy

Evidence = npt.NDArray[np.float32]
"""(ΣC, h, w), whose mean over positions is the logits."""

_SIDE = 224
_STRENGTH = 0.65
_ORANGE_BGR = np.array((0, 110, 230), dtype=np.float32)
_BLUE_BGR = np.array((178, 114, 0), dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """One frame with a wrong answer.

    Attributes:
        place: of the frame in the assessed sequence.
        confidence: of the first wrong node of the answer.
        distance: edges of the class tree from the answer to the true leaf.
    """

    place: int
    name: str
    truth: ClassPath
    answer: ClassPath
    confidence: float
    distance: int


def worst_mistakes(
    judged: Sequence[Judged], decisions: Sequence[Decision | None], most: int = 24
) -> tuple[Mistake, ...]:
    """Wrong answers, the furthest from the truth in the tree first, the surest first among equals."""
    found = list[Mistake]()
    for place, (one, decision) in enumerate(zip(judged, decisions, strict=True)):
        answer = decision.answer if decision else ()
        shared = next((n for n, (a, t) in enumerate(zip(answer, one.truth, strict=False)) if a != t), len(answer))
        if decision is None or shared == len(answer):
            continue
        found.append(
            Mistake(
                place=place,
                name=one.name,
                truth=one.truth,
                answer=answer,
                confidence=decision.confidence[shared],
                distance=len(one.truth) + len(answer) - 2 * shared,
            )
        )
    return tuple(sorted(found, key=lambda m: (-m.distance, -m.confidence, m.name))[:most])


@dataclass(frozen=True, slots=True, kw_only=True)
class Thumbnail:
    """Two pictures as ``data:`` addresses; ``overlay`` is None where there is no evidence."""

    picture: str
    overlay: str | None


def thumbnails_of(
    mistakes: Sequence[Mistake],
    look: Callable[[int], tuple[npt.NDArray[np.uint8], Evidence | None]],
    taxonomy: Taxonomy,
) -> tuple[Thumbnail, ...]:
    """Draw each mistake.

    Args:
        mistakes: as of ``worst_mistakes``.
        look: network input (size, size) uint8 and evidence of the frame at a place.
        taxonomy: the class tree.
    """
    drawn = list[Thumbnail]()
    for mistake in mistakes:
        input_HW, evidence = look(mistake.place)
        overlay = None
        if evidence is not None:
            overlay = _address(_overlay(input_HW, _difference(evidence, mistake, taxonomy)))
        drawn.append(Thumbnail(picture=_address(_scaled(input_HW)), overlay=overlay))
    return tuple(drawn)


def _difference(evidence: Evidence, mistake: Mistake, taxonomy: Taxonomy) -> npt.NDArray[np.float32]:
    """(h, w): evidence for the said class minus that for the true one, on the first level that is wrong."""
    pairs = enumerate(zip(mistake.answer, mistake.truth, strict=False))
    level = next(i for i, (said, true) in pairs if said != true)
    classes, columns = taxonomy.levels[level].classes, evidence[taxonomy.slices()[level]]
    said, true = classes.index(mistake.answer[level]), classes.index(mistake.truth[level])
    difference: npt.NDArray[np.float32] = columns[said] - columns[true]
    return difference


def _overlay(input_HW: npt.NDArray[np.uint8], difference_hw: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Orange where the picture speaks for the said class, blue where for the true one; strongest place full."""
    large = np.asarray(cv2.resize(difference_hw.astype(np.float32), (_SIDE, _SIDE), interpolation=cv2.INTER_CUBIC))
    strength = large / max(float(np.abs(large).max()), 1e-12)
    colours = np.where(strength[..., None] > 0, _ORANGE_BGR, _BLUE_BGR)
    weight = _STRENGTH * np.abs(strength)[..., None]
    grey = np.repeat(_scaled(input_HW)[..., None], 3, axis=2)
    blended: npt.NDArray[np.uint8] = np.rint((1 - weight) * grey + weight * colours).astype(np.uint8)
    return blended


def _scaled(input_HW: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.asarray(cv2.resize(input_HW, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _address(pixels: npt.NDArray[np.uint8]) -> str:
    done, png = cv2.imencode(".png", pixels)
    assert done, "OpenCV writes 8-bit PNG in memory"
    return "data:image/png;base64," + base64.b64encode(png.tobytes()).decode("ascii")
