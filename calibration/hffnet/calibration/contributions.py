"""What each method of calibration brought: the int8 graph made once more without it, on the same held-out frames.

Nothing is calibrated again: what the frames told is enough for the graph with and without each method.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np

from hffnet.calibration.fidelity import HeldOut, Logits, divergence, logit_error
from hffnet.calibration.int8 import Calibration
from hffnet.calibration.placement import Placement
from hffnet.calibration.report import MethodRow

_LEAST_ERROR = 1e-9


def rows_of_methods(
    calibration: Calibration,
    placement: Placement,
    reference_NC: Logits,
    held_out: HeldOut,
    logits_of: Callable[[bytes], Logits],
) -> tuple[MethodRow, ...]:
    """All methods first, then without each of those that had something to do; none where none had.

    Args:
        calibration: as it was taken.
        placement: the part that was taken.
        reference_NC: the float graph's logits (N, ΣC) on the held-out frames.
        held_out: the frames; their truths are not asked for.
        logits_of: answers of a serialized graph on the same frames.
    """
    variants = [("all", calibration), *_without_each(calibration)]
    if len(variants) == 1:
        return ()
    return tuple(
        _row(name, reference_NC, logits_of(variant.quantized(placement).SerializeToString()), held_out)
        for name, variant in variants
    )


def _without_each(calibration: Calibration) -> Iterator[tuple[str, Calibration]]:
    if calibration.shifts:
        yield "no bias correction", calibration.without_bias_correction()
    if calibration.smoothing:
        yield "no smoothing", calibration.without_smoothing()
    if calibration.weight_scales:
        yield "no weight clipping", calibration.with_weights(clipping=False)


def _row(method: str, reference_NC: Logits, found_NC: Logits, held_out: HeldOut) -> MethodRow:
    changed = np.zeros(len(reference_NC), bool)
    for columns in held_out.taxonomy.slices():
        changed |= reference_NC[:, columns].argmax(axis=1) != found_NC[:, columns].argmax(axis=1)
    error = logit_error(reference_NC, found_NC, held_out.taxonomy)
    return MethodRow(
        method=method,
        num_frames=len(reference_NC),
        logit_db=-20 * math.log10(max(error, _LEAST_ERROR)),
        divergence=divergence(reference_NC, found_NC, held_out),
        num_flips=int(changed.sum()),
    )
