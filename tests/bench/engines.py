"""Engines on the paper-size network: what our wrapper costs over the bare library, who is quickest, RTX builds, GPU.

Rows take turns frame by frame, so a slow moment of the machine slows all alike; the wrapper's cost is the median of the
ratios of neighbours. Goals: wrapper ≤ 3 %; ``auto`` is the quickest row; int8 through the auto-chosen CPU engine at
least 7 times quicker than eager torch on a CPU with bf16, 5.5 times without.
"""

import argparse
import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import numpy.typing as npt
import onnxruntime
import openvino
import torch

from hffnet.runtime.bundle import Bundle, open_bundle
from hffnet.runtime.engines import EngineName, open_engine
from hffnet.runtime.engines.builder import BuildOptions, engine_from_onnx
from hffnet.runtime.engines.choice import cpu_name
from hffnet.runtime.engines.flavour import TENSORRT_RTX, is_installed
from hffnet.runtime.manifest import Family, Precision
from hffnet.train.model import build_model, nano_config, normalise, paper_config, small_config
from hffnet.train.network import ModelConfig
from tests.bench.engines_gpu import print_gpu_rows
from tests.networks import member_of, write_network_bundle
from tests.tiny import write_tiny_bundle

Infer = Callable[[npt.NDArray[np.uint8]], object]

_CONFIGS = {"nano": nano_config, "small": small_config, "paper": paper_config}
_GRAPHS: tuple[tuple[Precision, Family], ...] = (("fp32", "cpu"), ("fp16", "tensorrt"), ("int8", "cpu"))
_PARTS = ("overhead", "compare", "build", "gpu")
_ARCHITECTURES = (("sm89",), ("sm86", "sm89", "sm120"))


def main() -> None:
    """Print Markdown tables."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--size", choices=_CONFIGS, default="paper")
    parser.add_argument("--turns", type=int, default=25)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-compile", action="store_true", help="no torch.compile, which takes minutes to start")
    parser.add_argument("--bundle", type=Path, help="keep the bundle here; used again where it exists")
    parser.add_argument("--only", choices=_PARTS, action="append", help="one part of it; may be repeated")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config, parts = _CONFIGS[options.size]((2, 3)), options.only or _PARTS
    print(_conditions())
    with tempfile.TemporaryDirectory(prefix="hffnet-bench-") as folder:
        os.environ["HFFNET_CACHE_DIR"] = f"{folder}/cache"  # the choice of engine is measured here, not remembered
        if "overhead" in parts:
            _overhead(Path(folder))
        if set(parts) == {"overhead"}:
            return
        path = options.bundle or Path(folder) / "random.hffnet"
        bundle = open_bundle(path if path.exists() else write_network_bundle(path, config))
        if "compare" in parts:
            _compare(bundle, config, options.threads, options.turns, compiled=not options.no_compile)
        if "build" in parts:
            _build(bundle)
        if "gpu" in parts:
            print_gpu_rows(bundle, config, options.turns)


def _conditions() -> str:
    tools = f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, openvino {openvino.__version__}"
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {cpu_name()}, {os.cpu_count()} cores, {platform.platform()},"
        f" Python {platform.python_version()}, {tools}, load average {os.getloadavg()[0]:.2f}.\n"
    )


def _overhead(folder: Path) -> None:
    """What the wrapper adds to a call, on a graph so small that nothing hides it."""
    bundle = open_bundle(write_tiny_bundle(folder / "tiny.hffnet"))
    graph, frame_NHW = bundle.member(member_of("fp32", "cpu")), bundle.vectors()[0][:1].copy()
    bare: dict[EngineName, Infer] = {
        "onnxruntime": _bare_onnxruntime(graph, "fp32", 1),
        "openvino": _bare_openvino(graph, "fp32", 1),
    }
    print("The smallest graph there is, one thread, 4000 calls of each in turn: microseconds per call.\n")
    print("| engine | bare p50 µs | ours p50 µs | added µs |\n| --- | --- | --- | --- |")
    for name, infer in bare.items():
        with open_engine(bundle, engine=name, threads=1) as ours:
            samples = _interleaved({"bare": infer, "ours": ours.infer}, frame_NHW, 4000)
        alone, wrapped = (1e3 * median(values) for values in samples.values())
        print(f"| {name} | {alone:.1f} | {wrapped:.1f} | {wrapped - alone:.1f} |")
    print()


def _compare(bundle: Bundle, config: ModelConfig, threads: int, turns: int, *, compiled: bool) -> None:
    with ExitStack() as stack:
        rows, auto = _rows(bundle, config, threads, stack, compiled=compiled)
        samples = _interleaved(rows, bundle.vectors()[0], turns)
    eager = median(samples["eager torch fp32"])
    print(f"{turns} turns, {threads} threads, batch 1, one frame of each row in turn.\n")
    print("| row | p50 ms | min ms | times eager torch | wrapper over bare |\n| --- | --- | --- | --- | --- |")
    for label, values in samples.items():
        bare = samples.get(f"bare {label}")
        cost = "" if bare is None else f"{median(a / b for a, b in zip(values, bare, strict=True)) - 1:+.1%}"
        print(f"| {label} | {median(values):.1f} | {min(values):.1f} | {eager / median(values):.2f} | {cost} |")
    ours = {
        label: median(values) for label, values in samples.items() if label.split()[0] in {"onnxruntime", "openvino"}
    }
    quickest = min(ours, key=ours.__getitem__)
    print(f"\nThe quickest of our rows is {quickest}; auto is {auto}. ", end="")
    print(f"auto is {eager / median(samples['auto']):.2f} times as quick as eager torch.")


def _rows(
    bundle: Bundle, config: ModelConfig, threads: int, stack: ExitStack, *, compiled: bool
) -> tuple[dict[str, Infer], str]:
    model = build_model(config).eval()
    rows: dict[str, Infer] = {"eager torch fp32": _eager(model, config)}
    if compiled and shutil.which("g++"):
        rows["torch.compile fp32"] = _eager(torch.compile(model), config)
    elif compiled:
        print("torch.compile: not run here (no g++).\n")
    bare: dict[EngineName, Callable[[bytes, Precision, int], Infer]] = {
        "onnxruntime": _bare_onnxruntime,
        "openvino": _bare_openvino,
    }
    for name, opener in bare.items():
        for precision, family in _GRAPHS:
            engine = stack.enter_context(open_engine(bundle, engine=name, precision=precision, threads=threads))
            label = f"{name} {precision} ({engine.identity.arithmetic})"
            rows[f"bare {label}"] = opener(bundle.member(member_of(precision, family)), precision, threads)
            rows[label] = engine.infer
    start = perf_counter()
    auto = stack.enter_context(open_engine(bundle, threads=threads))
    seconds = perf_counter() - start
    start = perf_counter()
    open_engine(bundle, threads=threads).close()
    identity = auto.identity
    chosen = f"{identity.name} {identity.precision} ({identity.arithmetic})"
    print(
        f"auto chose {chosen}, self-test error {identity.self_test.error:.3g}; first open {seconds:.1f} s,"
        f" second {perf_counter() - start:.1f} s.\n"
    )
    rows["auto"] = auto.infer
    return rows, chosen


def _eager(model: Callable[[torch.Tensor], torch.Tensor], config: ModelConfig) -> Infer:
    @torch.inference_mode()
    def infer(frames_NHW: npt.NDArray[np.uint8]) -> object:
        return model(normalise(torch.from_numpy(frames_NHW), config))

    return infer


def _bare_onnxruntime(graph: bytes, _: Precision, threads: int) -> Infer:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return lambda frames_NHW: session.run(None, {"frames": frames_NHW})


def _bare_openvino(graph: bytes, precision: Precision, threads: int) -> Infer:
    """OpenVINO's own API, told the same arithmetic as our engine takes."""
    core = openvino.Core()
    able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    wanted = {"int8": "bf16", "fp16": "f16"}.get(precision, "f32")
    hint = wanted if {"bf16": "BF16", "f16": "FP16", "f32": "FP32"}[wanted] in able else "f32"
    settings = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": threads}
    settings["INFERENCE_PRECISION_HINT"] = hint
    request = core.compile_model(core.read_model(graph), "CPU", settings).create_infer_request()
    return lambda frames_NHW: request.infer({"frames": frames_NHW}, share_inputs=True)


def _interleaved(rows: dict[str, Infer], frames_NHW: npt.NDArray[np.uint8], turns: int) -> dict[str, list[float]]:
    samples: dict[str, list[float]] = {label: [] for label in rows}
    for turn in range(-2, turns):
        frame_NHW = frames_NHW[turn % len(frames_NHW)][None].copy()
        # Every other turn runs backwards: neither of two neighbours always comes after the other.
        for label, infer in list(rows.items())[:: 1 if turn % 2 else -1]:
            start = perf_counter()
            infer(frame_NHW)
            if turn >= 0:
                samples[label].append((perf_counter() - start) * 1e3)
    return samples


def _build(bundle: Bundle) -> None:
    if not is_installed(TENSORRT_RTX):
        print(f"\nTensorRT-RTX builds: not run here ({TENSORRT_RTX.install}).")
        return
    print("\nTensorRT-RTX engines, built ahead of time without a GPU; none was executed here.\n")
    print("| precision | architectures | build s | whole s | graph MB | engine MB | peak RSS MB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    graphs: tuple[tuple[Precision, str], ...] = (
        ("fp32", member_of("fp32", "cpu")),
        ("fp16", member_of("fp16", "tensorrt")),
        ("int8", member_of("int8", "tensorrt")),
    )
    for precision, member in graphs:
        graph = bundle.member(member)
        for architectures in _ARCHITECTURES:
            options = BuildOptions(architectures=architectures)
            made = engine_from_onnx(graph, TENSORRT_RTX, options, precision=precision).sidecar
            print(
                f"| {precision} | {', '.join(architectures)} | {made.build_seconds:.1f} | {made.total_seconds:.1f}"
                f" | {len(graph) / 1e6:.0f} | {made.engine_bytes / 1e6:.0f} | {made.peak_rss_bytes / 1e6:.0f} |"
            )


if __name__ == "__main__":
    main()
