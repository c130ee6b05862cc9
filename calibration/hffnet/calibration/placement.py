"""Where a graph is quantized, as data: which inputs of which nodes, and why the other weighted nodes stay float.

The rules are TensorRT's for explicit quantization, which the CPU engines accept too:

- Conv, and Gemm or MatMul with a constant weight: activation per tensor, weight per output channel, bias float. Outputs
  are not quantized: the next node's input does it.
- residual Add of a CNN: the identity input only, so that conv + add + ReLU fuse into one int8 kernel. Where a stage
  downsamples, both inputs come from convolutions and none is quantized: those signed sums have outliers and cost more
  accuracy than all others together.
- in graphs for CPU engines the other inputs of those Adds too: ONNX Runtime computes a convolution in integers only if
  its output is quantized, OpenVINO fuses it at no cost.
- one scale per tensor, shared by everyone who reads it; nothing around ReLU.
- the convolution that reads the picture stays float: a hundredth of the work, and a third of the weights' noise.
- float stay too: attention (both inputs are activations), Softmax, LayerNormalization, GELU, the transformer's residual
  Adds (their outliers took a ViT-B from 85 % to 5 % top-1 when quantized) and the head.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

from onnx import ModelProto, NodeProto

from hffnet.calibration.graph import GraphIndex, attribute, node_labels, node_name
from hffnet.runtime.errors import ConfigError, GraphError

Mode = Literal["cnn", "cnn+linear"]

_ACTIVATION_OPS = frozenset({"Relu", "Clip", "LeakyRelu", "PRelu", "HardSwish", "Elu", "Selu"})
_WEIGHTED_OPS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_MOST_PICTURE_CHANNELS = 4
_TRANSFORMER_OPS = frozenset({"LayerNormalization", "MatMul", "Gemm", "Softmax", "Gelu", "ReduceMean"})
_MOVING_OPS = frozenset({"Transpose", "Reshape", "Identity", "Flatten", "Cast", "Squeeze", "Unsqueeze"})
_MOST_OF_GELU = 4  # steps back from the last product of a written-out GELU to its Erf


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedPoint:
    """A weighted node that is quantized.

    Attributes:
        node: its name, for people; output: its first output, which identifies it.
        activation: tensor at input 0; weight: constant at input 1; weight_axis: axis of the output channels.
    """

    node: str
    op_type: str
    output: str
    activation: str
    weight: str
    weight_axis: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidualPoint:
    """A CNN's residual Add, quantized at one of its inputs."""

    node: str
    output: str
    activation: str
    input_index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatPoint:
    """A weighted node that stays float, and why."""

    node: str
    op_type: str
    output: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Every quantized place of one graph.

    Attributes:
        residuals: identity inputs of sums; cpu_sums: further inputs of sums, in graphs for CPU engines only.
    """

    mode: Mode
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    weighted: tuple[WeightedPoint, ...]
    residuals: tuple[ResidualPoint, ...]
    cpu_sums: tuple[ResidualPoint, ...] = ()
    left_float: tuple[FloatPoint, ...]

    @property
    def tensors(self) -> tuple[str, ...]:
        """Activations that need a range, each once, in the order of the graph."""
        points: tuple[WeightedPoint | ResidualPoint, ...] = (*self.weighted, *self.residuals, *self.cpu_sums)
        return tuple(dict.fromkeys(point.activation for point in points))

    def for_tensorrt(self) -> "Placement":
        """The same without what only CPU engines want."""
        return replace(self, cpu_sums=())

    def without(self, outputs: Collection[str], reason: str) -> "Placement":
        """The same with the nodes that make ``outputs`` left float."""
        dropped = [p for p in self.weighted if p.output in outputs]
        floats = [FloatPoint(node=p.node, op_type=p.op_type, output=p.output, reason=reason) for p in dropped]
        return replace(
            self,
            weighted=tuple(p for p in self.weighted if p.output not in outputs),
            residuals=tuple(p for p in self.residuals if p.output not in outputs),
            cpu_sums=tuple(p for p in self.cpu_sums if p.output not in outputs),
            left_float=(*self.left_float, *floats),
        )


def placement_from_onnx(
    model: ModelProto,
    mode: Mode = "cnn+linear",
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Placement:
    """Decide where to quantize a float graph.

    Args:
        model: any classifier in the standard domain.
        mode: ``cnn``: convolutions and their residuals; ``cnn+linear``: also Gemm and MatMul with a constant weight.
        include: shell patterns of nodes to quantize although mode or head rule leave them float.
        exclude: shell patterns of nodes to leave float; stronger than ``include``. Patterns are matched against the
            node's name, its tensors and weights, and the torch module it came from.

    Raises:
        ConfigError: a pattern matches nothing.
        GraphError: nothing is left to quantize.
    """
    index = GraphIndex(model)
    _refuse_idle_patterns(index, [*include, *exclude])
    heads = _heads(index)
    points: list[WeightedPoint] = []
    floats: list[FloatPoint] = []
    for node in (n for n in index.nodes if n.op_type in _WEIGHTED_OPS):
        reason = _reason_to_stay_float(node, index, mode, heads, include, exclude)
        if reason:
            floats.append(FloatPoint(node=node_name(node), op_type=node.op_type, output=node.output[0], reason=reason))
        else:
            points.append(_weighted_point(node))
    if not points:
        reasons = ", ".join(sorted({p.reason for p in floats})) or "it has no Conv, Gemm or MatMul"
        raise GraphError(f"nothing in the graph would be quantized in mode {mode!r} ({reasons}); expected at least one")
    residuals, cpu_sums = _sums(index, {p.output for p in points}, exclude)
    return Placement(
        mode=mode,
        include=tuple(include),
        exclude=tuple(exclude),
        weighted=tuple(points),
        residuals=residuals,
        cpu_sums=cpu_sums,
        left_float=tuple(floats),
    )


def _matches(node: NodeProto, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(label, pattern) for pattern in patterns for label in node_labels(node))


def _refuse_idle_patterns(index: GraphIndex, patterns: Sequence[str]) -> None:
    for pattern in patterns:
        if not any(_matches(node, [pattern]) for node in index.nodes):
            names = [node_name(n) for n in index.nodes if n.op_type in {"Conv", "Gemm", "MatMul"}]
            raise ConfigError(f"the pattern {pattern!r} matches no node; expected names such as {names[:3]}")


def _weight_input_is_constant(node: NodeProto, index: GraphIndex) -> bool:
    return len(node.input) > 1 and index.is_constant(node.input[1]) and not index.is_constant(node.input[0])


def _heads(index: GraphIndex) -> set[str]:
    """Outputs of the weighted nodes that no other weighted node follows: the classifier itself."""
    followed: set[str] = set()
    heads: set[str] = set()
    for node in reversed(index.nodes):
        is_followed = any(output in followed for output in node.output)
        is_weighted = node.op_type in {"Conv", "Gemm", "MatMul"} and _weight_input_is_constant(node, index)
        if is_weighted and not is_followed:
            heads.add(node.output[0])
        if is_weighted or is_followed:
            followed.update(node.input)
    return heads


def _reason_to_stay_float(
    node: NodeProto,
    index: GraphIndex,
    mode: Mode,
    heads: set[str],
    include: Sequence[str],
    exclude: Sequence[str],
) -> str | None:
    if reason := _obstacle(node, index):
        return reason
    if _matches(node, exclude):
        return "excluded"
    if _matches(node, include):
        return None
    if node.output[0] in heads:
        return "head"
    if mode == "cnn" and node.op_type != "Conv":
        return "mode cnn"
    return "reads the picture" if reads_picture(node, index) else None


def reads_picture(node: NodeProto, index: GraphIndex) -> bool:
    """Whether this is a convolution right behind the graph's input: few channels, and no other weighted node before."""
    if node.op_type != "Conv" or not _weight_input_is_constant(node, index):
        return False
    if index.constants[node.input[1]].dims[1] > _MOST_PICTURE_CHANNELS or attribute(node, "group", 1) > 1:
        return False
    names, seen = [node.input[0]], set[str]()
    while names:
        producer = index.producers.get(names.pop())
        if producer is None or producer.output[0] in seen:
            continue
        if producer.op_type in _WEIGHTED_OPS:
            return False
        seen.add(producer.output[0])
        names += producer.input
    return True


def _obstacle(node: NodeProto, index: GraphIndex) -> str | None:
    """Why the node cannot be quantized at all; None where it can."""
    if node.op_type == "ConvTranspose":
        return "ConvTranspose is not supported"
    if not index.is_constant(node.input[1]):
        return "weight is on the left" if index.is_constant(node.input[0]) else "both inputs are activations"
    if index.is_constant(node.input[0]):
        return "both inputs are constants"
    if node.op_type == "MatMul" and len(index.constants[node.input[1]].dims) != 2:
        return "weight is not a matrix"
    if node.op_type == "Gemm" and attribute(node, "transA", 0):
        return "transposed activation"
    return None


def _weighted_point(node: NodeProto) -> WeightedPoint:
    match node.op_type:
        case "Conv":
            axis = 0
        case "Gemm":
            axis = 0 if attribute(node, "transB", 0) else 1
        case _:
            axis = 1
    return WeightedPoint(
        node=node_name(node),
        op_type=node.op_type,
        output=node.output[0],
        activation=node.input[0],
        weight=node.input[1],
        weight_axis=axis,
    )


def _sums(
    index: GraphIndex, quantized: set[str], exclude: Sequence[str]
) -> tuple[tuple[ResidualPoint, ...], tuple[ResidualPoint, ...]]:
    """Inputs of a CNN's residual sums: the identities, and what CPU engines want beside them."""
    identities, further = list[ResidualPoint](), list[ResidualPoint]()
    for node in (n for n in index.nodes if n.op_type == "Add" and not _matches(n, exclude)):
        if any(index.is_constant(name) for name in node.input) or _of_transformer(node, index):
            continue
        branches = [i for i in (0, 1) if _is_fusable_conv(node.input[i], index, quantized)]
        further += [_input_of(node, i) for i in branches]
        if len(branches) == 1:
            identities.append(_input_of(node, 1 - branches[0]))
    return tuple(identities), tuple(further)


def _input_of(node: NodeProto, position: int) -> ResidualPoint:
    return ResidualPoint(
        node=node_name(node), output=node.output[0], activation=node.input[position], input_index=position
    )


def _is_fusable_conv(tensor: str, index: GraphIndex, quantized: set[str]) -> bool:
    producer = index.producers.get(tensor)
    return producer is not None and producer.op_type == "Conv" and tensor in quantized and len(index.uses[tensor]) == 1


def _of_transformer(node: NodeProto, index: GraphIndex) -> bool:
    """Whether the sum is a transformer's residual stream, also where its 1x1 convolutions are still Conv nodes.

    What only moves or renames numbers is looked through: channels-first networks transpose before each LayerNorm.
    """
    readers = _readers(node.output[0], index)
    after = [reader for r in readers if r.op_type in _ACTIVATION_OPS for reader in _readers(r.output[0], index)]
    if any(r.op_type in _TRANSFORMER_OPS for r in readers):
        return True
    # After an activation function a CNN may well pool (ReduceMean) or end in its classifier (Gemm).
    if any(r.op_type == "LayerNormalization" for r in after):
        return True
    # The last sum of an encoder without norms is read by nothing that tells; what it sums does.
    return any(_ends_encoder_branch(name, index) for name in node.input)


def _readers(tensor: str, index: GraphIndex) -> list[NodeProto]:
    """Nodes that read the tensor, through those that only move numbers."""
    found, names, seen = list[NodeProto](), [tensor], set[str]()
    while names:
        for node in (use.node for use in index.uses[names.pop()]):
            if node.op_type not in _MOVING_OPS:
                found.append(node)
            elif node.output[0] not in seen:
                seen.add(node.output[0])
                names.append(node.output[0])
    return found


def _ends_encoder_branch(tensor: str, index: GraphIndex) -> bool:
    """Whether a convolution makes it from attention's mix or from GELU, whole or written out with Erf."""
    conv = index.producers.get(tensor)
    if conv is None or conv.op_type != "Conv":
        return False
    before = _producer(conv.input[0], index)
    if before is None or before.op_type != "Mul":
        return before is not None and before.op_type in {"Gelu", "MatMul"}
    names = list(before.input)
    for _ in range(_MOST_OF_GELU):
        makers = [maker for maker in (_producer(name, index) for name in names) if maker is not None]
        if any(maker.op_type == "Erf" for maker in makers):
            return True
        names = [name for maker in makers if maker.op_type in {"Mul", "Add"} for name in maker.input]
    return False


def _producer(tensor: str, index: GraphIndex) -> NodeProto | None:
    """The node that makes the tensor's numbers, through those that only move them."""
    node = index.producers.get(tensor)
    while node is not None and node.op_type in _MOVING_OPS:
        node = index.producers.get(node.input[0])
    return node
