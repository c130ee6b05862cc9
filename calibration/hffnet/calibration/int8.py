"""The whole of calibration in one call: float graph and frames in, INT8 graph and report out.

What the frames told (``Calibration``) is kept apart from the graphs made of it: one pass serves CPU and TensorRT
graphs, and every placement that the gate tries.
"""

import hashlib
import json
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from hffnet.calibration.bias import WithMean, shifts_from_means
from hffnet.calibration.frames import FrameOrigin, check_pixels, frames_sha256, origins_from_pixels
from hffnet.calibration.graph import GraphIndex, model_from_path, nonnegative_tensors
from hffnet.calibration.model_input import Normalisation, input_from_onnx
from hffnet.calibration.observers import (
    MOST_COUNTED,
    NUM_LEVELS,
    NUM_UNSIGNED_LEVELS,
    MinMax,
    Observer,
    ObserverName,
    observer_from_name,
)
from hffnet.calibration.placement import Mode, Placement, WeightedPoint, placement_from_onnx, reads_picture
from hffnet.calibration.progress import Watch, unwatched
from hffnet.calibration.quantize import ActivationType, qdq_from_onnx
from hffnet.calibration.report import CalibrationReport, Method, SmoothedNorm, tool_versions
from hffnet.calibration.smoothing import (
    ChannelMoments,
    SmoothedValues,
    Smoothing,
    smoothable,
    smoothed_from_onnx,
    smoothing_from_moments,
)
from hffnet.calibration.statistics import Resume, ranges_from_frames

logger = logging.getLogger(__name__)

_FEWEST_BRIEF, _MOST_BRIEF = 16, 32
_SAMPLED = 128  # frames whose values make a sample of four million; of more frames each gives fewer
_BRIEF_SHARE = 16  # one frame in so many: the pass over all frames may not cost much more than inference


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationOptions:
    """What a person may choose.

    Attributes:
        observer, percentile: how ranges are chosen.
        mode, include, exclude: see ``placement_from_onnx``.
        bias_correction: see ``bias``; smoothing: see ``smoothing``.
        seed: with which the frames were chosen, for the report; None where they were given.
        batch: frames per run of the graph.
        normalisation: how frames become the input of a graph that takes float32; None for one that takes uint8.
    """

    observer: ObserverName = "cubed-error"
    percentile: float = 99.99
    mode: Mode = "cnn+linear"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    bias_correction: bool = True
    smoothing: bool = True
    seed: int | None = None
    batch: int = 1
    normalisation: Normalisation | None = None


_DEFAULTS = CalibrationOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What the frames told: enough for the int8 graph of any part of ``placement``, for CPU or TensorRT.

    Attributes:
        float_model: the graph that ran.
        options: as given.
        placement: of everything that may be quantized.
        ranges: of the activation type asked for, by tensor.
        observers: what ``ranges`` were read from; they also tell those of the other type.
        smoothing: of LayerNorms, by output; empty where switched off or without gain.
        shifts: to be added to the biases, by the product's output; empty where switched off.
        origins: the frames.
        activations: what ``ranges`` are for.
        seconds: wall clock of all passes over the frames.
    """

    float_model: Path
    options: CalibrationOptions
    placement: Placement
    ranges: Mapping[str, float]
    observers: Mapping[str, Observer]
    smoothing: Mapping[str, Smoothing]
    shifts: Mapping[str, npt.NDArray[np.float32]]
    origins: tuple[FrameOrigin, ...]
    activations: ActivationType
    seconds: float

    def quantized(
        self,
        placement: Placement | None = None,
        *,
        float_model: Path | None = None,
        activations: ActivationType | None = None,
    ) -> ModelProto:
        """An int8 graph.

        Args:
            placement: a part of ``self.placement``; all of it where None.
            float_model: the same network in another float type, with the same tensor names.
            activations: other than calibrated for; ranges are then asked for anew.
        """
        model = smoothed_from_onnx(model_from_path(float_model or self.float_model), self.smoothing)
        ranges = self.ranges
        if activations not in {None, self.activations}:
            levels = _levels(model, activations)
            ranges = {name: o.range(levels.get(name, NUM_LEVELS)) for name, o in self.observers.items()}
        kind = activations or self.activations
        return qdq_from_onnx(model, ranges, placement or self.placement, activations=kind, shifts=self.shifts)

    def report(self, placement: Placement | None = None) -> CalibrationReport:
        """The document, for the placement that was taken."""
        options = self.options
        chosen = placement or self.placement
        return CalibrationReport(
            method=Method(
                observer=options.observer,
                percentile=options.percentile if options.observer == "percentile" else None,
                seed=options.seed,
                bias_correction=options.bias_correction,
                smoothing=options.smoothing,
            ),
            frames=self.origins,
            frames_sha256=frames_sha256(self.origins),
            ranges={name: self.ranges[name] for name in chosen.tensors},
            placement=chosen,
            num_corrected=sum(point.output in self.shifts for point in chosen.weighted),
            smoothed=tuple(
                SmoothedNorm(tensor=name, alpha=found.alpha, gain=found.gain) for name, found in self.smoothing.items()
            ),
            seconds=round(self.seconds, 3),
            normalisation=options.normalisation,
            tools=tool_versions(),
        )


def int8_from_onnx(
    float_model: Path,
    frames_NHW: npt.NDArray[np.uint8],
    *,
    options: CalibrationOptions = _DEFAULTS,
    origins: Sequence[FrameOrigin] | None = None,
    activations: ActivationType = "int8",
    watch: Watch = unwatched,
    keep: Path | None = None,
) -> tuple[ModelProto, CalibrationReport]:
    """Calibrate a float graph and quantize it; arguments and errors as of ``calibration_from_frames``."""
    calibration = calibration_from_frames(
        float_model,
        frames_NHW,
        options=options,
        origins=origins,
        activations=activations,
        watch=watch,
        keep=keep,
    )
    return calibration.quantized(), calibration.report()


def calibration_from_frames(
    float_model: Path,
    frames_NHW: npt.NDArray[np.uint8],
    *,
    options: CalibrationOptions = _DEFAULTS,
    origins: Sequence[FrameOrigin] | None = None,
    activations: ActivationType = "int8",
    placement: Placement | None = None,
    watch: Watch = unwatched,
    keep: Path | None = None,
    work: Path | None = None,
) -> Calibration:
    """Run the frames through the float graph and keep what they tell.

    The model is read once for its structure and once for its weights, with nothing of it in memory while the frames
    run: the peak is what onnxruntime needs for a model of that size.

    Args:
        float_model: float32 ONNX file with one input as ``model_input`` has them.
        frames_NHW: preprocessed frames, (N, H, W) uint8.
        options: see ``CalibrationOptions``.
        origins: what to call the frames in the report; their pixels' hashes where None.
        activations: see ``qdq_from_onnx``.
        placement: another than the options' own.
        watch: told when a pass over frames begins and how far it is.
        keep: file for what was seen so far; an interrupted call with the same arguments goes on from it.
        work: folder for a copy of the model while it runs; that of the model where None.

    Raises:
        ConfigError, DatasetError, GraphError: see the functions called here.
    """
    check_pixels(frames_NHW)
    used = tuple(origins) if origins is not None else origins_from_pixels(frames_NHW)
    placement, levels, norms, pictures = _planned(float_model, options, activations, placement)
    began = time.monotonic()
    thinned = max(1, len(frames_NHW) // _SAMPLED)
    seen_briefly = {point.activation for point in placement.cpu_sums}
    observers: dict[str, Observer] = {
        name: observer_from_name(
            options.observer,
            percentile=options.percentile,
            most_counted=MOST_COUNTED if name in seen_briefly else MOST_COUNTED // thinned,
        )
        for name in placement.tensors
    }
    norms = norms if options.smoothing else ()
    passes = _Passes(float_model, options, watch, work)
    brief, moments = _seen_briefly(passes, frames_NHW, placement, observers, norms)
    smoothing = smoothing_from_moments(model_from_path(float_model), moments, placement) if moments else {}
    if options.bias_correction:
        observers |= {p.activation: WithMean(observers[p.activation], thinned) for p in _once(placement.weighted)}
    # A picture that normalisation broke is told as that; behind the first convolution nobody would know why.
    watched = {name: MinMax() for name in pictures if name not in observers}
    for_all: dict[str, Observer] = {
        name: SmoothedValues(observer, smoothing[name]) if name in smoothing else observer
        for name, observer in observers.items()
        if name not in brief
    }
    resume = None
    if keep:
        resume = Resume(path=keep, identity=_identity(float_model, frames_NHW, used, options, observers, smoothing))
    name = f"calibrating with {len(frames_NHW)} train frames"
    ranges = passes.ranges(name, frames_NHW, {**watched, **for_all}, num_levels=levels, resume=resume)
    ranges |= brief
    ranges = {name: ranges[name] for name in placement.tensors}
    means = {n: o.mean for n, o in observers.items() if isinstance(o, WithMean) and o.mean is not None}
    shifts = _shifts(float_model, smoothing, means, placement) if means else {}
    seconds = time.monotonic() - began
    logger.info("%d tensors calibrated with %d frames in %.1f s", len(ranges), len(frames_NHW), seconds)
    return Calibration(
        float_model=float_model,
        options=options,
        placement=placement,
        ranges=ranges,
        observers=observers,
        smoothing=smoothing,
        shifts=shifts,
        origins=used,
        activations=activations,
        seconds=seconds,
    )


@dataclass(frozen=True, slots=True)
class _Passes:
    """What every pass over frames has in common."""

    model: Path
    options: CalibrationOptions
    watch: Watch
    work: Path | None

    def ranges(
        self,
        name: str,
        frames_NHW: npt.NDArray[np.uint8],
        observers: Mapping[str, Observer],
        *,
        num_levels: Mapping[str, int] = MappingProxyType({}),
        resume: Resume | None = None,
    ) -> dict[str, float]:
        return ranges_from_frames(
            self.model,
            frames_NHW,
            observers,
            batch=self.options.batch,
            num_levels=num_levels,
            progress=self.watch(name, len(frames_NHW)),
            resume=resume,
            normalisation=self.options.normalisation,
            work=self.work,
        )


def _identity(
    path: Path,
    frames_NHW: npt.NDArray[np.uint8],
    origins: Sequence[FrameOrigin],
    options: CalibrationOptions,
    observers: Mapping[str, Observer],
    smoothing: Mapping[str, Smoothing],
) -> str:
    """Of everything that decides what the observers have seen: program, graph, method, frames and pixels in order."""
    with path.open("rb") as file:
        graph = hashlib.file_digest(file, "sha256").hexdigest()
    pixels = hashlib.sha256(repr(frames_NHW.shape).encode())
    for frame in frames_NHW:
        pixels.update(frame.tobytes())
    tools = json.dumps(tool_versions(), sort_keys=True)
    words = [tools, graph, repr(options), *observers, *(origin.sha256 for origin in origins), pixels.hexdigest()]
    factors = b"".join(name.encode() + smoothing[name].factors.tobytes() for name in sorted(smoothing))
    return hashlib.sha256("\0".join(words).encode() + factors).hexdigest()


def _planned(
    path: Path, options: CalibrationOptions, activations: ActivationType, placement: Placement | None
) -> tuple[Placement, dict[str, int], tuple[str, ...], tuple[str, ...]]:
    """Only names leave this function, so the weights are freed before the frames run."""
    model = model_from_path(path)
    input_from_onnx(model).check(options.normalisation)
    if placement is None:
        placement = placement_from_onnx(model, options.mode, include=options.include, exclude=options.exclude)
    if activations == "int8":
        placement = placement.for_tensorrt()  # ranges of what only CPU engines want would be measured for nothing
    index = GraphIndex(model)
    pictures = tuple(node.input[0] for node in index.nodes if reads_picture(node, index))
    return placement, _levels(model, activations), tuple(smoothable(index, placement)), pictures


def _once(points: Sequence[WeightedPoint]) -> Collection[WeightedPoint]:
    """One point for each activation."""
    return {point.activation: point for point in points}.values()


def _levels(model: ModelProto, activations: ActivationType | None) -> dict[str, int]:
    if activations != "uint8":
        return {}
    return dict.fromkeys(nonnegative_tensors(GraphIndex(model)), NUM_UNSIGNED_LEVELS)


def _seen_briefly(
    passes: _Passes,
    frames_NHW: npt.NDArray[np.uint8],
    placement: Placement,
    observers: Mapping[str, Observer],
    norms: Sequence[str],
) -> tuple[dict[str, float], dict[str, ChannelMoments]]:
    """What a part of the frames tells: the channels of LayerNorms, and ranges of what only CPU engines want.

    Those are outputs of convolutions that onnxruntime fuses with sum and ReLU where nobody looks at them: looking at
    all frames would cost a third of the whole pass. Frames come spread over the classes, so the first of them show all.
    """
    moments = {name: ChannelMoments() for name in norms}
    sums = {point.activation: observers[point.activation] for point in placement.cpu_sums}
    if not moments and not sums:
        return {}, {}
    num = min(_MOST_BRIEF, max(len(frames_NHW) // _BRIEF_SHARE, _FEWEST_BRIEF), len(frames_NHW))
    ranges = passes.ranges(f"looking at {num} train frames first", frames_NHW[:num], {**moments, **sums})
    return {name: ranges[name] for name in sums}, moments


def _shifts(
    path: Path,
    smoothing: Mapping[str, Smoothing],
    means: Mapping[str, npt.NDArray[np.float32]],
    placement: Placement,
) -> dict[str, npt.NDArray[np.float32]]:
    return shifts_from_means(smoothed_from_onnx(model_from_path(path), smoothing), means, placement)
