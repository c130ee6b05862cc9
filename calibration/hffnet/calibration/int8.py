"""The whole of calibration in one call: float graph and frames in, INT8 graph and report out."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from hffnet.calibration.frames import FrameOrigin, check_pixels, frames_sha256, origins_from_pixels
from hffnet.calibration.graph import model_from_path
from hffnet.calibration.observers import ObserverName, observer_from_name
from hffnet.calibration.placement import Mode, Placement, placement_from_onnx
from hffnet.calibration.quantize import ActivationType, qdq_from_onnx
from hffnet.calibration.report import CalibrationReport, Method, tool_versions
from hffnet.calibration.statistics import Progress, ranges_from_frames

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationOptions:
    """What a person may choose.

    Attributes:
        observer, percentile: how ranges are chosen.
        mode, include, exclude: see ``placement_from_onnx``.
        seed: with which the frames were chosen, for the report; None where they were given.
        batch: frames per run of the graph.
    """

    observer: ObserverName = "mse"
    percentile: float = 99.99
    mode: Mode = "cnn+linear"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    seed: int | None = None
    batch: int = 1


_DEFAULTS = CalibrationOptions()


def int8_from_onnx(
    float_model: Path,
    frames_NHW: npt.NDArray[np.uint8],
    *,
    options: CalibrationOptions = _DEFAULTS,
    origins: Sequence[FrameOrigin] | None = None,
    activations: ActivationType = "int8",
    progress: Progress | None = None,
) -> tuple[ModelProto, CalibrationReport]:
    """Calibrate a float graph and quantize it.

    The model is read once for its structure and once for its weights, with nothing of it in memory while the frames
    run: the peak is what onnxruntime needs for a model of that size.

    Args:
        float_model: float32 ONNX file with one input, uint8 (N, H, W).
        frames_NHW: preprocessed frames, (N, H, W) uint8.
        options: see ``CalibrationOptions``.
        origins: what to call the frames in the report; their pixels' hashes where None.
        activations: see ``qdq_from_onnx``.
        progress: called with the number of frames done.

    Raises:
        ConfigError, DatasetError, GraphError: see the functions called here.
    """
    check_pixels(frames_NHW)
    placement = _placement_from_path(float_model, options)
    observers = {
        name: observer_from_name(options.observer, percentile=options.percentile) for name in placement.tensors
    }
    began = time.monotonic()
    ranges = ranges_from_frames(float_model, frames_NHW, observers, batch=options.batch, progress=progress)
    seconds = time.monotonic() - began
    logger.info("%d tensors calibrated with %d frames in %.1f s", len(ranges), len(frames_NHW), seconds)
    model = qdq_from_onnx(model_from_path(float_model), ranges, placement, activations=activations)
    used = tuple(origins) if origins is not None else origins_from_pixels(frames_NHW)
    percentile = options.percentile if options.observer == "percentile" else None
    report = CalibrationReport(
        method=Method(observer=options.observer, percentile=percentile, seed=options.seed),
        frames=used,
        frames_sha256=frames_sha256(used),
        ranges=ranges,
        placement=placement,
        seconds=round(seconds, 3),
        tools=tool_versions(),
    )
    return model, report


def _placement_from_path(path: Path, options: CalibrationOptions) -> Placement:
    """Only names leave this function, so the weights are freed before the frames run."""
    model = model_from_path(path)
    return placement_from_onnx(model, options.mode, include=options.include, exclude=options.exclude)
