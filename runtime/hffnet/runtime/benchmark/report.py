"""The benchmark's document: what was asked, on which machine, every sample, and whether it may be believed."""

import base64
import binascii
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from hffnet.runtime.benchmark.percentiles import Percentiles
from hffnet.runtime.benchmark.scenarios import ScenarioName
from hffnet.runtime.durable import whole_file
from hffnet.runtime.engines import EngineName
from hffnet.runtime.errors import ConfigError
from hffnet.runtime.manifest import Metrics, Precision, Sha256

SCHEMA_VERSION = 1
_MAX_VALUES = 50_000_000
Positive = Annotated[float, Field(gt=0.0)]
NotNegative = Annotated[float, Field(ge=0.0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Column(_Strict):
    """Numbers of one kind, in order: base64 of zlib of little-endian float32."""

    num: Annotated[int, Field(ge=0, le=_MAX_VALUES)]
    zlib_float32: str

    @classmethod
    def of(cls, values: Sequence[float]) -> "Column":
        """Pack numbers.

        >>> Column.of([1.0, 2.5]).values().tolist()
        [1.0, 2.5]
        """
        packed = zlib.compress(np.asarray(values, dtype="<f4").tobytes(), level=9)
        return cls(num=len(values), zlib_float32=base64.b64encode(packed).decode())

    def values(self) -> npt.NDArray[np.float32]:
        """Unpack them."""
        return np.frombuffer(_inflated(self.zlib_float32, 4 * self.num), dtype="<f4")

    @field_validator("zlib_float32")
    @classmethod
    def _is_base64(cls, text: str) -> str:
        try:
            base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise ValueError(f"a column is not base64: {error}") from error
        return text


def _inflated(text: str, num_bytes: int) -> bytes:
    """At most the bytes that were promised: a small text can inflate to any size."""
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(base64.b64decode(text), num_bytes + 1)
    except zlib.error as error:
        raise ConfigError(f"a column of samples is damaged: {error}; take the benchmark again") from error
    if len(content) != num_bytes:
        raise ConfigError(f"a column of samples does not hold the {num_bytes} bytes it promises; it was changed")
    return content


class Samples(_Strict):
    """Raw samples of a row: when each query ended (s), how long it took (ms), which turn of the row it belongs to."""

    at_s: Column
    latency_ms: Column
    block: Column


class Footprint(_Strict):
    """One engine in a fresh process.

    Attributes:
        import_ms: loading the libraries.
        open_ms: opening (and where needed building) the engine, with its self-test.
        first_ms: the first query afterwards.
        peak_rss_mb: most memory the process ever had resident, in 10⁶ bytes.
        engine_rss_mb: of that, what came after the libraries and the bundle were loaded.
        gpu_mb: GPU memory of the process after the first query, in 10⁶ bytes; None where no GPU tells.
    """

    import_ms: NotNegative
    open_ms: NotNegative
    first_ms: NotNegative
    peak_rss_mb: NotNegative
    engine_rss_mb: float
    gpu_mb: NotNegative | None = None


class Accuracy(_Strict):
    """What the very engine that was timed answers for labelled frames.

    Attributes:
        num_refused: labelled frames that could not be read or that a gate refused; they are in no score.
        num_flips: frames decided otherwise than by the fp32 row; None where no fp32 row ran.
    """

    metrics: Metrics
    num_refused: Annotated[int, Field(ge=0)]
    num_flips: Annotated[int, Field(ge=0)] | None


class Roofline(_Strict):
    """The least time one batch could take here: the larger of moving the weights and doing the arithmetic.

    Attributes:
        weights_mb: stored weights in 10⁶ bytes, each read once per batch.
        bandwidth_gb_s: memory bandwidth, measured.
        gmacs: multiply-accumulates of one batch in 10⁹, counted in the graph.
        peak_gmac_s: of this engine in this precision with these threads, measured on large matrix products.
        floor_ms: the bound.
        times_floor: median latency divided by it.
    """

    weights_mb: Positive
    bandwidth_gb_s: Positive
    gmacs: Positive
    peak_gmac_s: Positive
    memory_ms: Positive
    compute_ms: Positive
    floor_ms: Positive
    times_floor: Positive | None


class Layer(_Strict):
    """Time of one kind of operation inside the engine, per frame, by the engine's own profiler."""

    kind: str
    num: Annotated[int, Field(ge=1)]
    ms: NotNegative


class LoadGen(_Strict):
    """The same row under MLPerf LoadGen, in turns with the others.

    Attributes:
        validity: LoadGen's own word; it asks for more samples than a short run has.
        latency: of queries; ``quickest_ms`` the shortest.
        frames_per_s: in ``offline``.
        log: folder of its logs.
        built_in_p50_ms: of this row's own queries in the same stretch of the run; None where they were too few.
    """

    version: str
    validity: str
    latency: Percentiles
    quickest_ms: NotNegative
    frames_per_s: Positive | None
    log: str
    built_in_p50_ms: NotNegative | None = None


class Row(_Strict):
    """One engine, precision, batch and number of threads under one scenario."""

    scenario: ScenarioName
    engine: EngineName
    precision: Precision
    batch: Annotated[int, Field(ge=1)]
    threads: Annotated[int, Field(ge=1)] | None
    status: Literal["ok", "refused", "skipped"]
    reason: str | None = None
    engine_version: str | None = None
    device: str | None = None
    arithmetic: str | None = None
    self_test_error: float | None = None
    graph_mb: Positive | None = None
    latency: Percentiles | None = None
    frames_per_s: Positive | None = None
    joules_per_frame: NotNegative | None = None
    is_overloaded: bool = False
    stages: dict[str, Percentiles] = {}
    accuracy: Accuracy | None = None
    footprint: Footprint | None = None
    roofline: Roofline | None = None
    layers: tuple[Layer, ...] = ()
    loadgen: LoadGen | None = None
    samples: Samples | None = None

    @property
    def label(self) -> str:
        """For people; unique within a report."""
        threads = "" if self.threads is None else f" t{self.threads}"
        return f"{self.scenario} {self.engine} {self.precision} b{self.batch}{threads}"


class Conditions(_Strict):
    """The machine while it was measured: one value per sample in each column, NaN where it could not be read.

    Attributes:
        own_share: of all CPU time, what this process used; ``other_share``: others; ``steal_share``: the hypervisor.
        mhz: mean clock of the CPUs.
        celsius: hottest thermal zone.
        num_throttles: throttle events of all CPUs since boot.
        gpu_mhz: clock of the GPU's multiprocessors; ``gpu_celsius`` its temperature; ``gpu_held_back`` 1 while heat or
            a power limit lowered its clocks. None where no GPU tells.
        cannot_read: what this machine does not show.
    """

    at_s: Column
    own_share: Column
    other_share: Column
    steal_share: Column
    mhz: Column
    celsius: Column
    num_throttles: Column
    gpu_mhz: Column | None = None
    gpu_celsius: Column | None = None
    gpu_held_back: Column | None = None
    cannot_read: tuple[str, ...]


class Report(_Strict):
    """One run of ``hffnet benchmark``.

    Attributes:
        partial: why the run ended before everything was measured.
        invalid_because: empty where the run may be believed.
    """

    schema_version: Literal[1] = 1
    command: Literal["benchmark"] = "benchmark"
    bundle: str
    bundle_sha256: Sha256
    model: str
    frames: str
    data: str | None
    started_utc: str
    seconds_per_row: Positive
    settings: dict[str, float]
    machine: dict[str, str]
    clock_tick_us: NotNegative
    conditions: Conditions | None
    is_valid: bool
    invalid_because: tuple[str, ...]
    partial: str | None
    rows: tuple[Row, ...]


def read_report(path: Path) -> Report:
    """Read a report that ``hffnet benchmark --save`` or ``--json`` wrote.

    Raises:
        ConfigError: absent, or not such a report.
    """
    try:
        return Report.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; name a file of hffnet benchmark --save") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"]) or "the document"
        raise ConfigError(
            f"{path} is not a benchmark report of schema {SCHEMA_VERSION}: at {place}: {first['msg']};"
            " write one with hffnet benchmark --save"
        ) from error


def write_report(report: Report, path: Path) -> None:
    """Write a report, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")
