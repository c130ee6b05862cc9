"""``hffnet benchmark``: how fast, how sure, what limits it, and what it costs in accuracy.

``hffnet benchmark BUNDLE`` measures; ``hffnet benchmark compare A.json B.json`` tells two such runs apart.
"""

from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer
from typer.core import TyperGroup

from hffnet.runtime.commands import BundleArgument, JsonOption, print_json, print_tables
from hffnet.runtime.errors import ConfigError, ExitCode, GateError

if TYPE_CHECKING:
    from rich.table import Table

    from hffnet.runtime.benchmark.compare import Comparison
    from hffnet.runtime.benchmark.report import Report
    from hffnet.runtime.benchmark.run import BenchmarkOptions

_SCENARIOS = "single-stream, multi-stream, offline, paced, cold or end-to-end"
_MEASURE = "measure"
_ALL_THREADS = 0


class _MeasuresByDefault(TyperGroup):
    """A group whose first word is a bundle, where it is not one of the few subcommands."""

    def parse_args(self, ctx: object, args: list[str]) -> list[str]:
        if not args or args[0] not in self.commands:
            args = [_MEASURE, *args]
        return super().parse_args(ctx, args)  # type: ignore[arg-type]


benchmark = typer.Typer(
    cls=_MeasuresByDefault,
    help="Measure a bundle on this machine: speed, its certainty, its limits, its cost in accuracy; or compare runs.",
)


@benchmark.command(
    _MEASURE,
    hidden=True,
    epilog="hffnet benchmark compare A.json B.json tells two runs apart. A dash: too few samples for the claim.",
)
def measure(
    bundle: BundleArgument,
    *,
    frames: Annotated[
        Path | None, typer.Option("--frames", help="Folder of image files to time; else the bundle's test vectors.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Labelled frames (folder or CSV): accuracy of each engine timed.")
    ] = None,
    scenario: Annotated[
        list[str] | None,
        typer.Option(
            "--scenario",
            help=f"{_SCENARIOS}; may be repeated.",
            show_default="single-stream, and end-to-end with --frames",
        ),
    ] = None,
    engine: Annotated[list[str] | None, typer.Option("--engine", help="May be repeated.", show_default="all")] = None,
    precision: Annotated[
        list[str] | None, typer.Option("--precision", help="May be repeated.", show_default="all of the bundle")
    ] = None,
    batch: Annotated[
        list[int] | None, typer.Option("--batch", min=1, help="May be repeated.", show_default="1")
    ] = None,
    threads: Annotated[
        list[int] | None, typer.Option("--threads", min=0, help="May be repeated; 0 is all.", show_default="all")
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="How long to measure each row.")] = 5.0,
    percentile: Annotated[
        Literal["50", "90", "99", "99.9"] | None,
        typer.Option("--percentile", help="Fail (exit code 1) where a row has too few samples for it."),
    ] = None,
    period_ms: Annotated[float, typer.Option("--period-ms", min=0.01, help="paced: a query is due so often.")] = 100.0,
    idle_s: Annotated[float, typer.Option("--idle-s", min=0.0, help="cold: pause before each query.")] = 2.0,
    memory: Annotated[bool, typer.Option(help="Memory and opening time, each in a process of its own.")] = True,
    bounds: Annotated[bool, typer.Option(help="Measure what limits each engine (roofline).")] = False,
    layers: Annotated[bool, typer.Option(help="Profile the inside of each engine.")] = False,
    loadgen: Annotated[
        Path | None, typer.Option("--loadgen", metavar="FOLDER", help="Again through MLPerf LoadGen; its logs go here.")
    ] = None,
    save: Annotated[Path | None, typer.Option("--save", metavar="FILE", help="Write the report as JSON.")] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write the report as one page.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Time every engine and precision (or those named) on this machine, in turns of one run.

    Ctrl-C ends the run early: what was measured is written, marked partial (exit code 5).
    """
    from hffnet.runtime.benchmark.run import BenchmarkOptions
    from hffnet.runtime.benchmark.scenarios import ScenarioName, ScenarioSettings
    from hffnet.runtime.engines import EngineName
    from hffnet.runtime.manifest import Precision

    options = BenchmarkOptions(
        scenarios=_known("--scenario", scenario, ScenarioName) or (),
        engines=_known("--engine", engine, EngineName),
        precisions=_known("--precision", precision, Precision),
        batches=tuple(batch or (1,)),
        threads=tuple(None if num == _ALL_THREADS else num for num in threads or (_ALL_THREADS,)),
        frames=frames,
        data=data,
        seconds=seconds,
        scenario_settings=ScenarioSettings(period_s=period_ms / 1e3, idle_s=idle_s),
        with_footprint=memory,
        with_bounds=bounds,
        with_layers=layers,
        loadgen=loadgen,
    )
    for path in (save, html):
        if path is not None and not path.parent.is_dir():
            raise ConfigError(f"{path.parent} is not a folder; make it first, or write {path.name} elsewhere")
    report = _measured(bundle, options)
    _write(report, save, html, as_json=as_json)
    if report.partial:
        raise typer.Exit(ExitCode.INTERRUPTED)
    if percentile:
        _require_samples(report, float(percentile))


def _known(option: str, given: list[str] | None, names: Any) -> Any:  # noqa: ANN401 (a Literal and its members)
    """The given names without repetition, None where none was given or one of them is ``auto``."""
    known = get_args(names)
    if unknown := [name for name in given or () if name not in {*known, "auto"}]:
        raise ConfigError(f"{option} {unknown[0]} is not known; expected {', '.join(known)} or auto")
    return tuple(dict.fromkeys(given)) if given and "auto" not in given else None


def _measured(bundle: Path, options: "BenchmarkOptions") -> "Report":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from hffnet.runtime.benchmark.run import benchmark_bundle
    from hffnet.runtime.signals import stop_on_signals

    stop, console, said = Event(), Console(stderr=True), ""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    # Redrawn by hand after each block: a thread that redraws would run beside what is timed.
    with stop_on_signals(stop), Progress(*columns, console=console, auto_refresh=False, transient=True) as progress:
        task = progress.add_task("opening", total=1.0)

        def show(what: str, share: float) -> None:
            nonlocal said
            progress.update(task, description=what, completed=share)
            if console.is_terminal:
                progress.refresh()
            elif what != said:
                typer.echo(f"hffnet: {what}", err=True)
            said = what

        return benchmark_bundle(bundle, options, stop=stop, on_step=show)


def _write(report: "Report", save: Path | None, html: Path | None, *, as_json: bool) -> None:
    from hffnet.runtime.benchmark.report import write_report
    from hffnet.runtime.benchmark.tables import sentences_from_report, tables_from_report

    if save is not None:
        write_report(report, save)
    if html is not None:
        from hffnet.runtime.benchmark.page import write_page

        write_page(report, html)
    for sentence in sentences_from_report(report):
        typer.echo(f"hffnet: {sentence}", err=True)
    if as_json:
        print_json(report.model_dump(mode="json"))
    else:
        print_tables(tables_from_report(report))


def _require_samples(report: "Report", percent: float) -> None:
    from hffnet.runtime.benchmark.percentiles import samples_needed

    needed = samples_needed(percent)
    short = [row for row in report.rows if row.latency and row.latency.num_samples < needed]
    if short:
        fewest = min(short, key=lambda row: row.latency.num_samples if row.latency else 0)
        assert fewest.latency is not None
        seconds = report.seconds_per_row * needed / fewest.latency.num_samples
        rows = "a row has" if len(short) == 1 else f"{len(short)} rows have"
        raise GateError(
            f"{rows} too few samples for p{percent:g}, which takes {needed}: {fewest.label} has"
            f" {fewest.latency.num_samples}; run with --seconds {1.1 * seconds:.0f} or ask for a lower --percentile"
        )


@benchmark.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="A.json", help="The run to compare with.", show_default=False)],
    second: Annotated[Path, typer.Argument(metavar="B.json", help="The run in question.", show_default=False)],
    *,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            metavar="ROW",
            help="Divide by this row of the same run first, e.g. 'single-stream onnxruntime fp32 b1'.",
        ),
    ] = None,
    confidence: Annotated[float, typer.Option("--confidence", min=0.5, max=0.9999, help="Of each interval.")] = 0.95,
    fail_above: Annotated[
        float | None,
        typer.Option("--fail-above", min=1.0, help="Exit code 1 where a row is slower by this ratio, beyond doubt."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Tell two runs apart: ratio B/A of each row they share, its interval, and a verdict."""
    from dataclasses import asdict

    from hffnet.runtime.benchmark.compare import compare_reports, doubts
    from hffnet.runtime.benchmark.report import read_report

    a, b = read_report(first), read_report(second)
    found = compare_reports(a, b, reference=reference, confidence=confidence)
    doubtful = doubts(a, b)
    for sentence in doubtful:
        typer.echo(f"hffnet: {sentence}", err=True)
    if as_json:
        rows = [asdict(comparison) for comparison in found]
        print_json({"command": "benchmark compare", "reference": reference, "doubts": doubtful, "rows": rows})
    else:
        print_tables([_comparison_table(found, confidence)])
    slower = [c for c in found if fail_above is not None and c.low is not None and c.low > fail_above]
    if slower:
        worst = max(slower, key=lambda c: c.ratio)
        raise GateError(
            f"{len(slower)} rows are slower by more than {fail_above}: {worst.label} by {worst.ratio:.2f}"
            f" ({worst.low:.2f} to {worst.high:.2f}); find the change that did it, or store a new baseline"
        )


def _comparison_table(found: "tuple[Comparison, ...]", confidence: float) -> "Table":
    from rich.table import Table

    from hffnet.runtime.benchmark.tables import figure

    table = Table("row", "A ms", "B ms", "B / A", f"{confidence:.0%} interval", "verdict")
    for c in found:
        interval = "-" if c.low is None or c.high is None else f"{c.low:.3f} to {c.high:.3f}"
        table.add_row(c.label, figure(c.a_ms, 3), figure(c.b_ms, 3), figure(c.ratio, 3), interval, c.verdict)
    return table


@benchmark.command()
def schema() -> None:
    """Print the JSON schema of the reports."""
    import json

    from hffnet.runtime.benchmark.report import Report

    typer.echo(json.dumps(Report.model_json_schema(), indent=1))
