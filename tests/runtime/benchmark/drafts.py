"""Reports made of known samples."""

from collections.abc import Mapping, Sequence

import numpy as np

from hffnet.runtime.benchmark.percentiles import percentiles_from_samples
from hffnet.runtime.benchmark.report import Accuracy, Column, Conditions, Report, Row, Samples
from hffnet.runtime.engines import EngineName
from hffnet.runtime.manifest import Metrics, Precision

RowName = tuple[EngineName, Precision]


_SAMPLES = 20


def conditions(
    *,
    other: Sequence[float] = (0.0,) * _SAMPLES,
    mhz: Sequence[float] = (2000.0,) * _SAMPLES,
    throttles: Sequence[float] = (0.0,) * _SAMPLES,
    steal: Sequence[float] = (0.0,) * _SAMPLES,
) -> Conditions:
    """A quiet machine but for what is given."""
    num = len(other)
    return Conditions(
        at_s=Column.of(list(range(num))),
        own_share=Column.of([0.5] * num),
        other_share=Column.of(other),
        steal_share=Column.of(steal),
        mhz=Column.of(mhz),
        celsius=Column.of([float("nan")] * num),
        num_throttles=Column.of(throttles),
        cannot_read=("temperatures",),
    )


def draft_report(turns_ms: Mapping[RowName, Sequence[Sequence[float]]], *, model: str = "draft") -> Report:
    """A report with one single-stream row per name, its latencies turn by turn."""
    rows = []
    for n, ((engine, precision), turns) in enumerate(turns_ms.items()):
        latency_ms = [ms for turn in turns for ms in turn]
        row = Row(
            scenario="single-stream",
            engine=engine,
            precision=precision,
            batch=1,
            threads=None,
            status="ok",
            latency=percentiles_from_samples(latency_ms),
            frames_per_s=1e3 / float(np.mean(latency_ms)),
            stages={"read": percentiles_from_samples([1.0]), "infer": percentiles_from_samples([2.0])},
            accuracy=Accuracy(
                metrics=Metrics(
                    num_frames=10, hp=0.9, hr=0.9, hf1=0.9 + n / 100, fpa=0.8, tice=0.0, level_accuracy=(0.9, 0.8)
                ),
                num_refused=0,
                num_flips=n,
            ),
            samples=Samples(
                at_s=Column.of(np.cumsum(latency_ms).tolist()),
                latency_ms=Column.of(latency_ms),
                block=Column.of([float(k) for k, turn in enumerate(turns) for _ in turn]),
            ),
        )
        rows.append(row)
    return Report(
        bundle="model.hffnet",
        bundle_sha256="0" * 64,
        model=model,
        frames="vectors",
        data=None,
        started_utc="2026-11-23T00:00:00+00:00",
        seconds_per_row=1.0,
        settings={},
        machine={"cpu": "a CPU"},
        clock_tick_us=0.1,
        conditions=conditions(),
        is_valid=True,
        invalid_because=(),
        partial=None,
        rows=tuple(rows),
    )
