"""How many multiply-accumulates a graph does per frame, and in which arithmetic: what "int8" on a label does not tell.

Counted from the file's own shapes and types. A product counts as ``int8`` only where both of its inputs come out of
DequantizeLinear, because engines run it in floating point otherwise.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators that are counted; everything else does less than a hundredth of the work."""

_DEQUANTIZE = "DequantizeLinear"
_ROW_BY_ROW = frozenset(
    {
        "Add",
        "Clip",
        "Dropout",
        "Gelu",
        "Gemm",
        "Identity",
        "LayerNormalization",
        "Mul",
        "QuantizeLinear",
        "Relu",
        _DEQUANTIZE,
    }
)
"""Operators that leave the rows of a matrix as they are."""

Shape = tuple[int, ...]
"""0 stands for an axis that the file leaves open (the batch)."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One node: operator and the names of its inputs and outputs."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Macs:
    """Multiply-accumulates of one frame.

    Attributes:
        by_type: for each arithmetic, e.g. ``{"int8": 4_000_000_000, "float32": 20_000_000}``.
        num_unknown: products whose shapes the file does not state; they are in no sum.
    """

    by_type: Counter[str]
    num_unknown: int

    @property
    def quantized_share(self) -> float | None:
        """Share of the work that runs in int8; None where the file does not tell all shapes."""
        return self.share("int8")

    def share(self, arithmetic: str) -> float | None:
        """Share of the work in one arithmetic, such as ``float16``; None where the file does not tell all shapes."""
        total = self.by_type.total()
        return None if self.num_unknown or not total else self.by_type[arithmetic] / total


def macs_from_operations(
    operations: Sequence[Operation], shapes: Mapping[str, Shape], types: Mapping[str, str]
) -> Macs:
    """Count.

    Args:
        operations: the graph's nodes.
        shapes: of weights and of intermediate tensors, as far as the file states them; axis 0 of an intermediate
            tensor is the batch, taken as one frame.
        types: name of each tensor's type, as far as known.
    """
    producers = {name: operation for operation in operations for name in operation.outputs}
    found, num_unknown = Counter[str](), 0
    for operation in (o for o in operations if o.operator in PRODUCTS):
        count = _count(operation, shapes, producers)
        if count is None:
            num_unknown += 1
        else:
            found[_arithmetic(operation, types, producers)] += count
    return Macs(found, num_unknown)


def _count(operation: Operation, shapes: Mapping[str, Shape], producers: Mapping[str, Operation]) -> int | None:
    left, right = (shapes.get(_origin(name, producers), ()) for name in operation.inputs[:2])
    out = shapes.get(operation.outputs[0], ())
    match operation.operator:
        case "Conv":
            factors = (*out[1:], *right[1:]) if out and right else ()
        case "ConvTranspose":
            factors = (*left[1:], *right[1:]) if left and right else ()
        case "Gemm":
            # (in, out) or (out, in), whichever transB says: the matrix is read once for each row.
            factors = (_rows_of_a_frame(operation.inputs[0], shapes, producers), *right) if right else ()
        case _:
            factors = (*out[1:], left[-1] or right[-2]) if out and left and len(right) > 1 else ()
    return prod(factors) if factors and all(factors) else None


def _rows_of_a_frame(name: str, shapes: Mapping[str, Shape], producers: Mapping[str, Operation]) -> int:
    """How many rows a frame has in a matrix: its tokens where they were flattened into the batch, else one."""
    while name in producers and producers[name].operator in _ROW_BY_ROW:
        name = producers[name].inputs[0]
    if name not in producers or producers[name].operator not in {"Reshape", "Flatten"}:
        return 1
    flat, before = shapes.get(name, ()), shapes.get(_origin(producers[name].inputs[0], producers), ())
    known = len(flat) == 2 and flat[1] and len(before) > 1 and all(before[1:])
    return max(1, prod(before[1:]) // flat[1]) if known else 1


def _arithmetic(operation: Operation, types: Mapping[str, str], producers: Mapping[str, Operation]) -> str:
    if all(_is_dequantized(name, producers) for name in operation.inputs[:2]):
        return "int8"
    names = (*operation.outputs[:1], *operation.inputs[:2])
    return next((types[name] for name in names if name in types), "float32")


def _is_dequantized(name: str, producers: Mapping[str, Operation]) -> bool:
    return name in producers and producers[name].operator == _DEQUANTIZE


def _origin(name: str, producers: Mapping[str, Operation]) -> str:
    """The tensor before DequantizeLinear and QuantizeLinear: it has the same shape, and the file states that one."""
    while name in producers and producers[name].operator in {_DEQUANTIZE, "QuantizeLinear"}:
        name = producers[name].inputs[0]
    return name
