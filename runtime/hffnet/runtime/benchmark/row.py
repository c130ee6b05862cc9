"""One row of the report from what was measured of it."""

import numpy as np

from hffnet.runtime.benchmark.interleave import Measured
from hffnet.runtime.benchmark.matrix import Absence, RowKey
from hffnet.runtime.benchmark.percentiles import percentiles_from_samples
from hffnet.runtime.benchmark.report import Column, Row, Samples
from hffnet.runtime.benchmark.scenarios import ScenarioSettings
from hffnet.runtime.engines import OpenEngine


def row_from_measured(
    key: RowKey,
    engine: OpenEngine | None,
    absence: Absence | None,
    measured: Measured | None,
    settings: ScenarioSettings,
) -> Row:
    """A row with its percentiles and rates.

    Args:
        key: which row.
        engine: None where it could not be opened.
        absence: why there is no engine.
        measured: None or empty where the run was stopped before.
        settings: of the scenarios.
    """
    row = Row(
        scenario=key.scenario,
        engine=key.opened.engine,
        precision=key.opened.precision,
        batch=key.batch,
        threads=key.opened.threads,
        status="ok",
    )
    if engine is None:
        assert absence is not None
        return row.model_copy(update={"status": absence.status, "reason": absence.reason})
    identity = engine.identity
    about: dict[str, object] = {
        "engine_version": identity.version,
        "device": identity.device,
        "arithmetic": identity.arithmetic,
        "self_test_error": identity.self_test.error,
    }
    if measured is None or measured.failure is not None:
        why = "the run was stopped before its turn" if measured is None else str(measured.failure)
        about |= {"status": "skipped" if measured is None else "refused", "reason": why}
    elif not measured.latency_ms:
        about |= {"status": "skipped", "reason": "the run was stopped before its turn"}
    if measured is not None and measured.latency_ms:
        about |= _figures(key, measured, settings)
    return row.model_copy(update=about)


def _figures(key: RowKey, measured: Measured, settings: ScenarioSettings) -> dict[str, object]:
    busy_s = sum(measured.latency_ms) / 1e3
    rate_s = {"paced": measured.row_s, "cold": None}.get(key.scenario, busy_s)
    return {
        "latency": percentiles_from_samples(measured.latency_ms),
        "frames_per_s": measured.num_frames / rate_s if rate_s else None,
        "joules_per_frame": None if measured.energy_j is None else measured.energy_j / measured.num_frames,
        "is_overloaded": key.scenario == "paced" and _is_overloaded(measured, settings),
        "stages": {stage: percentiles_from_samples(values) for stage, values in measured.stages_ms.items()},
        "samples": Samples(
            at_s=Column.of(measured.at_s),
            latency_ms=Column.of(measured.latency_ms),
            block=Column.of([float(n) for n in measured.block]),
        ),
    }


def _is_overloaded(measured: Measured, settings: ScenarioSettings) -> bool:
    """Whether frames come faster than they are answered.

    The row's end then finds more than two periods of backlog that its middle had not.
    """
    latency_ms = np.asarray(measured.latency_ms)
    if len(latency_ms) < 4:
        return False
    middle = float(np.median(latency_ms[len(latency_ms) // 3 : 2 * len(latency_ms) // 3]))
    last = float(np.median(latency_ms[-max(len(latency_ms) // 10, 1) :]))
    return last - middle > 2e3 * settings.period_s
