"""``hffnet calibrate``: a float ONNX file and frames in, an INT8 ONNX file and ``calibration.json`` out."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from hffnet.calibration.frames import CalibrationFrames
    from hffnet.calibration.int8 import Calibration, CalibrationOptions
    from hffnet.calibration.report import CalibrationReport


def calibrate(
    model: Annotated[Path, typer.Argument(help="Float ONNX file: input uint8 (N, H, W).", metavar="MODEL.onnx")],
    data: Annotated[Path, typer.Option(help="Labelled frames: a folder of class folders, or a CSV.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="INT8 ONNX file to write.")],
    num_frames: Annotated[int, typer.Option(min=1, help="Frames to use; 500 and more are recommended.")] = 512,
    observer: Annotated[
        Literal["minmax", "moving-average", "percentile", "entropy", "mse", "cubed-error"],
        typer.Option(help="How ranges are chosen."),
    ] = "cubed-error",
    percentile: Annotated[float, typer.Option(help="For the percentile observer.")] = 99.99,
    mode: Annotated[Literal["cnn", "cnn+linear"], typer.Option(help="What is quantized.")] = "cnn+linear",
    include: Annotated[list[str] | None, typer.Option(help="Pattern of nodes to quantize all the same.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Pattern of nodes to leave float.")] = None,
    pixel_size_um: Annotated[
        tuple[float, float] | None,
        typer.Option(
            "--pixel-size-um",
            metavar="LOW HIGH",
            help="Micrometres per pixel the network was trained at; frames of another magnification are refused.",
            show_default="that of the val and test frames in --data",
        ),
    ] = None,
    activations: Annotated[
        Literal["int8", "uint8"], typer.Option(help="uint8: where never negative; CPU engines only.")
    ] = "int8",
    bias_correction: Annotated[bool, typer.Option(help="Take rounding's mean shift out of the biases.")] = True,
    smoothing: Annotated[bool, typer.Option(help="Move LayerNorm outliers into the next weights.")] = True,
    weight_clipping: Annotated[
        bool, typer.Option(help="Clip weights where their squared error is then smaller.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Also write a page: ranges over histograms, noise, frames.")
    ] = None,
    tensorrt_cache: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="LEGACY: also write a calibration.cache for TensorRT up to 10 and DLA."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Chooses the frames.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Quantize a float ONNX graph to INT8, with ranges measured on train frames."""
    from hffnet.calibration.int8 import CalibrationOptions
    from hffnet.runtime.errors import ConfigError

    if output.resolve() == model.resolve():
        raise ConfigError(f"{output} is the float model itself; name another file with -o")
    if tensorrt_cache and smoothing:
        raise ConfigError(
            "--tensorrt-cache holds ranges of the float graph as it is; smoothing changes them: add --no-smoothing"
        )
    options = CalibrationOptions(
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
    if pixel_size_um is not None and not 0 < pixel_size_um[0] <= pixel_size_um[1] < math.inf:
        given = f"{pixel_size_um[0]} {pixel_size_um[1]}"
        raise ConfigError(f"--pixel-size-um is {given}; expected two finite sizes above 0, LOW then HIGH")
    frames = _frames(data, num_frames, seed, _frame_size(model), pixel_size_um)
    # An interrupted command with the same arguments goes on from this file.
    keep = output.with_suffix(".calibration.part.npz")
    calibration = _calibrated(model, frames, options, activations, keep)
    report = calibration.report()
    report_path = output.with_suffix(".calibration.json")
    _write(output, calibration.quantized().SerializeToString())
    _write(report_path, report.model_dump_json(indent=1).encode())
    if html:
        from hffnet.calibration.html_report import html_from_calibration

        _write(html, html_from_calibration(calibration, report).encode())
    if tensorrt_cache:
        _write(tensorrt_cache, _cache(calibration).encode())
    keep.unlink(missing_ok=True)
    _say(model, output, report_path, report, as_json=as_json)


def _frame_size(model: Path) -> int:
    from hffnet.calibration.graph import frame_size, model_from_path

    return frame_size(model_from_path(model))


def _frames(
    data: Path, num_frames: int, seed: int, size: int, trained_um: tuple[float, float] | None
) -> "CalibrationFrames":
    from hffnet.calibration.frames import (
        check_magnification,
        choose_frames,
        imaging_from_file,
        load_frames,
        pixel_sizes_of,
        warn_of_unknown_sizes,
    )
    from hffnet.runtime.dataset import open_dataset
    from hffnet.runtime.preprocess import PreprocessSpec

    dataset = open_dataset(data)
    chosen = choose_frames(dataset, num_frames, seed=seed, imaging=imaging_from_file)
    frames = load_frames(chosen, dataset, PreprocessSpec(size=size))
    if trained_um is not None:
        warn_of_unknown_sizes(frames.pixel_sizes_um)
        check_magnification(frames.pixel_sizes_um, trained_um, "the network was trained at")
    else:
        held_out = (*dataset.frames_of("val"), *dataset.frames_of("test"))
        check_magnification(frames.pixel_sizes_um, pixel_sizes_of(held_out), "the val and test frames have")
    return frames


def _calibrated(
    model: Path,
    frames: "CalibrationFrames",
    options: "CalibrationOptions",
    activations: Literal["int8", "uint8"],
    keep: Path,
) -> "Calibration":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from hffnet.calibration.int8 import calibration_from_frames

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("calibrating", total=len(frames.pixels))
        return calibration_from_frames(
            model,
            frames.pixels,
            options=options,
            origins=frames.origins,
            activations=activations,
            progress=lambda done: bar.update(task, completed=done),
            keep=keep,
        )


def _cache(calibration: "Calibration") -> str:
    from hffnet.calibration.observers import NUM_LEVELS
    from hffnet.calibration.tensorrt_cache import cache_from_ranges

    # TensorRT's own rounding is int8 whatever the graph's is.
    return cache_from_ranges({name: o.range(NUM_LEVELS) for name, o in calibration.observers.items()})


def _write(path: Path, content: bytes) -> None:
    from hffnet.runtime.durable import whole_file

    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def _say(model: Path, output: Path, report_path: Path, report: "CalibrationReport", *, as_json: bool) -> None:
    import json

    quantized = len(report.placement.weighted)
    result = {
        "schema_version": 1,
        "model": str(output),
        "report": str(report_path),
        "bytes": output.stat().st_size,
        "float_bytes": model.stat().st_size,
        "num_frames": len(report.frames),
        "frames_sha256": report.frames_sha256,
        "seconds": report.seconds,
        "quantized_nodes": quantized,
        "float_nodes": {point.node: point.reason for point in report.placement.left_float},
    }
    if as_json:
        typer.echo(json.dumps(result))
        return
    typer.echo(f"{output}: {quantized} weighted nodes in int8, {len(report.placement.left_float)} float")
    typer.echo(f"{output.stat().st_size / 1e6:.1f} MB after {model.stat().st_size / 1e6:.1f} MB; ", nl=False)
    typer.echo(f"{len(report.frames)} frames in {report.seconds:.1f} s; report: {report_path}")
