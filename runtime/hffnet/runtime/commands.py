"""The commands that look at a bundle or at single frames: inspect, classify.

Thin: each calls plain functions and prints. stdout is the result, stderr is for people.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hffnet.runtime.errors import ConfigError, ExitCode, HffnetError

if TYPE_CHECKING:
    from rich.table import Table

BundleArgument = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A *.hffnet file.", show_default=False)]
PrecisionChoice = Literal["auto", "fp32", "fp16", "int8"]


def _checked_engine(text: str) -> str:
    """Refuse an engine that is not known before anything else is done."""
    from hffnet.runtime.engines.target import target_from_text

    if text != "auto":
        target_from_text(text)
    return text


EngineOption = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="ENGINE[:DEVICE]",
        callback=_checked_engine,
        help="auto takes the fastest that is sound; openvino, openvino:gpu, openvino:npu, onnxruntime,"
        " onnxruntime:cuda, onnxruntime:tensorrt, onnxruntime:nv-tensorrt-rtx, tensorrt, tensorrt-rtx, tensorrt-lean.",
    ),
]
PrecisionOption = Annotated[PrecisionChoice, typer.Option("--precision", help="auto takes int8 where there is one.")]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, help="Threads of the engine.", show_default="all")
]
PinOption = Annotated[
    bool | None,
    typer.Option("--pin/--no-pin", help="Tie the engine's threads to cores.", show_default="the library's choice"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]

SCHEMA_VERSION = 1


def inspect(
    bundle: BundleArgument,
    *,
    timed: Annotated[
        bool,
        typer.Option(
            "--time", help="Estimate each graph's time on this CPU from one measured product; takes a second."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a bundle holds: class tree, graphs and their true precision, scores, provenance. Needs no engine."""
    from hffnet.runtime.bundle import open_bundle
    from hffnet.runtime.inspection import document_from_bundle, tables_from_bundle

    opened, throughput = open_bundle(bundle), None
    if timed:
        from hffnet.runtime.throughput import measured_throughput

        throughput = measured_throughput()
    if as_json:
        print_json(document_from_bundle(opened, throughput))
    else:
        print_tables(tables_from_bundle(opened, throughput))


def classify(
    bundle: BundleArgument,
    frames: Annotated[
        list[Path],
        typer.Argument(metavar="FRAME…", help="Files, folders, quoted patterns, CSVs of paths.", show_default=False),
    ],
    *,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE.jsonl", help="Append results here and skip frames that have one."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option("--ray", metavar="local|ADDRESS", help="Share the frames among the workers of a Ray cluster."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Of Ray, one engine each.", show_default="all CPUs")
    ] = None,
    engine: EngineOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    pin: PinOption = None,
    tile_um: Annotated[
        float | None, typer.Option("--tile-um", metavar="UM", min=0.0, help="Cut large frames into squares this wide.")
    ] = None,
    tile_px: Annotated[
        int | None, typer.Option("--tile-px", min=32, help="In pixels, for frames that do not say their scale.")
    ] = None,
    maps: Annotated[
        Path | None, typer.Option("--maps", metavar="FOLDER", help="Write a map of the evidence for each answer.")
    ] = None,
    map_format: Annotated[
        Literal["png", "tiff"], typer.Option("--map-format", help="png to look at, tiff (ImageJ) to measure in.")
    ] = "png",
    as_json: JsonOption = False,
) -> None:
    """Classify image files; a file that cannot be read is named and the others go on (exit code 3)."""
    from rich.table import Table

    from hffnet.runtime.archive import frames_from_arguments
    from hffnet.runtime.classifier import Classifier
    from hffnet.runtime.evidence_map import MapFolder
    from hffnet.runtime.field_of_view import TileSettings
    from hffnet.runtime.result import prediction_json

    paths = frames_from_arguments(frames)
    tiles = TileSettings(side_um=tile_um or None, side_px=tile_px) if tile_um or tile_px else None
    if out is not None or ray is not None or workers is not None:
        from hffnet.runtime.classify_command import ArchiveOptions, classify_to_file

        if maps is not None:
            raise ConfigError("--maps stands beside --out, --ray or --workers; write maps in a run of their own")
        options = ArchiveOptions(
            engine=engine, precision=precision, threads=threads, pin=pin, tiles=tiles, ray=ray, workers=workers
        )
        classify_to_file(bundle, paths, out, options, as_json=as_json)
        return
    folder = MapFolder(maps, map_format) if maps else None
    documents, failures = list[dict[str, Any]](), 0
    table = Table("frame", "picture", "µm/pixel", "decision", "confidence", "note")
    with Classifier.open(
        bundle, engine=engine, precision=precision, threads=threads, pin=pin, tiles=tiles
    ) as classifier:
        for path in paths:
            try:
                prediction = folder.classify(classifier, path) if folder else classifier.classify(path)
            except HffnetError as error:
                failures += 1
                documents.append({"name": str(path), "error": str(error)})
                typer.echo(f"hffnet: {error}", err=True)
                continue
            documents.append(prediction_json(prediction, classifier.bundle.manifest.taxonomy))
            decision = prediction.decision
            table.add_row(
                str(path),
                f"{prediction.crop.width} × {prediction.crop.height} ({prediction.crop.reason})",
                f"{size:.4g}" if (size := prediction.acquisition.pixel_size_um) else "-",
                "/".join(prediction.path) or "not classified",
                " ".join(f"{share:.3f}" for share in decision.confidence) if decision else "-",
                prediction.not_classified or (prediction.area.in_words() if prediction.area else ""),
            )
    if as_json:
        print_json({"command": "classify", "results": documents})
    elif table.row_count:
        print_tables([table])
    if failures:
        raise typer.Exit(ExitCode.BAD_INPUT)


def print_json(document: dict[str, Any]) -> None:
    """One JSON document on stdout."""
    typer.echo(json.dumps({"schema_version": SCHEMA_VERSION, **document}, allow_nan=False))


def print_tables(tables: "list[Table]") -> None:
    """Tables on stdout, as wide as the terminal or, in a pipe, as wide as they need to be."""
    from rich.console import Console

    console = Console() if typer.get_text_stream("stdout").isatty() else Console(width=160)
    for table in tables:
        console.print(table)
