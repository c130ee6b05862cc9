"""``calibration.json``: how an INT8 graph came about, so that it can be judged and made again."""

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from hffnet.calibration.frames import FrameOrigin
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


class CalibrationReport(_Strict):
    """The document.

    Attributes:
        frames: the frames used, in the order they ran.
        frames_sha256: identity of the set, whatever the order.
        ranges: magnitude that becomes the largest integer, by tensor name.
        placement: what is quantized, and why the other weighted nodes are not.
        seconds: wall clock of the pass over the frames.
        tools: versions.
    """

    schema_version: Literal[1] = 1
    method: Method
    frames: tuple[FrameOrigin, ...]
    frames_sha256: Sha256
    ranges: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]]
    placement: Placement
    seconds: Annotated[float, Field(ge=0)]
    tools: dict[str, str]


def tool_versions() -> dict[str, str]:
    """Versions of everything that had a say in the numbers."""
    found = {}
    for name in _TOOLS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a checkout, nothing installed
            found[name] = "not installed"
    return found
