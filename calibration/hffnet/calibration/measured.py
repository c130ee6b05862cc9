"""What int8 changes in the answers on frames that did not calibrate: a look, not a gate.

``hffnet export`` gates on scores, with a class tree and truths; a plain ONNX file may have other classes than the
frames' labels, so only what its two graphs say is held against each other.
"""

import math
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from hffnet.calibration.fidelity import error_of_logits, logits_from_onnx
from hffnet.calibration.model_input import Normalisation
from hffnet.calibration.progress import Watch, unwatched
from hffnet.runtime.errors import GraphError
from hffnet.runtime.taxonomy import Taxonomy

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


def measured_between(
    float_model: Path,
    quantized: bytes,
    frames_NHW: npt.NDArray[np.uint8],
    taxonomy: Taxonomy,
    *,
    normalisation: Normalisation | None = None,
    watch: Watch = unwatched,
) -> Measured:
    """Run both graphs.

    Args:
        float_model: the reference.
        quantized: the same network in int8.
        frames_NHW: held-out frames, preprocessed.
        taxonomy: of the frames; tells the levels where the graph has as many logits as it has classes.
        normalisation: see ``logits_from_onnx``.
        watch: told how far it is.

    Raises:
        GraphError: the graph's answer is not one row of finite numbers for a frame, or as ``logits_from_onnx``.
    """
    progress = watch("measuring the float graph on held-out frames", len(frames_NHW))
    reference_NC, _ = logits_from_onnx(float_model, frames_NHW, normalisation=normalisation, progress=progress)
    progress = watch("measuring the int8 graph on held-out frames", len(frames_NHW))
    found_NC, _ = logits_from_onnx(quantized, frames_NHW, normalisation=normalisation, progress=progress)
    if reference_NC.ndim != 2 or not (np.isfinite(reference_NC).all() and np.isfinite(found_NC).all()):
        shape = tuple(reference_NC.shape[1:])
        raise GraphError(f"the graph answers {shape} numbers for a frame; expected one row of finite logits")
    num = reference_NC.shape[1]
    levels = taxonomy.slices() if sum(taxonomy.num_classes) == num else (slice(0, num),)
    changed = np.zeros(len(frames_NHW), bool)
    for columns in levels:
        changed |= reference_NC[:, columns].argmax(axis=1) != found_NC[:, columns].argmax(axis=1)
    error = error_of_logits(reference_NC, found_NC, levels)
    return Measured(
        num_frames=len(frames_NHW),
        logit_error=error,
        logit_db=-20 * math.log10(max(error, _LEAST_ERROR)),
        num_flips=int(changed.sum()),
    )
