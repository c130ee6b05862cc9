"""What a changed graph costs, measured on held-out labelled frames against the float graph: one record for all gates.

HF1 alone moves in steps of half a frame and hides what cancels out; divergence, flips and the error of the logits stand
beside it. Of a network that is sure of nearly every frame, the mean divergence is that of one or two frames between two
classes: it says what happened to them. The error of the logits weighs all frames and compares methods. Decisions
are decoded as the bundle decodes them, so they are always paths of the tree; whether parent and child still agree is
seen on each level's own highest logit (``tice``). A frame that is answered with NaN or infinity tells nothing: it
counts as if all of its logits were zero, and no budget allows any.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from pydantic import BaseModel, ConfigDict, Field

from hffnet.calibration.model_input import Normalisation, input_from_session
from hffnet.calibration.progress import Progress
from hffnet.runtime.decode import DecodeSpec, decode
from hffnet.runtime.errors import DatasetError, GraphError
from hffnet.runtime.graph import facts_from_onnx
from hffnet.runtime.manifest import Metrics
from hffnet.runtime.metrics import metrics_from_paths
from hffnet.runtime.taxonomy import ClassPath, Taxonomy
from hffnet.runtime.trust import expected_calibration_error, reliability_bins

Logits = npt.NDArray[np.float32]

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Cost(BaseModel):
    """Loss of one graph against another; points are hundredths, positive where the graph is worse.

    Attributes:
        hf1_drop, fpa_drop, level_drops: points of the scores.
        tice_rise: points of frames whose levels, each asked alone, contradict the tree.
        calibration_error_rise: points of expected calibration error of the answered leaf.
        num_flips: frames that get another path.
        divergence: mean over frames of the Kullback-Leibler divergence (nats, summed over levels) of the float
            graph's probabilities from the other's.
        cosine: least cosine of the two logit vectors of any frame.
        logit_error: root mean square of the logits' differences over that of the float graph's logits, both without
            each level's mean, which no probability depends on.
        num_broken: frames that are answered with NaN or infinity.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    hf1_drop: Finite
    fpa_drop: Finite
    level_drops: tuple[Finite, ...]
    tice_rise: Finite
    calibration_error_rise: Finite
    num_flips: Annotated[int, Field(ge=0)]
    divergence: Finite
    cosine: Finite
    logit_error: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    num_broken: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Frames that scores are measured on.

    Attributes:
        frames: (N, size, size) uint8, preprocessed.
        truths: complete class path of each.
        taxonomy, decode: as the bundle's.
        normalisation: how frames become the input of a graph that takes float32.
    """

    frames: npt.NDArray[np.uint8]
    truths: Sequence[ClassPath]
    taxonomy: Taxonomy
    decode: DecodeSpec
    normalisation: Normalisation | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """How one graph did.

    Attributes:
        logits: (N, ΣC); zeros where they were not finite.
        metrics: of the decoded decisions.
        paths: decided path of each frame, whether held back or not.
        tice: share of frames whose levels, each asked alone, contradict the tree.
        calibration_error: expected calibration error of the leaf, as ``runtime.trust`` has it.
        latency_ms: median of batch 1 in ONNX Runtime on this machine, as it came while scoring: not a benchmark.
        num_broken: frames whose logits were not finite.
    """

    logits: Logits
    metrics: Metrics
    paths: tuple[ClassPath, ...]
    tice: float
    calibration_error: float
    latency_ms: float
    num_broken: int


def logits_from_onnx(
    model: Path | bytes,
    frames_NHW: npt.NDArray[np.uint8],
    *,
    normalisation: Normalisation | None = None,
    progress: Progress | None = None,
) -> tuple[Logits, float]:
    """Logits (N, ΣC) frame by frame in ONNX Runtime on the CPU, and the median milliseconds of a frame.

    Args:
        model: ONNX file, or its bytes; one input as ``model_input`` has them.
        frames_NHW: preprocessed frames.
        normalisation: how frames become the input of a graph that takes float32.
        progress: called after each frame with the number done so far.

    Raises:
        ConfigError: ``normalisation`` does not fit the graph.
        GraphError: onnxruntime refuses the graph.
        DatasetError: no frame.
    """
    if not len(frames_NHW):
        raise DatasetError("there is no held-out frame to measure on; expected at least one, better 200")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if _is_quantized_half(model):
        # onnxruntime 1.32 would quantize the float16 biases of such a graph too, with a scale (activation times weight)
        # that float16 cannot hold: the answers are then those of another network. TensorRT computes what is written.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        session = ort.InferenceSession(
            str(model) if isinstance(model, Path) else model, options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's exceptions share no public root
        raise GraphError(f"onnxruntime does not open the graph: {error}") from error
    outputs = [output.name for output in session.get_outputs()]
    entry, wanted = input_from_session(session), "logits" if "logits" in outputs else outputs[0]
    parts, seconds = [], []
    for number, frame in enumerate(frames_NHW):
        feed = entry.feed(frame[None], normalisation)
        began = time.perf_counter()
        parts.append(session.run([wanted], feed)[0].astype(np.float32))
        seconds.append(time.perf_counter() - began)
        if progress:
            progress(number + 1)
    return np.concatenate(parts), 1000 * float(np.median(seconds))


def _is_quantized_half(model: Path | bytes) -> bool:
    facts = facts_from_onnx(model if isinstance(model, bytes) else model.read_bytes())
    return "QuantizeLinear" in facts.operators and "float16" in facts.parameters


def scored(model: Path | bytes, held_out: HeldOut) -> Scored:
    """Run and score a graph; errors as of ``logits_from_onnx``."""
    logits, latency_ms = logits_from_onnx(model, held_out.frames, normalisation=held_out.normalisation)
    return scored_from_logits(logits, held_out, latency_ms)


def scored_from_logits(logits_NC: Logits, held_out: HeldOut, latency_ms: float = 0.0) -> Scored:
    """Score logits (N, ΣC)."""
    broken_N: npt.NDArray[np.bool_] = np.isfinite(logits_NC).min(axis=1) == 0
    logits_NC = np.where(broken_N[:, None], np.float32(0), logits_NC)
    decisions = decode(logits_NC, held_out.taxonomy, held_out.decode)
    return Scored(
        logits=logits_NC,
        metrics=metrics_from_paths(held_out.truths, [d.answer for d in decisions], held_out.taxonomy),
        paths=tuple(d.path for d in decisions),
        tice=_contradictions(logits_NC, held_out.taxonomy),
        calibration_error=expected_calibration_error(
            reliability_bins(
                np.array([d.confidence[-1] for d in decisions]),
                np.array([d.path == truth for d, truth in zip(decisions, held_out.truths, strict=True)]),
            )
        ),
        latency_ms=latency_ms,
        num_broken=int(broken_N.sum()),
    )


def cost_between(reference: Scored, candidate: Scored, held_out: HeldOut) -> Cost:
    """What ``candidate`` loses against ``reference`` on the same frames.

    Raises:
        GraphError: ``reference`` itself was not finite.
    """
    check_reference(reference)
    a, b = reference.metrics, candidate.metrics
    levels = zip(a.level_accuracy, b.level_accuracy, strict=True)
    return Cost(
        hf1_drop=100 * (a.hf1 - b.hf1),
        fpa_drop=100 * (a.fpa - b.fpa),
        level_drops=tuple(100 * (x - y) for x, y in levels),
        tice_rise=100 * (candidate.tice - reference.tice),
        calibration_error_rise=100 * (candidate.calibration_error - reference.calibration_error),
        num_flips=len(flips(reference, candidate)),
        divergence=divergence(reference.logits, candidate.logits, held_out),
        cosine=_least_cosine(reference.logits, candidate.logits),
        logit_error=logit_error(reference.logits, candidate.logits, held_out.taxonomy),
        num_broken=candidate.num_broken,
    )


def check_reference(reference: Scored) -> None:
    """Refuse a float graph that no other can be measured against.

    Raises:
        GraphError: it answers a frame with NaN or infinity.
    """
    if reference.num_broken:
        raise GraphError(
            f"the float graph answers {reference.num_broken} of {len(reference.logits)} frames with NaN or infinity;"
            " the network is broken, train or export it again"
        )


def flips(reference: Scored, candidate: Scored) -> tuple[int, ...]:
    """Numbers of the frames that get another path."""
    pairs = zip(reference.paths, candidate.paths, strict=True)
    return tuple(number for number, (a, b) in enumerate(pairs) if a != b)


def divergence(reference_NC: Logits, candidate_NC: Logits, held_out: HeldOut) -> float:
    """Mean over frames of the KL divergence, summed over levels; see ``Cost``."""
    total = 0.0
    for columns, temperature in zip(held_out.taxonomy.slices(), held_out.decode.temperatures, strict=True):
        log_p, log_q = (_log_softmax(part[:, columns] / temperature) for part in (reference_NC, candidate_NC))
        total += float((np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean())
    return max(total, 0.0)


def logit_error(reference_NC: Logits, candidate_NC: Logits, taxonomy: Taxonomy) -> float:
    """Relative error of the logits; see ``Cost``. 0.03 is a signal-to-noise ratio of 30 dB."""
    return error_of_logits(reference_NC, candidate_NC, taxonomy.slices())


def error_of_logits(reference_NC: Logits, candidate_NC: Logits, levels: Sequence[slice]) -> float:
    """``logit_error`` where only the columns of each level are known."""
    noise = power = 0.0
    for columns in levels:
        a, b = (_centred(part[:, columns]) for part in (reference_NC, candidate_NC))
        noise, power = noise + float(((b - a) ** 2).sum()), power + float((a**2).sum())
    if not power:
        return 0.0 if not noise else 1.0
    return math.sqrt(noise / power)


def _centred(logits: Logits) -> npt.NDArray[np.float64]:
    wide = logits.astype(np.float64)
    found: npt.NDArray[np.float64] = wide - wide.mean(axis=1, keepdims=True)
    return found


def _log_softmax(logits: Logits) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    found: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return found


def _contradictions(logits_NC: Logits, taxonomy: Taxonomy) -> float:
    alone_NL = np.stack([logits_NC[:, columns].argmax(axis=1) for columns in taxonomy.slices()], axis=1)
    valid = {tuple(path) for path in taxonomy.leaf_paths.tolist()}
    return float(np.mean([tuple(path) not in valid for path in alone_NL.tolist()]))


def _least_cosine(a: Logits, b: Logits) -> float:
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(np.min(np.where(norms > 0, (a * b).sum(axis=1) / np.where(norms > 0, norms, 1), 1.0)))
