"""What this run did, as a file in Prometheus' text format, for the node exporter's textfile collector.

Counters begin at 0 with every run, as Prometheus expects of a process that was started anew.
"""

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from threading import Lock, Thread

from hffnet.runtime.durable import whole_file
from hffnet.runtime.record import Record

_log = logging.getLogger(__name__)
_BUCKETS_MS = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)
_Labels = tuple[tuple[str, str], ...]
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class Metrics:
    """Counts over committed records; memory grows with the number of classes and gates, not with time."""

    def __init__(self) -> None:
        self._counters: dict[str, defaultdict[_Labels, float]] = {name: defaultdict(float) for name in _HELP}
        self._last_seq, self._last_at = 0, 0.0
        self.is_holding = False
        """Whether records cannot be written now."""
        for top in (*(f"{ms / 1e3:g}" for ms in _BUCKETS_MS), "+Inf"):
            self._count("hffnet_latency_seconds", 0, le=top)

    def add(self, record: Record) -> None:
        """Count one result or one person's decision."""
        self._last_seq = record.seq
        self._last_at = datetime.fromisoformat(record.created_utc).timestamp()
        if record.kind != "result":
            said = str((record.details or {}).get("decision", ""))
            self._count("hffnet_human_decisions_total", said=said)
            return
        self._count("hffnet_frames_total", status=str(record.status))
        if record.status == "classified":
            self._count("hffnet_answers_total", answer="/".join(record.answer) or "unsure")
        for gate in record.gates:
            if not gate["passed"]:
                self._count("hffnet_gate_refusals_total", gate=str(gate["name"]))
        for reason, num in _dropped(record).items():
            self._count("hffnet_frames_dropped_total", num, reason=reason)
        self._time(record.timings_ms)

    def text(self) -> str:
        """The whole document."""
        return "".join(f"{line}\n" for line in self._lines())

    def _time(self, timings_ms: Mapping[str, float]) -> None:
        total_ms = sum(timings_ms.values())
        for stage, ms in timings_ms.items():
            self._count("hffnet_stage_seconds_total", ms / 1e3, stage=stage)
        for top in _BUCKETS_MS:
            if total_ms <= top:
                self._count("hffnet_latency_seconds", le=f"{top / 1e3:g}")
        self._count("hffnet_latency_seconds", le="+Inf")
        self._count("hffnet_latency_seconds_sum", total_ms / 1e3)

    def _count(self, name: str, by: float = 1, /, **labels: str) -> None:
        self._counters[name][tuple(labels.items())] += by

    def _lines(self) -> Iterator[str]:
        for name, (kind, help_text) in _HELP.items():
            if kind:
                yield f"# HELP {name} {help_text}"
                yield f"# TYPE {name} {kind}"
            for labels, value in self._counters[name].items():
                sample = f"{name}_bucket" if kind == "histogram" else name
                yield f"{sample}{_labels(labels)} {value:.10g}"
            if name == "hffnet_latency_seconds_sum":
                yield f"hffnet_latency_seconds_count {self._counters['hffnet_latency_seconds'][(('le', '+Inf'),)]:g}"
        yield "# HELP hffnet_last_record_timestamp_seconds When the last record was committed."
        yield "# TYPE hffnet_last_record_timestamp_seconds gauge"
        yield f"hffnet_last_record_timestamp_seconds {self._last_at:.3f}"
        yield "# HELP hffnet_holding Whether the run holds still because records cannot be written (disk full, locked)."
        yield "# TYPE hffnet_holding gauge"
        yield f"hffnet_holding {int(self.is_holding)}"
        yield "# HELP hffnet_last_record_seq Number of the last record."
        yield "# TYPE hffnet_last_record_seq gauge"
        yield f"hffnet_last_record_seq {self._last_seq}"


_HELP: dict[str, tuple[str, str]] = {
    "hffnet_frames_total": ("counter", "Results by status."),
    "hffnet_answers_total": ("counter", "Classified frames by answer."),
    "hffnet_gate_refusals_total": ("counter", "Frames not classified, by gate."),
    "hffnet_frames_dropped_total": ("counter", "Frames of live sources that were not classified, by reason."),
    "hffnet_human_decisions_total": ("counter", "Decisions of people on results."),
    "hffnet_stage_seconds_total": ("counter", "Time by stage."),
    "hffnet_latency_seconds": ("histogram", "Sum of a frame's stages."),
    "hffnet_latency_seconds_sum": ("", ""),
}


class MetricsSink:
    """Writes the file after every delivery, whole."""

    def __init__(self, path: Path) -> None:
        self.name = f"metrics:{path.absolute()}"
        self._path, self._metrics = path, Metrics()
        self._lock = Lock()

    def start(self, cursor: int | None, last_seq: int) -> int:
        """Only what this run adds."""
        del cursor
        return last_seq

    def deliver(self, records: Sequence[Record]) -> None:
        """Count and write; a collector sees the file before or after, never in between."""
        with self._lock:
            for record in records:
                self._metrics.add(record)
            self._write()

    def holding(self, *, is_holding: bool) -> None:
        """Say at once that the run holds still, or goes on; in vain where the file is on the disk that is full."""
        self._metrics.is_holding = is_holding
        # Not on the caller's thread: a network share that hangs must not keep the recorder from going on.
        Thread(target=self._tell, name="metrics", daemon=True).start()

    def _tell(self) -> None:
        try:
            with self._lock:
                self._write()
        except OSError as error:
            _log.debug("%s cannot be written: %s", self._path, error)

    def _write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(self._path) as temporary:
            temporary.write_text(self._metrics.text(), encoding="utf-8")

    def close(self) -> None:
        """Nothing stays open."""


def _dropped(record: Record) -> dict[str, float]:
    live = (record.details or {}).get("live")
    dropped = live.get("dropped") if isinstance(live, Mapping) else None
    return {str(reason): float(str(num)) for reason, num in dropped.items()} if isinstance(dropped, Mapping) else {}


def _labels(labels: _Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in labels) + "}"
