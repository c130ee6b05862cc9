"""How fast this machine multiplies in each arithmetic, by one product of a network's size: a basis for estimates only.

The product is a matrix of 196 positions times one of 512 × 512 (what a 1 × 1 convolution on 14 × 14 positions is), in
ONNX Runtime on the CPU with all of its threads. Real layers are smaller, larger, and wait for memory; nothing but the
products is counted. A graph's own time is what ``hffnet benchmark`` measures.
"""

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnxruntime

from hffnet.runtime.errors import EngineError

_POSITIONS, _CHANNELS = 196, 512
_FLOAT, _UINT8, _INT8, _INT32 = 1, 2, 3, 6  # TensorProto.DataType
_OPSET, _IR_VERSION = 20, 10
_NUM_WARM_UPS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """Multiply-accumulates per second of one product.

    Attributes:
        by_type: for ``float32`` and ``int8``; float16 is not among them, as CPUs compute it in float32 at best.
        basis: what was measured, for people.
    """

    by_type: Mapping[str, float]
    basis: str

    def milliseconds(self, macs: Mapping[str, int]) -> float | None:
        """Estimated time of one frame; None where a part of the work is in an arithmetic that was not measured.

        >>> Throughput(by_type={"float32": 1e9, "int8": 4e9}, basis="").milliseconds({"float32": 10**6, "int8": 10**6})
        1.25
        """
        if not macs or not macs.keys() <= self.by_type.keys():
            return None
        return 1000 * sum(count / self.by_type[kind] for kind, count in macs.items())


def measured_throughput(seconds: float = 0.3) -> Throughput:
    """Measure both products, ``seconds`` each; the median of the runs counts.

    Raises:
        EngineError: ONNX Runtime does not run them.
    """
    rng = np.random.default_rng(0)
    floats = rng.normal(size=(_POSITIONS, _CHANNELS)).astype(np.float32)
    weight = rng.normal(size=(_CHANNELS, _CHANNELS)).astype(np.float32)
    levels = rng.integers(0, 256, floats.shape, dtype=np.uint8)
    small = rng.integers(-127, 128, weight.shape, dtype=np.int8)
    macs = _POSITIONS * _CHANNELS**2
    return Throughput(
        by_type={
            "float32": macs / _median_seconds(onnx_from_product("MatMul", weight, _FLOAT, _FLOAT), floats, seconds),
            "int8": macs / _median_seconds(onnx_from_product("MatMulInteger", small, _UINT8, _INT32), levels, seconds),
        },
        basis=(
            f"one product of {_POSITIONS} × {_CHANNELS} × {_CHANNELS} in ONNX Runtime {onnxruntime.__version__} on this"
            " CPU, just now; an estimate, products only: hffnet benchmark measures"
        ),
    )


def _median_seconds(model: bytes, x: npt.NDArray[np.generic], seconds: float) -> float:
    try:
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        for _ in range(_NUM_WARM_UPS):
            session.run(["y"], {"x": x})
        taken, end = list[float](), time.perf_counter() + seconds
        while not taken or time.perf_counter() < end:
            began = time.perf_counter()
            session.run(["y"], {"x": x})
            taken.append(time.perf_counter() - began)
    except Exception as error:  # onnxruntime's exceptions share no public root
        raise EngineError(f"onnxruntime {onnxruntime.__version__} does not run a plain product: {error}") from error
    return statistics.median(taken)


def onnx_from_product(operator: str, weight: npt.NDArray[np.generic], kind_in: int, kind_out: int) -> bytes:
    """An ONNX file with one node, y = x · weight; the runtime has no onnx package to write it with.

    Field numbers are those of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
    """
    kind = _INT8 if weight.dtype == np.int8 else _FLOAT
    dims = b"".join(_number(1, size) for size in weight.shape)
    tensor = dims + _number(2, kind) + _text(8, "w") + _bytes(9, weight.tobytes())
    node = _text(1, "x") + _text(1, "w") + _text(2, "y") + _text(4, operator)
    graph = (
        _bytes(1, node)
        + _text(2, "product")
        + _bytes(5, tensor)
        + _bytes(11, _value("x", kind_in, _POSITIONS, _CHANNELS))
        + _bytes(12, _value("y", kind_out, _POSITIONS, _CHANNELS))
    )
    return _number(1, _IR_VERSION) + _bytes(7, graph) + _bytes(8, _text(1, "") + _number(2, _OPSET))


def _value(name: str, kind: int, *sizes: int) -> bytes:
    shape = b"".join(_bytes(1, _number(1, size)) for size in sizes)
    return _text(1, name) + _bytes(2, _bytes(1, _number(1, kind) + _bytes(2, shape)))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _text(field: int, content: str) -> bytes:
    return _bytes(field, content.encode())
