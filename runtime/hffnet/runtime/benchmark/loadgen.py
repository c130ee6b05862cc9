"""A row again through MLPerf LoadGen, the load generator of the MLPerf Inference benchmark, which keeps its own log.

A sample is what one query of the row's scenario holds: a batch in ``single-stream``, a frame in ``multi-stream`` (8 per
query) and ``offline``. These are performance runs by its rules for one scenario, not MLPerf results.
"""

import json
from collections.abc import Callable
from importlib.metadata import version
from math import ceil
from pathlib import Path
from typing import Any

from hffnet.runtime.benchmark.percentiles import PERCENTS, Percentiles, samples_needed
from hffnet.runtime.benchmark.report import LoadGen
from hffnet.runtime.benchmark.scenarios import ScenarioName, ScenarioSettings, Work
from hffnet.runtime.errors import EngineError, MissingExtraError

LOADGEN_SCENARIOS: dict[ScenarioName, str] = {
    "single-stream": "SingleStream",
    "multi-stream": "MultiStream",
    "offline": "Offline",
}
_NUM_SAMPLES = 1024  # of the library LoadGen draws from: MLPerf's count for image classification
_MLLOG = ":::MLLOG "


def require_loadgen() -> None:
    """Raise before anything is measured.

    Raises:
        MissingExtraError: LoadGen is not installed.
    """
    try:
        import mlperf_loadgen as _  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "MLPerf LoadGen is not installed: pip install 'hffnet[loadgen]' (x86-64 wheels; elsewhere use the"
            " built-in scenarios, which agree with it)"
        ) from error


def through_loadgen(
    work: Work,
    scenario: ScenarioName,
    *,
    settings: ScenarioSettings,
    batch: int,
    seconds: float,
    expected_ms: float,
    folder: Path,
    between_queries: Callable[[], None] = lambda: None,
) -> LoadGen:
    """Measure one row. LoadGen allows one run at a time in a process.

    Args:
        work: what a query does.
        scenario: one of ``LOADGEN_SCENARIOS``.
        settings: of the scenario.
        batch: frames per sample in ``single-stream``.
        seconds: as many queries as are expected to take so long, and at least 64.
        expected_ms: latency of a query, from which LoadGen plans its run.
        folder: where LoadGen writes its logs; made where absent.
        between_queries: may wait. A query is issued, and its latency begins, when the last one's issue has returned, so
            this is in none; it is in the run's duration, hence ``offline``, one query by its rules, has no such place.

    Raises:
        MissingExtraError: LoadGen is not installed. EngineError: its log does not tell a result.
    """
    require_loadgen()
    import mlperf_loadgen

    folder.mkdir(parents=True, exist_ok=True)
    failures, turn = list[BaseException](), 0

    def issue(samples: list[Any]) -> None:
        nonlocal turn
        try:
            work(turn, batch if scenario == "single-stream" else len(samples))
        except BaseException as error:  # noqa: BLE001 - may not pass through C++; raised after the run
            failures.append(error)
        turn += 1
        answers = [mlperf_loadgen.QuerySampleResponse(sample.id, 0, 0) for sample in samples]
        mlperf_loadgen.QuerySamplesComplete(answers)
        try:
            between_queries()
        except BaseException as error:  # noqa: BLE001 - as above
            failures.append(error)

    sut = mlperf_loadgen.ConstructSUT(issue, lambda: None)
    library = mlperf_loadgen.ConstructQSL(_NUM_SAMPLES, _NUM_SAMPLES, lambda _: None, lambda _: None)
    try:
        mlperf_loadgen.StartTestWithLogSettings(
            sut, library, _test_settings(scenario, settings, seconds, expected_ms), _log_settings(folder), ""
        )
    finally:
        mlperf_loadgen.DestroyQSL(library)
        mlperf_loadgen.DestroySUT(sut)
    if failures:
        raise failures[0]
    return loadgen_from_log(folder)


def loadgen_from_log(folder: Path) -> LoadGen:
    """The result in ``mlperf_log_detail.txt``.

    Raises:
        EngineError: there is none.
    """
    path, found = folder / "mlperf_log_detail.txt", dict[str, Any]()
    try:
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(_MLLOG):
                entry = json.loads(line.removeprefix(_MLLOG))
                found[entry["key"]] = entry["value"]
        num = int(found["result_query_count"])
        p50, p90, p99, p999 = (
            found[f"result_{p:.2f}_percentile_latency_ns"] / 1e6 if num >= samples_needed(p) else None for p in PERCENTS
        )
        latency = Percentiles(
            num_samples=num,
            mean_ms=found["result_mean_latency_ns"] / 1e6,
            p50_ms=p50,
            p90_ms=p90,
            p99_ms=p99,
            p999_ms=p999,
            max_ms=found["result_max_latency_ns"] / 1e6,
            p50_interval_ms=None,
        )
        quickest_ms = found["result_min_latency_ns"] / 1e6
        rate = found.get("result_samples_per_second")
    except (OSError, ValueError, KeyError) as error:
        raise EngineError(f"{path} does not tell what MLPerf LoadGen measured: {error!r}") from error
    return LoadGen(
        version=version("mlcommons-loadgen"),
        validity=str(found.get("result_validity")),
        latency=latency,
        quickest_ms=quickest_ms,
        frames_per_s=None if rate is None else float(rate),
        log=str(folder),
    )


def _test_settings(scenario: ScenarioName, settings: ScenarioSettings, seconds: float, expected_ms: float) -> object:
    import mlperf_loadgen

    test = mlperf_loadgen.TestSettings()
    test.scenario = getattr(mlperf_loadgen.TestScenario, LOADGEN_SCENARIOS[scenario])
    test.mode = mlperf_loadgen.TestMode.PerformanceOnly
    if scenario == "offline":
        test.min_duration_ms, test.min_query_count = int(seconds * 1e3), 1
    else:  # by number and not by duration, in which pauses are
        test.min_duration_ms, test.min_query_count = 1, num_queries(seconds, expected_ms)
    expected_ns = max(int(expected_ms * 1e6), 1)
    test.single_stream_expected_latency_ns = expected_ns
    test.multi_stream_expected_latency_ns = expected_ns
    test.multi_stream_samples_per_query = settings.multi_stream_frames
    test.offline_expected_qps = 1e3 * settings.offline_frames / expected_ms
    return test


def num_queries(seconds: float, expected_ms: float) -> int:
    """Of a run.

    >>> num_queries(1.0, 100.0), num_queries(1.0, 2.0)
    (64, 500)
    """
    return max(samples_needed(90), ceil(seconds * 1e3 / expected_ms))


def _log_settings(folder: Path) -> object:
    import mlperf_loadgen

    output = mlperf_loadgen.LogOutputSettings()
    output.outdir = str(folder)
    output.copy_summary_to_stdout = False
    settings = mlperf_loadgen.LogSettings()
    settings.log_output = output
    settings.enable_trace = False
    return settings
