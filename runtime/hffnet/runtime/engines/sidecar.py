"""What is known of one built engine: a JSON document beside it, strict, written by the build itself."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from hffnet.runtime.engines.flavour import FlavourName
from hffnet.runtime.manifest import Precision, Sha256

Count = Annotated[int, Field(ge=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class TensorSpec(_Strict):
    """One input or output as the engine has it; -1 in a shape is the batch of a profile."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class Audit(_Strict):
    """What the strongly typed network computes in, counted before the build: types are the network's, not a flag's.

    Attributes:
        convolutions, products: number of weighted layers by the type of their input, ``int8`` where it comes from a
            DequantizeLinear.
        layers: number of layers by the type of their output.
    """

    precision: Precision
    convolutions: dict[str, Count]
    products: dict[str, Count]
    layers: dict[str, Count]


class Sidecar(_Strict):
    """``<engine>.json``.

    Attributes:
        architectures: GPUs the engine was built for, e.g. ``("sm86", "sm89")``.
        gpu: the GPU it was built on; None for a build ahead of time.
        batch: smallest, best and largest number of frames.
        build_seconds: in the builder proper; total_seconds: with parsing and start of the process.
        peak_rss_bytes: largest resident memory of the build process.
    """

    schema_version: Literal[1] = 1
    onnx_sha256: Sha256
    engine_sha256: Sha256
    engine_bytes: Count
    library: FlavourName
    library_version: str
    platform: str
    architectures: tuple[str, ...]
    gpu: str | None
    batch: tuple[int, int, int]
    workspace_bytes: Count
    audit: Audit
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    build_seconds: Annotated[float, Field(ge=0)]
    total_seconds: Annotated[float, Field(ge=0)]
    peak_rss_bytes: Count
    created_utc: str
