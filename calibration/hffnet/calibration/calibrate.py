"""From a float ONNX file and labelled frames to an int8 file, its report and pages, written together or not at all."""

import hashlib
import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hffnet.calibration.contributions import measured_with_methods
from hffnet.calibration.frames import (
    CalibrationFrames,
    check_magnification,
    choose_frames,
    imaging_from_file,
    load_frames,
    pixel_sizes_of,
    warn_of_unknown_sizes,
)
from hffnet.calibration.graph import model_from_path, self_contained
from hffnet.calibration.html_report import html_from_calibration
from hffnet.calibration.int8 import Calibration, CalibrationOptions, calibration_from_frames
from hffnet.calibration.measured import MOST_MEASURED
from hffnet.calibration.model_input import input_from_onnx
from hffnet.calibration.observers import NUM_LEVELS
from hffnet.calibration.progress import Watch
from hffnet.calibration.quantize import ActivationType
from hffnet.calibration.report import CalibrationReport
from hffnet.calibration.tensorrt_cache import cache_from_ranges
from hffnet.runtime.dataset import Dataset, open_dataset
from hffnet.runtime.durable import whole_file, working_folder
from hffnet.runtime.errors import ConfigError
from hffnet.runtime.preprocess import PreprocessSpec

_FOLDER = ".hffnet-calibrate-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """Files to write; ``page`` and ``cache`` where asked for."""

    graph: Path
    page: Path | None = None
    cache: Path | None = None

    @property
    def report(self) -> Path:
        """``calibration.json`` beside the graph."""
        return self.graph.with_suffix(".calibration.json")

    @property
    def seen(self) -> Path:
        """What an interrupted command with the same arguments goes on from."""
        return self.graph.with_suffix(".calibration.part.npz")

    def check(self, model: Path) -> None:
        """Refuse output paths before minutes of work are spent on what cannot be written.

        Raises:
            ConfigError: no such folder, one that cannot be written to, a folder in the way, or a name used twice.
        """
        if not self.graph.name:
            raise ConfigError(f"the output {self.graph} is a folder; name a file")
        paths = [path for path in (self.graph, self.page, self.cache, self.report) if path is not None]
        for path in paths:
            if path.is_dir():
                raise ConfigError(f"the output {path} is a folder; name a file")
            if not path.parent.is_dir():
                raise ConfigError(f"the folder {path.parent} of the output {path.name} does not exist; create it first")
            if not os.access(path.parent, os.W_OK | os.X_OK):
                raise ConfigError(f"the folder {path.parent} of the output {path.name} cannot be written to")
            if path.resolve() == model.resolve():
                raise ConfigError(f"{path} is the float model itself; name another file")
            if [other.resolve() for other in paths].count(path.resolve()) > 1:
                raise ConfigError(f"two outputs are to be written to {path}; name different files")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What ``hffnet calibrate`` was asked for.

    Attributes:
        low, high: quantiles of ``PreprocessSpec``.
        trained_um: micrometres per pixel the network was trained at; None takes those of the held-out frames.
    """

    model: Path
    data: Path
    num_frames: int
    low: float
    high: float
    trained_um: tuple[float, float] | None
    activations: ActivationType
    options: CalibrationOptions


@dataclass(frozen=True, slots=True)
class Written:
    """What was written, and the size of the float model with all its weights."""

    report: CalibrationReport
    float_bytes: int


def int8_file_from_onnx(task: Task, outputs: Outputs, watch: Watch) -> Written:
    """Calibrate, quantize, measure on held-out frames where there are some, and write.

    Raises:
        ConfigError, DatasetError, FrameError, GraphError: as the steps name them. Nothing is written then.
    """
    outputs.check(task.model)
    with working_folder(outputs.graph.parent, _FOLDER) as folder:
        model = self_contained(task.model, folder)
        spec = _preprocessing(task, model)
        dataset = open_dataset(task.data)
        frames = _calibration_frames(task, dataset, spec, folder, watch)
        held_out = _held_out_frames(dataset, spec, folder, watch)
        calibration = calibration_from_frames(
            model,
            frames.pixels,
            options=task.options,
            origins=frames.origins,
            activations=task.activations,
            watch=watch,
            keep=outputs.seen,
            work=folder,
        )
        quantized = calibration.quantized().SerializeToString()
        report = calibration.report().model_copy(update={"int8_sha256": hashlib.sha256(quantized).hexdigest()})
        if held_out is not None:
            measured, methods = measured_with_methods(
                calibration, quantized, held_out.pixels, dataset.taxonomy, watch=watch
            )
            report = report.model_copy(update={"measured": measured, "methods": methods})
        _write(outputs, quantized, calibration, report)
        float_bytes = model.stat().st_size
    outputs.seen.unlink(missing_ok=True)
    return Written(report, float_bytes)


def _preprocessing(task: Task, model: Path) -> PreprocessSpec:
    entry = input_from_onnx(model_from_path(model))
    entry.check(task.options.normalisation)
    assert entry.size is not None, "input_from_onnx refuses open sides"
    return PreprocessSpec(size=entry.size, low=task.low, high=task.high)


def _calibration_frames(
    task: Task, dataset: Dataset, spec: PreprocessSpec, folder: Path, watch: Watch
) -> CalibrationFrames:
    chosen = choose_frames(dataset, task.num_frames, seed=task.options.seed or 0, imaging=imaging_from_file)
    progress = watch(f"reading {len(chosen)} train frames", len(chosen))
    frames = load_frames(chosen, dataset, spec, progress=progress, folder=folder)
    if task.trained_um is not None:
        warn_of_unknown_sizes(frames.pixel_sizes_um)
        check_magnification(frames.pixel_sizes_um, task.trained_um, "the network was trained at")
    else:
        held_out = (*dataset.frames_of("val"), *dataset.frames_of("test"))
        check_magnification(frames.pixel_sizes_um, pixel_sizes_of(held_out), "the val and test frames have")
    return frames


def _held_out_frames(dataset: Dataset, spec: PreprocessSpec, folder: Path, watch: Watch) -> CalibrationFrames | None:
    """Some of the val and test frames, spread evenly: they come ordered by class."""
    frames = (*dataset.frames_of("val"), *dataset.frames_of("test"))
    if not frames:
        return None
    places = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), MOST_MEASURED)).round().astype(int))
    progress = watch(f"reading {len(places)} held-out frames", len(places))
    some = [frames[k] for k in places]
    return load_frames(some, dataset, spec, progress=progress, what="held-out", folder=folder)


def _write(outputs: Outputs, quantized: bytes, calibration: Calibration, report: CalibrationReport) -> None:
    """Everything is made before anything is renamed, and the graph comes last: what it stands beside is its own."""
    contents = [(outputs.graph, quantized), (outputs.report, report.model_dump_json(indent=1).encode())]
    if outputs.page:
        contents.append((outputs.page, html_from_calibration(calibration, report).encode()))
    if outputs.cache:
        # TensorRT's own rounding is int8 whatever the graph's is.
        ranges = {name: o.range(NUM_LEVELS) for name, o in calibration.observers.items()}
        contents.append((outputs.cache, cache_from_ranges(ranges).encode()))
    path = outputs.graph
    try:
        with ExitStack() as stack:
            for path, content in contents:
                stack.enter_context(whole_file(path)).write_bytes(content)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}; the int8 file was not written") from error
