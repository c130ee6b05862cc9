"""A real network of the family with random weights as a bundle: what engines must run, small enough for a test."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

from hffnet.calibration.observers import MinMax
from hffnet.calibration.placement import placement_from_onnx
from hffnet.calibration.quantize import ActivationType, qdq_from_onnx
from hffnet.calibration.statistics import ranges_from_frames
from hffnet.export.bundle_writer import write_bundle
from hffnet.export.deploy_form import deploy_form
from hffnet.export.onnx import onnx_from_deploy_form
from hffnet.runtime.manifest import Family, Graph, Precision
from hffnet.runtime.preprocess import PreprocessSpec
from hffnet.train.model import build_model
from hffnet.train.network import ModelConfig
from tests.tiny import tiny_manifest, tiny_taxonomy

GRAPHS: dict[tuple[Precision, Family], float] = {
    ("fp32", "cpu"): 1e-3,
    ("int8", "cpu"): 0.3,  # random weights are the worst that can be quantized
    ("fp16", "tensorrt"): 0.02,
    ("int8", "tensorrt"): 0.3,
}
"""What the bundle holds, with tolerances."""


def member_of(precision: Precision, family: Family) -> str:
    """Where a graph lies in the bundle."""
    return f"graphs/{precision}-{family}.onnx"


def write_network_bundle(path: Path, config: ModelConfig) -> Path:
    """Write a bundle with every precision, through the same code as a real export."""
    torch.manual_seed(0)
    form = deploy_form(build_model(config).eval())
    folder = path.parent
    for precision in ("fp32", "fp16"):
        onnx_from_deploy_form(form, folder / f"{precision}.onnx", precision=precision)
    frames_NHW = np.random.default_rng(0).integers(0, 256, (4, config.img_size, config.img_size), dtype=np.uint8)
    session = onnxruntime.InferenceSession(folder / "fp32.onnx", providers=["CPUExecutionProvider"])
    logits_NC = session.run(["logits"], {"frames": frames_NHW})[0]
    placement = placement_from_onnx(onnx.load(folder / "fp32.onnx"))
    observers = {tensor: MinMax() for tensor in placement.tensors}
    ranges = ranges_from_frames(folder / "fp32.onnx", frames_NHW, observers)
    graphs: dict[str, bytes | Path] = {
        member_of("fp32", "cpu"): folder / "fp32.onnx",
        member_of("fp16", "tensorrt"): folder / "fp16.onnx",
    }
    for family, source in (("cpu", "fp32.onnx"), ("tensorrt", "fp16.onnx")):
        model = onnx.load(folder / source)
        activations: ActivationType = "uint8" if family == "cpu" else "int8"
        quantized = qdq_from_onnx(model, ranges, placement_from_onnx(model), activations=activations)
        graphs[f"graphs/int8-{family}.onnx"] = quantized.SerializeToString()
    manifest = tiny_manifest(tiny_taxonomy()).model_copy(
        update={
            "preprocess": PreprocessSpec(size=config.img_size),
            "graphs": tuple(
                Graph(precision=precision, family=family, member=member_of(precision, family), tolerance=tolerance)
                for (precision, family), tolerance in GRAPHS.items()
            ),
        }
    )
    write_bundle(path, manifest, graphs, frames_NHW, logits_NC)
    return path
