"""``hffnet calibrate``: a float ONNX file and frames in, an INT8 ONNX file and ``calibration.json`` out."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from hffnet.calibration.calibrate import Outputs, Written


def calibrate(
    model: Annotated[Path, typer.Argument(help="Float ONNX file.", metavar="MODEL.onnx")],
    data: Annotated[Path, typer.Option(help="Labelled frames: a folder of class folders, or a CSV.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="INT8 ONNX file to write.")],
    num_frames: Annotated[
        int, typer.Option(min=1, max=10_000, help="Frames to use; 500 and more are recommended.")
    ] = 512,
    mean: Annotated[
        str | None, typer.Option(metavar="M[,M,M]", help="Of a float32 input: subtracted from pixel / 255.")
    ] = None,
    std: Annotated[
        str | None, typer.Option(metavar="S[,S,S]", help="Of a float32 input: what is left is divided by it.")
    ] = None,
    low: Annotated[float, typer.Option(help="Share of pixels that become 0, as the network was trained.")] = 0.001,
    high: Annotated[float, typer.Option(help="Share of pixels below what becomes 255; 1 for the brightest.")] = 0.999,
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
    from rich.console import Console

    from hffnet.calibration.calibrate import Outputs, Task, int8_file_from_onnx
    from hffnet.calibration.int8 import CalibrationOptions
    from hffnet.calibration.model_input import normalisation_from_text
    from hffnet.calibration.progress import watch_on
    from hffnet.runtime.errors import ConfigError

    outputs = Outputs(graph=output, page=html, cache=tensorrt_cache)
    outputs.check(model)
    if tensorrt_cache and smoothing:
        raise ConfigError(
            "--tensorrt-cache holds ranges of the float graph as it is; smoothing changes them: add --no-smoothing"
        )
    if pixel_size_um is not None and not 0 < pixel_size_um[0] <= pixel_size_um[1] < math.inf:
        given = f"{pixel_size_um[0]} {pixel_size_um[1]}"
        raise ConfigError(f"--pixel-size-um is {given}; expected two finite sizes above 0, LOW then HIGH")
    if not 0 <= low < high <= 1:
        raise ConfigError(f"--low is {low:g} and --high {high:g}; expected shares of pixels, 0 <= low < high <= 1")
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
        normalisation=normalisation_from_text(mean, std),
    )
    task = Task(
        model=model,
        data=data,
        num_frames=num_frames,
        low=low,
        high=high,
        trained_um=pixel_size_um,
        activations=activations,
        options=options,
    )
    with watch_on(Console(stderr=True)) as watch:
        written = int8_file_from_onnx(task, outputs, watch)
    _say(outputs, written, as_json=as_json)


def _say(outputs: "Outputs", written: "Written", *, as_json: bool) -> None:
    import json

    report, float_bytes = written.report, written.float_bytes
    quantized, num_bytes = len(report.placement.weighted), outputs.graph.stat().st_size
    measured = report.measured
    result = {
        "schema_version": 1,
        "model": str(outputs.graph),
        "report": str(outputs.report),
        "bytes": num_bytes,
        "float_bytes": float_bytes,
        "sha256": report.int8_sha256,
        "num_frames": len(report.frames),
        "frames_sha256": report.frames_sha256,
        "seconds": report.seconds,
        "measured": None if measured is None else measured.model_dump(),
        "quantized_nodes": quantized,
        "float_nodes": {point.node: point.reason for point in report.placement.left_float},
    }
    if as_json:
        typer.echo(json.dumps(result))
        return
    typer.echo(f"{outputs.graph}: {quantized} weighted nodes in int8, {len(report.placement.left_float)} float")
    typer.echo(f"{num_bytes / 1e6:.1f} MB after {float_bytes / 1e6:.1f} MB; ", nl=False)
    typer.echo(f"{len(report.frames)} frames in {report.seconds:.1f} s; report: {outputs.report}")
    if measured is None:
        typer.echo("what int8 costs was not measured: no frame of --data is marked val or test")
    else:
        typer.echo(
            f"on {measured.num_frames} held-out frames {measured.num_flips} answers change; the logits keep a"
            f" signal-to-noise ratio of {measured.logit_db:.1f} dB"
        )
