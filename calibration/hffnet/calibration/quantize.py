"""Writes a placement and its ranges into a float graph as QuantizeLinear and DequantizeLinear nodes.

Weights are stored as int8 with one scale per output channel, so the file is a quarter of the float one. Standard domain
only; zero point 0; bias and everything outside the placement keep their type, so a float16 graph stays float16 around
the int8 parts. Same input, same bytes out.

Activations are int8 for TensorRT, which knows no other. CPU engines also take uint8, and tensors that are never
negative (after ReLU) then have twice the resolution; onnxruntime fuses conv + ReLU to one integer kernel only so.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from hffnet.calibration.bias import bias_place
from hffnet.calibration.graph import GraphIndex, check_float_graph, nonnegative_tensors
from hffnet.calibration.observers import NUM_LEVELS, NUM_UNSIGNED_LEVELS
from hffnet.calibration.placement import Placement, WeightedPoint
from hffnet.calibration.weights import SMALLEST_SCALE, WeightScales, int8_from_weight, scales_from_weight
from hffnet.runtime.errors import GraphError

ActivationType = Literal["int8", "uint8"]
"""``uint8``: where a tensor cannot be negative, int8 elsewhere; not for TensorRT."""

_FLOAT_TYPES: dict[int, type[np.float32 | np.float16]] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
}


@dataclass(slots=True)
class _Rewrite:
    """What changes in the graph.

    Attributes:
        inputs: new tensor for (first output of a node, input index).
        after: nodes to insert behind the producer of a tensor.
        first: nodes that depend on constants only.
        initializers: new constants.
        replaced: weights that the quantized nodes no longer read in float.
        added: a further input for a node, by its first output.
    """

    names: set[str]
    inputs: dict[tuple[str, int], str] = field(default_factory=dict)
    after: dict[str, list[NodeProto]] = field(default_factory=dict)
    first: list[NodeProto] = field(default_factory=list)
    initializers: dict[str, TensorProto] = field(default_factory=dict)
    replaced: set[str] = field(default_factory=set)
    added: dict[str, str] = field(default_factory=dict)

    def fresh(self, name: str) -> str:
        """``name``, or with underscores added until nothing else is called so."""
        while name in self.names:
            name += "_"
        self.names.add(name)
        return name

    def constant(self, name: str, values: npt.NDArray[np.generic]) -> str:
        """Add a constant and return its name."""
        name = self.fresh(name)
        self.initializers[name] = numpy_helper.from_array(values, name)
        return name

    def zero_point(self, shape: tuple[int, ...], dtype: type[np.int8 | np.uint8] = np.int8) -> str:
        """Zeros, one initializer for each type and shape."""
        name = "_".join(["hffnet_zero", np.dtype(dtype).name, *map(str, shape)])
        if name not in self.initializers:
            self.constant(name, np.zeros(shape, dtype))
        return name


def qdq_from_onnx(
    model: ModelProto,
    ranges: Mapping[str, float],
    placement: Placement,
    *,
    activations: ActivationType = "int8",
    shifts: Mapping[str, npt.NDArray[np.float32]] = MappingProxyType({}),
    weight_scales: WeightScales = MappingProxyType({}),
) -> ModelProto:
    """The INT8 graph.

    Args:
        model: float32 or float16 graph; not changed.
        ranges: magnitude that becomes +-127, for each of ``placement.tensors``.
        placement: made from ``model``, or from a graph with the same tensor names.
        activations: ``int8`` for every engine; ``uint8`` for CPU engines only, see above. There the range becomes 255,
            and the placement's ``cpu_sums`` are quantized too.
        shifts: to be added to the bias of a product, by its output (see ``bias``).
        weight_scales: of weights whose scales do not simply follow their largest magnitude (see ``weights``).

    Raises:
        GraphError: ``model`` is refused by ``check_float_graph``, a placed tensor or weight is not in it or not of a
            float type, or a range is missing, zero, negative or not finite.
    """
    check_float_graph(model)
    if activations == "int8":
        placement = placement.for_tensorrt()
    index = GraphIndex(model)
    _check_points(index, placement)
    _check_ranges(ranges, placement)
    rewrite = _Rewrite(names={name for node in index.nodes for name in (*node.input, *node.output)})
    _quantize_weights(index, placement, weight_scales, rewrite)
    _correct_biases(index, placement, shifts, rewrite)
    unsigned = nonnegative_tensors(index) if activations == "uint8" else frozenset()
    for read in _tensors_read(model, index, placement):
        tensor, limit = read.tensor, ranges[read.placed]
        nodes = _activation_nodes(tensor, limit, read.dtype, tensor in unsigned, rewrite)
        rewrite.after[tensor], output = nodes
        rewrite.inputs |= dict.fromkeys(read.inputs, output)
        if tensor in unsigned and _pools_a_float_convolution(tensor, index, placement):
            _clip_before(tensor, limit, read.dtype, rewrite)
    return _rewritten(model, index, rewrite)


@dataclass(frozen=True, slots=True)
class _Read:
    """A tensor to quantize.

    Attributes:
        tensor: as this graph has it; where a part of it has another float type, that is the cast of ``placed``.
        placed: its name in the placement, by which its range is known.
        dtype: its type.
        inputs: (first output of a node, input index) of its quantized readers.
    """

    tensor: str
    placed: str
    dtype: type[np.float32 | np.float16]
    inputs: list[tuple[str, int]] = field(default_factory=list)


def _tensors_read(model: ModelProto, index: GraphIndex, placement: Placement) -> list[_Read]:
    stated = {info.name: info.type.tensor_type.elem_type for info in model.graph.value_info}
    default = _float_type(model)
    sums = [(p.activation, p.output, p.input_index, "") for p in (*placement.residuals, *placement.cpu_sums)]
    points = [*((p.activation, p.output, 0, p.weight) for p in placement.weighted), *sums]
    found = dict[tuple[str, str], _Read]()
    for placed, output, position, weight in points:
        tensor = index.producers[output].input[position]
        if (placed, tensor) not in found:
            kind = index.constants[weight].data_type if weight else stated.get(tensor)
            found[placed, tensor] = _Read(tensor, placed, _FLOAT_TYPES.get(kind or 0, default))
        found[placed, tensor].inputs.append((output, position))
    order = {name: number for number, name in enumerate(placement.tensors)}
    return sorted(found.values(), key=lambda read: order[read.placed])


def _check_points(index: GraphIndex, placement: Placement) -> None:
    for point in placement.weighted:
        weight = index.constants.get(point.weight)
        node = index.producers.get(point.output)
        if node is None or node.op_type != point.op_type or weight is None:
            raise GraphError(f"node {point.node!r} with weight {point.weight!r} is not in this graph; place it anew")
        if weight.data_type not in _FLOAT_TYPES:
            kind = TensorProto.DataType.Name(weight.data_type)
            raise GraphError(f"the weight {point.weight!r} is {kind}; expected FLOAT or FLOAT16")
    known = index.producers.keys() | index.uses.keys()
    sums = {p.output for p in (*placement.residuals, *placement.cpu_sums)} - index.producers.keys()
    if unknown := [*(tensor for tensor in placement.tensors if tensor not in known), *sorted(sums)]:
        raise GraphError(f"{len(unknown)} placed tensors, such as {unknown[0]!r}, are not in this graph; place it anew")


def _check_ranges(ranges: Mapping[str, float], placement: Placement) -> None:
    for tensor in placement.tensors:
        limit = ranges.get(tensor)
        if limit is None:
            raise GraphError(f"there is no range for tensor {tensor!r}; calibrate with this graph's placement")
        if not (math.isfinite(limit) and limit > 0):
            raise GraphError(
                f"the range of tensor {tensor!r} is {limit}; expected a positive number. A tensor that is always zero "
                "cannot be calibrated: use other frames, or exclude the nodes that read it"
            )


def _quantize_weights(index: GraphIndex, placement: Placement, weight_scales: WeightScales, rewrite: _Rewrite) -> None:
    done: dict[tuple[str, int], str] = {}
    for point in placement.weighted:
        key = (point.weight, point.weight_axis)
        if key not in done:
            done[key] = _quantize_weight(index.constants[point.weight], point, weight_scales.get(key), rewrite)
        rewrite.inputs[point.output, 1] = done[key]
        rewrite.replaced.add(point.weight)


def _float_type(model: ModelProto) -> type[np.float32 | np.float16]:
    """Of the graph's activations, as its weights tell."""
    kinds = Counter(tensor.data_type for tensor in model.graph.initializer if tensor.data_type in _FLOAT_TYPES)
    return _FLOAT_TYPES[kinds.most_common(1)[0][0]] if kinds else np.float32


def _correct_biases(
    index: GraphIndex, placement: Placement, shifts: Mapping[str, npt.NDArray[np.float32]], rewrite: _Rewrite
) -> None:
    for point in placement.weighted:
        place = bias_place(index, point)
        if point.output not in shifts or place is None:
            continue
        dtype = _FLOAT_TYPES[index.constants[point.weight].data_type]
        old = 0.0 if place.constant is None else numpy_helper.to_array(index.constants[place.constant])
        name = place.constant or f"{point.weight}_bias"
        corrected = rewrite.constant(f"{name}_corrected", (old + shifts[point.output]).astype(dtype))
        if place.constant is None:
            rewrite.added[place.output] = corrected
        else:
            rewrite.inputs[place.output, place.input_index] = corrected
            rewrite.replaced.add(place.constant)


def _quantize_weight(
    tensor: TensorProto, point: WeightedPoint, scales: npt.NDArray[np.float32] | None, rewrite: _Rewrite
) -> str:
    weight = numpy_helper.to_array(tensor).astype(np.float32, copy=False)
    if not np.isfinite(weight).all():
        raise GraphError(
            f"the weight {point.weight!r} of {point.node!r} holds NaN or infinity; the float model is broken"
        )
    # The integers are made from the scale as stored: in float16 it is rounded.
    if scales is None:
        scales = scales_from_weight(weight, point.weight_axis)
    stored = scales.astype(_FLOAT_TYPES[tensor.data_type])
    levels = int8_from_weight(weight, stored.astype(np.float32), point.weight_axis)
    name = point.weight
    inputs = [
        rewrite.constant(f"{name}_int8", levels),
        rewrite.constant(f"{name}_scale", stored),
        rewrite.zero_point(stored.shape),
    ]
    output = rewrite.fresh(f"{name}_dq")
    rewrite.first.append(helper.make_node("DequantizeLinear", inputs, [output], name=output, axis=point.weight_axis))
    return output


def _activation_nodes(
    tensor: str,
    limit: float,
    dtype: type[np.float32 | np.float16],
    unsigned: bool,
    rewrite: _Rewrite,
) -> tuple[list[NodeProto], str]:
    """The Q and DQ behind ``tensor``, and the name of what comes out."""
    num_levels = NUM_UNSIGNED_LEVELS if unsigned else NUM_LEVELS
    scale = _scale(tensor, limit, num_levels, dtype)
    zero_point = rewrite.zero_point((), np.uint8 if unsigned else np.int8)
    parameters = [rewrite.constant(f"{tensor}_scale", scale), zero_point]
    quantized, output = rewrite.fresh(f"{tensor}_q"), rewrite.fresh(f"{tensor}_dq")
    nodes = [
        helper.make_node("QuantizeLinear", [tensor, *parameters], [quantized], name=quantized),
        helper.make_node("DequantizeLinear", [quantized, *parameters], [output], name=output),
    ]
    return nodes, output


def _scale(
    tensor: str, limit: float, num_levels: int, dtype: type[np.float32 | np.float16]
) -> npt.NDArray[np.floating]:
    scale: npt.NDArray[np.floating] = np.array(max(limit / num_levels, SMALLEST_SCALE)).astype(dtype)
    if not np.isfinite(scale):
        raise GraphError(f"the range {limit:g} of tensor {tensor!r} does not fit into float16; exclude its readers")
    return scale


def _pools_a_float_convolution(tensor: str, index: GraphIndex, placement: Placement) -> bool:
    """Whether ``tensor`` is the maximum over what a convolution outside the placement makes."""
    node = index.producers.get(tensor)
    if node is None or node.op_type != "MaxPool":
        return False
    before = index.producers.get(node.input[0])
    while before is not None and before.op_type == "Relu":
        before = index.producers.get(before.input[0])
    quantized = {point.output for point in placement.weighted}
    return before is not None and before.op_type == "Conv" and before.output[0] not in quantized


def _clip_before(tensor: str, limit: float, dtype: type[np.float32 | np.float16], rewrite: _Rewrite) -> None:
    """Clip a pooled tensor a quarter of a step below the largest level, where rounding still gives that level.

    The integers stay the very same. Without it onnxruntime 1.32 moves QuantizeLinear up through MaxPool, away from the
    float convolution's blocked layout, and pools bytes in a plain loop: 9 ms on one core instead of 0.2, of 31 for all
    of a ResNet50 with a transformer.
    """
    largest = (NUM_UNSIGNED_LEVELS - 0.25) * float(_scale(tensor, limit, NUM_UNSIGNED_LEVELS, dtype))
    ends = [rewrite.constant(f"{tensor}_{end}", np.asarray(value, dtype)) for end, value in (("0", 0), ("1", largest))]
    clipped = rewrite.fresh(f"{tensor}_clipped")
    quantizer = rewrite.after[tensor][0]
    quantizer.input[0] = clipped
    rewrite.after[tensor].insert(0, helper.make_node("Clip", [tensor, *ends], [clipped], name=clipped))


def _rewritten(model: ModelProto, index: GraphIndex, rewrite: _Rewrite) -> ModelProto:
    """A new model: protobuf frees a message as a whole, so editing in place would keep the float weights alive."""
    out = ModelProto()
    for name in ("ir_version", "producer_name", "producer_version", "domain", "model_version", "doc_string"):
        if model.HasField(name):
            setattr(out, name, getattr(model, name))
    out.opset_import.extend(model.opset_import)
    out.metadata_props.extend(model.metadata_props)
    source, target = model.graph, out.graph
    target.name, target.doc_string = source.name, source.doc_string
    target.input.extend(source.input)
    target.output.extend(source.output)
    target.metadata_props.extend(source.metadata_props)
    target.node.extend(_rewired_nodes(source.input, index, rewrite))
    unread = rewrite.replaced - {name for node in target.node for name in node.input} - index.outputs
    target.value_info.extend(info for info in source.value_info if info.name not in unread)
    kept = [node for node in target.node if not (node.op_type == "Constant" and node.output[0] in unread)]
    if len(kept) < len(target.node):
        del target.node[:]
        target.node.extend(kept)
    target.initializer.extend(tensor for tensor in source.initializer if tensor.name not in unread)
    target.initializer.extend(rewrite.initializers.values())
    target.sparse_initializer.extend(source.sparse_initializer)
    return out


def _rewired_nodes(inputs: Iterable[ValueInfoProto], index: GraphIndex, rewrite: _Rewrite) -> list[NodeProto]:
    nodes = list(rewrite.first)
    for entry in inputs:
        nodes += rewrite.after.get(entry.name, [])
    for node in index.nodes:
        rewired = NodeProto()
        rewired.CopyFrom(node)
        if node.output[0] in rewrite.added:
            # A convolution's third input may be there by an empty name, which means that it is not.
            del rewired.input[2:]
            rewired.input.append(rewrite.added[node.output[0]])
        for position, name in enumerate(rewired.input):
            rewired.input[position] = rewrite.inputs.get((node.output[0], position), name)
        nodes.append(rewired)
        for output in node.output:
            nodes += rewrite.after.get(output, [])
    return nodes
