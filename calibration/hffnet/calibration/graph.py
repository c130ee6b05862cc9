"""An ONNX graph that can be asked questions: who makes a tensor, who reads it, which tensors are constants.

Also the door: graphs that calibration cannot handle are refused here, with the nodes named.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from hffnet.runtime.errors import GraphError

STANDARD_DOMAINS = ("", "ai.onnx")
_QUANTIZED_OPS = frozenset({
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "QLinearConv",
    "QLinearMatMul",
    "ConvInteger",
    "MatMulInteger",
})  # fmt: skip
_NONNEGATIVE_OPS = frozenset({"Relu", "Sigmoid", "Softmax", "Abs"})
_SIGN_KEEPING_OPS = frozenset({
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Identity",
    "Reshape",
    "Flatten",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
})  # fmt: skip
_MIN_OPSET = 13  # per-axis QuantizeLinear
_MIN_OPSET_FLOAT16 = 19  # float16 scales
_MAX_OPSET = 20  # TensorRT 10.3 (JetPack 6) reads no later one


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """One reader of a tensor: the node and which of its inputs."""

    node: NodeProto
    input_index: int


class GraphIndex:
    """Look-ups over one graph; holds references into ``model``, copies nothing.

    Attributes:
        nodes: in topological order, as stored.
        constants: initializers and the values of Constant nodes, by tensor name.
        producers: node that makes a tensor, by tensor name.
        uses: readers of a tensor, by tensor name.
    """

    def __init__(self, model: ModelProto) -> None:
        graph = model.graph
        self.nodes: list[NodeProto] = list(graph.node)
        self.constants: dict[str, TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
        self.producers: dict[str, NodeProto] = {}
        self.uses: dict[str, list[Use]] = defaultdict(list)
        self.outputs = {output.name for output in graph.output}
        for node in self.nodes:
            if node.op_type == "Constant":
                self.constants.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
            self.producers.update(dict.fromkeys(node.output, node))
            for index, name in enumerate(node.input):
                self.uses[name].append(Use(node=node, input_index=index))

    def is_constant(self, name: str) -> bool:
        """Whether the tensor does not depend on the input frames, as far as one look tells."""
        return name in self.constants


def node_name(node: NodeProto) -> str:
    """What people call the node: its name, or its first output where it has none."""
    return node.name or node.output[0]


def node_labels(node: NodeProto) -> list[str]:
    """Everything a pattern may match: name, outputs, constant inputs' names and the torch module it came from.

    torch.onnx writes the module path ("trunk.layer1.0.conv1") into the node's metadata.
    """
    scopes = [p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"]
    modules = [part.strip(" '\"") for scope in scopes for part in scope.strip("[]").split(",")]
    return [node_name(node), *node.output, *node.input, *(module for module in modules if module)]


def attribute(node: NodeProto, name: str, default: int) -> int:
    """An integer attribute."""
    return next((a.i for a in node.attribute if a.name == name), default)


def nonnegative_tensors(index: GraphIndex) -> frozenset[str]:
    """Tensors that cannot be negative, whatever the frames: behind ReLU and what keeps the sign."""
    found: set[str] = set()
    for node in index.nodes:
        keeps = node.op_type in _SIGN_KEEPING_OPS and node.input[0] in found
        adds = node.op_type == "Add" and all(name in found for name in node.input)
        if node.op_type in _NONNEGATIVE_OPS or keeps or adds:
            found.add(node.output[0])
    return frozenset(found)


def model_from_path(path: Path) -> ModelProto:
    """Read and check a float model.

    Raises:
        GraphError: not an ONNX file, or one that ``check_float_graph`` refuses.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise GraphError(f"{path} cannot be read: {error.strerror}; expected an ONNX file") from error
    except Exception as error:  # protobuf's DecodeError has no public home
        raise GraphError(f"{path} is not an ONNX model ({error}); export it again") from error
    if not model.graph.node:
        raise GraphError(f"{path} holds no graph; expected an ONNX model, export it again")
    check_float_graph(model, str(path))
    return model


def frame_size(model: ModelProto) -> int:
    """Side of the square input in pixels.

    Raises:
        GraphError: the graph has not one input, uint8 (N, size, size).
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [entry for entry in model.graph.input if entry.name not in constants]
    if len(inputs) == 1:
        tensor = inputs[0].type.tensor_type
        sides = [axis.dim_value for axis in tensor.shape.dim[1:]]
        if tensor.elem_type == TensorProto.UINT8 and len(sides) == 2 and sides[0] == sides[1] > 0:
            return int(sides[0])
    found = ", ".join(f"{entry.name!r}" for entry in inputs)
    raise GraphError(f"the graph's inputs are {found}; expected one, 'frames', of uint8 with the shape (N, size, size)")


def check_float_graph(model: ModelProto, name: str = "the graph") -> None:
    """Refuse what cannot be calibrated.

    Raises:
        GraphError: naming the first nodes that are already quantized or of a foreign domain, an opset outside
            13..20 (19..20 with float16 weights), weights in other files, or functions of its own.
    """
    opset = next((entry.version for entry in model.opset_import if entry.domain in STANDARD_DOMAINS), 0)
    needed = _MIN_OPSET_FLOAT16 if _has_float16(model.graph) else _MIN_OPSET
    if not needed <= opset <= _MAX_OPSET:
        raise GraphError(f"{name} has opset {opset}; expected {needed} to {_MAX_OPSET}, export it with opset 20")
    nodes = list(_all_nodes(model.graph))
    if found := [n for n in nodes if n.op_type in _QUANTIZED_OPS]:
        raise GraphError(f"{name} is already quantized at {_named(found)}; calibrate the float graph it was made from")
    if found := [n for n in nodes if n.domain not in STANDARD_DOMAINS]:
        raise GraphError(f"{name} has nodes outside the standard ONNX domain: {_named(found)}; export it without them")
    if model.functions:
        raise GraphError(f"{name} has {len(model.functions)} functions of its own; inline them (onnx.inliner) first")
    external = [t.name for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL]
    if external:
        raise GraphError(f"{name} keeps weights in other files, such as {external[0]!r}; save it as one file")


def _has_float16(graph: GraphProto) -> bool:
    return any(tensor.data_type == TensorProto.FLOAT16 for tensor in graph.initializer)


def _all_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for entry in node.attribute:
            if entry.type == onnx.AttributeProto.GRAPH:
                yield from _all_nodes(entry.g)


def _named(nodes: list[NodeProto], most: int = 5) -> str:
    first = ", ".join(f"{node_name(n)!r} ({n.op_type})" for n in nodes[:most])
    return first if len(nodes) <= most else f"{first} and {len(nodes) - most} more"
