"""A small network of the deploy form's make: residual convolutions, one transformer block, head, random weights."""

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import ModelProto, TensorProto, numpy_helper

_TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
network (uint8[N, 32, 32] frames) => (float[N, 5] logits, float[N, 5, 4, 4] evidence) {
  pixels = Cast <to = 1> (frames)
  scaled = Mul (pixels, factor)
  centred = Sub (scaled, mean)
  picture = Unsqueeze (centred, axis1)
  [stem] stem_out = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (picture, stem_w, stem_b)
  stem_relu = Relu (stem_out)
  pooled = MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (stem_relu)
  [a1] a1_out = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (pooled, a1_w, a1_b)
  a1_relu = Relu (a1_out)
  [a2] a2_out = Conv <pads = [1, 1, 1, 1]> (a1_relu, a2_w, a2_b)
  [down] down_out = Conv <strides = [2, 2]> (pooled, down_w, down_b)
  [a_add] a_sum = Add (a2_out, down_out)
  a_relu = Relu (a_sum)
  [b1] b1_out = Conv <pads = [1, 1, 1, 1]> (a_relu, b1_w, b1_b)
  b1_relu = Relu (b1_out)
  [b2] b2_out = Conv <pads = [1, 1, 1, 1]> (b1_relu, b2_w, b2_b)
  [b_add] b_sum = Add (b2_out, a_relu)
  b_relu = Relu (b_sum)
  [project] projected = Conv (b_relu, project_w, project_b)
  flat = Reshape (projected, to_flat)
  tokens = Transpose <perm = [0, 2, 1]> (flat)
  x0 = Add (tokens, positions)
  n1 = LayerNormalization <axis = -1> (x0, ln1_w, ln1_b)
  [query] q0 = MatMul (n1, query_w)
  q = Add (q0, query_b)
  [key] k0 = MatMul (n1, key_w)
  k = Transpose <perm = [0, 2, 1]> (k0)
  [value] v = MatMul (n1, value_w)
  [scores] s = MatMul (q, k)
  attention = Softmax <axis = -1> (s)
  [mix] mixed = MatMul (attention, v)
  [out] o = MatMul (mixed, out_w)
  [t_add1] x1 = Add (x0, o)
  n2 = LayerNormalization <axis = -1> (x1, ln2_w, ln2_b)
  [fc1] h0 = MatMul (n2, fc1_w)
  h1 = Add (h0, fc1_b)
  h2 = Gelu (h1)
  [fc2] h3 = MatMul (h2, fc2_w)
  [t_add2] x2 = Add (x1, h3)
  [head] e0 = MatMul (x2, head_w)
  e1 = Transpose <perm = [0, 2, 1]> (e0)
  evidence = Reshape (e1, to_evidence)
  logits = ReduceMean <keepdims = 0> (evidence, axes23)
}
"""

CONV_SHAPES = {
    "stem": (16, 1, 3, 3),
    "a1": (32, 16, 3, 3),
    "a2": (32, 32, 3, 3),
    "down": (32, 16, 1, 1),
    "b1": (32, 32, 3, 3),
    "b2": (32, 32, 3, 3),
    "project": (48, 32, 1, 1),
}
LINEAR_SHAPES = {
    "query": (48, 48),
    "key": (48, 48),
    "value": (48, 48),
    "out": (48, 48),
    "fc1": (48, 96),
    "fc2": (96, 48),
    "head": (48, 5),
}


def small_network(seed: int = 0, dtype: type[np.float32 | np.float16] = np.float32) -> ModelProto:
    """The network with He-normal weights; in float16 throughout where ``dtype`` says so."""
    rng = np.random.default_rng(seed)
    text = _TEXT if dtype is np.float32 else _TEXT.replace("<to = 1>", "<to = 10>").replace("float[", "float16[")
    model = onnx.parser.parse_model(text)
    constants: dict[str, npt.NDArray[np.generic]] = {
        "factor": np.asarray(1 / 64, dtype),
        "mean": np.asarray(2.0, dtype),
        "axis1": np.array([1], np.int64),
        "axes23": np.array([2, 3], np.int64),
        "to_flat": np.array([0, 48, 16], np.int64),
        "to_evidence": np.array([0, 5, 4, 4], np.int64),
        "positions": rng.normal(size=(16, 48)).astype(dtype),
        "query_b": rng.normal(size=48).astype(dtype),
        "fc1_b": rng.normal(size=96).astype(dtype),
    }
    for name, shape in {**CONV_SHAPES, **LINEAR_SHAPES}.items():
        fan_in = np.prod(shape[1:]) if len(shape) == 4 else shape[0]
        constants[f"{name}_w"] = (rng.normal(size=shape) * np.sqrt(1.6 / fan_in)).astype(dtype)
    for name, shape in CONV_SHAPES.items():
        constants[f"{name}_b"] = (0.1 * rng.normal(size=shape[0])).astype(dtype)
    for name in ("ln1", "ln2"):
        constants[f"{name}_w"] = (1 + 0.2 * rng.normal(size=48)).astype(dtype)
        constants[f"{name}_b"] = (0.2 * rng.normal(size=48)).astype(dtype)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    onnx.checker.check_model(model, full_check=True)
    return model


def textured_frames(num: int, size: int = 32, seed: int = 0) -> npt.NDArray[np.uint8]:
    """(num, size, size) frames of a few sine gratings and noise, so that channels differ."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    waves = rng.uniform(1, 8, (num, 2))
    phase = np.einsum("nk,khw->nhw", waves, np.stack([x, y]))
    clean = 127 + 80 * np.sin(2 * np.pi * phase)
    frames: npt.NDArray[np.uint8] = np.clip(clean + rng.normal(0, 25, clean.shape), 0, 255).astype(np.uint8)
    return frames


def outlier_network(seed: int = 0) -> ModelProto:
    """The small network with three channels of the residual stream 2000 times as large, as transformers have them.

    The head does not read those channels, and its bias centres the logits of ``textured_frames``, so that every class
    is answered. All shapes are stated, so that the work can be counted.
    """
    model = small_network(seed)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    positions, head = (numpy_helper.to_array(tensors[name]).copy() for name in ("positions", "head_w"))
    positions[:, :3] *= 2000
    head[:3] = 0
    tensors["positions"].CopyFrom(numpy_helper.from_array(positions, "positions"))
    tensors["head_w"].CopyFrom(numpy_helper.from_array(head, "head_w"))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    bias = -session.run(["logits"], {"frames": textured_frames(64, seed=9)})[0].mean(axis=0)
    model.graph.initializer.append(numpy_helper.from_array(bias.astype(np.float32), "head_b"))
    nodes = list(model.graph.node)
    after = next(k for k, node in enumerate(nodes) if node.name == "head") + 1
    nodes[after].input[0] = "e0_biased"
    nodes.insert(after, onnx.helper.make_node("Add", ["e0", "head_b"], ["e0_biased"]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def half_of(model: ModelProto) -> ModelProto:
    """The same network in float16 throughout; shapes are to be inferred anew."""
    half = ModelProto()
    half.CopyFrom(model)
    del half.graph.value_info[:]
    for tensor in half.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for output in half.graph.output:
        output.type.tensor_type.elem_type = TensorProto.FLOAT16
    for node in half.graph.node:
        for entry in node.attribute:
            if node.op_type == "Cast" and entry.name == "to":
                entry.i = TensorProto.FLOAT16
    return half
