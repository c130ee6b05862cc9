"""The gate: a smaller type is kept only as far as its measured loss on held-out frames stays within the budget.

All of it is tried first. Where it costs too much, groups are ranked by what each costs alone (on a part of the frames,
with a bounded number of graphs) and the worst are restored to float: one, two, four, ... and at last all but one, until
the loss is within the budget; then the smallest number that is so is searched between the last two. What is restored
only grows, so the share of the work in the smaller type only falls: where that smallest number leaves too little, no
other would do. Every graph that was measured is a point of the Pareto curve, which a refusal carries too. So the work
is known beforehand: at most ``NUM_RANKING_RUNS`` graphs on the ranking frames, and about twice the logarithm of that on
all of them.
"""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from hffnet.calibration.fidelity import Cost, HeldOut, Scored, cost_between, flips, scored, scored_from_logits
from hffnet.calibration.placement import Placement
from hffnet.calibration.sensitivity import (
    Group,
    GroupCost,
    Quantizer,
    Reduction,
    outputs_of,
    ranked_groups,
    reduction_from_placement,
    restored,
)
from hffnet.runtime.errors import ConfigError, GateError
from hffnet.runtime.graph import facts_from_onnx

logger = logging.getLogger(__name__)

Say = Callable[[str], None]
Share = Annotated[float, Field(ge=0, le=1)]
Reduced = Literal["int8", "fp16"]

_ROUNDING = 1e-9
"""Scores are sums of floats: 100 * (0.9975 - 0.9925) is above 0.5 by 4e-16."""

_ARITHMETIC: dict[Reduced, str] = {"int8": "int8", "fp16": "float16"}
_ADVICE: dict[Reduced, str] = {
    "int8": "use more calibration frames or another --observer, or --exclude them",
    "fp16": "use fp32, or int8 for CPU engines",
}
_SHARE_OPTION: dict[Reduced, str] = {"int8": "--min-quantized-share", "fp16": "--min-half-share"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a smaller type may cost and must bring.

    Attributes:
        max_drop: points that HF1 may fall, and that contradictions between levels (TICE) may rise.
        min_quantized_share: of the multiply-accumulates; below, int8 is not worth its name.
        min_half_share: the same for float16.
        num_ranking_frames: held-out frames, spread evenly, on which groups are ranked; the budget is always checked
            on all of them.
        always_rank: rank and draw the curve also where all of the placement is within the budget.
    """

    max_drop: float = 0.5
    min_quantized_share: float = 0.5
    min_half_share: float = 0.5
    num_ranking_frames: int = 32
    always_rank: bool = False

    def __post_init__(self) -> None:
        shares = (self.min_quantized_share, self.min_half_share)
        if not (0 <= self.max_drop <= 100 and all(0 <= share <= 1 for share in shares) and self.num_ranking_frames > 0):
            raise ConfigError(
                f"the budget is {self.max_drop} points and shares of {shares[0]} (int8) and {shares[1]} (fp16);"
                " expected 0..100 points and 0..1"
            )

    def allows(self, cost: Cost) -> bool:
        """Whether a cost is within the points."""
        return max(cost.hf1_drop, cost.tice_rise) <= self.max_drop + _ROUNDING and not cost.num_broken

    def least_share(self, precision: Reduced) -> float:
        """Share of the work that must be done in a precision."""
        return self.min_quantized_share if precision == "int8" else self.min_half_share


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class ParetoPoint(_Strict):
    """One measured graph.

    Attributes:
        num_restored: groups left float for accuracy.
        quantized_share: of the multiply-accumulates, in int8 (in float16 where that is what is gated); None where the
            graph does not state its shapes, which passes only where no share is asked for.
        latency_ms: median of batch 1 in ONNX Runtime while scoring; for comparison within this curve only.
        within_budget: whether it could be taken.
    """

    num_restored: Annotated[int, Field(ge=0)]
    quantized_share: Share | None
    latency_ms: Annotated[float, Field(ge=0)]
    cost: Cost
    within_budget: bool


class GateReport(_Strict):
    """How it was decided what stays float.

    Attributes:
        max_drop, min_quantized_share: the budget; the share is that of float16 where that is what is gated.
        num_frames: held-out frames.
        float_latency_ms: of the float graph, as ``ParetoPoint.latency_ms``.
        restored: groups left float for accuracy, worst first.
        accepted: the point that was taken; None where all were refused.
        refusal: the sentence, where all were refused.
        curve: all measured points, most quantized first.
        sensitivity: groups by what each costs alone, worst first; empty where it was not needed.
        num_ranking_frames: frames that ``sensitivity`` was measured on.
        flips: numbers of the held-out frames whose path the graph changes that was taken, or where none was, that
            which lost least.
    """

    max_drop: float
    min_quantized_share: float
    num_frames: Annotated[int, Field(ge=1)]
    float_latency_ms: float
    restored: tuple[str, ...]
    accepted: ParetoPoint | None
    refusal: str | None = None
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


class RefusedError(GateError):
    """No graph that was measured is within the budget.

    Attributes:
        report: everything that was measured.
        score: of the graph that lost least.
    """

    def __init__(self, report: GateReport, score: Scored) -> None:
        super().__init__(report.refusal)
        self.report = report
        self.score = score


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What the search found.

    Attributes:
        left_float: outputs of the nodes that were restored.
        score: of the graph that was taken.
    """

    left_float: frozenset[str]
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
        RefusedError, GateError: as of ``reduction_within_budget``.
    """
    held = reduction_within_budget(
        "int8",
        reduction_from_placement(quantizer, placement),
        reference,
        held_out,
        budget,
        ranked_by=reduction_from_placement(ranked_by, placement) if ranked_by else None,
        say=say,
    )
    return Passed(placement=restored(placement, held.left_float), score=held.score, report=held.report)


def reduction_within_budget(
    precision: Reduced,
    reduction: Reduction,
    reference: Scored,
    held_out: HeldOut,
    budget: Budget,
    *,
    ranked_by: Reduction | None = None,
    say: Say = lambda _: None,
) -> Held:
    """The largest measured part of a reduction that keeps within the budget; arguments as above.

    Raises:
        RefusedError: no measured part is within the budget and above the least share.
        GateError: a share is asked for, and the graph does not state the shapes to tell it from.
    """
    search = _Search(precision, reduction, ranked_by or reduction, reference, held_out, budget, say)
    best = search.smallest()
    if best is None:
        raise RefusedError(search.report(None), search.scores[search.least_loss()])
    return Held(left_float=outputs_of(search.restored(best)), score=search.scores[best], report=search.report(best))


@dataclass(slots=True)
class _Search:
    """The points measured so far, by number of groups restored."""

    precision: Reduced
    reduction: Reduction
    ranked_by: Reduction
    reference: Scored
    held_out: HeldOut
    budget: Budget
    say: Say
    ranked: tuple[tuple[Group, GroupCost], ...] = ()
    points: dict[int, ParetoPoint] = field(default_factory=dict)
    scores: dict[int, Scored] = field(default_factory=dict)

    def smallest(self) -> int | None:
        """Fewest groups restored that hold; None where no measured number does."""
        held = self._loses_little(0)
        if self._share_too_small(1):
            return None
        if held and not self.budget.always_rank:
            return 0
        self._rank()
        failed, within = (-1, 0) if held else (0, None)
        for number in self._numbers_to_try():
            if self._share_too_small(number) or (within is not None and not self.budget.always_rank):
                break
            if within is None and self._loses_little(number):
                within = number
            elif within is None:
                failed = number
            else:
                self._loses_little(number)  # a point of the curve
        while within is not None and within - failed > 1:
            middle = (failed + within) // 2
            if self._loses_little(middle):
                within = middle
            else:
                failed = middle
        return min((number for number, point in self.points.items() if point.within_budget), default=None)

    def _numbers_to_try(self) -> Iterator[int]:
        """Powers of two, and where none of them is within the drop, all groups but one."""
        last, number = len(self.ranked) - 1, 1
        while number <= last:
            yield number
            number *= 2
        if last > 0 and not any(self.budget.allows(point.cost) for point in self.points.values()):
            yield last

    def restored(self, number: int) -> list[Group]:
        """The groups that are left float then."""
        return [group for group, _ in self.ranked[:number]]

    def report(self, taken: int | None) -> GateReport:
        """Everything that was measured; ``taken`` is None where nothing holds."""
        shown = self.least_loss() if taken is None else taken
        return GateReport(
            max_drop=self.budget.max_drop,
            min_quantized_share=self.budget.least_share(self.precision),
            num_frames=len(self.held_out.frames),
            float_latency_ms=self.reference.latency_ms,
            restored=() if taken is None else tuple(group.name for group in self.restored(taken)),
            accepted=None if taken is None else self.points[taken],
            refusal=self._refusal() if taken is None else None,
            curve=tuple(self.points[n] for n in sorted(self.points)),
            sensitivity=tuple(cost for _, cost in self.ranked),
            num_ranking_frames=len(self._ranking_frames()) if self.ranked else 0,
            flips=flips(self.reference, self.scores[shown]),
        )

    def least_loss(self) -> int:
        """Number of groups restored in the graph that lost least."""
        costs = {number: point.cost for number, point in self.points.items()}
        return min(costs, key=lambda n: (costs[n].num_broken, max(costs[n].hf1_drop, costs[n].tice_rise), n))

    def _refusal(self) -> str:
        precision, least = self.precision, self.budget.least_share(self.precision)
        whole, best = self.points[0], self.points[self.least_loss()]
        if not self.ranked:
            return (
                f"only {_percent(whole)} of the work is in {_ARITHMETIC[precision]} before anything is restored to"
                f" float; at least {least:.0%} is asked for, so no {precision} graph was written. Lower"
                f" {_SHARE_OPTION[precision]}, or place more"
            )
        worst = ", ".join(cost.name for _, cost in self.ranked[:3])
        return (
            f"{precision} costs {self._loss(whole.cost)} on {len(self.held_out.frames)} held-out frames, and still"
            f" {self._loss(best.cost)} with {best.num_restored} of {len(self.ranked)} groups restored to float"
            f" ({_percent(best)} of the work in {_ARITHMETIC[precision]}); at most {self.budget.max_drop} may be lost"
            f" with at least {least:.0%} of the work, so no {precision} graph was written."
            f" The worst groups are {worst}: {_ADVICE[precision]}"
        )

    def _loss(self, cost: Cost) -> str:
        sentence = f"{cost.hf1_drop:.2f} points of HF1 and {cost.tice_rise:.2f} of consistency"
        if cost.num_broken:
            num_frames = len(self.held_out.frames)
            sentence += f" ({cost.num_broken} of {num_frames} frames are answered with NaN or infinity)"
        return sentence

    def _loses_little(self, number: int) -> bool:
        if number not in self.points:
            self._measure(number)
        return self.budget.allows(self.points[number].cost)

    def _measure(self, number: int) -> None:
        what = self.precision
        self.say(f"measuring {what} with {number} groups left float" if number else f"measuring {what} against fp32")
        model = self.reduction.model(outputs_of(self.restored(number))).SerializeToString()
        share = self._share(model)
        self.scores[number] = scored(model, self.held_out)
        cost = cost_between(self.reference, self.scores[number], self.held_out)
        enough = share is None or share >= self.budget.least_share(what)
        self.points[number] = ParetoPoint(
            num_restored=number,
            quantized_share=share,
            latency_ms=self.scores[number].latency_ms,
            cost=cost,
            within_budget=enough and self.budget.allows(cost),
        )
        logger.info(
            "%s with %d groups float: HF1 -%.2f points, share %s, logit error %.2e",
            what, number, cost.hf1_drop, _percent(self.points[number]), cost.logit_error,
        )  # fmt: skip

    def _share(self, model: bytes) -> float | None:
        macs = facts_from_onnx(model).macs
        share = macs.share(_ARITHMETIC[self.precision])
        if share is None and self.budget.least_share(self.precision):
            raise GateError(
                f"the graph does not state the shapes of {macs.num_unknown} products, so the share of the work in"
                f" {_ARITHMETIC[self.precision]} cannot be told; run onnx.shape_inference on the float graph, or ask"
                f" for none ({_SHARE_OPTION[self.precision]} 0)"
            )
        return share

    def _share_too_small(self, number: int) -> bool:
        """Whether restoring even fewer groups already left too little: what is restored only grows."""
        least = self.budget.least_share(self.precision)
        before = [p.quantized_share for n, p in self.points.items() if n < number]
        return any(share is not None and share < least for share in before)

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
            self.say(f"ranking groups by what {self.precision} costs them: {done} of at most {of}, {left:.0f} s left")

        self.ranked = ranked_groups(self.ranked_by, reference, part, progress=progress)


def _percent(point: ParetoPoint) -> str:
    return "an unknown share" if point.quantized_share is None else f"{point.quantized_share:.0%}"
