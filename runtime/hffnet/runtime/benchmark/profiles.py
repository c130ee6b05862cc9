"""What happens inside an engine, by its own profiler, and how many multiply-accumulates a graph has.

Counted in a run of ONNX Runtime with every optimization off: nodes are then those of the file, with true shapes.
"""

import json
import tempfile
from collections import defaultdict
from math import prod
from pathlib import Path
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from hffnet.runtime.benchmark.report import Layer
from hffnet.runtime.engines import EngineName
from hffnet.runtime.errors import EngineError

_RUNS = 10
Shape = list[int]


class _Node(TypedDict):
    """One node's run, as ONNX Runtime's profile has it."""

    op_name: str
    us: float
    inputs: list[Shape]
    outputs: list[Shape]


def gmacs_of_graph(graph: bytes, frame_NHW: npt.NDArray[np.uint8]) -> float:
    """Multiply-accumulates in 10⁹ of convolutions and matrix products, for the given frames.

    Convolution: output numbers x weights per output channel. Product: output numbers x inner dimension.
    """
    return sum(_macs(node) for node in _onnxruntime_nodes(graph, frame_NHW, None, is_optimised=False, runs=1)) / 1e9


def layers_of_engine(
    engine: EngineName, graph: bytes, frames_NHW: npt.NDArray[np.uint8], threads: int | None
) -> tuple[Layer, ...]:
    """Time by kind of operation, slowest first, mean of ten runs; empty for engines that are not profiled."""
    match engine:
        case "onnxruntime":
            nodes = _onnxruntime_nodes(graph, frames_NHW, threads, is_optimised=True, runs=_RUNS)
            return _by_kind([(node["op_name"], node["us"] / 1e3) for node in nodes], _RUNS)
        case "openvino":
            return _by_kind(_openvino_nodes(graph, frames_NHW, threads), _RUNS)
    return ()


def _by_kind(nodes: list[tuple[str, float]], runs: int) -> tuple[Layer, ...]:
    times, nums = defaultdict[str, float](float), defaultdict[str, int](int)
    for kind, ms in nodes:
        times[kind] += ms / runs
        nums[kind] += 1
    slowest_first = sorted(times, key=lambda kind: -times[kind])
    return tuple(Layer(kind=kind, num=max(nums[kind] // runs, 1), ms=times[kind]) for kind in slowest_first)


def _onnxruntime_nodes(
    graph: bytes, frames_NHW: npt.NDArray[np.uint8], threads: int | None, *, is_optimised: bool, runs: int
) -> list[_Node]:
    import onnxruntime

    with tempfile.TemporaryDirectory(prefix="hffnet-profile-") as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or 0
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        if not is_optimised:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
            for _ in range(runs):
                session.run(None, {"frames": frames_NHW})
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        except Exception as error:  # onnxruntime has no public root of its exceptions
            raise EngineError(f"ONNX Runtime cannot profile the graph: {error}") from error
    return [
        _Node(
            op_name=event["args"]["op_name"],
            us=float(event["dur"]),
            inputs=[shape for typed in event["args"].get("input_type_shape", ()) for shape in typed.values()],
            outputs=[shape for typed in event["args"].get("output_type_shape", ()) for shape in typed.values()],
        )
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    ]


def _macs(node: _Node) -> int:
    match node["op_name"], node["inputs"], node["outputs"]:
        case "Conv", [_, weight, *_], [output, *_]:
            return prod(output) * prod(weight[1:])
        case "MatMul" | "Gemm", [left, *_], [output, *_]:
            # Gemm of the exporters here is not transposed on its left side.
            return prod(output) * left[-1]
    return 0


def _openvino_nodes(graph: bytes, frames_NHW: npt.NDArray[np.uint8], threads: int | None) -> list[tuple[str, float]]:
    import openvino

    from hffnet.runtime.engines.openvino import OpenVinoEngine  # the same settings: what runs is what is profiled

    core = openvino.Core()
    settings: dict[str, object] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "PERF_COUNT": True}
    engine = OpenVinoEngine(graph, threads)
    settings["INFERENCE_PRECISION_HINT"] = engine.arithmetic
    engine.close()
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    try:
        request = core.compile_model(core.read_model(graph), "CPU", settings).create_infer_request()
        nodes = list[tuple[str, float]]()
        for turn in range(-2, _RUNS):
            request.infer({"frames": frames_NHW}, share_inputs=True)
            if turn >= 0:
                nodes += [
                    (f"{info.node_type} ({info.exec_type})", info.real_time.total_seconds() * 1e3)
                    for info in request.profiling_info
                    if info.real_time.total_seconds() > 0
                ]
    except RuntimeError as error:
        raise EngineError(f"OpenVINO cannot profile the graph: {error}") from error
    return nodes
