"""What each part of calibration brings on a trained checkpoint: the defaults, and one change at a time.

    python -m tests.bench.calibration_methods CHECKPOINT DATA --num-frames 128 --split val

One pass over the train frames serves every row. Methods are to be chosen on ``val``; ``test`` is for the record. The
error of the logits compares methods; the mean divergence of a network that is sure of its answers is mostly that of
one frame between two classes, whose share stands beside it.
"""

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnx import ModelProto, helper

from hffnet.calibration.fidelity import HeldOut, Scored, cost_between, divergence, scored, scored_from_logits
from hffnet.calibration.frames import choose_frames, load_frames
from hffnet.calibration.graph import GraphIndex, model_from_path, nonnegative_tensors
from hffnet.calibration.int8 import Calibration, CalibrationOptions, calibration_from_frames
from hffnet.calibration.observers import (
    NUM_LEVELS,
    NUM_UNSIGNED_LEVELS,
    Histogram,
    entropy_range,
    least_error_range,
    percentile_range,
)
from hffnet.calibration.placement import Placement, ResidualPoint
from hffnet.calibration.smoothing import smoothed_from_onnx
from hffnet.export.deploy_form import deploy_form
from hffnet.export.held_out import roles_from_checkpoint
from hffnet.export.onnx import onnx_from_deploy_form
from hffnet.runtime.dataset import open_dataset
from hffnet.train.checkpoint import model_from_checkpoint, open_checkpoint

_RANGES: dict[str, Callable[[Histogram, int], float]] = {
    "minmax": lambda histogram, _: histogram.amax,
    "99.99 percentile": lambda histogram, _: percentile_range(histogram, 99.99),
    "mse": partial(least_error_range, power=2),
    "entropy": entropy_range,
    "fourth power": partial(least_error_range, power=4),
}
_OPTIONS = CalibrationOptions(observer="cubed-error", include=("trunk.conv1/Conv",))
"""With the convolution that reads the picture, so that its row needs no second pass; the defaults leave it out."""

_ACTIVATIONS = "activations only"

Row = tuple[str, ModelProto]


def main() -> None:
    """Print one Markdown table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--num-frames", type=int, default=128)
    parser.add_argument("--split", choices=["val", "test"], default="val")
    parser.add_argument("--only", nargs="*", help="rows by their names; all where not given")
    options = parser.parse_args()
    checkpoint = open_checkpoint(options.checkpoint)
    data = open_dataset(options.data, checkpoint.taxonomy)
    roles = roles_from_checkpoint(data, checkpoint)
    spec = checkpoint.config.preprocess
    frames = load_frames(choose_frames(roles.calibration, options.num_frames), roles.calibration, spec).pixels
    known = {frame.sha256: frame.split for frame in checkpoint.config.frames}
    judged = [frame for frame in data.frames if known.get(frame.sha256) == options.split]
    held_out = HeldOut(
        frames=load_frames(judged, data, spec).pixels,
        truths=[frame.classes for frame in judged],
        taxonomy=checkpoint.taxonomy,
        decode=checkpoint.config.decode,
    )
    print(f"{len(frames)} train frames, {len(judged)} {options.split} frames\n")
    print(
        "| method | logits, dB | divergence | of one frame | flips | HF1 drop |\n| --- | --- | --- | --- | --- | --- |"
    )
    with tempfile.TemporaryDirectory(prefix="hffnet-bench-") as folder:
        path = Path(folder) / "float.onnx"
        onnx_from_deploy_form(deploy_form(model_from_checkpoint(checkpoint)), path)
        reference = scored(path, held_out)
        for name, model in _rows(path, frames):
            if options.only is not None and name not in options.only:
                continue
            content = model.SerializeToString()
            score = scored(content, held_out) if name != _ACTIVATIONS else _as_written(content, held_out)
            cost = cost_between(reference, score, held_out)
            pairs = zip(reference.logits, score.logits, strict=True)
            each = [divergence(a[None], b[None], held_out) for a, b in pairs]
            decibel = -20 * np.log10(max(cost.logit_error, 1e-9))
            print(
                f"| {name} | {decibel:.1f} | {cost.divergence:.1e} | {max(each) / max(sum(each), 1e-30):.0%} |"
                f" {cost.num_flips} | {cost.hf1_drop:.2f} |",
                flush=True,
            )
    print(f"\nload average at the end: {', '.join(f'{value:.1f}' for value in os.getloadavg())}")


def _as_written(model: bytes, held_out: HeldOut) -> Scored:
    """onnxruntime 1.32 would quantize a float weight behind a quantized activation, with one scale for all channels."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    parts = [session.run(["logits"], {"frames": frame[None]})[0] for frame in held_out.frames]
    return scored_from_logits(np.concatenate(parts), held_out)


def _rows(path: Path, frames: np.ndarray) -> Iterator[Row]:
    found = calibration_from_frames(path, frames, options=_OPTIONS, activations="uint8")
    index = GraphIndex(model_from_path(path))
    stem = {point.output for point in found.placement.weighted if point.node in _OPTIONS.include}
    default = found.placement.without(stem, "reads the picture")
    yield "defaults (cubed error, both corrections)", found.quantized(default)
    for name, range_of in _RANGES.items():
        yield name, replace(found, ranges=_ranges(found, index, range_of)).quantized(default)
    yield "no bias correction", replace(found, shifts={}).quantized(default)
    yield "weights clipped by squared error", found.with_weights(clipping=True).quantized(default)
    clipped = replace(found.with_weights(clipping=True), shifts={})
    yield "weights clipped by squared error, no bias correction", clipped.quantized(default)
    yield "the picture's convolution too", found.quantized()
    yield "sums: no input", found.quantized(replace(default, residuals=(), cpu_sums=()))
    yield "sums: identities only", found.quantized(replace(default, cpu_sums=()))
    deeper = _with_shortcuts(default, index)
    yield "sums: identities and shortcuts (TensorRT's rule)", found.quantized(deeper)
    yield "weights only", _float_activations(found.quantized(default), index)
    # Corrected biases make up for rounded weights, so not here.
    yield _ACTIVATIONS, _float_weights(replace(found, shifts={}).quantized(default), found)
    yield "int8 for TensorRT", found.quantized(default, activations="int8")
    yield "int8 for TensorRT, shortcuts too", found.quantized(deeper, activations="int8")
    yield "int8 for TensorRT, the picture's convolution too", found.quantized(activations="int8")
    yield "no smoothing", found.without_smoothing().quantized(default)


def _ranges(found: Calibration, index: GraphIndex, range_of: Callable[[Histogram, int], float]) -> dict[str, float]:
    unsigned = nonnegative_tensors(index)
    ranges = {}
    for name in found.ranges:
        histogram = found.histogram(name)
        assert histogram is not None
        ranges[name] = range_of(histogram, NUM_UNSIGNED_LEVELS if name in unsigned else NUM_LEVELS)
    return ranges


def _with_shortcuts(placement: Placement, index: GraphIndex) -> Placement:
    """Also the downsampling convolution's output where two convolutions meet in a sum."""
    shortcuts = [point for point in placement.cpu_sums if "downsample" in point.activation]
    assert shortcuts
    assert all(index.producers[point.activation].op_type == "Conv" for point in shortcuts)
    residuals: tuple[ResidualPoint, ...] = (*placement.residuals, *shortcuts)
    return replace(placement, residuals=residuals, cpu_sums=())


def _float_activations(quantized: ModelProto, index: GraphIndex) -> ModelProto:
    """Every QuantizeLinear of an activation becomes nothing."""
    back = {n.input[0]: n.output[0] for n in quantized.graph.node if n.op_type == "DequantizeLinear"}
    quantizers = [n for n in quantized.graph.node if n.op_type == "QuantizeLinear"]
    names = {back[n.output[0]]: n.input[0].removesuffix("_clipped") for n in quantizers}
    assert set(names.values()) <= index.uses.keys()
    for node in quantized.graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = names.get(name, name)
    dropped = {n.output[0] for n in quantizers} | names.keys() | {n.input[0] for n in quantizers} - index.uses.keys()
    kept = [n for n in quantized.graph.node if n.output[0] not in dropped]
    del quantized.graph.node[:]
    quantized.graph.node.extend(kept)
    return quantized


def _float_weights(quantized: ModelProto, found: Calibration) -> ModelProto:
    """Every DequantizeLinear of a weight becomes the float weight."""
    floats = smoothed_from_onnx(model_from_path(found.float_model), found.smoothing)
    weights = {f"{t.name}_int8": t for t in floats.graph.initializer}
    for node in quantized.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in weights:
            tensor, output = weights[node.input[0]], node.output[0]
            node.CopyFrom(helper.make_node("Identity", [tensor.name], [output]))
            quantized.graph.initializer.append(tensor)
    return quantized


if __name__ == "__main__":
    main()
