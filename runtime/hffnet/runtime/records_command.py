"""``hffnet records``: look at the audit trail, export it, prove it whole."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hffnet.runtime.commands import JsonOption, print_json, print_tables
from hffnet.runtime.errors import ConfigError, ExitCode

if TYPE_CHECKING:
    from hffnet.runtime.records import RecordStore

records = typer.Typer(no_args_is_help=True, help="Look at the records of `hffnet run`, export and verify them.")

FileArgument = Annotated[
    Path, typer.Argument(metavar="RECORDS", help="A file written by hffnet run.", show_default=False)
]


@records.command("list")
def list_records(
    file: FileArgument,
    *,
    after: Annotated[int, typer.Option("--after", min=0, help="Begin after this number.")] = 0,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most so many.", show_default="all")] = None,
    as_json: JsonOption = False,
) -> None:
    """One line per record."""
    from rich.markup import escape
    from rich.table import Table

    from hffnet.runtime.result import record_json

    with _opened(file) as store:
        found = list(store.iterate(after=after, limit=limit))
    if as_json:
        print_json({"command": "records list", "records": [record_json(record) for record in found]})
        return
    table = Table("seq", "created (UTC)", "frame", "decision", "confidence", "note")
    for record in found:
        table.add_row(
            str(record.seq),
            record.created_utc[:19],
            escape(record.name),
            escape("/".join(record.answer) or ("unsure" if record.class_path else record.status or record.kind)),
            " ".join(f"{share:.3f}" for share in record.confidence),
            escape(record.reason or ""),
        )
    print_tables([table])


@records.command("show")
def show(file: FileArgument, seq: Annotated[int, typer.Argument(min=1, help="Number of the record.")]) -> None:
    """Everything one record holds, as JSON."""
    import json

    from hffnet.runtime.result import record_json

    with _opened(file) as store:
        typer.echo(json.dumps(record_json(store.get(seq)), indent=2))


@records.command("export")
def export(
    file: FileArgument,
    *,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write a CSV file.")] = None,
    jsonl: Annotated[Path | None, typer.Option("--jsonl", metavar="FILE", help="Write a JSONL file.")] = None,
) -> None:
    """Write all records to new files; cells that a spreadsheet would run as formulas are escaped."""
    from hffnet.runtime.sinks.csv_sink import csv_document
    from hffnet.runtime.sinks.jsonl_sink import json_line
    from hffnet.runtime.sinks.line_file import write_lines

    if csv is None and jsonl is None:
        raise ConfigError("nothing to export to; give --csv FILE, --jsonl FILE or both")
    with _opened(file) as store:
        if csv is not None:
            write_lines(csv, csv_document(store.iterate()))
        if jsonl is not None:
            write_lines(jsonl, map(json_line, store.iterate()))


@records.command("verify")
def verify(file: FileArgument, *, as_json: JsonOption = False) -> None:
    """Walk the chain of hashes; exit code 1 where a record was changed or removed.

    Note the head it prints elsewhere: only that proves later that no records were cut off at the end.
    """
    with _opened(file) as store:
        report = store.verify()
    if as_json:
        print_json({"command": "records verify", "is_sound": report.is_sound, **asdict(report)})
    elif report.is_sound:
        typer.echo(f"{report.num_rows} records, all sound; head {report.head}")
    else:
        typer.echo(f"record {report.broken_seq}: {report.reason}; the {report.num_rows} before it are sound")
    if not report.is_sound:
        raise typer.Exit(ExitCode.FAILED_GATE)


def _opened(file: Path) -> "RecordStore":
    from hffnet.runtime.records import RecordStore

    return RecordStore.open(file, create=False)
