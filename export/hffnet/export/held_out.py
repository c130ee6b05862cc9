"""Which of the given frames calibrate and which measure, so that no score is taken on frames that shaped the model.

A checkpoint lists its frames by hash; that, not the folder's name, says who was in train, val and test.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from hffnet.runtime.dataset import Dataset
from hffnet.runtime.errors import DatasetError
from hffnet.runtime.split import split_dataset
from hffnet.train.checkpoint import Checkpoint

_log = logging.getLogger(__name__)

_SHARE_THAT_MEASURES = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """Frames by role.

    Attributes:
        calibration: what ``choose_frames`` may choose from, marked ``train``.
        held_out: what scores are measured on.
        evaluated_on: a sentence about ``held_out`` for the manifest.
    """

    calibration: Dataset
    held_out: Dataset
    evaluated_on: str


def roles_from_checkpoint(data: Dataset, checkpoint: Checkpoint, held_out: Dataset | None = None) -> Roles:
    """Give each frame its role.

    Train frames of the checkpoint calibrate. Scores are measured on ``held_out`` where given, else on frames of
    ``data`` that the checkpoint knows as test, else as val. Where the checkpoint knows none of the frames, a quarter
    of them, by group, measures and the rest calibrates.

    Raises:
        DatasetError: nothing is left to calibrate with or to measure on, or a held-out frame was trained on.
    """
    known = {frame.sha256: frame.split for frame in checkpoint.config.frames}
    data = replace(data, frames=tuple(replace(frame, split=known.get(frame.sha256)) for frame in data.frames))
    train = tuple(frame for frame in data.frames if frame.split == "train")
    if held_out is None and not any(frame.split for frame in data.frames):
        _log.warning(
            "the checkpoint knows none of the %d frames of %s: three quarters calibrate, one quarter measures",
            len(data.frames), data.root,
        )  # fmt: skip
        data = split_dataset(data, 0, (1 - _SHARE_THAT_MEASURES, 0.0, _SHARE_THAT_MEASURES))
        return Roles(
            calibration=data,
            held_out=replace(data, frames=data.frames_of("test")),
            evaluated_on="a quarter of frames that the checkpoint does not know",
        )
    if not train:
        train = tuple(replace(frame, split="train") for frame in data.frames if frame.split is None)
    if not train:
        raise DatasetError(
            f"{data.root} has no train frame of this checkpoint, only {dict(Counter(f.split for f in data.frames))};"
            " calibration may not use held-out frames: name the training data"
        )
    measured, sentence = _measured(data, known, held_out)
    # Val and test frames stand among them so that choose_frames sees which bytes must not calibrate.
    others = (*data.frames_of("val"), *data.frames_of("test"))
    if held_out is not None:
        others += tuple(replace(frame, split="test") for frame in held_out.frames)
    return Roles(calibration=replace(data, frames=(*train, *others)), held_out=measured, evaluated_on=sentence)


def _measured(data: Dataset, known: Mapping[str, str], held_out: Dataset | None) -> tuple[Dataset, str]:
    if held_out is not None:
        if seen := [frame for frame in held_out.frames if known.get(frame.sha256) == "train"]:
            raise DatasetError(
                f"{len(seen)} of {len(held_out.frames)} held-out frames were trained on, the first is {seen[0].path};"
                " name frames that training has not seen"
            )
        return held_out, f"{len(held_out.frames)} held-out frames"
    for split in ("test", "val"):
        frames = tuple(frame for frame in data.frames if frame.split == split)
        if frames:
            return replace(data, frames=frames), f"the checkpoint's {split} split, {len(frames)} frames"
    raise DatasetError(
        f"all frames of {data.root} were trained on, so the loss by int8 cannot be measured on them;"
        " name others with --held-out"
    )
