"""A report as tables for a terminal. A dash: too few samples for the claim, or not measured."""

from rich.table import Table

from hffnet.runtime.benchmark.percentiles import Percentiles
from hffnet.runtime.benchmark.report import Report, Row

_MOST_LAYERS = 8


def tables_from_report(report: Report) -> list[Table]:
    """Rows, then stages, what limits each engine, and its layers, each where there is something to show."""
    tables = [_rows(report), _accuracy(report), _stages(report), _bounds(report), _layers(report), _loadgen(report)]
    tables.append(_refused(report))
    return [table for table in tables if table.row_count]


def sentences_from_report(report: Report) -> list[str]:
    """What must be said beside the figures: partial, invalid and why."""
    said = [f"partial: {report.partial}"] if report.partial else []
    said += [f"INVALID: {reason}" for reason in report.invalid_because]
    if report.conditions and report.conditions.cannot_read:
        said.append(f"this machine does not show {', '.join(report.conditions.cannot_read)}")
    return said


def _rows(report: Report) -> Table:
    columns = ("n", "p50 ms", "p90", "p99", "p99.9", "max", "frames/s", "J/frame", "note")
    title = f"{report.model}: {report.frames}, {report.machine.get('cpu', '')}"
    table = Table("scenario", "engine", "precision", "batch", "threads", *columns, title=title)
    for row in report.rows:
        if row.latency:
            note = "overloaded: its queue grows" if row.is_overloaded else row.reason or ""
            rates = (figure(row.frames_per_s, 1), figure(row.joules_per_frame, 3))
            table.add_row(*_name(row), *percentile_cells(row.latency), *rates, note)
    return table


def _accuracy(report: Report) -> Table:
    columns = ("HF1", "FPA", "flips", "refused", "graph MB", "peak RSS MB", "import s", "open s", "first ms")
    table = Table("engine", "precision", "arithmetic", "batch", "threads", *columns, title=report.data or "")
    for row in _once(report):
        accuracy, foot = row.accuracy, row.footprint
        if accuracy is None and foot is None:
            continue
        scores = ["-"] * 4
        if accuracy:
            flips = "-" if accuracy.num_flips is None else str(accuracy.num_flips)
            metrics = accuracy.metrics
            scores = [f"{metrics.hf1:.4f}", f"{metrics.fpa:.4f}", flips, str(accuracy.num_refused)]
        costs = ["-"] * 4
        if foot:
            memory = f"{foot.peak_rss_mb:.0f}" + ("" if foot.gpu_mb is None else f" + GPU {foot.gpu_mb:.0f}")
            costs = [memory, f"{foot.import_ms / 1e3:.2f}", f"{foot.open_ms / 1e3:.2f}"]
            costs.append(f"{foot.first_ms:.1f}")
        name = (row.engine, row.precision, row.arithmetic or "-", *_name(row)[3:])
        table.add_row(*name, *scores, figure(row.graph_mb, 1), *costs)
    return table


def _stages(report: Report) -> Table:
    table = Table(
        "scenario", "engine", "precision", "threads", "stage", "n", "p50 ms", "p90", "p99", "max", title="stages"
    )
    for row in report.rows:
        for stage, found in row.stages.items():
            cells = percentile_cells(found)
            table.add_row(*_name(row)[:3], _name(row)[4], stage, *cells[:4], cells[5])
    return table


def _bounds(report: Report) -> Table:
    columns = ("weights MB", "GB/s", "GMAC", "GMAC/s", "memory ms", "compute ms", "floor ms", "p50 / floor")
    table = Table("engine", "precision", "batch", "threads", *columns, title="what limits it (roofline)")
    for row in _once(report):
        if bound := row.roofline:
            cells = (bound.weights_mb, bound.bandwidth_gb_s, bound.gmacs, bound.peak_gmac_s)
            times = (bound.memory_ms, bound.compute_ms, bound.floor_ms, bound.times_floor)
            table.add_row(*_name(row)[1:], *(figure(value, 3) for value in (*cells, *times)))
    return table


def _layers(report: Report) -> Table:
    table = Table("engine", "precision", "batch", "operation", "num", "ms", title="inside the engine, by its profiler")
    for row in _once(report):
        for layer in row.layers[:_MOST_LAYERS]:
            cells = (layer.kind, str(layer.num), figure(layer.ms, 3))
            table.add_row(row.engine, row.precision, str(row.batch), *cells)
        if rest := row.layers[_MOST_LAYERS:]:
            cells = ("all others", str(sum(layer.num for layer in rest)), figure(sum(layer.ms for layer in rest), 3))
            table.add_row(row.engine, row.precision, str(row.batch), *cells)
    return table


def _loadgen(report: Report) -> Table:
    columns = ("n", "p50 ms", "p90", "p99", "p99.9", "max", "frames/s", "p50 to built-in", "LoadGen says")
    table = Table("scenario", "engine", "precision", "batch", "threads", *columns, title="the same in MLPerf LoadGen")
    for row in report.rows:
        if row.loadgen and row.latency:
            theirs, ours = row.loadgen.latency.p50_ms, row.loadgen.built_in_p50_ms
            ratio = theirs / ours if theirs and ours else None
            cells = (*percentile_cells(row.loadgen.latency), figure(row.loadgen.frames_per_s, 1), figure(ratio, 3))
            table.add_row(*_name(row), *cells, row.loadgen.validity)
    return table


def _refused(report: Report) -> Table:
    table = Table("engine", "precision", "status", "why", title="not measured")
    seen = {(row.engine, row.precision, row.status, row.reason) for row in report.rows if row.status != "ok"}
    for engine, precision, status, reason in sorted(seen, key=str):
        table.add_row(engine, precision, status, reason or "")
    return table


def _once(report: Report) -> list[Row]:
    """One row of each engine, precision, batch and threads: the first scenario's."""
    first = {(row.engine, row.precision, row.batch, row.threads): row for row in reversed(report.rows)}
    return [row for row in report.rows if row in first.values() and row.status == "ok"]


def _name(row: Row) -> tuple[str, ...]:
    threads = "all" if row.threads is None else str(row.threads)
    return row.scenario, row.engine, row.precision, str(row.batch), threads


def percentile_cells(found: Percentiles) -> list[str]:
    """Number of samples and p50, p90, p99, p99.9, max."""
    times = (found.p50_ms, found.p90_ms, found.p99_ms, found.p999_ms, found.max_ms)
    return [str(found.num_samples), *(figure(value, 2) for value in times)]


def figure(value: float | None, digits: int) -> str:
    """A number with some digits, or a dash."""
    return "-" if value is None else f"{value:.{digits}f}"
