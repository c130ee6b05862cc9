"""The least time a batch could take on this machine, from two measured limits: memory bandwidth and arithmetic.

S. Williams, A. Waterman, D. Patterson, "Roofline", CACM 52(4), 2009. Weights are taken to be read once per batch, which
is what happens where they do not fit the caches; where they do, the memory bound is too careful and arithmetic binds.
Activations are left out of the memory bound.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

import numpy as np

from hffnet.runtime.benchmark.probe_graph import GMACS, SIZE, probe_graph
from hffnet.runtime.benchmark.report import Roofline
from hffnet.runtime.engines import Engine, EngineName
from hffnet.runtime.graph import GraphFacts
from hffnet.runtime.manifest import Precision

_BYTES_OF = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1, "int32": 4, "int64": 8, "bool": 1}
_BANDWIDTH_BYTES = 256 << 20
_ATTEMPTS = 5


def weight_bytes(facts: GraphFacts) -> int:
    """Bytes of the numbers stored in a graph."""
    return sum(num * _BYTES_OF.get(kind, 4) for kind, num in facts.parameters.items())


def memory_bandwidth(threads: int) -> float:
    """10⁹ bytes read per second, best of five passes over 256 MB by so many threads.

    A maximum reads every byte and writes none, as an engine does with weights.
    """
    values = np.ones(_BANDWIDTH_BYTES // 4, dtype=np.float32)
    parts = np.array_split(values, threads)
    with ThreadPoolExecutor(threads) as pool:
        return _BANDWIDTH_BYTES / 1e9 / _best(lambda: list(pool.map(np.max, parts)))


def peak_gmac_s(engine: EngineName, precision: Precision, threads: int | None) -> float | None:
    """10⁹ multiply-accumulates per second of an engine on large products of a precision; None for GPU engines."""
    opened = _opened(engine, probe_graph(precision), threads)
    if opened is None:
        return None
    frames_NHW = np.random.default_rng(1).integers(0, 256, size=(1, SIZE, SIZE), dtype=np.uint8)
    try:
        opened.infer(frames_NHW)
        return GMACS / _best(lambda: opened.infer(frames_NHW))
    finally:
        opened.close()


def roofline(
    *, weights_mb: float, bandwidth_gb_s: float, gmacs: float, peak: float, median_ms: float | None
) -> Roofline:
    """The bound of one batch and how far the measured median is from it.

    >>> bound = roofline(weights_mb=250.0, bandwidth_gb_s=10.0, gmacs=3.0, peak=600.0, median_ms=60.0)
    >>> bound.memory_ms, bound.compute_ms, bound.floor_ms, bound.times_floor
    (25.0, 5.0, 25.0, 2.4)
    """
    memory_ms, compute_ms = weights_mb / bandwidth_gb_s, gmacs / peak * 1e3
    floor_ms = max(memory_ms, compute_ms)
    return Roofline(
        weights_mb=weights_mb,
        bandwidth_gb_s=bandwidth_gb_s,
        gmacs=gmacs,
        peak_gmac_s=peak,
        memory_ms=memory_ms,
        compute_ms=compute_ms,
        floor_ms=floor_ms,
        times_floor=None if median_ms is None else median_ms / floor_ms,
    )


def _opened(engine: EngineName, graph: bytes, threads: int | None) -> Engine | None:
    match engine:
        case "onnxruntime":
            from hffnet.runtime.engines.onnxruntime import OnnxRuntimeEngine

            return OnnxRuntimeEngine(graph, threads)
        case "openvino":
            from hffnet.runtime.engines.openvino import OpenVinoEngine

            return OpenVinoEngine(graph, threads)
    return None


def _best(step: Callable[[], object]) -> float:
    """Seconds of the quickest attempt: the limit is what the machine can do, not what it did on average."""
    seconds = []
    for _ in range(_ATTEMPTS):
        began = perf_counter()
        step()
        seconds.append(perf_counter() - began)
    return min(seconds)
