"""Which parts of a network quantization hurts: groups of nodes, ranked by what each costs alone.

A group is quantized with everything else left float. So two broken groups are both found, which leaving one out at a
time does not do: the other would still drown the signal.
"""

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

from onnx import ModelProto
from pydantic import BaseModel, ConfigDict, Field

from hffnet.calibration.fidelity import Cost, HeldOut, Scored, cost_between, scored
from hffnet.calibration.placement import Placement

logger = logging.getLogger(__name__)

Quantizer = Callable[[Placement], ModelProto]
"""The int8 graph of a placement."""

_NUMBERED = re.compile(r"(?:.*_)?\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Nodes that are quantized or left float together.

    Attributes:
        stage: first part of the module's name, with the residual stage: ``trunk.layer1``, ``transformer``.
        block: ``trunk.layer1.0``, ``transformer.3.attention``.
        kind: the operator.
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


class GroupCost(BaseModel):
    """What quantizing one group alone costs."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    name: str
    stage: str
    num_nodes: Annotated[int, Field(ge=1)]
    cost: Cost


def groups_from_placement(placement: Placement) -> tuple[Group, ...]:
    """Groups by stage, block and operator, in the order of the graph.

    The names are those of the modules the nodes or weights come from. A node whose name tells nothing is a group of
    its own.
    """
    found: dict[tuple[str, str, str], list[str]] = {}
    named = [(p.node, p.weight, p.op_type, p.output) for p in placement.weighted]
    named += [(p.node, "", "Add", p.output) for p in placement.residuals]
    for node, weight, kind, output in named:
        stage, block = _place(node, weight)
        found.setdefault((stage, block, kind), []).append(output)
    return tuple(Group(stage=s, block=b, kind=k, outputs=tuple(o)) for (s, b, k), o in found.items())


def _place(node: str, weight: str) -> tuple[str, str]:
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
    quantizer: Quantizer,
    placement: Placement,
    reference: Scored,
    held_out: HeldOut,
    *,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> tuple[tuple[Group, GroupCost], ...]:
    """Groups with their cost, worst first: by divergence, which tells apart what HF1 on few frames does not.

    Args:
        quantizer: makes the graphs.
        placement: whole.
        reference: the float graph on the same frames.
        held_out: frames to measure on.
        progress: called with groups done and their number.
    """
    groups = groups_from_placement(placement)
    every = {output for group in groups for output in group.outputs}
    found = []
    for number, group in enumerate(groups, start=1):
        alone = placement.without(every - set(group.outputs), "another group is measured")
        model = quantizer(alone).SerializeToString()
        cost = cost_between(reference, scored(model, held_out), held_out)
        found.append((group, _record(group, cost)))
        progress(number, len(groups))
    return tuple(sorted(found, key=lambda entry: -entry[1].cost.divergence))


def _record(group: Group, cost: Cost) -> GroupCost:
    return GroupCost(name=group.name, stage=group.stage, num_nodes=len(group.outputs), cost=cost)


def outputs_of(groups: Sequence[Group]) -> frozenset[str]:
    """All their outputs."""
    return frozenset(output for group in groups for output in group.outputs)
