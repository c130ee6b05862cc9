"""An ONNX graph that can be asked questions: who makes a tensor, who reads it, which tensors are constants.

Also the door: graphs that calibration cannot handle are refused here, with the nodes named.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from hffnet.runtime.errors import ConfigError, GraphError

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
_LEAST_AXES = {"Conv": 3, "ConvTranspose": 3, "Gemm": 2}
_MOST_BYTES = 2**31 - 2**20  # protobuf's limit, with room for the structure
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
    model = _parsed(path)
    check_float_graph(model, str(path))
    if external := _external(model):
        raise GraphError(f"{path} keeps weights in other files, such as {external[0].name!r}; save it as one file")
    return model


def self_contained(path: Path, folder: Path) -> Path:
    """The model's own file, or a copy in ``folder`` that holds the weights which ``torch.onnx.export`` put beside it.

    Raises:
        GraphError: as ``model_from_path``; or the weights lie elsewhere than beside the model, are not there, or are
            too large for one file.
        ConfigError: the copy cannot be written.
    """
    model = _parsed(path)
    check_float_graph(model, str(path))
    if not (external := _external(model)):
        return path
    # Only plain files beside the model: a path in a file from outside may lead anywhere.
    locations = {entry.value for tensor in external for entry in tensor.external_data if entry.key == "location"}
    for location in locations:
        beside = path.parent / location
        if location != Path(location).name or beside.is_symlink() or not beside.is_file():
            raise GraphError(
                f"{path} keeps weights in {location!r}; expected a file beside it: copy it there, or export the model"
                " as one file (external_data=False)"
            )
    if (size := sum((path.parent / location).stat().st_size for location in locations)) > _MOST_BYTES:
        raise GraphError(f"the weights beside {path} have {size / 1e9:.1f} GB; an ONNX file holds at most 2 GB")
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
        content = model.SerializeToString()
    except Exception as error:  # onnx raises whatever its file checks, numpy or protobuf raise
        raise GraphError(f"the weights beside {path} cannot be used: {error}; export the model again") from error
    whole = folder / path.name
    try:
        whole.write_bytes(content)
    except OSError as error:
        needed = f"{len(content) / 1e6:.0f} MB"
        raise ConfigError(f"{whole} cannot be written: {error.strerror}; {needed} are needed there") from error
    return whole


def _parsed(path: Path) -> ModelProto:
    try:
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise GraphError(f"{path} cannot be read: {error.strerror}; expected an ONNX file") from error
    except Exception as error:  # protobuf's DecodeError has no public home
        raise GraphError(f"{path} is not an ONNX model ({error}); export it again") from error
    if not model.graph.node:
        raise GraphError(f"{path} holds no graph; expected an ONNX model, export it again")
    return model


def _external(model: ModelProto) -> list[TensorProto]:
    return [tensor for tensor in model.graph.initializer if tensor.data_location == TensorProto.EXTERNAL]


def check_float_graph(model: ModelProto, name: str = "the graph") -> None:
    """Refuse what cannot be calibrated.

    Raises:
        GraphError: naming the first nodes that are already quantized or of a foreign domain, an opset outside
            13..20 (19..20 with float16 weights), malformed, or functions of its own.
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
    weights = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    for node in nodes:
        if node.op_type == "Constant" and node.output:
            weights.update((node.output[0], len(a.t.dims)) for a in node.attribute if a.name == "value")
        if fault := _fault(node, opset, weights):
            label = node.name or next((output for output in node.output if output), "without a name")
            raise GraphError(f"{name} is malformed at {label!r} ({node.op_type}): {fault}; export it again")


def _fault(node: NodeProto, opset: int, weights: Mapping[str, int]) -> str | None:
    """What is wrong with the number of inputs and outputs, or the weight's axes; None where nothing is."""
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        return f"opset {opset} has no such operator"
    for what, found, least, most in (
        ("inputs", len(node.input), schema.min_input, schema.max_input),
        ("outputs", len(node.output), max(1, schema.min_output), schema.max_output),
    ):
        if not least <= found <= most:
            return f"it has {found} {what}, expected {least if found < least else f'at most {most}'}"
    if not node.output[0]:
        return "its first output has no name"
    axes = weights.get(node.input[1]) if node.op_type in _LEAST_AXES else None
    if axes is not None and axes < _LEAST_AXES[node.op_type]:
        return f"its weight {node.input[1]!r} has {axes} axes, expected {_LEAST_AXES[node.op_type]}"
    return None


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
