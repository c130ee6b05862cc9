"""``hffnet run``: classify what a source offers, live, until it ends or a signal comes."""

from dataclasses import asdict
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated

import typer

from hffnet.runtime.commands import (
    BundleArgument,
    EngineOption,
    JsonOption,
    PrecisionOption,
    ThreadsOption,
    print_json,
)
from hffnet.runtime.errors import ConfigError

if TYPE_CHECKING:
    from hffnet.runtime.classifier import Classifier
    from hffnet.runtime.pipeline import RunSummary
    from hffnet.runtime.records import RecordStore
    from hffnet.runtime.sinks import Sink


def run(
    bundle: BundleArgument,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder to watch, a file, dir:FOLDER?pattern=*.tif&recursive=1, or glob:PATTERN.",
            show_default=False,
        ),
    ],
    *,
    records: Annotated[Path, typer.Option("--records", metavar="FILE", help="Audit trail, continued.")] = Path(
        "records.sqlite"
    ),
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Append a row per result.")] = None,
    jsonl: Annotated[
        str | None, typer.Option("--jsonl", metavar="FILE", help="Append a JSON line per result; - is stdout.")
    ] = None,
    engine: EngineOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    once: Annotated[bool, typer.Option("--once", help="End when everything that is there is done.")] = False,
    idle_exit: Annotated[
        float | None, typer.Option("--idle-exit", metavar="SECONDS", min=0.0, help="End when nothing was new so long.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Classify frames as they come, record each exactly once, and pass results on.

    The first Ctrl-C or SIGTERM finishes the frame in hand and exits with 0, a second one ends at once with 5. Started
    again, it goes on where it stopped.
    """
    if as_json and jsonl == "-":
        raise ConfigError("--json and --jsonl - both want stdout; give --jsonl a file")
    from hffnet.runtime.classifier import Classifier
    from hffnet.runtime.records import RecordStore
    from hffnet.runtime.signals import stop_on_signals
    from hffnet.runtime.sources import open_source

    open_source(source)  # a mistyped source is told before a record file is made for it
    stop = Event()
    with (
        stop_on_signals(stop),
        Classifier.open(bundle, engine=engine, precision=precision, threads=threads) as classifier,
        RecordStore.open(records) as store,
    ):
        settings = settings_of_run(engine, precision)
        summary = _run(classifier, store, source, _sinks(csv, jsonl), settings, stop, 0.0 if once else idle_exit)
        _tell(summary, classifier, store, as_json=as_json)


def _run(
    classifier: "Classifier",
    store: "RecordStore",
    uri: str,
    sinks: "list[Sink]",
    settings: str,
    stop: Event,
    idle_exit_s: float | None,
) -> "RunSummary":
    from hffnet.runtime.live_line import LiveLine
    from hffnet.runtime.pipeline import done_in, run_pipeline
    from hffnet.runtime.sources import open_source

    is_done = done_in(store, bundle_sha256=classifier.bundle.sha256, settings_sha256=settings)
    source = open_source(uri, idle_exit_s=idle_exit_s, is_done=is_done)
    with LiveLine(uri) as line:
        return run_pipeline(source, classifier, store, sinks, settings_sha256=settings, stop=stop, on_record=line.show)


def settings_of_run(engine: str, precision: str) -> str:
    """Hash of everything that may change a result and is not in the bundle; as asked for, so that "auto" stays so."""
    from hffnet.runtime.gates import DEFAULT_SETTINGS
    from hffnet.runtime.record import settings_sha256

    return settings_sha256({"engine": engine, "precision": precision, "gates": DEFAULT_SETTINGS.model_dump()})


def _sinks(csv: Path | None, jsonl: str | None) -> "list[Sink]":
    from hffnet.runtime.sinks.csv_sink import CsvSink
    from hffnet.runtime.sinks.jsonl_sink import JsonlSink, StdoutSink

    sinks: list[Sink] = []
    if csv is not None:
        sinks.append(CsvSink(csv))
    if jsonl == "-":
        sinks.append(StdoutSink())
    elif jsonl is not None:
        sinks.append(JsonlSink(Path(jsonl)))
    return sinks


def _tell(summary: "RunSummary", classifier: "Classifier", store: "RecordStore", *, as_json: bool) -> None:
    from hffnet.runtime.record import plain

    if as_json:
        print_json(
            {
                "command": "run",
                **asdict(summary),
                "engine": plain(classifier.engine),
                "bundle": {"path": str(classifier.bundle.path), "sha256": classifier.bundle.sha256},
                "records": {"path": str(store.path), "last_seq": store.last_seq()},
            }
        )
        return
    counts = ", ".join(f"{num} {status.replace('_', ' ')}" for status, num in summary.counts.items()) or "no frames"
    typer.echo(f"hffnet: {counts} in {summary.seconds:.1f} s; records in {store.path}", err=True)
    for stage, figures in summary.stages_ms.items():
        shown = "  ".join(f"{name} {value:8.2f}" for name, value in figures.items() if name != "num")
        typer.echo(f"  {stage:<10} {shown} ms", err=True)
    for sink, num in summary.undelivered.items():
        typer.echo(f"  {sink} gets {num} records in the next run", err=True)
