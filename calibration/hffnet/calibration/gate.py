"""The gate: int8 is kept only as far as its measured loss on held-out frames stays within the budget.

All of the placement is tried first. Where it costs too much, groups are ranked by what each costs alone (on a part of
the frames, with a bounded number of graphs) and the worst are restored to float: one, two, four, ... until the budget
holds, then the smallest number that holds is searched between the last two. Every graph that was measured is a point of
the Pareto curve. So the work is known beforehand: at most ``NUM_RANKING_RUNS`` graphs on the ranking frames, and about
twice the logarithm of that on all of them.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

import numpy as np
from onnx import ModelProto
from pydantic import BaseModel, ConfigDict, Field

from hffnet.calibration.fidelity import Cost, HeldOut, Scored, cost_between, flips, scored, scored_from_logits
from hffnet.calibration.placement import Placement
from hffnet.calibration.sensitivity import Group, GroupCost, Quantizer, outputs_of, ranked_groups
from hffnet.runtime.errors import ConfigError, GateError
from hffnet.runtime.graph import facts_from_onnx

logger = logging.getLogger(__name__)

Say = Callable[[str], None]
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What int8 may cost and must bring.

    Attributes:
        max_drop: points that HF1 may fall, and that contradictions between levels (TICE) may rise.
        min_quantized_share: of the multiply-accumulates; below, int8 is not worth its name.
        num_ranking_frames: held-out frames, spread evenly, on which groups are ranked; the budget is always checked
            on all of them.
        always_rank: rank and draw the curve also where all of the placement is within the budget.
    """

    max_drop: float = 0.5
    min_quantized_share: float = 0.5
    num_ranking_frames: int = 32
    always_rank: bool = False

    def __post_init__(self) -> None:
        if not (0 <= self.max_drop <= 100 and 0 <= self.min_quantized_share <= 1 and self.num_ranking_frames > 0):
            raise ConfigError(
                f"the budget is {self.max_drop} points and a share of {self.min_quantized_share}; expected 0..100"
                " points and 0..1"
            )

    def allows(self, cost: Cost) -> bool:
        """Whether a cost is within the points."""
        return cost.hf1_drop <= self.max_drop and cost.tice_rise <= self.max_drop


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class ParetoPoint(_Strict):
    """One measured graph.

    Attributes:
        num_restored: groups left float for accuracy.
        quantized_share: of the multiply-accumulates; None where the graph does not state its shapes.
        latency_ms: median of batch 1 in ONNX Runtime while scoring; for comparison within this curve only.
        within_budget: whether it could be taken.
    """

    num_restored: Annotated[int, Field(ge=0)]
    quantized_share: Share | None
    latency_ms: Annotated[float, Field(ge=0)]
    cost: Cost
    within_budget: bool


class GateReport(_Strict):
    """How the placement was decided.

    Attributes:
        max_drop, min_quantized_share: the budget.
        num_frames: held-out frames.
        float_latency_ms: of the float graph, as ``ParetoPoint.latency_ms``.
        restored: groups left float for accuracy, worst first.
        accepted: the point that was taken.
        curve: all measured points, most quantized first.
        sensitivity: groups by what each costs alone, worst first; empty where it was not needed.
        num_ranking_frames: frames that ``sensitivity`` was measured on.
        flips: numbers of the held-out frames whose path int8 changes.
    """

    max_drop: float
    min_quantized_share: float
    num_frames: Annotated[int, Field(ge=1)]
    float_latency_ms: float
    restored: tuple[str, ...]
    accepted: ParetoPoint
    curve: tuple[ParetoPoint, ...]
    sensitivity: tuple[GroupCost, ...]
    num_ranking_frames: Annotated[int, Field(ge=0)]
    flips: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """What came through the gate."""

    placement: Placement
    score: Scored
    report: GateReport


def placement_within_budget(
    quantizer: Quantizer,
    placement: Placement,
    reference: Scored,
    held_out: HeldOut,
    budget: Budget,
    *,
    ranked_by: Quantizer | None = None,
    say: Say = lambda _: None,
) -> Passed:
    """The largest measured part of ``placement`` that keeps within the budget.

    Args:
        quantizer: int8 graph of a placement, e.g. ``Calibration.quantized``.
        placement: everything that may be quantized.
        reference: the float graph on ``held_out``.
        held_out: labelled frames that neither trained nor calibrated.
        budget: see ``Budget``.
        ranked_by: makes the graphs that groups are ranked on, where those of ``quantizer`` are slow to run here, as
            half-precision ones are on a CPU; the budget is always checked on ``quantizer``'s own.
        say: called with a sentence when a step begins.

    Raises:
        GateError: no measured part is within the budget and above the least share.
    """
    search = _Search(quantizer, ranked_by or quantizer, placement, reference, held_out, budget, say)
    best = search.smallest()
    if best is None:
        raise GateError(search.refusal())
    return search.passed(best)


@dataclass(slots=True)
class _Search:
    """The points measured so far, by number of groups restored."""

    quantizer: Quantizer
    ranked_by: Quantizer
    placement: Placement
    reference: Scored
    held_out: HeldOut
    budget: Budget
    say: Say
    ranked: tuple[tuple[Group, GroupCost], ...] = ()
    points: dict[int, ParetoPoint] = field(default_factory=dict)
    scores: dict[int, Scored] = field(default_factory=dict)

    def smallest(self) -> int | None:
        """Fewest groups restored that hold; None where no number does."""
        held = self._holds(0)
        if held and not self.budget.always_rank:
            return 0
        self._rank()
        num_groups = len(self.ranked)
        failed, passed, number = (-1 if held else 0), (0 if held else None), 1
        while number < num_groups:
            if self._share_too_small(number):
                break
            if self._holds(number) and passed is None:
                passed = number
            if passed is None:
                failed = number
            elif not self.budget.always_rank:
                break
            number *= 2
        while passed is not None and passed - failed > 1:
            middle = (failed + passed) // 2
            if self._holds(middle):
                passed = middle
            else:
                failed = middle
        return passed

    def passed(self, number: int) -> Passed:
        groups = [group for group, _ in self.ranked[:number]]
        return Passed(
            placement=self._without(groups),
            score=self.scores[number],
            report=GateReport(
                max_drop=self.budget.max_drop,
                min_quantized_share=self.budget.min_quantized_share,
                num_frames=len(self.held_out.frames),
                float_latency_ms=self.reference.latency_ms,
                restored=tuple(group.name for group in groups),
                accepted=self.points[number],
                curve=tuple(self.points[n] for n in sorted(self.points)),
                sensitivity=tuple(cost for _, cost in self.ranked),
                num_ranking_frames=len(self._ranking_frames()) if self.ranked else 0,
                flips=flips(self.reference, self.scores[number]),
            ),
        )

    def refusal(self) -> str:
        whole, last = self.points[0], self.points[max(self.points)]
        share = "unknown" if last.quantized_share is None else f"{last.quantized_share:.0%}"
        worst = ", ".join(cost.name for _, cost in self.ranked[:3])
        return (
            f"int8 costs {whole.cost.hf1_drop:.2f} points of HF1 and {whole.cost.tice_rise:.2f} of consistency on"
            f" {len(self.held_out.frames)} held-out frames, and still {last.cost.hf1_drop:.2f} and"
            f" {last.cost.tice_rise:.2f} with {last.num_restored} of {len(self.ranked)} groups restored to float"
            f" ({share} of the work quantized); at most {self.budget.max_drop} may be lost with at least"
            f" {self.budget.min_quantized_share:.0%} quantized, so no int8 graph was written."
            f" The worst groups are {worst}: use more calibration frames or another --observer, or --exclude them"
        )

    def _holds(self, number: int) -> bool:
        if number not in self.points:
            self._measure(number)
        return self.points[number].within_budget

    def _measure(self, number: int) -> None:
        self.say(f"measuring int8 with {number} groups left float" if number else "measuring int8 against fp32")
        model = self._graph(number)
        self.scores[number] = scored(model, self.held_out)
        cost = cost_between(self.reference, self.scores[number], self.held_out)
        share = facts_from_onnx(model).macs.quantized_share
        enough = share is None or share >= self.budget.min_quantized_share
        self.points[number] = ParetoPoint(
            num_restored=number,
            quantized_share=share,
            latency_ms=self.scores[number].latency_ms,
            cost=cost,
            within_budget=enough and self.budget.allows(cost),
        )
        logger.info(
            "int8 with %d groups float: HF1 -%.2f points, share %s, logit error %.2e",
            number, cost.hf1_drop, "unknown" if share is None else f"{share:.1%}", cost.logit_error,
        )  # fmt: skip

    def _share_too_small(self, number: int) -> bool:
        """Whether restoring even fewer groups already left too little: what is restored only grows."""
        before = [p for n, p in self.points.items() if n < number and p.quantized_share is not None]
        return any((p.quantized_share or 0) < self.budget.min_quantized_share for p in before)

    def _graph(self, number: int) -> bytes:
        model: ModelProto = self.quantizer(self._without([group for group, _ in self.ranked[:number]]))
        content: bytes = model.SerializeToString()
        return content

    def _without(self, groups: Sequence[Group]) -> Placement:
        return self.placement.without(outputs_of(groups), "restored by the gate") if groups else self.placement

    def _ranking_frames(self) -> list[int]:
        num = len(self.held_out.frames)
        wanted = min(num, self.budget.num_ranking_frames)
        return sorted({round(k) for k in np.linspace(0, num - 1, wanted).tolist()})

    def _rank(self) -> None:
        chosen = self._ranking_frames()
        part = replace(
            self.held_out, frames=self.held_out.frames[chosen], truths=[self.held_out.truths[k] for k in chosen]
        )
        reference = scored_from_logits(self.reference.logits[chosen], part)

        began = time.monotonic()

        def progress(done: int, of: int) -> None:
            left = (time.monotonic() - began) / done * (of - done)
            self.say(f"ranking groups by what int8 costs them: {done} of at most {of}, about {left:.0f} s left")

        self.ranked = ranked_groups(self.ranked_by, self.placement, reference, part, progress=progress)
