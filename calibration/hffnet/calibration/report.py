"""``calibration.json``: how an INT8 or FP16 graph came about, so that it can be judged and made again."""

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from hffnet.calibration.frames import FrameOrigin
from hffnet.calibration.gate import GateReport
from hffnet.calibration.half_gate import HalfReport
from hffnet.calibration.measured import Measured
from hffnet.calibration.model_input import Normalisation
from hffnet.calibration.observers import ObserverName
from hffnet.calibration.placement import Placement
from hffnet.calibration.quantize import ActivationType
from hffnet.runtime.manifest import Sha256

_TOOLS = ("hffnet", "numpy", "onnx", "onnxruntime")


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Method(_Strict):
    """How ranges were chosen; ``percentile`` where the observer is that one."""

    observer: ObserverName
    percentile: Annotated[float, Field(gt=0, le=100)] | None
    seed: int | None
    bias_correction: bool = False
    smoothing: bool = False
    weight_clipping: bool = False


class SmoothedNorm(_Strict):
    """A LayerNorm whose outliers moved into the weights; ``gain`` is the expected squared error before over after."""

    tensor: str
    alpha: Annotated[float, Field(ge=0, le=1)]
    gain: Annotated[float, Field(gt=0)]


class Seen(_Strict):
    """What a range was read from.

    Attributes:
        num_frames: that the largest value is of; outputs which only CPU engines want are not looked at in all.
        counted_share: of those frames' values, as counted for the histogram; large tensors and sets are thinned.
    """

    num_frames: Annotated[int, Field(ge=1)]
    counted_share: Annotated[float, Field(ge=0, le=1)]


class MethodRow(_Strict):
    """The int8 graph against the float graph on the same held-out frames, with one method changed.

    Attributes:
        method: ``all``, or what is left out: ``no bias correction``, ``no smoothing``, ``no weight clipping``.
        logit_db: signal-to-noise ratio of the logits (see ``fidelity.Cost``), decibels.
        divergence: see ``fidelity.Cost``.
        num_flips: frames on which the largest logit of any level is another one.
    """

    method: str
    num_frames: Annotated[int, Field(ge=1)]
    logit_db: Annotated[float, Field(allow_inf_nan=False)]
    divergence: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    num_flips: Annotated[int, Field(ge=0)]


class FramesReport(_Strict):
    """The document where nothing is quantized.

    Attributes:
        frames: the frames used, in the order they ran.
        frames_sha256: identity of the set, whatever the order.
        fp16: how the half-precision graph came about; None where there is none.
        tools: versions.
    """

    schema_version: Literal[1] = 1
    frames: tuple[FrameOrigin, ...]
    frames_sha256: Sha256
    fp16: HalfReport | None = None
    tools: dict[str, str]


class CalibrationReport(FramesReport):
    """The document where there is an int8 graph.

    Attributes:
        method: how ranges were chosen.
        float_sha256: of the float graph's file.
        activations: ``uint8``: the range of a tensor that is never negative becomes 255; else it becomes 127.
        ranges: magnitude that becomes the largest integer, by tensor name.
        ranges_tensorrt: of the TensorRT graph, where all are int8; None where there is none beside the CPU's.
        seen: what ``ranges`` were read from.
        methods: what each method brought, measured; empty where there were no held-out frames.
        placement: what is quantized, and why the other weighted nodes are not.
        num_corrected: products whose bias was corrected.
        smoothed: LayerNorms that gained by smoothing.
        seconds: wall clock of the passes over the frames.
        int8_sha256: of the int8 ONNX file that was written beside this document; in a bundle the manifest tells it.
        normalisation: how frames became the input of a float graph that takes float32.
        measured: what int8 changed on held-out frames, by ``hffnet calibrate``; None where nothing was measured.
        gate: how the placement was decided, for CPU engines; None where nothing was measured.
        gate_tensorrt: the same for the TensorRT graph, whose placement may be smaller.
    """

    method: Method
    float_sha256: Sha256 | None = None
    activations: ActivationType | None = None
    ranges: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]]
    ranges_tensorrt: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] | None = None
    seen: dict[str, Seen] = {}
    methods: tuple[MethodRow, ...] = ()
    placement: Placement
    num_corrected: Annotated[int, Field(ge=0)] = 0
    smoothed: tuple[SmoothedNorm, ...] = ()
    seconds: Annotated[float, Field(ge=0)]
    int8_sha256: Sha256 | None = None
    normalisation: Normalisation | None = None
    measured: Measured | None = None
    gate: GateReport | None = None
    gate_tensorrt: GateReport | None = None


def tool_versions() -> dict[str, str]:
    """Versions of everything that had a say in the numbers."""
    found = {}
    for name in _TOOLS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a checkout, nothing installed
            found[name] = "not installed"
    return found
