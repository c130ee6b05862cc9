"""The calibration as one HTML page that needs nothing else: ranges, noise per layer, gate, flips, frames.

Pictures are inline SVG, drawn by the template from numbers prepared here; every text is escaped.
"""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import cv2
import numpy as np
import numpy.typing as npt
from jinja2 import Environment, StrictUndefined
from onnx import numpy_helper

from hffnet.calibration.gate import GateReport
from hffnet.calibration.graph import GraphIndex, model_from_path, nonnegative_tensors
from hffnet.calibration.int8 import Calibration
from hffnet.calibration.observers import (
    NUM_LEVELS,
    NUM_UNSIGNED_LEVELS,
    Histogram,
    errors_of_ranges,
)
from hffnet.calibration.pareto_plot import curve_from_gate
from hffnet.calibration.report import CalibrationReport, Seen
from hffnet.calibration.smoothing import smoothed_from_onnx
from hffnet.calibration.weights import rounding_errors, scales_from_weight
from hffnet.runtime.taxonomy import ClassPath

_NUM_BARS = 64
_THUMBNAIL = 112
_MAX_FLIPS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """A held-out frame whose decision int8 changes.

    Attributes:
        name: of the frame; pixels: (H, W) uint8.
        truth, before, after: paths: the label, the float graph's, the int8 graph's.
    """

    name: str
    pixels: npt.NDArray[np.uint8]
    truth: ClassPath
    before: ClassPath
    after: ClassPath


@dataclass(frozen=True, slots=True, kw_only=True)
class _TensorRow:
    name: str
    limit: float
    seen: Seen | None
    amax: float | None
    clipped: float | None
    sqnr: str
    bars: list[float]
    mark: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _WeightRow:
    node: str
    shape: str
    sqnr: str
    corrected: bool


def html_from_calibration(
    calibration: Calibration, report: CalibrationReport, flips: Sequence[Flip] = (), flips_tensorrt: Sequence[Flip] = ()
) -> str:
    """The page.

    Args:
        calibration: what the frames told.
        report: of the placement that was taken, with the gate's findings where there was a gate.
        flips: held-out frames whose decision the CPU graph changed; at most 60 are shown.
        flips_tensorrt: the same of the TensorRT graph.
    """
    template = _environment().from_string(files(__package__).joinpath("report.html.jinja").read_text("utf-8"))
    gates = [("CPU engines", report.gate, flips), ("TensorRT", report.gate_tensorrt, flips_tensorrt)]
    return template.render(
        report=report,
        gates=[(name, gate, curve_from_gate(gate), _bars(gate)) for name, gate, _ in gates if gate is not None],
        tensors=_tensor_rows(calibration, report),
        weights=_weight_rows(calibration, report),
        changed=[
            (name, len(found), [(flip, _data_url(flip.pixels)) for flip in found[:_MAX_FLIPS]])
            for name, gate, found in gates
            if gate is not None or found
        ],
    )


def _environment() -> Environment:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["path"] = " / ".join
    return environment


def _tensor_rows(calibration: Calibration, report: CalibrationReport) -> list[_TensorRow]:
    unsigned = nonnegative_tensors(GraphIndex(model_from_path(calibration.float_model)))
    rows = []
    for name, limit in report.ranges.items():
        histogram, seen = calibration.histogram(name), report.seen.get(name)
        if histogram is None or not histogram.limit:
            row = _TensorRow(
                name=name, limit=limit, seen=seen, amax=None, clipped=None, sqnr="not known", bars=[], mark=1.0
            )
        else:
            wide = name in unsigned and calibration.activations == "uint8"
            row = _tensor_row(name, limit, seen, histogram, NUM_UNSIGNED_LEVELS if wide else NUM_LEVELS)
        rows.append(row)
    return rows


def _tensor_row(name: str, limit: float, seen: Seen | None, histogram: Histogram, num_levels: int) -> _TensorRow:
    middles = (histogram.edges[:-1] + histogram.edges[1:]) / 2
    counts = histogram.counts.astype(np.float64)
    power = float(counts @ middles**2)
    noise = float(errors_of_ranges(histogram, np.array([limit]), num_levels)[0])
    # Up to amax, which lies in the upper half of the histogram; on a log scale, or only the first bar would show.
    used = max(math.ceil(histogram.amax / histogram.limit * len(counts)), 1)
    merged = np.array([part.sum() for part in np.array_split(counts[:used], _NUM_BARS)])
    heights = np.log1p(merged) / max(float(np.log1p(merged).max()), 1.0)
    return _TensorRow(
        name=name,
        limit=limit,
        seen=seen,
        amax=histogram.amax,
        clipped=float(counts[middles > limit].sum() / max(counts.sum(), 1)),
        sqnr=_decibel(power, noise),
        bars=[round(float(height), 3) for height in heights],
        mark=min(limit / histogram.amax, 1.0),
    )


def _weight_rows(calibration: Calibration, report: CalibrationReport) -> list[_WeightRow]:
    model = smoothed_from_onnx(model_from_path(calibration.float_model), calibration.smoothing)
    constants = GraphIndex(model).constants
    rows = []
    for point in report.placement.weighted:
        weight = numpy_helper.to_array(constants[point.weight]).astype(np.float32)
        scales = calibration.weight_scales.get((point.weight, point.weight_axis))
        if scales is None:
            scales = scales_from_weight(weight, point.weight_axis)
        lost = rounding_errors(weight, scales, point.weight_axis)
        rows.append(
            _WeightRow(
                node=point.node,
                shape=" × ".join(map(str, weight.shape)),
                sqnr=_decibel(float(np.sum(weight**2)), float(np.sum(lost**2))),
                corrected=point.output in calibration.shifts,
            )
        )
    return rows


def _decibel(power: float, noise: float) -> str:
    if not power:
        return "zeros"
    return f"{10 * math.log10(power / noise):.1f}" if noise else "exact"


def _bars(gate: GateReport) -> list[tuple[str, float, float]]:
    """Name, error of the logits, and width 0..1 of each group on a log scale over three decades."""
    worst = max((cost.cost.logit_error for cost in gate.sensitivity), default=0.0)
    found = []
    for entry in gate.sensitivity:
        value = entry.cost.logit_error
        width = max(0.01, 1 + math.log10(value / worst) / 3) if value > 0 and worst > 0 else 0.0
        found.append((entry.name, value, width))
    return found


def _data_url(pixels: npt.NDArray[np.uint8]) -> str:
    small = cv2.resize(pixels, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode(".png", small)
    return "data:image/png;base64," + base64.b64encode(encoded.tobytes()).decode()
