"""What each observer, bias correction and smoothing bring on a trained checkpoint: int8 against fp32, held-out frames.

python -m tests.bench.calibration_methods CHECKPOINT DATA --num-frames 256
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from hffnet.calibration.bias import WithMean
from hffnet.calibration.fidelity import HeldOut, cost_between, scored
from hffnet.calibration.frames import choose_frames, load_frames
from hffnet.calibration.graph import GraphIndex, model_from_path, nonnegative_tensors
from hffnet.calibration.int8 import Calibration, CalibrationOptions, calibration_from_frames
from hffnet.calibration.observers import (
    NUM_LEVELS,
    NUM_UNSIGNED_LEVELS,
    Entropy,
    Histogram,
    entropy_range,
    mse_range,
    percentile_range,
)
from hffnet.export.deploy_form import deploy_form
from hffnet.export.held_out import roles_from_checkpoint
from hffnet.export.onnx import onnx_from_deploy_form
from hffnet.runtime.dataset import open_dataset
from hffnet.train.checkpoint import model_from_checkpoint, open_checkpoint

_RANGES: dict[str, Callable[[Histogram, int], float]] = {
    "minmax": lambda histogram, _: histogram.amax,
    "99.99 percentile": lambda histogram, _: percentile_range(histogram, 99.99),
    "mse": mse_range,
    "entropy": entropy_range,
    "entropy as if all had 127 levels": lambda histogram, _: entropy_range(histogram, NUM_LEVELS),
}


def main() -> None:
    """Print one Markdown table; one pass over the frames serves all observers."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--num-frames", type=int, default=256)
    options = parser.parse_args()
    checkpoint = open_checkpoint(options.checkpoint)
    roles = roles_from_checkpoint(open_dataset(options.data, checkpoint.taxonomy), checkpoint)
    spec = checkpoint.config.preprocess
    frames = load_frames(choose_frames(roles.calibration, options.num_frames), roles.calibration, spec).pixels
    held_out = HeldOut(
        frames=load_frames(roles.held_out.frames, roles.held_out, spec).pixels,
        truths=[frame.classes for frame in roles.held_out.frames],
        taxonomy=checkpoint.taxonomy,
        decode=checkpoint.config.decode,
    )
    print("| method | divergence | cosine | flips | HF1 drop |\n| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory(prefix="hffnet-bench-") as folder:
        path = Path(folder) / "float.onnx"
        onnx_from_deploy_form(deploy_form(model_from_checkpoint(checkpoint)), path)
        reference = scored(path, held_out)
        unsigned = nonnegative_tensors(GraphIndex(model_from_path(path)))
        for smoothing in (False, True):
            wanted = CalibrationOptions(observer="entropy", smoothing=smoothing)
            found = calibration_from_frames(path, frames, options=wanted, activations="uint8")
            for name, calibration in _variants(found, unsigned).items():
                cost = cost_between(reference, scored(calibration.quantized().SerializeToString(), held_out), held_out)
                label = f"{name}{', smoothing' if smoothing else ''}"
                print(
                    f"| {label} | {cost.divergence:.2e} | {cost.cosine:.5f} | {cost.num_flips} | {cost.hf1_drop:.2f} |",
                    flush=True,
                )
    print(f"\nload average at the end: {', '.join(f'{value:.1f}' for value in os.getloadavg())}")


def _variants(found: Calibration, unsigned: frozenset[str]) -> dict[str, Calibration]:
    histograms = {name: _histogram(observer) for name, observer in found.observers.items()}
    variants = {}
    for name, range_of in _RANGES.items():
        ranges = {
            tensor: range_of(histogram, NUM_UNSIGNED_LEVELS if tensor in unsigned else NUM_LEVELS)
            for tensor, histogram in histograms.items()
        }
        variants[f"{name}, bias correction"] = replace(found, ranges=ranges)
        variants[name] = replace(found, ranges=ranges, shifts={})
    return variants


def _histogram(observer: object) -> Histogram:
    assert isinstance(observer, WithMean)
    assert isinstance(observer.observer, Entropy)
    return observer.observer.histogram


if __name__ == "__main__":
    main()
