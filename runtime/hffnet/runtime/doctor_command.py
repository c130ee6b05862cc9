"""``hffnet doctor``: thin; ``doctor`` finds, this prints."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hffnet.runtime.commands import JsonOption, ThreadsOption, print_tables

if TYPE_CHECKING:
    from rich.table import Table

    from hffnet.runtime.doctor import Diagnosis

_COLOURS = {"ok": "green", "note": "cyan", "problem": "yellow", "missing": "red"}


def doctor(
    bundle: Annotated[
        Path | None,
        typer.Argument(metavar="[BUNDLE]", help="A *.hffnet file: what can each engine here do with it?"),
    ] = None,
    *,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check this machine and what it can do with a bundle; each problem comes with its fix. Exit code 4: unusable."""
    from hffnet.runtime.doctor import diagnose

    diagnosis = diagnose(bundle, threads=threads)
    if as_json:
        typer.echo(diagnosis.model_dump_json())
    else:
        print_tables(_tables(diagnosis))
    raise typer.Exit(diagnosis.exit_code)


def _tables(diagnosis: "Diagnosis") -> "list[Table]":
    from rich.markup import escape
    from rich.table import Table

    findings = Table("", "what", "found", "what to do", title="this machine", title_justify="left")
    for one in diagnosis.findings:
        state = f"[{_COLOURS[one.state]}]{one.state}[/]"
        findings.add_row(state, escape(one.name), escape(one.value), escape(one.fix or ""))
    if diagnosis.engines is None:
        return [findings]
    columns = ("engine", "precision", "device", "computes in", "median ms", "runs", "error", "cosine", "flips", "note")
    rows = Table(*columns, title=f"{diagnosis.bundle}, measured {diagnosis.engines.measured_utc}")
    for row in diagnosis.engines.rows:
        numbers = (row.median_ms, row.num_runs or None, row.error, row.cosine, row.flips)
        cells = ("-" if number is None else f"{number:.4g}" for number in numbers)
        note = row.refused or ("chosen" if row.chosen else "")
        rows.add_row(row.target, row.precision, escape(row.device or "-"), row.arithmetic or "-", *cells, escape(note))
    return [findings, rows]
