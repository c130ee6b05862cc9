"""The whole of calibration in one call: float graph and frames in, INT8 graph and report out.

What the frames told (``Calibration``) is kept apart from the graphs made of it: one pass serves CPU and TensorRT
graphs, and every placement that the gate tries.
"""

import hashlib
import json
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, numpy_helper

from hffnet.calibration.bias import Array, WithMean, shifts_from_means
from hffnet.calibration.frames import FrameOrigin, check_pixels, frames_sha256, origins_from_pixels
from hffnet.calibration.graph import GraphIndex, model_from_path, nonnegative_tensors
from hffnet.calibration.model_input import Normalisation, input_from_onnx
from hffnet.calibration.observers import (
    NUM_LEVELS,
    NUM_UNSIGNED_LEVELS,
    Histogram,
    MinMax,
    Observer,
    ObserverName,
    histogram_of,
    observer_from_name,
)
from hffnet.calibration.placement import Mode, Placement, WeightedPoint, placement_from_onnx, reads_picture
from hffnet.calibration.progress import Watch, unwatched
from hffnet.calibration.quantize import ActivationType, qdq_from_onnx
from hffnet.calibration.report import CalibrationReport, Method, Seen, SmoothedNorm, tool_versions
from hffnet.calibration.smoothing import (
    ChannelMoments,
    SmoothedValues,
    Smoothing,
    smoothable,
    smoothed_from_onnx,
    smoothing_from_moments,
)
from hffnet.calibration.statistics import Resume, ranges_from_frames
from hffnet.calibration.weights import WeightScales, clipped_scales_from_weight

logger = logging.getLogger(__name__)

_FEWEST_BRIEF, _MOST_BRIEF = 16, 32  # frames for what is not looked at in all
_COUNTED = 128  # of many frames about so many are counted and added up; the largest value is that of all
_BRIEF_SHARE = 16  # one frame in so many: the pass over all frames may not cost much more than inference


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationOptions:
    """What a person may choose.

    Attributes:
        observer, percentile: how ranges are chosen.
        mode, include, exclude: see ``placement_from_onnx``.
        bias_correction: see ``bias``; smoothing: see ``smoothing``.
        weight_clipping: choose weights' scales by squared error, see ``weights``.
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
    weight_clipping: bool = False
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
        weight_scales: chosen by squared error; empty where switched off.
        plain: observers of the smoothed LayerNorms' outputs as they are.
        num_frames: that each tensor was looked at on.
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
    weight_scales: WeightScales
    plain: Mapping[str, Observer]
    num_frames: Mapping[str, int]
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
        kind = activations or self.activations
        ranges = self.ranges_for(kind, placement or self.placement)
        return qdq_from_onnx(
            model,
            ranges,
            placement or self.placement,
            activations=kind,
            shifts=self.shifts,
            weight_scales=self.weight_scales,
        )

    def ranges_for(self, activations: ActivationType, placement: Placement) -> Mapping[str, float]:
        """Of the tensors of a part of ``self.placement``, for either type of activations."""
        if activations == "int8":
            placement = placement.for_tensorrt()
        if activations == self.activations:
            return {name: self.ranges[name] for name in placement.tensors}
        levels = _levels(model_from_path(self.float_model), activations)
        return {name: self.observers[name].range(levels.get(name, NUM_LEVELS)) for name in placement.tensors}

    def histogram(self, tensor: str) -> Histogram | None:
        """What was counted of a tensor."""
        observer = self.observers[tensor]
        return histogram_of(observer.observer if isinstance(observer, WithMean) else observer)

    def _seen(self, tensor: str) -> Seen:
        histogram = self.histogram(tensor)
        share = int(histogram.counts.sum()) / histogram.num_seen if histogram and histogram.num_seen else 0.0
        return Seen(num_frames=self.num_frames[tensor], counted_share=share)

    def with_weights(self, *, clipping: bool) -> "Calibration":
        """The same with weights' scales chosen otherwise; corrections of the biases follow."""
        scales = _clipped_scales(self.float_model, self.smoothing, self.placement) if clipping else {}
        return replace(self, weight_scales=scales, shifts=self._shifts_for(self.smoothing, scales))

    def without_bias_correction(self) -> "Calibration":
        """The same with the biases as they were."""
        return replace(self, shifts={})

    def without_smoothing(self) -> "Calibration":
        """The same as it would have been without; ranges and corrections follow."""
        levels = _levels(model_from_path(self.float_model), self.activations)
        observers = {**self.observers, **self.plain}
        ranges = {name: observers[name].range(levels.get(name, NUM_LEVELS)) for name in self.plain}
        scales = _clipped_scales(self.float_model, {}, self.placement) if self.weight_scales else {}
        return replace(
            self,
            ranges={**self.ranges, **ranges},
            observers=observers,
            smoothing={},
            shifts=self._shifts_for({}, scales),
            weight_scales=scales,
        )

    def _shifts_for(self, smoothing: Mapping[str, Smoothing], scales: WeightScales) -> Mapping[str, Array]:
        if not self.shifts:
            return {}
        means = _means(self.observers)
        for name in self.smoothing.keys() - smoothing.keys():  # the mean is linear: no second one has to be taken
            means[name] = (means[name] * self.smoothing[name].factors).astype(np.float32)
        return _shifts(self.float_model, smoothing, means, self.placement, scales)

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
                weight_clipping=options.weight_clipping,
            ),
            frames=self.origins,
            frames_sha256=frames_sha256(self.origins),
            float_sha256=_sha256(self.float_model),
            activations=self.activations,
            ranges={name: self.ranges[name] for name in chosen.tensors},
            seen={name: self._seen(name) for name in chosen.tensors},
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
    every = max(1, len(frames_NHW) // _COUNTED)
    seen_briefly = {point.activation for point in placement.cpu_sums}
    observers: dict[str, Observer] = {
        name: observer_from_name(
            options.observer,
            percentile=options.percentile,
            every=1 if name in seen_briefly else every,
        )
        for name in placement.tensors
    }
    norms = norms if options.smoothing else ()
    passes = _Passes(float_model, options, watch, work)
    if options.bias_correction:
        observers |= {p.activation: WithMean(observers[p.activation], every) for p in _once(placement.weighted)}
    # A picture that normalisation broke is told as that; behind the first convolution nobody would know why.
    watched: dict[str, Observer] = {name: MinMax() for name in pictures if name not in observers}
    num_first, brief, moments = _seen_first(passes, frames_NHW, placement, {**watched, **observers}, norms)
    smoothing = smoothing_from_moments(model_from_path(float_model), moments, placement) if moments else {}
    plain: dict[str, Observer] = {
        name: observer_from_name(options.observer, percentile=options.percentile, every=every) for name in smoothing
    }
    for_all: dict[str, Observer] = {
        name: SmoothedValues(observer, smoothing[name], plain[name]) if name in smoothing else observer
        for name, observer in observers.items()
        if name not in brief
    }
    for name in moments.keys() & for_all.keys():
        for values in moments[name].values:
            for_all[name].update(values)
    resume = None
    if keep:
        resume = Resume(path=keep, identity=_identity(float_model, frames_NHW, used, options, observers, smoothing))
    name = f"calibrating with {len(frames_NHW)} train frames"
    ranges = passes.ranges(name, frames_NHW, {**watched, **for_all}, num_levels=levels, seen=num_first, resume=resume)
    ranges |= brief
    ranges = {name: ranges[name] for name in placement.tensors}
    scales = _clipped_scales(float_model, smoothing, placement) if options.weight_clipping else {}
    means = _means(observers)
    shifts = _shifts(float_model, smoothing, means, placement, scales) if means else {}
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
        weight_scales=scales,
        plain=plain,
        num_frames={name: num_first if name in brief else len(frames_NHW) for name in placement.tensors},
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
        seen: int = 0,
        resume: Resume | None = None,
    ) -> dict[str, float]:
        return ranges_from_frames(
            self.model,
            frames_NHW,
            observers,
            batch=self.options.batch,
            num_levels=num_levels,
            seen=seen,
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
    pixels = hashlib.sha256(repr(frames_NHW.shape).encode())
    for frame in frames_NHW:
        pixels.update(frame.tobytes())
    tools = json.dumps(tool_versions(), sort_keys=True)
    hashes = [*(origin.sha256 for origin in origins), pixels.hexdigest()]
    words = [tools, _sha256(path), repr(options), *observers, *hashes]
    factors = b"".join(name.encode() + smoothing[name].factors.tobytes() for name in sorted(smoothing))
    return hashlib.sha256("\0".join(words).encode() + factors).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def _seen_first(
    passes: _Passes,
    frames_NHW: npt.NDArray[np.uint8],
    placement: Placement,
    observers: Mapping[str, Observer],
    norms: Sequence[str],
) -> tuple[int, dict[str, float], dict[str, ChannelMoments]]:
    """How many frames came first, and what they tell: ranges of what only CPU engines want, and LayerNorms' channels.

    The former are outputs of convolutions that onnxruntime fuses with sum and ReLU where nobody looks at them: looking
    at all frames would cost a third of the whole pass. Frames come spread over the classes, so the first of them show
    all. The other ``observers`` see these frames here, LayerNorms' but for what their moments keep for them.
    """
    moments = {name: ChannelMoments() for name in norms}
    sums = {point.activation: observers[point.activation] for point in placement.cpu_sums}
    if not moments and not sums:
        return 0, {}, {}
    num = min(_MOST_BRIEF, max(len(frames_NHW) // _BRIEF_SHARE, _FEWEST_BRIEF), len(frames_NHW))
    ranges = passes.ranges(f"looking at {num} train frames first", frames_NHW[:num], {**observers, **moments})
    return num, {name: ranges[name] for name in sums}, moments


def _means(observers: Mapping[str, Observer]) -> dict[str, Array]:
    return {n: o.mean for n, o in observers.items() if isinstance(o, WithMean) and o.mean is not None}


def _shifts(
    path: Path,
    smoothing: Mapping[str, Smoothing],
    means: Mapping[str, Array],
    placement: Placement,
    weight_scales: WeightScales,
) -> dict[str, Array]:
    return shifts_from_means(smoothed_from_onnx(model_from_path(path), smoothing), means, placement, weight_scales)


def _clipped_scales(
    path: Path, smoothing: Mapping[str, Smoothing], placement: Placement
) -> dict[tuple[str, int], Array]:
    constants = GraphIndex(smoothed_from_onnx(model_from_path(path), smoothing)).constants
    wanted = dict.fromkeys((point.weight, point.weight_axis) for point in placement.weighted)
    weights = ((key, numpy_helper.to_array(constants[key[0]]).astype(np.float32)) for key in wanted)
    return {key: clipped_scales_from_weight(weight, key[1]) for key, weight in weights}
