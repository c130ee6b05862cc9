"""Bias correction: rounding weights shifts each channel's mean output; the shift is known and taken out of the bias.

A product is linear in its input, so the mean error over all frames is the error on the mean frame, exactly, borders
included (Nagel et al., "Data-free quantization", 2019, section 4.2, with the measured mean in place of a guessed one).
It costs nothing at run time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from hffnet.calibration.graph import GraphIndex, attribute
from hffnet.calibration.observers import NUM_LEVELS, Observer, State, Values
from hffnet.calibration.placement import Placement, WeightedPoint
from hffnet.calibration.weights import WeightScales, rounding_errors, scales_from_weight

Array = npt.NDArray[np.float32]


class WithMean:
    """An observer that also adds up the tensor itself: its mean over the frames, as large as one frame's values.

    Args:
        observer: sees every frame.
        every: only each ``every``-th frame is added up. Adding costs as much as everything else that observers do, and
            a mean hardly moves any more after a hundred frames.
    """

    def __init__(self, observer: Observer, every: int = 1) -> None:
        self.observer = observer
        self.total: npt.NDArray[np.float64] | None = None
        self.count = 0
        self._every = every
        self._seen = 0

    def update(self, values: Values) -> None:
        """See ``Observer``; axis 0 of ``values`` is the batch."""
        self.observer.update(values)
        if self.total is None:
            self.total = np.zeros(values.shape[1:])
        for frame in values[-self._seen % self._every :: self._every]:
            # numpy.add would first widen the frame: four times slower.
            cv2.accumulate(np.ascontiguousarray(frame).reshape(1, -1), self.total.reshape(1, -1))
            self.count += 1
        self._seen += len(values)

    def range(self, num_levels: int = NUM_LEVELS) -> float:
        """See ``Observer``."""
        return self.observer.range(num_levels)

    def state(self) -> State:
        """See ``Observer``."""
        own: State = {"count": np.array(self.count), "seen": np.array(self._seen)}
        if self.total is not None:
            own["total"] = self.total
        return {**own, **{f"observer_{key}": value for key, value in self.observer.state().items()}}

    def restore(self, state: State) -> None:
        """See ``Observer``."""
        self.count, self._seen = int(state["count"]), int(state["seen"])
        self.total = state["total"].astype(np.float64) if "total" in state else None
        inner = {key.removeprefix("observer_"): v for key, v in state.items() if key.startswith("observer_")}
        self.observer.restore(inner)

    @property
    def mean(self) -> Array | None:
        """Mean over the frames added up, one frame's shape; None before the first."""
        return None if self.total is None else (self.total / self.count).astype(np.float32)


@dataclass(frozen=True, slots=True)
class BiasPlace:
    """The input that holds a product's bias: of which node (by first output), which input, and today's constant."""

    output: str
    input_index: int
    constant: str | None


def bias_place(index: GraphIndex, point: WeightedPoint) -> BiasPlace | None:
    """Where the bias of a product stands; None where it has none that can be changed."""
    node = index.producers[point.output]
    match node.op_type:
        case "Conv":
            name = node.input[2] if len(node.input) > 2 and node.input[2] else None
            return BiasPlace(point.output, 2, name) if name is None or index.is_constant(name) else None
        case "Gemm":
            has_vector = len(node.input) > 2 and _is_vector(index, node.input[2], index.constants[point.weight], point)
            plain = all(a.f == 1.0 for a in node.attribute if a.name in {"alpha", "beta"})
            return BiasPlace(point.output, 2, node.input[2]) if has_vector and plain else None
        case _:
            return _bias_after(index, point)


def _bias_after(index: GraphIndex, point: WeightedPoint) -> BiasPlace | None:
    """MatMul has no bias of its own: the Add that alone reads it."""
    uses = index.uses[point.output]
    if len(uses) != 1 or uses[0].node.op_type != "Add" or point.output in index.outputs:
        return None
    add, other = uses[0].node, 1 - uses[0].input_index
    if not _is_vector(index, add.input[other], index.constants[point.weight], point):
        return None
    return BiasPlace(add.output[0], other, add.input[other])


def _is_vector(index: GraphIndex, name: str, weight: TensorProto, point: WeightedPoint) -> bool:
    return index.is_constant(name) and list(index.constants[name].dims) == [weight.dims[point.weight_axis]]


def shifts_from_means(
    model: ModelProto,
    means: Mapping[str, Array],
    placement: Placement,
    weight_scales: WeightScales = MappingProxyType({}),
) -> dict[str, Array]:
    """What to add to the bias of each quantized product, by its output.

    Args:
        model: float graph.
        means: mean of each quantized activation over the frames, without the batch axis.
        placement: made from ``model``.
        weight_scales: those that the weights will be rounded with, where others than ``scales_from_weight``'s.
    """
    index = GraphIndex(model)
    shifts = {}
    for point in placement.weighted:
        if bias_place(index, point) is None:
            continue
        weight = numpy_helper.to_array(index.constants[point.weight]).astype(np.float32)
        scales = weight_scales.get((point.weight, point.weight_axis))
        if scales is None:
            scales = scales_from_weight(weight, point.weight_axis)
        lost = rounding_errors(weight, scales, point.weight_axis)
        shifts[point.output] = _mean_output(index.producers[point.output], means[point.activation], lost)
    return shifts


def _mean_output(node: NodeProto, mean: Array, weight: Array) -> Array:
    """Mean over positions of the product of ``mean`` and ``weight``, per output channel."""
    if node.op_type != "Conv":
        matrix = weight.T if attribute(node, "transB", 0) else weight
        flat: Array = mean.reshape(-1, mean.shape[-1]).mean(axis=0) @ matrix
        return flat
    alone = helper.make_node("Conv", ["x", "w"], ["y"])
    alone.attribute.extend(node.attribute)
    inputs = {"x": mean[None], "w": weight}
    graph = helper.make_graph(
        [alone],
        "alone",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # it runs once
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    output: Array = session.run(["y"], inputs)[0]
    per_channel: Array = output.mean(axis=tuple(i for i in range(output.ndim) if i != 1))
    return per_channel
