"""``hffnet data``: looks at labelled frames before anything is trained on them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hffnet.runtime.commands import JsonOption, print_json, print_tables
from hffnet.runtime.errors import ExitCode

if TYPE_CHECKING:
    from rich.table import Table

    from hffnet.train.hygiene import Cluster, DataReport, Divided

data = typer.Typer(no_args_is_help=True, help="Look at labelled frames before anything is trained on them.")

_MOST_LISTED = 20


@data.callback()
def _data() -> None:
    """A group even while it has one command."""


@data.command()
def check(
    source: Annotated[Path, typer.Argument(metavar="DIR|CSV", help="Labelled frames: class folders or a CSV.")],
    *,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="Look at the split that this checkpoint was trained with.")
    ] = None,
    split_seed: Annotated[int, typer.Option(help="As of hffnet train, for frames without a given split.")] = 0,
    val_fraction: Annotated[float, typer.Option(min=0.0, max=1.0, help="As of hffnet train.")] = 0.15,
    test_fraction: Annotated[float, typer.Option(min=0.0, max=1.0, help="As of hffnet train.")] = 0.15,
    threads: Annotated[int, typer.Option(min=1, help="Readers side by side.")] = 2,
    as_json: JsonOption = False,
) -> None:
    """Find leaks between splits, copies, unreadable files, mixed bit depths, and classes out of balance.

    Exit codes: 1 where copies or a group stand in two splits, 3 where a file cannot be read or no split can be made.
    """
    from rich.console import Console
    from rich.progress import Progress

    from hffnet.train.hygiene import check_dataset

    fractions = (1.0 - val_fraction - test_fraction, val_fraction, test_fraction)
    divided = _divided(source, checkpoint, split_seed, fractions)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("reading frames", total=len(divided.dataset.frames))
        report = check_dataset(divided, threads=threads, advance=lambda done: progress.update(task, completed=done))
    if as_json:
        print_json({"command": "data check", "source": str(source), "leaks": len(report.leaks), **_document(report)})
    else:
        print_tables(_tables(source, report))
        for sentence in _sentences(report):
            typer.echo(sentence)
    if report.leaks:
        raise typer.Exit(ExitCode.FAILED_GATE)
    if report.unreadable or report.split_problem:
        raise typer.Exit(ExitCode.BAD_INPUT)


def _divided(source: Path, checkpoint: Path | None, seed: int, fractions: tuple[float, float, float]) -> "Divided":
    from hffnet.runtime.dataset import open_dataset
    from hffnet.train.hygiene import divided_by_checkpoint, divided_by_seed

    if checkpoint is None:
        return divided_by_seed(open_dataset(source), seed, fractions)
    from hffnet.train.checkpoint import open_checkpoint

    opened = open_checkpoint(checkpoint)
    splits = {frame.sha256: frame.split for frame in opened.config.frames}
    return divided_by_checkpoint(open_dataset(source, opened.taxonomy), splits, str(checkpoint))


def _document(report: "DataReport") -> "dict[str, object]":
    return report.model_dump(mode="json")


def _tables(source: Path, report: "DataReport") -> "list[Table]":
    from rich.table import Table

    splits = list(report.splits)
    title = f"{source}: {report.num_frames} frames in {report.num_groups} groups, split by {report.split_source}"
    table = Table("class", "frames", "groups", *splits, "depth", "µm per pixel", title=title)
    for row in report.classes:
        sizes = f"{row.pixel_size_um[0]:.4g}–{row.pixel_size_um[1]:.4g}" if row.pixel_size_um else "not known"
        table.add_row(
            "/".join(row.classes),
            str(row.num_frames),
            str(row.num_groups),
            *(str(row.splits.get(name, 0)) for name in splits),
            ", ".join(sorted(row.depths)),
            sizes,
        )
    return [table]


def _sentences(report: "DataReport") -> list[str]:
    lines = [f"unreadable: {entry.reason}" for entry in report.unreadable]
    if report.split_problem:
        lines.append(f"split: {report.split_problem}")
    if report.picture_sizes:
        (low_w, low_h), (high_w, high_h) = report.picture_sizes
        lines.append(f"pictures from {low_w} × {low_h} to {high_w} × {high_h} pixels")
    kept = sorted((c for c in report.clusters), key=lambda c: not c.leaks)
    lines += [_line(cluster) for cluster in kept[:_MOST_LISTED]]
    if len(kept) > _MOST_LISTED:
        lines.append(f"… and {len(kept) - _MOST_LISTED} clusters more; --json lists all")
    lines += [f"note: {sentence}" for sentence in report.warnings]
    lines.append(f"{len(report.leaks)} leaks, {len(report.clusters)} clusters of copies or parted groups")
    return lines


def _line(cluster: "Cluster") -> str:
    shown = ", ".join(f"{frame.name} ({frame.split or 'no split'})" for frame in cluster.frames[:4])
    more = f" and {len(cluster.frames) - 4} more" if len(cluster.frames) > 4 else ""
    return f"{'LEAK' if cluster.leaks else 'copies'}: {cluster.kind}: {shown}{more}"
