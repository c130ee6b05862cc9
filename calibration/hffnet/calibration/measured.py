"""What int8 changes in the answers on frames that did not calibrate: a look, not a gate.

``hffnet export`` gates on scores, with a class tree and truths; a plain ONNX file may have other classes than the
frames' labels, so only what its two graphs say is held against each other.
"""

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from hffnet.calibration.fidelity import Logits, error_of_logits

MOST_MEASURED = 32
"""Frames; more would cost as much as calibrating."""

_LEAST_ERROR = 1e-9


class Measured(BaseModel):
    """The int8 graph against the float graph.

    Attributes:
        num_frames: held-out frames that both ran on.
        logit_error: as ``fidelity.Cost`` has it.
        logit_db: the same as a signal-to-noise ratio in decibels; 30 and more is usual.
        num_flips: frames on which the largest logit, of any level, is another one.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    num_frames: Annotated[int, Field(ge=1)]
    logit_error: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    logit_db: Annotated[float, Field(allow_inf_nan=False)]
    num_flips: Annotated[int, Field(ge=0)]


def measured_between(reference_NC: Logits, found_NC: Logits, levels: Sequence[slice]) -> Measured:
    """What two graphs say, held against each other.

    Args:
        reference_NC: the float graph's logits (N, ΣC).
        found_NC: the int8 graph's.
        levels: columns of each level.
    """
    changed = np.zeros(len(reference_NC), bool)
    for columns in levels:
        changed |= reference_NC[:, columns].argmax(axis=1) != found_NC[:, columns].argmax(axis=1)
    error = error_of_logits(reference_NC, found_NC, levels)
    return Measured(
        num_frames=len(reference_NC),
        logit_error=error,
        logit_db=-20 * math.log10(max(error, _LEAST_ERROR)),
        num_flips=int(changed.sum()),
    )
