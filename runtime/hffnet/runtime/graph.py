"""What must be known of an ONNX file before any engine sees it, read without the onnx package.

Walks the protobuf wire format (https://protobuf.dev/programming-guides/encoding/) of the few messages of onnx.proto
that matter: which operators, whose domains, where the weights' bytes lie and in which types. The runtime does not
depend on onnx, whose own loader follows external-data paths (CVE-2022-25882, CVE-2024-27318, CVE-2026-34447).
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from math import prod

from hffnet.runtime.errors import GraphError
from hffnet.runtime.operations import Macs, Operation, Shape, macs_from_operations

_MAX_NODES = 100_000
_MAX_DEPTH = 8
_STANDARD_DOMAINS = ("", "ai.onnx")
_TYPE_NAMES = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 16: "bfloat16"}


@dataclass(slots=True)
class GraphFacts:
    """Facts of one ONNX graph, taken from the file's own types.

    Attributes:
        opset: version of the standard operator set.
        operators: how often each operator stands in the graph.
        parameters: how many stored numbers of each type, e.g. ``{"int8": 23_000_000, "float32": 60_000}``.
        operations: the nodes of the main graph.
        shapes: of weights and of tensors between nodes, as far as the file states them; 0 for an open axis.
        types: of the same.
    """

    opset: int = 0
    operators: Counter[str] = field(default_factory=Counter)
    parameters: Counter[str] = field(default_factory=Counter)
    operations: list[Operation] = field(default_factory=list, repr=False)
    shapes: dict[str, Shape] = field(default_factory=dict, repr=False)
    types: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def macs(self) -> Macs:
        """Multiply-accumulates of one frame by arithmetic, subgraphs not included."""
        return macs_from_operations(self.operations, self.shapes, self.types)

    @property
    def precision(self) -> str:
        """``int8`` where there are quantized weights, else the type that holds most weights."""
        if self.operators["DequantizeLinear"]:
            return "int8"
        names = {"float32": "fp32", "float16": "fp16"}
        weights = {names.get(kind, kind): n for kind, n in self.parameters.items() if kind not in {"int64", "int32"}}
        return max(weights, key=weights.__getitem__, default="none")


def facts_from_onnx(model: bytes) -> GraphFacts:
    """Read the facts and refuse what a bundle may not hold.

    Raises:
        GraphError: not an ONNX model, external data, an operator of a foreign domain, local functions, sparse
            weights, or nesting and node counts beyond reason.
    """
    facts = GraphFacts()
    try:
        for number, value in _fields(memoryview(model)):
            match number:
                case 7:
                    _graph(_message(value), facts, depth=0)
                case 8:
                    _opset(_message(value), facts)
                case 20 | 25:
                    raise GraphError("the ONNX model carries training information or local functions; none are allowed")
    except (IndexError, UnicodeDecodeError) as error:
        raise GraphError("the file is not a readable ONNX model") from error
    if not facts.operators or not facts.opset:
        raise GraphError("the file is not an ONNX model: it has no nodes or no operator set")
    return facts


def _opset(message: memoryview, facts: GraphFacts) -> None:
    entry = dict(_fields(message))
    domain = bytes(_message(entry.get(1, memoryview(b"")))).decode()
    _require_standard(domain, "the model imports")
    facts.opset = max(facts.opset, _number(entry.get(2, 0)))


def _graph(message: memoryview, facts: GraphFacts, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise GraphError(f"the ONNX graph nests more than {_MAX_DEPTH} deep")
    for number, value in _fields(message):
        match number:
            case 1:
                _node(_message(value), facts, depth)
            case 5:
                _tensor(_message(value), facts)
            case 11 | 12 | 13 if depth == 0 and isinstance(value, memoryview):
                with suppress(GraphError, IndexError):  # shapes serve to count; a graph is not refused for them
                    _value_info(value, facts)
            case 15:
                raise GraphError("the ONNX graph has sparse weights; only dense ones are allowed")


def _node(message: memoryview, facts: GraphFacts, depth: int) -> None:
    operator, domain = "", ""
    names: tuple[list[str], list[str]] = ([], [])
    for number, value in _fields(message):
        match number:
            case 1 | 2 if isinstance(value, memoryview):
                names[number - 1].append(_name(value))
            case 4:
                operator = bytes(_message(value)).decode()
            case 5:
                _attribute(_message(value), facts, depth)
            case 7:
                domain = bytes(_message(value)).decode()
    _require_standard(domain, f"operator {operator!r} comes")
    facts.operators[operator] += 1
    if depth == 0:
        facts.operations.append(Operation(operator, tuple(names[0]), tuple(names[1])))
    if facts.operators.total() > _MAX_NODES:
        raise GraphError(f"the ONNX graph has more than {_MAX_NODES} nodes")


def _attribute(message: memoryview, facts: GraphFacts, depth: int) -> None:
    for number, value in _fields(message):
        match number:
            case 5 | 10:
                _tensor(_message(value), facts)
            case 6 | 11:
                _graph(_message(value), facts, depth + 1)
            case 22 | 23:
                raise GraphError("the ONNX graph has sparse weights; only dense ones are allowed")


def _tensor(message: memoryview, facts: GraphFacts) -> None:
    dims, kind, name = list[int](), 0, ""
    for number, value in _fields(message):
        match number:
            case 1 if isinstance(value, memoryview):
                dims += _packed(value)
            case 1:
                dims.append(_number(value))
            case 2:
                kind = _number(value)
            case 8 if isinstance(value, memoryview):
                name = _name(value)
            case 13:
                raise GraphError("a weight of the ONNX graph lies in another file (external data); none may")
            case 14 if _number(value) != 0:
                raise GraphError("a weight of the ONNX graph lies in another file (external data); none may")
    facts.parameters[_TYPE_NAMES.get(kind, f"type {kind}")] += prod(dims)
    if name:
        facts.shapes[name], facts.types[name] = tuple(dims), _TYPE_NAMES.get(kind, f"type {kind}")


def _value_info(message: memoryview, facts: GraphFacts) -> None:
    """Name, element type and shape of a tensor between nodes; axes without a number are 0."""
    name = memoryview(b"")
    for number, value in _fields(message):
        if number == 1:
            name = _message(value)
        if number == 2:
            for kind, tensor in _fields(_message(value)):
                if kind == 1:
                    _tensor_type(_name(name), _message(tensor), facts)


def _tensor_type(name: str, message: memoryview, facts: GraphFacts) -> None:
    for number, value in _fields(message):
        if number == 1:
            facts.types[name] = _TYPE_NAMES.get(_number(value), f"type {value}")
        if number == 2:
            axes = [dict(_fields(_message(axis))) for kind, axis in _fields(_message(value)) if kind == 1]
            facts.shapes[name] = tuple(_number(axis.get(1, 0)) for axis in axes)


def _name(text: memoryview) -> str:
    """A tensor's name, which only has to match itself."""
    return bytes(text).decode(errors="surrogateescape")


def _require_standard(domain: str, subject: str) -> None:
    if domain not in _STANDARD_DOMAINS:
        raise GraphError(f"{subject} from the foreign domain {domain!r}; only standard ONNX operators are allowed")


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field numbers and values of one message; length-delimited values as views, nothing is copied."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        value: int | memoryview
        match kind:
            case 0:
                value, at = _varint(message, at)
            case 1 | 5:
                width = 8 if kind == 1 else 4
                value, at = message[at : at + width], at + width
            case 2:
                length, at = _varint(message, at)
                value, at = message[at : at + length], at + length
            case _:
                raise GraphError(f"the file is not an ONNX model: wire type {kind}")
        if at > len(message):
            raise GraphError("the ONNX model is cut off")
        yield number, value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise GraphError("the file is not an ONNX model: a number of more than ten bytes")


def _packed(message: memoryview) -> list[int]:
    numbers, at = list[int](), 0
    while at < len(message):
        number, at = _varint(message, at)
        numbers.append(number)
    return numbers


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise GraphError("the file is not an ONNX model: a number where a message is expected")
    return value


def _number(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise GraphError("the file is not an ONNX model: a message where a number is expected")
    return value
