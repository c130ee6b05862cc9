"""What each method of calibration brought: the int8 graph made once more without it, on the same held-out frames.

Nothing is calibrated again: what the frames told is enough for the graph with and without each method.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hffnet.calibration.fidelity import HeldOut, Logits, divergence, logit_error, logits_from_onnx
from hffnet.calibration.int8 import Calibration
from hffnet.calibration.measured import Measured, measured_between
from hffnet.calibration.placement import Placement
from hffnet.calibration.progress import Watch, unwatched
from hffnet.calibration.report import MethodRow
from hffnet.runtime.decode import DecodeSpec
from hffnet.runtime.errors import GraphError
from hffnet.runtime.taxonomy import Taxonomy

_LEAST_ERROR = 1e-9


def measured_with_methods(
    calibration: Calibration,
    quantized: bytes,
    frames_NHW: npt.NDArray[np.uint8],
    taxonomy: Taxonomy,
    *,
    watch: Watch = unwatched,
) -> tuple[Measured, tuple[MethodRow, ...]]:
    """Run the float graph, the int8 graph, and the int8 graph without each of its methods.

    Args:
        calibration: what the graphs are made of; its float model is the reference.
        quantized: the int8 graph that will be written.
        frames_NHW: held-out frames, preprocessed.
        taxonomy: of the frames; tells the levels where the graph has as many logits as it has classes.
        watch: told how far it is.

    Raises:
        GraphError: the graph's answer is not one row of finite numbers for a frame, or as ``logits_from_onnx``.
    """
    normalisation, num = calibration.options.normalisation, len(frames_NHW)

    def logits_of(model: Path | bytes, what: str) -> Logits:
        progress = watch(f"measuring {what} on held-out frames", num)
        return logits_from_onnx(model, frames_NHW, normalisation=normalisation, progress=progress)[0]

    reference_NC = logits_of(calibration.float_model, "the float graph")
    found_NC = logits_of(quantized, "the int8 graph")
    if reference_NC.ndim != 2 or not (np.isfinite(reference_NC).all() and np.isfinite(found_NC).all()):
        shape = tuple(reference_NC.shape[1:])
        raise GraphError(f"the graph answers {shape} numbers for a frame; expected one row of finite logits")
    tree = _tree_of(reference_NC.shape[1], taxonomy)
    held_out = HeldOut(
        frames=frames_NHW, truths=(), taxonomy=tree, decode=DecodeSpec.plain(tree), normalisation=normalisation
    )
    methods = rows_of_methods(
        calibration,
        calibration.placement,
        reference_NC,
        held_out,
        lambda model: logits_of(model, "the int8 graph without one method"),
    )
    return measured_between(reference_NC, found_NC, tree.slices()), methods


def _tree_of(num: int, taxonomy: Taxonomy) -> Taxonomy:
    """One level of nameless classes where the graph does not answer the frames' own."""
    if sum(taxonomy.num_classes) == num:
        return taxonomy
    return Taxonomy.from_paths([(f"class {number:05}",) for number in range(num)])


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
