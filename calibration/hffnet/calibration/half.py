"""Half precision without surprises: which tensors would overflow float16, and a graph that keeps just those in float32.

float16 ends at 65504. ONNX Runtime on a CPU computes half-precision graphs in float32 wherever it can, so an overflow
that a GPU would hit does not show there: the float graph's own activations over the calibration frames tell it.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from hffnet.calibration.graph import GraphIndex, model_from_path
from hffnet.calibration.observers import MinMax
from hffnet.calibration.progress import Progress
from hffnet.calibration.statistics import ranges_from_frames
from hffnet.runtime.errors import GateError

LARGEST = 65504.0
"""The largest float16."""

MARGIN = 4.0
"""How far a tensor must stay below it on the calibration frames: other frames reach further."""

_MAX_SHARE_FLOAT = 0.5


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


def half_with_float_parts(half: ModelProto, tensors: Collection[str]) -> ModelProto:
    """The half-precision graph with ``tensors``, and the nodes that make or read them, in float32.

    Args:
        half: float16 graph; changed in place where there is something to keep.
        tensors: names of what must not be float16.

    Raises:
        GateError: a weight itself overflowed, or so much would stay float32 that this is no half-precision graph.
    """
    index = GraphIndex(half)
    _refuse_broken_weights(index)
    if not tensors:
        return half
    kept = [n for n in index.nodes if n.op_type != "Cast" and set(tensors) & {*n.input, *n.output}]
    if len(kept) > _MAX_SHARE_FLOAT * len(index.nodes):
        named = ", ".join(sorted(tensors)[:5])
        raise GateError(
            f"{len(tensors)} tensors come near the end of float16 on the calibration frames ({named}, ...), and"
            f" {len(kept)} of {len(index.nodes)} nodes would have to stay float32; use fp32 or int8 for CPU engines"
        )
    widening = _Widening(index, frozenset(tensors))
    nodes = [new for node in index.nodes for new in (widening.widened(node) if node in kept else [node])]
    del half.graph.node[:]
    half.graph.node.extend(nodes)
    half.graph.initializer.extend(widening.constants.values())
    for info in half.graph.value_info:
        if info.name in tensors:
            info.type.tensor_type.elem_type = TensorProto.FLOAT
    used = {name for node in nodes for name in node.input}
    unread = [tensor for tensor in half.graph.initializer if tensor.name not in used]
    for tensor in unread:
        half.graph.initializer.remove(tensor)
    return half


def _refuse_broken_weights(index: GraphIndex) -> None:
    for name, tensor in index.constants.items():
        if tensor.data_type == TensorProto.FLOAT16 and not np.isfinite(numpy_helper.to_array(tensor)).all():
            raise GateError(f"the weight {name!r} is beyond float16 ({LARGEST:g}); use fp32 or int8 for CPU engines")


class _Widening:
    """Writes single nodes anew in float32, with casts at their borders."""

    def __init__(self, index: GraphIndex, tensors: frozenset[str]) -> None:
        self._index = index
        self._tensors = tensors
        self._halves = {name for name, tensor in index.constants.items() if tensor.data_type == TensorProto.FLOAT16}
        self._cast: dict[str, str] = {}
        self.constants: dict[str, TensorProto] = {}

    def widened(self, node: NodeProto) -> list[NodeProto]:
        before, after = [], []
        wide = NodeProto()
        wide.CopyFrom(node)
        for position, name in enumerate(node.input):
            if name in self._halves:
                wide.input[position] = self._constant(name)
            elif name and name not in self._tensors and name not in self._index.constants:
                if name not in self._cast:
                    self._cast[name] = f"{name}_wide"
                    before.append(_cast(name, f"{name}_wide", TensorProto.FLOAT))
                wide.input[position] = self._cast[name]
        for position, name in enumerate(node.output):
            if name not in self._tensors:
                wide.output[position] = f"{name}_float"
                after.append(_cast(f"{name}_float", name, TensorProto.FLOAT16))
        return [*before, wide, *after]

    def _constant(self, name: str) -> str:
        wide = f"{name}_float"
        if wide not in self.constants:
            values = numpy_helper.to_array(self._index.constants[name]).astype(np.float32)
            self.constants[wide] = numpy_helper.from_array(values, wide)
        return wide


def _cast(source: str, target: str, kind: int) -> NodeProto:
    return helper.make_node("Cast", [source], [target], name=target, to=kind)
