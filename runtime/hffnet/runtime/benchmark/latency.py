"""Latency of every engine and precision on this machine, interleaved in one run, batch 1.

Rows take turns frame by frame, so that a slow minute of a shared machine slows all of them alike. Percentiles are
printed only from enough samples: 64 for p90 and 662 for p99 (MLPerf Inference rules, early stopping).
"""

import logging
import os
import platform
from collections import defaultdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

import numpy as np
from pydantic import BaseModel, ConfigDict
from rich.table import Table

from hffnet.runtime.bundle import Bundle, open_bundle
from hffnet.runtime.classifier import Classifier
from hffnet.runtime.engines import EngineName, OpenEngine, open_engine
from hffnet.runtime.errors import ConfigError, EngineError, HffnetError, MissingExtraError
from hffnet.runtime.manifest import Precision

WARM_UP = 3
_LEAST_SAMPLES = {50: 1, 90: 64, 99: 662}
_log = logging.getLogger(__name__)


class Percentiles(BaseModel):
    """Milliseconds; None where there are too few samples for the claim."""

    model_config = ConfigDict(frozen=True)

    num_samples: int
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    max_ms: float


class Row(BaseModel):
    """One engine and precision; ``refused`` says why nothing was measured."""

    model_config = ConfigDict(frozen=True)

    engine: EngineName
    precision: Precision
    refused: str | None = None
    engine_version: str | None = None
    arithmetic: str | None = None
    open_ms: float | None = None
    self_test_error: float | None = None
    infer: Percentiles | None = None
    stages: dict[str, Percentiles] = {}


class Report(BaseModel):
    """One run."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = 1
    command: str = "benchmark"
    bundle: str
    bundle_sha256: str
    frames: str
    started_utc: str
    machine: dict[str, str]
    rows: tuple[Row, ...]


def percentiles_from_samples(samples_ms: list[float]) -> Percentiles:
    """Percentiles of at least one sample, each only where the samples suffice.

    >>> percentiles_from_samples([1.0, 2.0, 4.0]).p50_ms, percentiles_from_samples([1.0]).p90_ms
    (2.0, None)
    """
    values = np.asarray(samples_ms)
    claims = {
        f"p{q}_ms": float(np.percentile(values, q)) if len(values) >= least else None
        for q, least in _LEAST_SAMPLES.items()
    }
    return Percentiles(num_samples=len(values), max_ms=float(values.max()), **claims)


def benchmark_bundle(
    path: Path,
    *,
    engines: tuple[EngineName, ...] | None = None,
    precisions: tuple[Precision, ...] | None = None,
    frames: Path | None = None,
    seconds: float = 5.0,
    threads: int | None = None,
) -> Report:
    """Measure a bundle.

    Args:
        path: the bundle.
        engines: which; all of this machine if None.
        precisions: which; all CPU graphs of the bundle if None.
        frames: folder of image files, taken through every stage; without it only the engine is timed, on the test
            vectors.
        seconds: measuring time per row.
        threads: of each engine.

    Raises:
        ConfigError: ``frames`` holds no file. BundleError: the bundle is not sound.
        EngineError: no row could be measured.
    """
    bundle = open_bundle(path)
    files = _files(frames) if frames else []
    held = tuple(graph.precision for graph in bundle.manifest.graphs if graph.family == "cpu")
    opened, rows = dict[tuple[EngineName, Precision], OpenEngine](), list[Row]()
    for precision in precisions or held:
        for engine in engines or ("openvino", "onnxruntime"):
            row, ready = _opened_row(bundle, engine, precision, threads)
            rows.append(row)
            if ready:
                opened[engine, precision] = ready
    if not opened:
        raise EngineError("no engine could be measured: " + "; ".join(f"{r.engine}: {r.refused}" for r in rows))
    measured = _measure_stages(bundle, opened, files, seconds) if files else _measure(bundle, opened, seconds)
    for ready in opened.values():
        ready.close()
    return Report(
        bundle=str(path),
        bundle_sha256=bundle.sha256,
        frames=f"{len(files)} files of {frames}" if files else "test vectors",
        started_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=_machine(),
        rows=tuple(row.model_copy(update=measured.get((row.engine, row.precision), {})) for row in rows),
    )


def _files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
    if not files:
        raise ConfigError(f"--frames {folder} holds no file; name a folder of image files")
    return files


def _opened_row(
    bundle: Bundle, engine: EngineName, precision: Precision, threads: int | None
) -> tuple[Row, OpenEngine | None]:
    start = perf_counter()
    try:
        ready = open_engine(bundle, engine=engine, precision=precision, threads=threads)
    except (EngineError, MissingExtraError) as error:
        return Row(engine=engine, precision=precision, refused=str(error)), None
    identity = ready.identity
    row = Row(
        engine=engine,
        precision=precision,
        engine_version=identity.version,
        arithmetic=identity.arithmetic,
        open_ms=(perf_counter() - start) * 1e3,
        self_test_error=identity.self_test.error,
    )
    return row, ready


def _measure(
    bundle: Bundle, opened: dict[tuple[EngineName, Precision], OpenEngine], seconds: float
) -> dict[tuple[EngineName, Precision], dict[str, object]]:
    frames_NHW, _ = bundle.vectors()
    samples = defaultdict[tuple[EngineName, Precision], list[float]](list)
    for ready in opened.values():
        for _ in range(WARM_UP):
            ready.infer(frames_NHW[:1])
    end, turn = perf_counter() + seconds * len(opened), 0
    while turn == 0 or perf_counter() < end:
        frame_NHW = frames_NHW[turn % len(frames_NHW)][None]
        for key, ready in opened.items():
            start = perf_counter()
            ready.infer(frame_NHW)
            samples[key].append((perf_counter() - start) * 1e3)
        turn += 1
    return {key: {"infer": percentiles_from_samples(values)} for key, values in samples.items()}


def _measure_stages(
    bundle: Bundle, opened: dict[tuple[EngineName, Precision], OpenEngine], files: list[Path], seconds: float
) -> dict[tuple[EngineName, Precision], dict[str, object]]:
    classifiers = {key: Classifier(bundle, ready) for key, ready in opened.items()}
    samples: dict[tuple[EngineName, Precision], dict[str, list[float]]] = {
        key: defaultdict(list) for key in classifiers
    }
    end, turn = perf_counter() + seconds * len(opened), -WARM_UP
    while turn < 1 or perf_counter() < end:
        for key, classifier in classifiers.items():
            try:
                timings_ms = classifier.classify(files[turn % len(files)]).timings_ms
            except HffnetError as error:
                _log.warning("not timed: %s", error)
                continue
            if turn >= 0:
                for stage, ms in timings_ms.items():
                    samples[key][stage].append(ms)
        turn += 1
    stages = {key: {s: percentiles_from_samples(v) for s, v in by_stage.items()} for key, by_stage in samples.items()}
    return {key: {"stages": found, "infer": found.get("infer")} for key, found in stages.items()}


def _machine() -> dict[str, str]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return {
        "cpu": model,
        "cores": str(os.cpu_count()),
        "system": platform.platform(),
        "python": platform.python_version(),
        "hffnet": version("hffnet"),
        "load_average": " ".join(f"{load:.2f}" for load in os.getloadavg()),
    }


def tables_from_report(report: Report) -> list[Table]:
    """A table of rows, and one of stages where files were timed. A dash: too few samples for the claim."""
    rows = Table("engine", "precision", "arithmetic", "open ms", "n", "p50 ms", "p90 ms", "p99 ms", "max ms", "note",
                 title=f"{report.bundle}: batch 1, {report.frames}, {report.machine['cpu']}")  # fmt: skip
    stages = Table("engine", "precision", "stage", "n", "p50 ms", "p90 ms", "p99 ms", title="stages")
    for row in report.rows:
        times = _cells(row.infer)
        rows.add_row(row.engine, row.precision, row.arithmetic or "-", _ms(row.open_ms), *times, row.refused or "")
        for stage, found in row.stages.items():
            stages.add_row(row.engine, row.precision, stage, *_cells(found)[:4])
    return [rows, stages] if stages.row_count else [rows]


def _cells(found: Percentiles | None) -> list[str]:
    if found is None:
        return ["-"] * 5
    times = (found.p50_ms, found.p90_ms, found.p99_ms, found.max_ms)
    return [str(found.num_samples), *(_ms(value) for value in times)]


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
