"""Proof that two forms of one network compute the same: measured on frames before anything is written.

The measure is the one of the bundle's manifest: the greatest difference of any logit, divided by the largest reference
logit in magnitude. A tolerance belongs to a step: folding changes only the order of float32 operations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch

from hffnet.export.deploy_form import DeployForm
from hffnet.runtime.errors import EngineError, ParityError
from hffnet.train.network import Network, normalise

FOLDING_TOLERANCE = 1e-4
"""Training form against deploy form, and deploy form against its fp32 graph; measured differences are below 1e-5."""

FP16_TOLERANCE = 2e-2
"""Deploy form against its fp16 graph: eleven significant bits, through some 150 layers."""

_BATCH = 8


@dataclass(frozen=True, slots=True)
class ParityReport:
    """How far a candidate's logits lie from the reference's.

    Attributes:
        what: the two forms compared, for people.
        num_frames: frames compared.
        relative_error: greatest difference over the largest reference logit in magnitude.
        cosine: least cosine of the two logit vectors of any frame.
        num_flips: frames for which the highest logit of some level is another class.
        tolerance: the limit for ``relative_error``.
    """

    what: str
    num_frames: int
    relative_error: float
    cosine: float
    num_flips: int
    tolerance: float


def check_parity(
    reference_logits: npt.NDArray[np.floating],
    candidate_logits: npt.NDArray[np.floating],
    tolerance: float,
    what: str,
    *,
    levels: Sequence[slice] = (slice(None),),
) -> ParityReport:
    """Compare logits (N, ΣC).

    Args:
        reference_logits: of the form that is right by definition.
        candidate_logits: of the form to be accepted.
        tolerance: greatest relative error accepted.
        what: the two forms, for the sentence.
        levels: columns of each level (``Taxonomy.slices``), for counting flips.

    Raises:
        ParityError: shapes differ, there is no frame, a number is not finite, or the error is over the tolerance.

    >>> check_parity(np.array([[2.0, -4.0]]), np.array([[2.0, -4.0004]]), 1e-3, "a against b").num_flips
    0
    """
    reference, candidate = reference_logits.astype(np.float64), candidate_logits.astype(np.float64)
    if reference.shape != candidate.shape or reference.ndim != 2 or not reference.size:
        raise ParityError(
            f"{what}: logits of shape {candidate.shape} against {reference.shape}; one (frames, classes) shape with at"
            " least one frame is expected"
        )
    if not (np.isfinite(reference).all() and np.isfinite(candidate).all()):
        raise ParityError(
            f"{what}: infinite or NaN logits; finite ones are expected: a weight or a range has overflowed"
        )
    tiny = np.finfo(np.float64).tiny
    error = float(np.abs(candidate - reference).max() / max(float(np.abs(reference).max()), tiny))
    norms = np.linalg.norm(reference, axis=1) * np.linalg.norm(candidate, axis=1)
    cosines = np.where(norms > 0, (reference * candidate).sum(axis=1) / np.maximum(norms, tiny), 1.0)
    flips = np.zeros(len(reference), dtype=bool)
    for level in levels:
        flips |= reference[:, level].argmax(axis=1) != candidate[:, level].argmax(axis=1)
    report = ParityReport(what, len(reference), error, float(cosines.min()), int(flips.sum()), tolerance)
    if error > tolerance:
        raise ParityError(
            f"{what}: logits differ by {error:.2e} of the largest on {report.num_frames} frames (cosine"
            f" {report.cosine:.6f}, {report.num_flips} decisions changed); at most {tolerance:.0e} is accepted."
            " The candidate must not be used; please report it with this model's config.json"
        )
    return report


def parity_of_deploy_form(
    model: Network, form: DeployForm, frames_NHW: npt.NDArray[np.uint8], tolerance: float = FOLDING_TOLERANCE
) -> ParityReport:
    """Training form (in evaluation mode) against deploy form on preprocessed frames; raises `ParityError`."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            reference = [model(normalise(frames, model.config)).numpy() for frames in _batches(frames_NHW)]
    finally:
        model.train(was_training)
    candidate = logits_of_deploy_form(form, frames_NHW)
    what = "deploy form against training form"
    return check_parity(_joined(reference), candidate, tolerance, what, levels=_levels(form))


def parity_of_onnx(
    form: DeployForm, path: Path, frames_NHW: npt.NDArray[np.uint8], tolerance: float = FOLDING_TOLERANCE
) -> ParityReport:
    """Deploy form against its ONNX file in ONNX Runtime on the CPU, for any batch size the file takes.

    Raises:
        ParityError: logits differ, or they are not the mean of the evidence.
        EngineError: ONNX Runtime refuses the file.
    """
    session = _session(path)
    fixed = session.get_inputs()[0].shape[0]
    size = fixed if isinstance(fixed, int) else _BATCH
    outputs = [
        session.run(["logits", "evidence"], {"frames": frames_NHW[i : i + size]})
        for i in range(0, len(frames_NHW), size)
    ]
    logits = _joined([one[0] for one in outputs])
    means = _joined([one[1].mean(axis=(2, 3), dtype=np.float64) for one in outputs])
    check_parity(means, logits, 1e-5, f"{path.name}: logits against the mean of evidence")
    reference = logits_of_deploy_form(form, frames_NHW)
    what = f"{path.name} in ONNX Runtime against deploy form"
    return check_parity(reference, logits, tolerance, what, levels=_levels(form))


def logits_of_deploy_form(form: DeployForm, frames_NHW: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """(N, ΣC) logits of preprocessed frames, the reference vectors of a bundle."""
    with torch.inference_mode():
        return _joined([form(frames)[0].numpy() for frames in _batches(frames_NHW)])


def _session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors share no public class
        raise EngineError(f"ONNX Runtime {ort.__version__} refuses {path}: {error}") from error


def _batches(frames_NHW: npt.NDArray[np.uint8]) -> list[torch.Tensor]:
    whole = torch.from_numpy(np.ascontiguousarray(frames_NHW))
    return [whole[i : i + _BATCH] for i in range(0, len(whole), _BATCH)]


def _joined(parts: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    return np.concatenate(parts) if parts else np.empty((0, 0), dtype=np.float32)


def _levels(form: DeployForm) -> list[slice]:
    ends = np.cumsum(form.config.num_classes).tolist()
    return [slice(end - num, end) for end, num in zip(ends, form.config.num_classes, strict=True)]
