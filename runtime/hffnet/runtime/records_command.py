"""``hffnet records``: look at the audit trail, export it, prove it whole."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hffnet.runtime.commands import JsonOption, print_json, print_tables
from hffnet.runtime.errors import ConfigError, ExitCode

if TYPE_CHECKING:
    from hffnet.runtime.record import Record
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
            escape(_note(record)),
        )
    print_tables([table])


def _note(record: "Record") -> str:
    if record.kind == "result":
        return " ".join(filter(None, (record.reason, _earlier(record))))
    if record.kind != "override":
        return record.reason or ""
    return f"{record.person} on record {record.refers_to}{': ' if record.reason else ''}{record.reason or ''}"


def _earlier(record: "Record") -> str:
    """That these bytes had a record before, for people."""
    details = record.details or {}
    if "same_as" not in details:
        return ""
    renamed = f", renamed from {details['renamed_from']}" if "renamed_from" in details else ""
    return f"same bytes as record {details['same_as']}{renamed}"


@records.command("show")
def show(file: FileArgument, seq: Annotated[int, typer.Argument(min=1, help="Number of the record.")]) -> None:
    """Everything one record holds, as JSON, and under ``decided`` what people said of it since."""
    import json

    from hffnet.runtime.result import record_json

    with _opened(file) as store:
        document = record_json(store.get(seq))
        document["decided"] = [
            {"seq": row.seq, "person": row.person, "answer": list(row.answer), "reason": row.reason}
            for row in store.overrides(seq)
        ]
    typer.echo(json.dumps(document, indent=2))


@records.command("override")
def override(
    file: FileArgument,
    seq: Annotated[int, typer.Argument(min=1, help="Number of the result that is decided on.")],
    *,
    person: Annotated[str, typer.Option("--person", metavar="NAME", help="Who decides.", show_default=False)],
    decision: Annotated[
        str, typer.Option("--decision", metavar="accept|CLASS/PATH", help="Accept, or what it is.", show_default=False)
    ],
    reason: Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="Why; needed unless accepted.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Put a person's decision on a result on record: a new row, the result itself stays as it is."""
    from hffnet.runtime.overrides import draft_from_override
    from hffnet.runtime.result import record_json

    with _opened(file) as store:
        row = store.append(draft_from_override(store.get(seq), person=person, decision=decision, reason=reason))
    if as_json:
        print_json({"command": "records override", "record": record_json(row)})
    else:
        typer.echo(f"record {row.seq}: {row.person} decided {'/'.join(row.answer)} on record {seq}")


@records.command("archive")
def archive(
    file: FileArgument,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where archives go.", show_default=False)],
    *,
    keep_days: Annotated[
        float | None, typer.Option("--keep-days", min=0.0, max=36_500.0, help="Keep younger rows.")
    ] = None,
    max_mb: Annotated[float | None, typer.Option("--max-mb", min=0.0, help="Keep at most so many MiB of rows.")] = None,
    forget_sink: Annotated[
        list[str] | None, typer.Option("--forget-sink", metavar="NAME", help="A sink that is gone for good.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Move the oldest rows to a JSONL archive that is proven whole first; rows a sink still waits for stay."""
    from hffnet.runtime.records_archive import Retention, tidy

    if keep_days is None and max_mb is None:
        raise ConfigError("nothing says what may move; give --keep-days DAYS, --max-mb MIB or both")
    with _opened(file) as store:
        for name in forget_sink or ():
            if not store.forget_cursor(name):
                raise ConfigError(f"no sink is called {name!r}; known are {', '.join(store.cursors()) or 'none'}")
        path = tidy(store, Retention(archive=folder, keep_days=keep_days, max_mb=max_mb))
        last_seq = store.archived().last_seq
    if as_json:
        print_json({"command": "records archive", "archive": str(path) if path else None, "archived_to": last_seq})
    else:
        typer.echo(f"records up to {last_seq} are now in {path}" if path else "nothing had to move")


@records.command("export")
def export(
    file: FileArgument,
    *,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write a CSV file.")] = None,
    jsonl: Annotated[Path | None, typer.Option("--jsonl", metavar="FILE", help="Write a JSONL file.")] = None,
    parquet: Annotated[
        Path | None, typer.Option("--parquet", metavar="FILE", help="Write a Parquet file (extra parquet).")
    ] = None,
) -> None:
    """Write all records to new files; in CSV, cells that a spreadsheet would run as formulas are escaped."""
    from hffnet.runtime.sinks.csv_sink import csv_document
    from hffnet.runtime.sinks.jsonl_sink import json_line
    from hffnet.runtime.sinks.line_file import write_lines

    if csv is None and jsonl is None and parquet is None:
        raise ConfigError("nothing to export to; give --csv FILE, --jsonl FILE, --parquet FILE or several of them")
    with _opened(file) as store:
        if csv is not None:
            write_lines(csv, csv_document(store.iterate()))
        if jsonl is not None:
            write_lines(jsonl, map(json_line, store.iterate()))
        if parquet is not None:
            from hffnet.runtime.records_parquet import write_parquet

            write_parquet(parquet, store.iterate())


@records.command("verify")
def verify(file: FileArgument, *, as_json: JsonOption = False) -> None:
    """Walk the chain of hashes; exit code 1 where a record was changed or removed.

    Note the head it prints elsewhere: only that proves later that no records were cut off at the end. A file that
    ends in .jsonl is taken for an archive or a full export.
    """
    if file.suffix == ".jsonl":
        from hffnet.runtime.records_archive import verify_archive

        report = verify_archive(file)
    else:
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
