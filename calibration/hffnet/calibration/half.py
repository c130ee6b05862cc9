"""Half precision without surprises: which tensors would overflow float16, and a graph that keeps just those in float32.

float16 ends at 65504. ONNX Runtime on a CPU computes half-precision graphs in float32 wherever it can, so an overflow
that a GPU would hit does not show there: the float graph's own activations over the calibration frames tell it.

What stays float32 keeps its name, tensors and weights alike, because Q/DQ and smoothing address them by it; casts and
float16 copies get new names.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from hffnet.calibration.graph import GraphIndex, model_from_path
from hffnet.calibration.observers import MinMax
from hffnet.calibration.statistics import Progress, ranges_from_frames
from hffnet.runtime.errors import GateError, GraphError

LARGEST = 65504.0
"""The largest float16."""

MARGIN = 4.0
"""How far a tensor must stay below it on the calibration frames: other frames reach further."""

_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


def peaks_from_frames(
    float_model: Path, frames_NHW: npt.NDArray[np.uint8], *, progress: Progress | None = None
) -> dict[str, float]:
    """Largest magnitude of each float tensor between nodes over the frames, in the order of the graph.

    Raises:
        GraphError: as ``ranges_from_frames``; also where a float32 value already is not finite.
    """
    model = model_from_path(float_model)
    floats = {info.name for info in model.graph.value_info if info.type.tensor_type.elem_type == TensorProto.FLOAT}
    constants = GraphIndex(model).constants
    names = [name for node in model.graph.node for name in node.output if name in floats and name not in constants]
    del model
    return ranges_from_frames(float_model, frames_NHW, {name: MinMax() for name in names}, progress=progress)


def overflowing(peaks: Mapping[str, float], margin: float = MARGIN) -> dict[str, float]:
    """Tensors that come nearer to the end of float16 than ``margin`` allows, with their peaks."""
    return {name: peak for name, peak in peaks.items() if peak > LARGEST / margin}


def half_with_float_parts(
    half: ModelProto,
    tensors: Collection[str] = (),
    nodes: Collection[str] = (),
    weights: Mapping[str, TensorProto] = MappingProxyType({}),
) -> ModelProto:
    """The half-precision graph with parts of it in float32.

    Args:
        half: float16 graph; changed in place where there is something to keep.
        tensors: names of what must not be float16; the nodes that make or read them become float32.
        nodes: first outputs of further nodes to compute in float32.
        weights: the float graph's constants by name, for what becomes float32; those of ``half`` widened where absent.

    Raises:
        GateError: a weight itself overflowed.
        GraphError: a name is not in the graph.
    """
    index = GraphIndex(half)
    _refuse_broken_weights(index)
    _refuse_unknown_names(index, tensors, nodes)
    if not tensors and not nodes:
        return half
    _Widening(half, index, frozenset(tensors), frozenset(nodes), weights).apply()
    return half


def half_nodes(half: ModelProto) -> list[NodeProto]:
    """The nodes that compute in float16, in the order of the graph."""
    kinds = _float_kinds(half)
    index = GraphIndex(half)
    return [
        node
        for node in index.nodes
        if node.op_type not in {"Cast", "Constant"}
        and any(kinds.get(name, TensorProto.FLOAT16) == TensorProto.FLOAT16 for name in node.output)
    ]


def _refuse_broken_weights(index: GraphIndex) -> None:
    for name, tensor in index.constants.items():
        if tensor.data_type == TensorProto.FLOAT16 and not np.isfinite(numpy_helper.to_array(tensor)).all():
            raise GateError(f"the weight {name!r} is beyond float16 ({LARGEST:g}); use fp32 or int8 for CPU engines")


def _refuse_unknown_names(index: GraphIndex, tensors: Collection[str], nodes: Collection[str]) -> None:
    known = index.producers.keys() | index.uses.keys()
    if unknown := [name for name in (*tensors, *nodes) if name not in known]:
        raise GraphError(
            f"{len(unknown)} tensors that must stay float32, such as {unknown[0]!r}, are not in the half-precision"
            " graph; export both graphs from one network with the same version of torch"
        )


def _float_kinds(model: ModelProto) -> dict[str, int]:
    """Types of tensors, as far as the graph states them."""
    graph = model.graph
    kinds = {info.name: info.type.tensor_type.elem_type for info in (*graph.value_info, *graph.input, *graph.output)}
    return kinds | {name: tensor.data_type for name, tensor in GraphIndex(model).constants.items()}


class _Widening:
    """Writes nodes anew in float32, with casts at their borders."""

    def __init__(
        self,
        model: ModelProto,
        index: GraphIndex,
        tensors: frozenset[str],
        nodes: frozenset[str],
        weights: Mapping[str, TensorProto],
    ) -> None:
        self._weights = weights
        self._model = model
        self._index = index
        self._kinds = _float_kinds(model)
        self._infos = {info.name: info for info in model.graph.value_info}
        self._names = {name for node in index.nodes for name in (*node.input, *node.output)} | index.constants.keys()
        self._wide_nodes = self._chosen(tensors, nodes)
        self._tensors = tensors
        self._wide: dict[str, str] = {}
        """Name in float32 of what a widened node makes or reads."""
        self._half: dict[str, str] = {}
        """Name in float16 of what a widened node makes, or of a weight that it reads."""

    def _chosen(self, tensors: frozenset[str], nodes: frozenset[str]) -> set[str]:
        """First outputs of the nodes to widen: products that share a weight go together, as it has one type."""
        chosen = {
            node.output[0]
            for node in self._index.nodes
            if node.op_type != "Cast" and (tensors & {*node.input, *node.output} or node.output[0] in nodes)
        }
        products = [node for node in self._index.nodes if node.op_type in _PRODUCTS and len(node.input) > 1]
        weights = {node.input[1] for node in products if node.output[0] in chosen}
        return chosen | {node.output[0] for node in products if node.input[1] in weights & self._index.constants.keys()}

    def apply(self) -> None:
        wide = [node for node in self._index.nodes if node.output[0] in self._wide_nodes]
        for name in dict.fromkeys(name for node in wide for name in node.input):
            if name in self._index.constants and self._is_half(name):
                self._widen_constant(name)
        nodes: list[NodeProto] = []
        for node in self._index.nodes:
            nodes += self._widened(node) if node.output[0] in self._wide_nodes else [self._narrow(node)]
        graph = self._model.graph
        del graph.node[:]
        graph.node.extend(nodes)

    def _is_half(self, name: str) -> bool:
        return bool(name) and self._kinds.get(name, TensorProto.FLOAT16) == TensorProto.FLOAT16

    def _widen_constant(self, name: str) -> None:
        tensor = self._index.constants[name]
        if any(use.node.output[0] not in self._wide_nodes for use in self._index.uses[name]):
            self._half[name] = self._fresh(f"{name}_half")
            copy = TensorProto()
            copy.CopyFrom(tensor)
            copy.name = self._half[name]
            self._model.graph.initializer.append(copy)
        own = tensor.name  # that of a Constant node may be empty
        exact = self._weights.get(name)
        source = exact if exact is not None and exact.dims == tensor.dims else tensor
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(source).astype(np.float32), own))
        self._wide[name] = name
        if name in self._infos:
            self._state(name, name, TensorProto.FLOAT)

    def _widened(self, node: NodeProto) -> list[NodeProto]:
        before, after = list[NodeProto](), list[NodeProto]()
        wide = NodeProto()
        wide.CopyFrom(node)
        for position, name in enumerate(node.input):
            if name in self._wide:
                wide.input[position] = self._wide[name]
            elif self._is_half(name):
                wide.input[position] = self._wide[name] = self._fresh(f"{name}_wide")
                before.append(self._cast(name, self._wide[name], TensorProto.FLOAT))
        for position, name in enumerate(node.output):
            if not self._is_half(name):
                continue
            if name in self._index.outputs:  # of the graph: its type is a promise
                wide.output[position] = self._wide[name] = self._fresh(f"{name}_wide")
                after.append(self._cast(self._wide[name], name, TensorProto.FLOAT16))
                continue
            self._wide[name] = name
            if self._has_half_reader(name):
                self._half[name] = self._fresh(f"{name}_half")
                after.append(self._cast(name, self._half[name], TensorProto.FLOAT16))
            self._state(name, name, TensorProto.FLOAT)
        return [*before, wide, *after]

    def _has_half_reader(self, name: str) -> bool:
        readers = [use.node for use in self._index.uses[name]]
        return any(node.op_type != "Cast" and node.output[0] not in self._wide_nodes for node in readers)

    def _narrow(self, node: NodeProto) -> NodeProto:
        """A node that stays as it is, reading the float16 side; a Cast reads and makes any type."""
        if node.op_type == "Cast":
            if node.output[0] in self._tensors and self._is_half(node.output[0]):
                next(entry for entry in node.attribute if entry.name == "to").i = TensorProto.FLOAT
                self._wide[node.output[0]] = node.output[0]
                self._state(node.output[0], node.output[0], TensorProto.FLOAT)
            return node
        for position, name in enumerate(node.input):
            node.input[position] = self._half.get(name, name)
        return node

    def _cast(self, source: str, target: str, kind: int) -> NodeProto:
        self._state(source, target, kind)
        return helper.make_node("Cast", [source], [target], name=target, to=kind)

    def _state(self, source: str, target: str, kind: int) -> None:
        """Shape and type of ``target``, by which work is counted and scales get their type."""
        known = self._infos.get(source)
        if target != source or known is None:
            stated = ValueInfoProto()
            if known is not None:
                stated.CopyFrom(known)
            stated.name = target
            self._model.graph.value_info.append(stated)
            self._infos[target] = self._model.graph.value_info[-1]
        self._infos[target].type.tensor_type.elem_type = kind

    def _fresh(self, name: str) -> str:
        while name in self._names:
            name += "_"
        self._names.add(name)
        return name
