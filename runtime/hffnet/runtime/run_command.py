"""``hffnet run``: classify what a source offers, live, until it ends or a signal comes."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from threading import Event
from time import monotonic
from typing import TYPE_CHECKING, Annotated

import typer

from hffnet.runtime.commands import (
    EngineOption,
    JsonOption,
    PrecisionOption,
    ThreadsOption,
    print_json,
)
from hffnet.runtime.dashboard import DEFAULT_HOST, DEFAULT_PORT
from hffnet.runtime.errors import ConfigError

if TYPE_CHECKING:
    from hffnet.runtime.classifier import Classifier
    from hffnet.runtime.dashboard.live_view import LiveView
    from hffnet.runtime.dashboard.settings import ViewChoice
    from hffnet.runtime.live_line import LiveLine
    from hffnet.runtime.pipeline import RunSummary
    from hffnet.runtime.read_worker import OnHeld, ReadFile
    from hffnet.runtime.record import EventName, Json, Record
    from hffnet.runtime.recorder import OnRecord
    from hffnet.runtime.records import RecordStore
    from hffnet.runtime.run_settings import RunSettings
    from hffnet.runtime.service import Service
    from hffnet.runtime.sinks import Sink
    from hffnet.runtime.stage_times import StageTimes

_log = logging.getLogger(__name__)
_TIDY_S = 600.0
_OF_VIEW = ("host", "port", "allow_host", "behind_proxy", "tls_cert", "tls_key", "token_file")
_WITH_CONFIG = ("records", "csv", "jsonl", "engine", "precision", "threads", "view", *_OF_VIEW)


def run(
    context: typer.Context,
    bundle: Annotated[
        Path | None, typer.Argument(metavar="[BUNDLE]", help="A *.hffnet file.", show_default=False)
    ] = None,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[SOURCE]",
            help="A folder to watch, a file, dir:FOLDER?pattern=*.tif&recursive=1, glob:PATTERN, video:FILE, "
            "v4l2:/dev/v4l/by-id/…, rtsp://…, screen:LEFT,TOP,WIDTH,HEIGHT, or - for length-prefixed frames on stdin.",
            show_default=False,
        ),
    ] = None,
    *,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="All settings in one TOML file instead.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Check settings, bundle and engine, start nothing, write nothing.")
    ] = False,
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
    view: Annotated[
        bool,
        typer.Option("--view", help="Show frames and decisions on a local page; its address is told."),
    ] = False,
    host: Annotated[str, typer.Option("--host", help="Address the page is served on.")] = DEFAULT_HOST,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = DEFAULT_PORT,
    allow_host: Annotated[
        list[str] | None, typer.Option("--allow-host", metavar="NAME", help="A further name the page is reached by.")
    ] = None,
    behind_proxy: Annotated[bool, typer.Option("--behind-proxy", help="A proxy before the page brings TLS.")] = False,
    tls_cert: Annotated[Path | None, typer.Option("--tls-cert", metavar="PEM", help="Certificate of the page.")] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", metavar="PEM", help="Its key.")] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", metavar="FILE", help="Holds the token.", show_default="a new token")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Classify frames as they come, record each exactly once, and pass results on.

    The first Ctrl-C or SIGTERM finishes the frame in hand and exits with 0, a second one ends at once with 5. Started
    again, it goes on where it stopped.
    """
    from hffnet.runtime import run_settings

    if config is not None:
        given = [_option(name) for name in _WITH_CONFIG if _is_given(context, name)]
        given += [name for name, value in (("BUNDLE", bundle), ("SOURCE", source)) if value is not None]
        if given:
            raise ConfigError(f"{', '.join(given)} cannot stand beside --config; say it in {config}")
        settings = run_settings.settings_from_toml(config)
    elif bundle is None or source is None:
        raise ConfigError("nothing to run; give BUNDLE and SOURCE, or --config FILE")
    else:
        settings = run_settings.RunSettings(
            bundle=bundle,
            source=source,
            engine=run_settings.EngineChoice(name=engine, precision=precision, threads=threads),
            records=run_settings.RecordsChoice(file=records),
            sinks=run_settings.SinksChoice(csv=csv, jsonl=Path(jsonl) if jsonl is not None else None),
            view=_view_choice(
                context,
                view=view,
                host=host,
                port=port,
                hosts=tuple(allow_host or ()),
                behind_proxy=behind_proxy,
                tls_cert=tls_cert,
                tls_key=tls_key,
                token_file=token_file,
            ),
        )
    if once or idle_exit is not None:
        settings = settings.model_copy(update={"idle_exit_s": 0.0 if once else idle_exit})
    if as_json and str(settings.sinks.jsonl) == "-":
        raise ConfigError("--json and --jsonl - both want stdout; give --jsonl a file")
    if check:
        _check(settings, as_json=as_json)
    else:
        run_settings_through(settings, as_json=as_json)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _view_choice(context: typer.Context, *, view: bool, **given: object) -> "ViewChoice | None":
    from pydantic import ValidationError

    from hffnet.runtime.dashboard.settings import ViewChoice

    if not view:
        if alone := [_option(name) for name in _OF_VIEW if _is_given(context, name)]:
            raise ConfigError(f"{', '.join(alone)} means nothing without --view; add --view")
        return None
    try:
        return ViewChoice.model_validate(given)
    except ValidationError as error:
        faults = "; ".join(str(e["msg"]).removeprefix("Value error, ") for e in error.errors())
        raise ConfigError(f"the live view cannot be started like this: {faults}") from error


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _open_classifier(settings: "RunSettings") -> "Classifier":
    from hffnet.runtime.classifier import Classifier

    choice = settings.engine
    return Classifier.open(
        settings.bundle,
        engine=choice.name,
        precision=choice.precision,
        threads=choice.threads,
        pin=choice.pin,
        gpu=choice.gpu.settings(),
        gates=settings.gates,
        tiles=settings.tiles,
    )


def _check(settings: "RunSettings", *, as_json: bool) -> None:
    """Everything that can be known without starting: the engine proves itself, the source and sinks are looked at."""
    from hffnet.runtime.record import plain
    from hffnet.runtime.records import RecordStore
    from hffnet.runtime.sources import open_source

    with _open_classifier(settings) as classifier:
        engine = plain(classifier.engine)
        bundle_sha256 = classifier.bundle.sha256
    open_source(settings.source)
    file = settings.records.file.absolute()
    if file.exists():
        RecordStore.check(file)
    elif not file.parent.is_dir():
        raise ConfigError(f"the records' folder {file.parent} does not exist; create it")
    if settings.view is not None:
        from hffnet.runtime.dashboard.live_view import LiveView

        LiveView(settings.view, settings.public().source)  # the token is fit, the extra is installed; nothing listens
    _remote_sinks(settings)  # secrets are there, extras are installed; nothing connects yet
    if as_json:
        document = settings.public().model_dump(mode="json")
        print_json({"command": "run --check", "settings": document, "engine": engine, "bundle_sha256": bundle_sha256})
    else:
        typer.echo(f"sound: {settings.bundle} on {settings.public().source}; records in {file}")


def run_settings_through(settings: "RunSettings", *, as_json: bool) -> None:
    """``hffnet run`` with these settings: until the source ends or a signal comes."""
    from hffnet.runtime.records import RecordStore
    from hffnet.runtime.records_lock import sole_run
    from hffnet.runtime.service import Service
    from hffnet.runtime.signals import stop_on_signals
    from hffnet.runtime.sources import open_source

    open_source(settings.source)  # a mistyped source is told before a record file is made for it
    stop = Event()
    with (
        stop_on_signals(stop),
        sole_run(settings.records.file),
        Service(settings.watchdog_s) as service,
        _live_view(settings) as view,
        _open_classifier(settings) as classifier,
        RecordStore.open(settings.records.file) as store,
    ):
        summary = _stream_on_record(settings, classifier, store, service, stop, view)
        _tell(summary, classifier, store, as_json=as_json)


@contextmanager
def _live_view(settings: "RunSettings") -> "Iterator[LiveView | None]":
    """The live view, where one is asked for; it listens before the engine is opened, so mistakes are told first."""
    if settings.view is None:
        yield None
        return
    from hffnet.runtime.dashboard.live_view import LiveView

    with LiveView(settings.view, settings.public().source) as view:
        typer.echo(f"hffnet: live view at {view.login_url}", err=True)
        yield view


def _stream_on_record(
    settings: "RunSettings",
    classifier: "Classifier",
    store: "RecordStore",
    service: "Service",
    stop: Event,
    view: "LiveView | None",
) -> "RunSummary":
    """Stream between a ``start`` and a ``stop`` row."""
    from hffnet.runtime.record import plain

    engine = plain(classifier.engine)
    shown = settings.public()
    begin = {"engine": engine, "settings": plain(shown.model_dump(mode="json"))}
    identity = (classifier.bundle.sha256, settings.sha256())
    _note(store, "start", f"started on {shown.source}", begin, identity)
    try:
        summary = _stream(settings, classifier, store, service, stop, view)
    except BaseException as error:
        _note(store, "stop", f"ended by {type(error).__name__}: {error}", {}, identity)
        raise
    how = "on request" if summary.was_stopped else "at the end of the source"
    figures: dict[str, Json] = {
        "counts": summary.counts,
        "dropped": summary.dropped,
        "unrecorded": summary.num_unrecorded,
    }
    _note(store, "stop", f"ended {how}", figures, identity)
    return summary


def _note(
    store: "RecordStore", event: "EventName", reason: str, details: "dict[str, Json]", identity: tuple[str, str]
) -> None:
    """Put an event on record; where that cannot be done the log has it, and results matter more."""
    from hffnet.runtime.errors import RecordError
    from hffnet.runtime.events import draft_from_event

    bundle_sha256, settings_sha256 = identity
    try:
        store.append(
            draft_from_event(
                event, reason, details=details, bundle_sha256=bundle_sha256, settings_sha256=settings_sha256
            )
        )
    except RecordError as error:
        _log.warning("%s is not on record: %s", event, error)


def _stream(
    settings: "RunSettings",
    classifier: "Classifier",
    store: "RecordStore",
    service: "Service",
    stop: Event,
    view: "LiveView | None",
) -> "RunSummary":
    from hffnet.runtime.infobar import BarSetting
    from hffnet.runtime.live_line import LiveLine
    from hffnet.runtime.pipeline import done_in, run_pipeline
    from hffnet.runtime.sources import open_source

    is_done = done_in(store, bundle_sha256=classifier.bundle.sha256, settings_sha256=settings.sha256())
    source = open_source(settings.source, idle_exit_s=settings.idle_exit_s, is_done=is_done)
    name = settings.public().source
    bar = BarSetting(rows=settings.bar.rows, force=settings.bar.force) if settings.bar else None
    identity = (classifier.bundle.sha256, settings.sha256())

    def on_held(sentence: str | None) -> None:
        _note(store, "degraded", sentence or "files can be read again; all of them waited", {}, identity)

    with (
        LiveLine(name) as line,
        _reading(settings, stop, on_held) as read_file,
        view.attached(classifier, store, source, bar, settings.reading) if view else nullcontext(),
    ):
        service.ready(f"classifying {name}")
        return run_pipeline(
            source,
            classifier,
            store,
            _sinks(settings),
            settings_sha256=settings.sha256(),
            stop=stop,
            on_record=_with_tidying(_shown(line, view), settings, store),
            bar=bar,
            read_file=read_file,
            smoothing=settings.smoothing,
            beat=service.beat,
            on_frame=view.on_frame if view else None,
        )


@contextmanager
def _reading(settings: "RunSettings", stop: Event, on_held: "OnHeld") -> "Iterator[ReadFile]":
    """What decodes files: a process that can be killed, unless that is switched off."""
    from hffnet.runtime.read_worker import ReadWorker, read_here

    if settings.reading.process:
        with ReadWorker(settings.reading, is_stopped=stop.is_set, on_held=on_held) as worker:
            yield worker
    else:
        yield partial(read_here, settings=settings.reading)


def _shown(line: "LiveLine", view: "LiveView | None") -> "OnRecord":
    if view is None:
        return line.show

    def show(record: "Record", times: "StageTimes") -> None:
        view.on_record(record, times)
        line.show(record, times)

    return show


def _with_tidying(show: "OnRecord", settings: "RunSettings", store: "RecordStore") -> "OnRecord":
    """Also move old rows to the archive now and then, on the recorder's thread, so that nothing writes meanwhile."""
    if settings.records.archive is None:
        return show
    from hffnet.runtime.errors import RecordError
    from hffnet.runtime.records_archive import Retention, tidy

    choice = settings.records
    retention = Retention(archive=settings.records.archive, keep_days=choice.keep_days, max_mb=choice.max_mb)
    next_at = monotonic()

    def show_and_tidy(record: "Record", times: "StageTimes") -> None:
        nonlocal next_at
        show(record, times)
        if monotonic() >= next_at:
            next_at = monotonic() + _TIDY_S
            try:
                tidy(store, retention)
            except (RecordError, OSError) as error:
                _log.warning("old records stay where they are: %s", error)

    return show_and_tidy


def _sinks(settings: "RunSettings") -> "list[Sink]":
    from hffnet.runtime.sinks.csv_sink import CsvSink
    from hffnet.runtime.sinks.jsonl_sink import JsonlSink, StdoutSink

    choice, sinks = settings.sinks, list["Sink"]()
    if choice.csv is not None:
        sinks.append(CsvSink(choice.csv))
    if choice.jsonl is not None:
        sinks.append(StdoutSink() if str(choice.jsonl) == "-" else JsonlSink(choice.jsonl))
    if choice.metrics is not None:
        from hffnet.runtime.sinks.metrics_sink import MetricsSink

        sinks.append(MetricsSink(choice.metrics))
    if choice.annotated is not None:
        from hffnet.runtime.sinks.annotated_sink import AnnotatedSink

        sinks.append(AnnotatedSink(choice.annotated.folder, settings.reading))
    return sinks + _remote_sinks(settings)


def _remote_sinks(settings: "RunSettings") -> "list[Sink]":
    sinks = list["Sink"]()
    if (hook := settings.sinks.webhook) is not None:
        from hffnet.runtime.sinks.webhook_sink import WebhookSink, secret_from_file

        sinks.append(WebhookSink(hook.url, secret_from_file(hook.secret_file), hook.timeout_s))
    if settings.sinks.mqtt is not None:
        from hffnet.runtime.sinks.mqtt_sink import MqttSink

        sinks.append(MqttSink(settings.sinks.mqtt))
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
    for reason, num in summary.dropped.items():
        typer.echo(f"  {num} live frames dropped: {reason}", err=True)
    for sink, num in summary.undelivered.items():
        typer.echo(f"  {sink} gets {num} records in the next run", err=True)
