"""Which parts of a network a smaller type hurts: groups of nodes, ranked by what each costs alone.

A group is reduced (to int8 or float16) with everything else left float. So two broken groups are both found, which
leaving one out at a time does not do: the other would still drown the signal. Errors of groups add up nearly as
independent noise does, so a large network is ranked by halves: whole stages first, then only those are taken apart that
most of the noise comes from. That bounds the number of graphs to be run, whatever the depth.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from onnx import ModelProto
from pydantic import BaseModel, ConfigDict, Field

from hffnet.calibration.fidelity import Cost, HeldOut, Scored, cost_between, scored
from hffnet.calibration.placement import Placement

Quantizer = Callable[[Placement], ModelProto]
"""The int8 graph of a placement."""

NUM_RANKING_RUNS = 24
"""Graphs that a ranking may measure."""

_SHARE_WORTH_SPLITTING = 0.05
_NUMBERED = re.compile(r"(?:.*_)?\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Nodes that are quantized or left float together.

    Attributes:
        stage: first part of the module's name, with the residual stage: ``trunk.layer1``, ``transformer``.
        block: ``trunk.layer1.0``, ``transformer.3.attention``.
        kind: the operator; ``all`` for a stage as a whole.
        outputs: first outputs of its nodes.
    """

    stage: str
    block: str
    kind: str
    outputs: tuple[str, ...]

    @property
    def name(self) -> str:
        """For people and for the report."""
        return f"{self.block} {self.kind}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduction:
    """A network whose parts may be reduced to a smaller type, each or not.

    Attributes:
        groups: its parts.
        model: the graph in which the nodes that make these outputs stay float.
    """

    groups: tuple[Group, ...]
    model: Callable[[frozenset[str]], ModelProto]


class GroupCost(BaseModel):
    """What reducing one group alone costs."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    name: str
    stage: str
    num_nodes: Annotated[int, Field(ge=1)]
    cost: Cost


def reduction_from_placement(quantizer: Quantizer, placement: Placement) -> Reduction:
    """Int8 in the parts of a placement."""

    def model(left_float: frozenset[str]) -> ModelProto:
        return quantizer(restored(placement, left_float))

    return Reduction(groups=groups_from_placement(placement), model=model)


def restored(placement: Placement, left_float: frozenset[str]) -> Placement:
    """The placement with the nodes that make these outputs left float by the gate."""
    return placement.without(left_float, "restored by the gate") if left_float else placement


def groups_from_placement(placement: Placement) -> tuple[Group, ...]:
    """Groups by stage, block and operator, in the order of the graph.

    The names are those of the modules the nodes or weights come from. A node whose name tells nothing is a group of
    its own.
    """
    found: dict[tuple[str, str, str], list[str]] = {}
    named = [(p.node, p.weight, p.op_type, p.output) for p in placement.weighted]
    sums = {p.output: p.node for p in (*placement.residuals, *placement.cpu_sums)}
    named += [(node, "", "Add", output) for output, node in sums.items()]
    for node, weight, kind, output in named:
        stage, block = place_of_node(node, weight)
        found.setdefault((stage, block, kind), []).append(output)
    return tuple(Group(stage=s, block=b, kind=k, outputs=tuple(o)) for (s, b, k), o in found.items())


def place_of_node(node: str, weight: str = "") -> tuple[str, str]:
    """Stage and block from names like ``trunk.layer1.0.conv1/Conv`` or ``layer1.0.conv1.weight``."""
    module = node.split("/", maxsplit=1)[0] if "/" in node else weight.rpartition(".")[0] or node
    parts = module.split(".")
    number = next((k for k, part in enumerate(parts) if k and _NUMBERED.fullmatch(part)), None)
    if number is None:
        return parts[0], module
    inner = [part for part in parts[number + 1 :] if not part.isdigit()]
    # transformer.3.attention.qkv: the attention is a block of its own; trunk.layer1.0.downsample.0 is not.
    end = number + 2 if len(inner) > 1 else number + 1
    return ".".join(parts[:number]), ".".join(parts[:end])


def ranked_groups(
    reduction: Reduction,
    reference: Scored,
    held_out: HeldOut,
    *,
    num_runs: int = NUM_RANKING_RUNS,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> tuple[tuple[Group, GroupCost], ...]:
    """Groups with their cost, worst first: by the error of the logits.

    HF1 on few frames ties, and the divergence of a network that is sure of its answers is that of one odd frame.

    Args:
        reduction: makes the graphs.
        reference: the float graph on the same frames.
        held_out: frames to measure on.
        num_runs: most graphs to measure, but one for each stage at least. Stages that are not taken apart within it,
            or bring less than a twentieth of the noise, stay one group.
        progress: called with graphs measured and the most there can be.
    """
    groups = reduction.groups
    search = _Ranking(reduction, reference, held_out, progress)
    if len(groups) <= num_runs:
        search.measure(groups, len(groups))
        return search.worst_first()
    stages = _stages(groups)
    search.measure([_whole(stage, parts) for stage, parts in stages.items()], max(num_runs, len(stages)))
    total = sum(cost.cost.logit_error**2 for _, cost in search.found)
    for stage, cost in search.worst_first():
        parts = stages[stage.stage]
        left = num_runs - search.num_measured
        if 1 < len(parts) <= left and cost.cost.logit_error**2 >= _SHARE_WORTH_SPLITTING * total:
            search.found = [entry for entry in search.found if entry[0] != stage]
            search.measure(parts, num_runs)
    return search.worst_first()


@dataclass(slots=True)
class _Ranking:
    """What was measured so far."""

    reduction: Reduction
    reference: Scored
    held_out: HeldOut
    progress: Callable[[int, int], None]
    found: list[tuple[Group, GroupCost]] = field(default_factory=list)
    num_measured: int = 0

    def measure(self, groups: Sequence[Group], most: int) -> None:
        every = outputs_of(self.reduction.groups)
        for group in groups:
            model = self.reduction.model(every - frozenset(group.outputs)).SerializeToString()
            cost = cost_between(self.reference, scored(model, self.held_out), self.held_out)
            self.found.append((group, _record(group, cost)))
            self.num_measured += 1
            self.progress(self.num_measured, most)

    def worst_first(self) -> tuple[tuple[Group, GroupCost], ...]:
        return tuple(sorted(self.found, key=lambda entry: -entry[1].cost.logit_error))


def _stages(groups: Sequence[Group]) -> dict[str, list[Group]]:
    stages: dict[str, list[Group]] = {}
    for group in groups:
        stages.setdefault(group.stage, []).append(group)
    return stages


def _whole(stage: str, parts: Sequence[Group]) -> Group:
    if len(parts) == 1:
        return parts[0]
    return Group(stage=stage, block=stage, kind="all", outputs=tuple(o for part in parts for o in part.outputs))


def _record(group: Group, cost: Cost) -> GroupCost:
    return GroupCost(name=group.name, stage=group.stage, num_nodes=len(group.outputs), cost=cost)


def outputs_of(groups: Sequence[Group]) -> frozenset[str]:
    """All their outputs."""
    return frozenset(output for group in groups for output in group.outputs)
