"""The GPU's part of ``tests.bench.engines``: torch, ONNX Runtime and our own engines on a CUDA GPU, beside its limit.

Each row stands beside the memory-bandwidth floor: the bytes of its weights divided by the copy bandwidth measured on
this GPU. Where there is no GPU, or torch was built without CUDA, the section says "not run here".
"""

from collections.abc import Callable
from contextlib import suppress
from statistics import median
from time import perf_counter

import numpy as np
import torch

from hffnet.runtime.benchmark.roofline import weight_bytes
from hffnet.runtime.bundle import Bundle
from hffnet.runtime.engines import open_engine
from hffnet.runtime.engines.device_memory import open_device_memory
from hffnet.runtime.engines.driver import Gpu, probe_gpu
from hffnet.runtime.engines.slot import Slot, TensorPlan
from hffnet.runtime.errors import HffnetError
from hffnet.runtime.manifest import Precision
from hffnet.train.model import build_model, normalise
from hffnet.train.network import ModelConfig
from tests.networks import member_of

Step = Callable[[], object]
_BATCHES = (1, 8)
_COPY_BYTES = 512 << 20
_TARGETS = ("onnxruntime:cuda", "onnxruntime:tensorrt", "onnxruntime:nv-tensorrt-rtx", "tensorrt", "tensorrt-rtx")


def print_gpu_rows(bundle: Bundle, config: ModelConfig, turns: int) -> None:
    """A Markdown section; one sentence where there is nothing to measure."""
    print("\n### On a CUDA GPU\n")
    try:
        gpu = probe_gpu()
    except HffnetError as error:
        print(f"Not run here: {error}.")
        return
    print(f"{gpu.name}, compute capability {gpu.architecture}, driver for CUDA up to {gpu.cuda_version}.\n")
    print_slot_overhead(gpu, turns * 40)
    _print_engines(bundle, turns)
    if not torch.cuda.is_available():
        print(f"torch on the GPU: not run here (torch {torch.__version__} was built without CUDA).")
        return
    _print_torch(bundle, config, turns)


def print_slot_overhead(gpu: Gpu, calls: int) -> None:
    """What a frame costs in the slots alone: host to device, nothing computed, device to host."""
    print("Slots alone, 224 × 224 frame in, logits and evidence out, nothing computed between: µs per frame.\n")
    print(f"| way ({'mapped' if gpu.integrated else 'copied'}) | p50 µs |\n| --- | --- |")
    memory = open_device_memory()
    plans = (
        TensorPlan(name="frames", shape=(1, 224, 224), dtype=np.dtype(np.uint8), is_input=True),
        TensorPlan(name="logits", shape=(1, 8), dtype=np.dtype(np.float32), is_input=False),
        TensorPlan(name="evidence", shape=(1, 8, 7, 7), dtype=np.dtype(np.float32), is_input=False),
    )
    frame_NHW = np.zeros((1, 224, 224), np.uint8)
    for graph in (False, True):
        slot = Slot(memory, _Nothing(), plans)
        slot.prepare(graph=graph)
        samples = list[float]()
        for _ in range(calls):
            start = perf_counter()
            slot.load(frame_NHW)
            slot.start()
            slot.finish()
            samples.append((perf_counter() - start) * 1e6)
        print(f"| {'CUDA graph' if slot.uses_graph else 'call by call'} | {median(samples):.1f} |")
        slot.close()
    print()


class _Nothing:
    """An execution context that enqueues nothing."""

    def set_input_shape(self, _name: str, _shape: tuple[int, ...]) -> bool:
        return True

    def set_tensor_address(self, _name: str, _memory: int) -> bool:
        return True

    def execute_async_v3(self, _stream_handle: int) -> bool:
        return True


def _print_engines(bundle: Bundle, turns: int) -> None:
    """Our engines on the GPU, from numpy frames to numpy answers; one that is refused says why."""
    frames_NHW = np.resize(bundle.vectors()[0], (max(_BATCHES), *bundle.vectors()[0].shape[1:]))
    print("| engine | precision | b1 ms | b8 ms |\n| --- | --- | --- | --- |")
    for target in _TARGETS:
        for precision in ("fp32", "fp16", "int8"):
            try:
                with open_engine(bundle, engine=target, precision=precision) as engine:
                    cells = [_median_ms(lambda n=n: engine.infer(frames_NHW[:n]), turns) for n in _BATCHES]  # type: ignore[misc]
            except HffnetError as error:
                print(f"| {target} | {precision} | {error} | |")
                continue
            print(f"| {target} | {precision} | {' | '.join(f'{cell:.2f}' for cell in cells)} |")
    print()


def _print_torch(bundle: Bundle, config: ModelConfig, turns: int) -> None:
    bandwidth = _copy_bandwidth()
    print(f"torch {torch.__version__}; copy bandwidth {bandwidth / 1e9:.0f} GB/s (read plus written).\n")
    print("| row | batch | p50 ms | floor ms (weights ÷ bandwidth) |\n| --- | --- | --- | --- |")
    kinds: tuple[tuple[Precision, torch.dtype, str], ...] = (
        ("fp32", torch.float32, member_of("fp32", "cpu")),
        ("fp16", torch.float16, member_of("fp16", "tensorrt")),
    )
    for precision, dtype, member in kinds:
        floor_ms = weight_bytes(bundle.facts[member]) / bandwidth * 1e3
        model = build_model(config).eval().to("cuda", dtype)
        for batch in _BATCHES:
            frames = torch.zeros(batch, config.img_size, config.img_size, dtype=torch.uint8, device="cuda")
            inputs = normalise(frames, config).to(dtype)
            for name, step in _torch_ways(model, inputs).items():
                print(f"| torch {name} {precision} | {batch} | {_median_ms(step, turns):.2f} | {floor_ms:.2f} |")


def _torch_ways(model: torch.nn.Module, inputs: torch.Tensor) -> dict[str, Step]:
    """Frames lie on the GPU already, and the answer stays there."""
    ways: dict[str, Step] = {"eager": _synchronised(lambda: model(inputs))}
    compiled = torch.compile(model)
    ways["compiled"] = _synchronised(lambda: compiled(inputs))
    with suppress(RuntimeError):  # capture is refused where an operation synchronises
        ways["CUDA-graphed"] = _synchronised(_captured(model, inputs))
    return ways


def _captured(model: torch.nn.Module, inputs: torch.Tensor) -> Step:
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), torch.inference_mode():
        for _ in range(3):
            model(inputs)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), torch.inference_mode():
        model(inputs)
    return graph.replay


def _synchronised(step: Step) -> Step:
    @torch.inference_mode()
    def timed() -> None:
        step()
        torch.cuda.synchronize()

    return timed


def _copy_bandwidth() -> float:
    """Bytes read and written per second, best of ten copies of 512 MB on the GPU."""
    source = torch.empty(_COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    seconds = list[float]()
    for _ in range(10):
        torch.cuda.synchronize()
        start = perf_counter()
        target.copy_(source)
        torch.cuda.synchronize()
        seconds.append(perf_counter() - start)
    return 2 * _COPY_BYTES / min(seconds)


def _median_ms(step: Step, turns: int) -> float:
    for _ in range(3):
        step()
    samples = list[float]()
    for _ in range(turns):
        start = perf_counter()
        step()
        samples.append((perf_counter() - start) * 1e3)
    return median(samples)
