"""``hffnet export``: a checkpoint in, a bundle out. Nothing heavy is imported before the command runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from hffnet.runtime.bundle import Bundle
    from hffnet.runtime.engines.builder import BuildOptions


def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(metavar="CHECKPOINT|BUNDLE", help="Folder of hffnet train; for --triton also a bundle."),
    ],
    *,
    out: Annotated[Path | None, typer.Option("--output", "-o", help="Bundle to write, *.hffnet.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--calibration-data",
            "--data",
            metavar="DIR|CSV",
            help="Labelled frames: the checkpoint's train frames calibrate, its held-out ones measure.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the model; default: the checkpoint's folder name.")] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Add an int8 graph, calibrated on train frames.")] = False,
    fp16: Annotated[
        bool, typer.Option("--fp16", help="Add a half-precision graph for TensorRT; with --int8 also an int8 one.")
    ] = False,
    held_out: Annotated[
        Path | None, typer.Option("--held-out", metavar="DIR|CSV", help="Measure on these labelled frames instead.")
    ] = None,
    max_drop: Annotated[
        float,
        typer.Option("--max-drop", min=0.0, max=100.0, help="Points of HF1 that fp16 or int8 may cost; else 1."),
    ] = 0.5,
    min_quantized_share: Annotated[
        float,
        typer.Option("--min-quantized-share", min=0.0, max=1.0, help="Share of the work int8 must do; else exit 1."),
    ] = 0.5,
    min_half_share: Annotated[
        float,
        typer.Option("--min-half-share", min=0.0, max=1.0, help="Share of the work float16 must do; else exit 1."),
    ] = 0.5,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="Rank groups and draw the curve also where int8 passes at once.")
    ] = False,
    num_frames: Annotated[int, typer.Option("--num-frames", min=1, help="Calibration frames.")] = 512,
    observer: Annotated[
        Literal["minmax", "moving-average", "percentile", "entropy", "mse", "cubed-error"],
        typer.Option(help="How ranges are chosen."),
    ] = "cubed-error",
    percentile: Annotated[float, typer.Option(help="For the percentile observer.")] = 99.99,
    mode: Annotated[Literal["cnn", "cnn+linear"], typer.Option(help="What is quantized.")] = "cnn+linear",
    include: Annotated[
        list[str] | None, typer.Option(help="Pattern of graph nodes to quantize although they would stay float.")
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Pattern of graph nodes to leave float.")] = None,
    bias_correction: Annotated[bool, typer.Option(help="Take rounding's mean shift out of the biases.")] = True,
    smoothing: Annotated[bool, typer.Option(help="Move LayerNorm outliers into the next weights.")] = True,
    weight_clipping: Annotated[
        bool, typer.Option(help="Clip weights where their squared error is then smaller.")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Also write a page about int8, refused or not: ranges, noise, gate."),
    ] = None,
    target_accuracy: Annotated[
        float | None,
        typer.Option(
            "--target-accuracy",
            help="Hold back so that this share of answers is right as far as they go (0.95); chosen on val frames.",
            show_default="answer every frame down to the leaf",
        ),
    ] = None,
    engine: Annotated[
        Literal["tensorrt", "tensorrt-rtx"] | None,
        typer.Option(help="Also build engines ahead of time, beside the bundle; tensorrt-rtx needs no GPU for it."),
    ] = None,
    gpu: Annotated[
        str | None, typer.Option(metavar="sm86,sm89,sm120", help="For which GPUs; default: the one of this machine.")
    ] = None,
    triton: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also write a model repository for NVIDIA Triton: a model per graph."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Chooses the calibration frames.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Export a checkpoint as a bundle, each form proven equal to the one before and int8 gated on held-out frames."""
    from rich.console import Console

    from hffnet.calibration.gate import Budget
    from hffnet.calibration.int8 import CalibrationOptions
    from hffnet.export.bundle import ExportOptions, bundle_from_checkpoint
    from hffnet.export.bundle_writer import check_bundle_path
    from hffnet.runtime.dataset import open_dataset
    from hffnet.runtime.errors import ConfigError
    from hffnet.train.checkpoint import open_checkpoint

    if triton is not None and out is None and checkpoint.is_file():
        _show_models(_models(checkpoint, triton), as_json=as_json)
        return
    if out is None or data is None:
        raise ConfigError(
            "a bundle needs --output FILE.hffnet and --data DIR|CSV; only --triton from a finished bundle needs neither"
        )
    check_bundle_path(out)
    if triton is not None:
        _check_repository(triton, name or checkpoint.resolve().name, is_int8=int8, is_fp16=fp16)
    opened = open_checkpoint(checkpoint)
    calibration = CalibrationOptions(
        observer=observer,
        percentile=percentile,
        mode=mode,
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        bias_correction=bias_correction,
        smoothing=smoothing,
        weight_clipping=weight_clipping,
        seed=seed,
    )
    budget = Budget(
        max_drop=max_drop,
        min_quantized_share=min_quantized_share,
        min_half_share=min_half_share,
        always_rank=sensitivity,
    )
    if report is not None and (report.is_dir() or not report.parent.is_dir() or not int8):
        raise ConfigError(f"--report {report} needs --int8, and a file in a folder that exists")
    options = ExportOptions(
        name=name,
        int8=int8,
        fp16=fp16,
        budget=budget,
        num_frames=num_frames,
        calibration=calibration,
        report=report,
        target_accuracy=target_accuracy,
    )
    if gpu is not None and engine is None:
        raise ConfigError(f"--gpu {gpu} says for which GPUs, but no --engine is asked for; add --engine tensorrt-rtx")
    build_options = None if engine is None else _build_options(engine, gpu)
    console = Console(stderr=True)
    with console.status("opening data") as status:

        def say(step: str) -> None:
            status.update(step)
            if not console.is_terminal:
                console.print(step)

        bundle = bundle_from_checkpoint(
            opened,
            out,
            open_dataset(data, opened.taxonomy),
            options,
            held_out=None if held_out is None else open_dataset(held_out, opened.taxonomy),
            say=say,
        )
        engines = []
        if engine is not None and build_options is not None:
            engines = _engines(bundle, engine, build_options, say, status.update)
        models = [] if triton is None else _models(bundle.path, triton)
    _show(bundle, engines, models, as_json=as_json)


def _build_options(engine: str, gpu: str | None) -> "BuildOptions":
    """Whether the library is there and the architectures are some: asked before minutes of calibration."""
    from hffnet.runtime.engines.builder import BuildOptions, architectures_from_text
    from hffnet.runtime.engines.flavour import flavour_named, import_flavour

    import_flavour(flavour_named(engine))
    return BuildOptions(architectures=() if gpu is None else architectures_from_text(gpu))


def _engines(
    bundle: "Bundle",
    engine: str,
    options: "BuildOptions",
    say: "Callable[[str], None]",
    show: "Callable[[str], None]",
) -> list[Path]:
    """One engine for each TensorRT graph of the bundle, or for its fp32 graph where it has none.

    Args:
        bundle: just exported.
        engine: flavour.
        options: for which GPUs.
        say: told of each engine.
        show: told how far one is, many times.
    """
    from hffnet.export.engine_builder import write_engine
    from hffnet.runtime.engines.flavour import flavour_named
    from hffnet.runtime.manifest import Precision

    of_family = [graph.precision for graph in bundle.manifest.graphs if graph.family == "tensorrt"]
    precisions: list[Precision] = of_family or ["fp32"]
    paths = []
    for precision in precisions:
        what = f"building the {precision} engine for {engine}"
        say(what)
        path = bundle.path.with_suffix(f".{precision}.{engine}.engine")
        write_engine(
            bundle,
            path,
            flavour_named(engine),
            options,
            precision=precision,
            progress=lambda progress, what=what: show(f"{what}: {progress.text}"),  # type: ignore[misc]
        )
        paths.append(path)
    return paths


def _check_repository(repository: Path, name: str, *, is_int8: bool, is_fp16: bool) -> None:
    from hffnet.export.triton import check_repository
    from hffnet.runtime.manifest import Precision

    asked: dict[Precision, bool] = {"fp32": True, "fp16": is_fp16, "int8": is_int8}
    check_repository(repository, name, [precision for precision, is_asked in asked.items() if is_asked])


def _models(bundle: Path, repository: Path) -> list[Path]:
    from hffnet.export.triton import triton_from_bundle
    from hffnet.runtime.bundle import open_bundle

    return triton_from_bundle(open_bundle(bundle), repository)


def _show_models(models: list[Path], *, as_json: bool) -> None:
    from hffnet.runtime.commands import print_json

    if as_json:
        print_json({"command": "export", "triton": [str(path) for path in models]})
        return
    for path in models:
        typer.echo(f"Triton model {path}")


def _show(bundle: "Bundle", engines: list[Path], models: list[Path], *, as_json: bool) -> None:
    from hffnet.runtime.commands import print_json, print_tables
    from hffnet.runtime.inspection import document_from_bundle, tables_from_bundle

    if as_json:
        written = {"engines": [str(path) for path in engines], "triton": [str(path) for path in models]}
        print_json({**document_from_bundle(bundle), "command": "export", **written})
    else:
        print_tables(tables_from_bundle(bundle)[1:3])
        for path in engines:
            typer.echo(f"engine {path}, described in {path.name}.json")
        _show_models(models, as_json=False)
