"""Half precision through the gate: what would overflow is float32 from the start, what costs too much follows.

The groups are the modules' parts with all their nodes, not only products: sums of squares inside a norm leave float16
as easily. What is restored to float32 gets the float graph's own weights back, not their roundings.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated

from onnx import ModelProto, TensorProto
from pydantic import BaseModel, ConfigDict, Field

from hffnet.calibration.fidelity import HeldOut, Scored
from hffnet.calibration.gate import Budget, GateReport, Say, reduction_within_budget
from hffnet.calibration.graph import GraphIndex, model_from_path, node_name
from hffnet.calibration.half import LARGEST, MARGIN, half_nodes, half_with_float_parts, overflowing
from hffnet.calibration.sensitivity import Group, Reduction, place_of_node

_NUM_PEAKS = 20
_log = logging.getLogger(__name__)


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Peak(_Strict):
    """Largest magnitude of a tensor over the calibration frames."""

    tensor: str
    magnitude: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class KeptFloat(_Strict):
    """A tensor (the first output of a node, where the gate restored it) that is float32 in the fp16 graph, and why."""

    tensor: str
    reason: str


class HalfReport(_Strict):
    """How the fp16 graph came about.

    Attributes:
        largest: where float16 ends; margin: how far a tensor must stay below it.
        peaks: of the tensors that come nearest to the end, largest first.
        left_float: what is float32 in the graph that was taken.
        gate: what was measured; its shares are those of the work in float16.
    """

    largest: float = LARGEST
    margin: float = MARGIN
    peaks: tuple[Peak, ...]
    left_float: tuple[KeptFloat, ...]
    gate: GateReport


@dataclass(frozen=True, slots=True, kw_only=True)
class PassedHalf:
    """The half-precision graph that came through the gate."""

    model: ModelProto
    score: Scored
    report: HalfReport


def half_within_budget(
    half: Path,
    float_model: Path,
    peaks: Mapping[str, float],
    reference: Scored,
    held_out: HeldOut,
    budget: Budget,
    *,
    say: Say = lambda _: None,
) -> PassedHalf:
    """The half-precision graph with as little in float32 as the budget allows.

    Args:
        half: the network in float16 throughout.
        float_model: the same in float32, with the same names.
        peaks: of its tensors over the calibration frames, see ``peaks_from_frames``.
        reference: the float graph on ``held_out``.
        held_out: labelled frames that had no part in training.
        budget: see ``Budget``.
        say: called with a sentence when a step begins.

    Raises:
        RefusedError, GateError: as of ``reduction_within_budget``; also where a weight is beyond float16.
        GraphError: the graphs do not have the same names.
    """
    overflows = overflowing(peaks)
    for name, peak in overflows.items():
        _log.warning("%s reaches %.3g on the calibration frames: it stays float32 in the fp16 graph", name, peak)

    @cache
    def weights() -> Mapping[str, TensorProto]:
        return GraphIndex(model_from_path(float_model)).constants

    def model(left_float: frozenset[str]) -> ModelProto:
        is_mixed = bool(overflows or left_float)
        return half_with_float_parts(model_from_path(half), overflows, left_float, weights() if is_mixed else {})

    groups = groups_from_half(model(frozenset()))
    held = reduction_within_budget("fp16", Reduction(groups=groups, model=model), reference, held_out, budget, say=say)
    report = HalfReport(
        peaks=tuple(
            Peak(tensor=name, magnitude=peak)
            for name, peak in sorted(peaks.items(), key=lambda entry: -entry[1])[: max(_NUM_PEAKS, len(overflows))]
        ),
        left_float=(
            *(
                KeptFloat(tensor=name, reason=f"reaches {peak:.3g} on the calibration frames")
                for name, peak in overflows.items()
            ),
            *(KeptFloat(tensor=name, reason="restored by the gate") for name in sorted(held.left_float)),
        ),
        gate=held.report,
    )
    return PassedHalf(model=model(held.left_float), score=held.score, report=report)


def groups_from_half(half: ModelProto) -> tuple[Group, ...]:
    """The nodes that compute in float16, by stage and block, in the order of the graph."""
    found: dict[tuple[str, str], list[str]] = {}
    for node in half_nodes(half):
        found.setdefault(place_of_node(node_name(node)), []).append(node.output[0])
    return tuple(Group(stage=s, block=b, kind="all", outputs=tuple(o)) for (s, b), o in found.items())
