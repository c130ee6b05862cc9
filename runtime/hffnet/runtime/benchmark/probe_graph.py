"""A graph of nothing but large matrix products, to measure what an engine can do at best in a precision.

Written in ONNX's protobuf wire format by hand, since the runtime does not depend on onnx. It has the inputs and
outputs of a bundle's graph, so that the very engines open it.
"""

import numpy as np
import numpy.typing as npt

from hffnet.runtime.manifest import Precision

SIZE = 512
"""Rows and columns of every product. Weights of eight layers stay in the caches of a core: the products are bound by
arithmetic."""
NUM_PRODUCTS = 8
GMACS = NUM_PRODUCTS * SIZE**3 / 1e9
_FLOAT, _UINT8, _INT8, _INT64, _FLOAT16 = 1, 2, 3, 7, 10
_IR_VERSION, _OPSET = 10, 20


def probe_graph(precision: Precision) -> bytes:
    """Frames (1, 512, 512) uint8, eight chained products with weights of that precision."""
    number = _FLOAT16 if precision == "fp16" else _FLOAT
    weight = np.random.default_rng(0).integers(-127, 128, size=(SIZE, SIZE))
    nodes = [_node("Cast", ["frames"], ["x0"], _integer("to", number))]
    tensors = list[bytes]()
    if precision == "int8":
        tensors += [
            _tensor("step", _FLOAT, np.array(0.05, np.float32)),
            _tensor("zero", _UINT8, np.array(128, np.uint8)),
            _tensor("weight_step", _FLOAT, np.array(1 / (127 * SIZE**0.5), np.float32)),
        ]
    for k in range(NUM_PRODUCTS):
        here = np.roll(weight, k, axis=0)  # not one weight eight times: that would be the caches' merit
        if precision == "int8":
            tensors.append(_tensor(f"w{k}", _INT8, here.astype(np.int8)))
            nodes += [
                _node("QuantizeLinear", [f"x{k}", "step", "zero"], [f"q{k}"]),
                _node("DequantizeLinear", [f"q{k}", "step", "zero"], [f"d{k}"]),
                _node("DequantizeLinear", [f"w{k}", "weight_step"], [f"v{k}"]),
                _node("MatMul", [f"d{k}", f"v{k}"], [f"x{k + 1}"]),
            ]
        else:
            scaled = here / (127 * SIZE**0.5)
            tensors.append(_tensor(f"w{k}", number, scaled.astype(np.float16 if number == _FLOAT16 else np.float32)))
            nodes.append(_node("MatMul", [f"x{k}", f"w{k}"], [f"x{k + 1}"]))
    tensors.append(_tensor("axes", _INT64, np.array([1], np.int64)))
    nodes.append(_node("Cast", [f"x{NUM_PRODUCTS}"], ["last"], _integer("to", _FLOAT)))
    nodes.append(_node("ReduceMean", ["last", "axes"], ["logits"], _integer("keepdims", 0)))
    nodes.append(_node("ReduceMax", ["last", "axes"], ["evidence"], _integer("keepdims", 1)))
    graph = b"".join(_bytes(1, node) for node in nodes) + _bytes(2, b"probe") + b"".join(_bytes(5, t) for t in tensors)
    graph += _bytes(11, _value("frames", _UINT8, (1, SIZE, SIZE)))
    graph += _bytes(12, _value("logits", _FLOAT, (1, SIZE))) + _bytes(12, _value("evidence", _FLOAT, (1, 1, SIZE)))
    return _number(1, _IR_VERSION) + _bytes(7, graph) + _bytes(8, _number(2, _OPSET))


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*parts, value))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _node(operator: str, inputs: list[str], outputs: list[str], attribute: bytes = b"") -> bytes:
    names = b"".join(_bytes(1, i.encode()) for i in inputs) + b"".join(_bytes(2, o.encode()) for o in outputs)
    return names + _bytes(4, operator.encode()) + (_bytes(5, attribute) if attribute else b"")


def _integer(name: str, value: int) -> bytes:
    return _bytes(1, name.encode()) + _number(3, value) + _number(20, 2)


def _tensor(name: str, kind: int, values: npt.NDArray[np.generic]) -> bytes:
    dims = b"".join(_number(1, n) for n in values.shape)
    return dims + _number(2, kind) + _bytes(8, name.encode()) + _bytes(9, values.tobytes())


def _value(name: str, kind: int, shape: tuple[int, ...]) -> bytes:
    dims = b"".join(_bytes(1, _number(1, n)) for n in shape)
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, _number(1, kind) + _bytes(2, dims)))
