"""What the gate's search finds and refuses, on graphs whose loss and share are known beforehand."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from hffnet.calibration.fidelity import HeldOut, Scored, cost_between, logits_from_onnx, scored, scored_from_logits
from hffnet.calibration.gate import Budget, Passed, RefusedError, placement_within_budget
from hffnet.calibration.placement import Placement, WeightedPoint
from hffnet.runtime.decode import DecodeSpec, decode
from hffnet.runtime.errors import GateError, GraphError
from hffnet.runtime.taxonomy import Taxonomy
from tests.calibration.graphs import textured_frames

TREE = Taxonomy.from_paths([("a", "x"), ("a", "y"), ("b", "z")])
PIXELS = 32 * 32
WORK = 800
"""Columns that the groups share; five more make the logits, always in float."""


@dataclass(frozen=True, slots=True)
class Split:
    """``num_groups`` equal parts of the work; the answers are right from ``needed`` groups in float on."""

    num_groups: int
    needed: int
    broken: float = -1.0
    stated: bool = True

    def placement(self) -> Placement:
        points = (
            WeightedPoint(
                node=f"part{k}.0/MatMul", op_type="MatMul", output=f"part{k}", activation="x", weight="w", weight_axis=1
            )
            for k in range(self.num_groups)
        )
        return Placement(mode="cnn+linear", weighted=tuple(points), residuals=(), left_float=())

    def graph(self, placement: Placement) -> ModelProto:
        num_float = self.num_groups - len(placement.weighted)
        return work_graph(
            WORK // self.num_groups * num_float, 1.0 if num_float >= self.needed else self.broken, stated=self.stated
        )


def work_graph(num_float: int, sign: float, *, stated: bool = True) -> ModelProto:
    """Work of ``num_float`` columns in float and the rest in int8, beside logits that ``sign`` turns around."""
    num_float = max(num_float, 1)
    head = np.random.default_rng(0).normal(size=(PIXELS, 5)).astype(np.float32) / 4096
    one, zero = np.float32(1), np.int8(0)
    nodes = [
        helper.make_node("Cast", ["frames"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["floats", "rows"], ["x"]),
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["x_q"]),
        helper.make_node("DequantizeLinear", ["x_q", "one", "zero"], ["x_dq"]),
        helper.make_node("DequantizeLinear", ["w8", "one", "zero"], ["w_dq"]),
        helper.make_node("MatMul", ["x_dq", "w_dq"], ["in_int8"]),
        helper.make_node("MatMul", ["x", "w"], ["in_float"]),
        helper.make_node("MatMul", ["x", "head"], ["answer"]),
        helper.make_node("Concat", ["in_int8", "in_float"], ["work"], axis=1),
        helper.make_node("ReduceMean", ["work", "last"], ["nothing"]),
        helper.make_node("Add", ["answer", "nothing"], ["sum"]),
        helper.make_node("Mul", ["sum", "sign"], ["logits"]),
    ]
    constants: dict[str, np.ndarray] = {
        "rows": np.array([-1, PIXELS], np.int64),
        "last": np.array([1], np.int64),
        "one": np.asarray(one),
        "zero": np.asarray(zero),
        "sign": np.asarray(sign, np.float32),
        "w8": np.zeros((PIXELS, WORK - num_float), np.int8),
        "w": np.zeros((PIXELS, num_float), np.float32),
        "head": head,
    }
    graph = helper.make_graph(
        nodes,
        "work",
        [helper.make_tensor_value_info("frames", TensorProto.UINT8, ["N", 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model, data_prop=True) if stated else model


@pytest.fixture(scope="module")
def held_out() -> HeldOut:
    frames = textured_frames(24, seed=3)
    float_graph = work_graph(WORK, 1.0).SerializeToString()
    decisions = decode(logits_from_onnx(float_graph, frames)[0], TREE, DecodeSpec.plain(TREE))
    return HeldOut(frames=frames, truths=[one.path for one in decisions], taxonomy=TREE, decode=DecodeSpec.plain(TREE))


@pytest.fixture(scope="module")
def reference(held_out: HeldOut) -> Scored:
    return scored(work_graph(WORK, 1.0).SerializeToString(), held_out)


@pytest.fixture
def gated(held_out: HeldOut, reference: Scored) -> Callable[[Split, Budget], Passed]:
    def through(split: Split, budget: Budget) -> Passed:
        return placement_within_budget(split.graph, split.placement(), reference, held_out, budget)

    return through


@pytest.mark.parametrize(
    ("split", "least_share", "measured"),
    [
        pytest.param(Split(8, 5), 0.2, [0, 1, 2, 4, 5, 7], id="between-the-last-power-and-all-groups"),
        pytest.param(Split(16, 5), 0.55, [0, 1, 2, 4, 5, 6, 8], id="a-power-is-within-the-drop-but-leaves-too-little"),
        pytest.param(Split(16, 8), 0.3, [0, 1, 2, 4, 6, 7, 8], id="a-power"),
        pytest.param(Split(2, 1), 0.2, [0, 1], id="two-groups"),
    ],
)
def test_fewest_groups_that_hold_are_found_between_powers_of_two_too(
    gated: Callable[[Split, Budget], Passed], split: Split, least_share: float, measured: list[int]
) -> None:
    passed = gated(split, Budget(min_quantized_share=least_share))
    assert len(passed.report.restored) == split.needed
    assert [point.num_restored for point in passed.report.curve] == measured
    assert len(passed.placement.weighted) == split.num_groups - split.needed


def test_where_the_drop_is_only_met_with_too_little_left_all_is_refused_with_what_was_measured(
    gated: Callable[[Split, Budget], Passed],
) -> None:
    with pytest.raises(RefusedError, match=r"no int8 graph was written") as refused:
        gated(Split(8, 5), Budget(min_quantized_share=0.5))
    report = refused.value.report
    assert report.accepted is None
    assert report.refusal == str(refused.value)
    assert [point.num_restored for point in report.curve] == [0, 1, 2, 4]  # four leave 49.7 %
    assert not any(point.within_budget for point in report.curve)
    assert len(report.sensitivity) == 8


def test_too_small_a_share_from_the_start_is_told_without_ranking(gated: Callable[[Split, Budget], Passed]) -> None:
    with pytest.raises(RefusedError, match=r"only 99% of the work is in int8 .* at least 100%") as refused:
        gated(Split(8, 0), Budget(min_quantized_share=1.0))
    assert len(refused.value.report.curve) == 1
    assert refused.value.report.sensitivity == ()


def test_a_share_that_cannot_be_told_is_refused_unless_none_is_asked_for(
    gated: Callable[[Split, Budget], Passed],
) -> None:
    split = Split(8, 0, stated=False)
    with pytest.raises(GateError, match=r"the graph does not state the shapes of \d products"):
        gated(split, Budget())
    report = gated(split, Budget(min_quantized_share=0.0)).report
    assert report.accepted is not None
    assert report.accepted.quantized_share is None


@pytest.mark.parametrize("broken", [np.nan, np.inf], ids=str)
def test_an_answer_that_is_not_a_number_is_a_failed_point_and_restored(
    gated: Callable[[Split, Budget], Passed], broken: float
) -> None:
    report = gated(Split(8, 3, broken=broken), Budget(min_quantized_share=0.2, max_drop=100.0)).report
    assert len(report.restored) == 3
    assert report.curve[0].cost.num_broken == 24
    with pytest.raises(RefusedError, match="24 of 24 frames are answered with NaN or infinity"):
        gated(Split(8, 9, broken=broken), Budget(max_drop=100.0))


def test_a_float_graph_that_answers_nan_is_not_measured_against(held_out: HeldOut, reference: Scored) -> None:
    logits = reference.logits.copy()
    logits[3] = np.nan
    with pytest.raises(GraphError, match="the float graph answers 1 of 24 frames with NaN"):
        cost_between(scored_from_logits(logits, held_out), reference, held_out)


def test_the_budget_itself_is_within_the_budget(held_out: HeldOut, reference: Scored) -> None:
    cost = cost_between(reference, reference, held_out)
    edge = cost.model_copy(update={"hf1_drop": 100 * (0.9975 - 0.9925), "tice_rise": 100 * (0.0875 - 0.0825)})
    assert max(edge.hf1_drop, edge.tice_rise) > 0.5
    assert Budget(max_drop=0.5).allows(edge)
    assert not Budget(max_drop=0.5).allows(edge.model_copy(update={"hf1_drop": 0.50001}))
