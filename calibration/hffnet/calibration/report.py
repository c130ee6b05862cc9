"""``calibration.json``: how an INT8 or FP16 graph came about, so that it can be judged and made again."""

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from hffnet.calibration.frames import FrameOrigin
from hffnet.calibration.gate import GateReport
from hffnet.calibration.half_gate import HalfReport
from hffnet.calibration.observers import ObserverName
from hffnet.calibration.placement import Placement
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
        ranges: magnitude that becomes the largest integer, by tensor name.
        placement: what is quantized, and why the other weighted nodes are not.
        num_corrected: products whose bias was corrected.
        smoothed: LayerNorms that gained by smoothing.
        seconds: wall clock of the passes over the frames.
        gate: how the placement was decided, for CPU engines; None where nothing was measured.
        gate_tensorrt: the same for the TensorRT graph, whose placement may be smaller.
    """

    method: Method
    ranges: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]]
    placement: Placement
    num_corrected: Annotated[int, Field(ge=0)] = 0
    smoothed: tuple[SmoothedNorm, ...] = ()
    seconds: Annotated[float, Field(ge=0)]
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
