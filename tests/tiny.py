"""The smallest real bundle: one convolution, real engines run it. For tests that need a bundle, not a good model."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from hffnet.export.bundle_writer import write_bundle
from hffnet.runtime.decode import DecodeSpec
from hffnet.runtime.manifest import Graph, Manifest, Network, Provenance
from hffnet.runtime.preprocess import PreprocessSpec
from hffnet.runtime.taxonomy import Taxonomy

SIZE = 32
"""Side of the tiny network's input."""


def tiny_taxonomy() -> Taxonomy:
    """Two levels, 2 and 3 classes."""
    return Taxonomy.from_paths([("mechanical", "dimples"), ("mechanical", "fatigue"), ("thermal", "spalling")])


def tiny_graph(weights_PC: np.ndarray, *, domain: str = "") -> onnx.ModelProto:
    """The smallest true member of the family: evidence = tokens·W on 2 × 2 positions, logits = its mean."""
    helper = onnx.helper
    nodes = [
        helper.make_node("Cast", ["frames"], ["floats"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", ["floats", "scale"], ["scaled"]),
        helper.make_node("Unsqueeze", ["scaled", "channel_axis"], ["image"]),
        helper.make_node("AveragePool", ["image"], ["cells"], kernel_shape=[16, 16], strides=[16, 16]),
        helper.make_node("Conv", ["cells", "weight", "bias"], ["evidence"], domain=domain),
        helper.make_node("ReduceMean", ["evidence", "space_axes"], ["logits"], keepdims=0),
    ]
    tensors = [
        onnx.numpy_helper.from_array(np.array(1 / 255, dtype=np.float32), "scale"),
        onnx.numpy_helper.from_array(np.array([1], dtype=np.int64), "channel_axis"),
        onnx.numpy_helper.from_array(np.array([2, 3], dtype=np.int64), "space_axes"),
        onnx.numpy_helper.from_array(weights_PC.T.reshape(-1, 1, 1, 1).astype(np.float32), "weight"),
        onnx.numpy_helper.from_array(np.linspace(-1, 1, weights_PC.shape[1], dtype=np.float32), "bias"),
    ]
    columns = weights_PC.shape[1]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("frames", onnx.TensorProto.UINT8, ["N", SIZE, SIZE])],
        [
            helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", columns]),
            helper.make_tensor_value_info("evidence", onnx.TensorProto.FLOAT, ["N", columns, 2, 2]),
        ],
        tensors,
    )
    opsets = [helper.make_opsetid("", 20)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def tiny_manifest(taxonomy: Taxonomy) -> Manifest:
    """A manifest for the tiny graph, without members."""
    return Manifest(
        name="tiny",
        taxonomy=taxonomy,
        preprocess=PreprocessSpec(size=SIZE),
        decode=DecodeSpec.plain(taxonomy),
        network=Network(name="tiny", recipe="none", num_parameters=10, evidence_shape=(2, 2)),
        graphs=(Graph(precision="fp32", family="cpu", member="graphs/fp32-cpu.onnx", tolerance=0.02),),
        metrics={},
        pixel_size_um=None,
        provenance=Provenance(
            created_utc="2026-11-23T00:00:00Z",
            checkpoint_sha256="0" * 64,
            data_sha256="0" * 64,
            num_train_frames=0,
            evaluated_on="nothing",
            tools={},
        ),
        members=(),
    )


def write_tiny_bundle(path: Path, *, model: onnx.ModelProto | None = None, manifest: Manifest | None = None) -> Path:
    """Write a bundle around the tiny graph (or another) with test vectors that the tiny graph itself answers."""
    taxonomy = tiny_taxonomy()
    weights_PC = np.random.default_rng(0).normal(size=(1, sum(taxonomy.num_classes))) * 4
    reference = tiny_graph(weights_PC)
    frames_NHW = np.random.default_rng(1).integers(0, 256, size=(4, SIZE, SIZE), dtype=np.uint8)
    session = onnxruntime.InferenceSession(reference.SerializeToString(), providers=["CPUExecutionProvider"])
    logits_NC = session.run(["logits"], {"frames": frames_NHW})[0]
    graph = (model or reference).SerializeToString()
    write_bundle(path, manifest or tiny_manifest(taxonomy), {"graphs/fp32-cpu.onnx": graph}, frames_NHW, logits_NC)
    return path
