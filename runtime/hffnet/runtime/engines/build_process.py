"""The process that builds one TensorRT engine and ends: started by ``builder``, never imported by it.

A builder can exhaust memory, crash in native code or have to be cancelled, and none of that may hurt the program that
classifies. Protocol: stdin carries one JSON line and then the ONNX bytes; stdout carries JSON lines and, after the
last, the engine's bytes. Nothing is written to disk here, so a killed build leaves nothing behind.
"""

import ctypes
import json
import os
import platform
import re
import resource
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from hffnet.runtime.engines.driver import Gpu, probe_gpu
from hffnet.runtime.engines.flavour import Flavour, flavour_named, import_flavour, supported_architectures
from hffnet.runtime.errors import HffnetError

_TYPES = {"FLOAT": "fp32", "HALF": "fp16"}
_DEFAULT_WORKSPACE = 2 << 30  # ahead of time nobody knows the target's free memory; the paper's network needs far less
_LAST_BYTES = 16 << 20  # a request that fails is rarely larger than this
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_OUT_OF_MEMORY = ("outofmemory", "out of memory", "bad_alloc", "insufficient memory", "cudaerrormemoryallocation")
_SOURCE_PLACE = re.compile(r"\s*\(?In \w+ at /\S+:\d+\)?|\s*In \w+ at /\S+:\d+|^\[\S+::\S+::\d+\]\s*", re.MULTILINE)


class _Refusal(Exception):  # noqa: N818 (crosses the pipe as a sentence, is no error of the library)
    """A sentence that the other side raises."""


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Build what is asked for and send it."""
    request = json.loads(requests.readline())
    onnx = requests.read(request["onnx_bytes"])
    timing_cache = requests.read(request["timing_cache_bytes"])
    try:
        facts, engine, timing_cache = _build(request, onnx, timing_cache, replies)
    except (_Refusal, HffnetError) as error:
        _send(replies, {"kind": "refused", "sentence": str(error)})
        return
    except MemoryError:
        _send(replies, {"kind": "out_of_memory", "sentence": "Python could not allocate memory"})
        return
    done = {"kind": "done", "facts": facts, "engine_bytes": len(engine), "timing_cache_bytes": len(timing_cache)}
    _send(replies, done)
    replies.write(engine)
    replies.write(timing_cache)
    replies.flush()


def _send(replies: BinaryIO, message: dict[str, Any]) -> None:
    replies.write(json.dumps(message).encode() + b"\n")
    replies.flush()


def _build(
    request: dict[str, Any], onnx: bytes, timing_cache: bytes, replies: BinaryIO
) -> tuple[dict[str, Any], memoryview, bytes]:
    flavour = flavour_named(request["flavour"])
    gpu = probe_gpu() if request["needs_gpu"] else None
    trt = import_flavour(flavour)
    log = _collecting_log(trt)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    title = f"{flavour.title} {trt.__version__}"
    # The network's weights lie in the parser's memory, and some in ``onnx`` itself (measured: wiping the bytes after
    # parsing changes the engine): both must live until the engine is built.
    parser = _parsed(trt, network, onnx, log, title)
    audit = audit_of(network)
    config = builder.create_builder_config()
    _set_batch(builder, network, config, tuple(request["batch"]), title)
    _set_architectures(trt, config, tuple(request["architectures"]), title)
    workspace = request["workspace_bytes"] or _workspace(gpu)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    if request["version_compatible"]:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        config.set_flag(trt.BuilderFlag.EXCLUDE_LEAN_RUNTIME)  # otherwise the engine would carry host code of its own
    cache = _set_timing_cache(config, flavour, timing_cache)
    if hasattr(trt, "IProgressMonitor"):
        config.progress_monitor = _monitor(trt, replies)
    start = time.perf_counter()
    built = builder.build_serialized_network(network, config)
    if built is None:
        raise _Refusal(_build_failure(log.errors, title))
    del parser
    facts = {
        "library_version": trt.__version__,
        "platform": f"{platform.system().lower()}-{platform.machine()}",
        "gpu": gpu.name if gpu else None,
        "workspace_bytes": workspace,
        "audit": audit,
        "inputs": [_tensor_spec(network.get_input(k)) for k in range(network.num_inputs)],
        "outputs": [_tensor_spec(network.get_output(k)) for k in range(network.num_outputs)],
        "build_seconds": round(time.perf_counter() - start, 3),
        "peak_rss_bytes": _peak_rss(),
    }
    return facts, memoryview(built), bytes(memoryview(cache.serialize())) if cache else b""


def _peak_rss() -> int:
    """Of this program: ``getrusage`` would start from what the parent had when it forked."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def _collecting_log(trt: ModuleType) -> Any:  # noqa: ANN401 (a class of a module known at run time only)
    class CollectingLog(trt.ILogger):  # type: ignore[misc, name-defined]
        """Keeps the library's error lines for the sentence."""

        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: object, message: str) -> None:
            if severity in {trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR} and len(self.errors) < 100:
                self.errors.append(message)

    return CollectingLog()


def _monitor(trt: ModuleType, replies: BinaryIO) -> Any:  # noqa: ANN401
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        """Sends the share done; cancels the build when nobody reads any more."""

        def __init__(self) -> None:
            super().__init__()
            self.phases = Phases()
            self.sent = -1.0

        def phase_start(self, phase: str, parent: str | None, num_steps: int) -> None:
            self.phases.start(phase, parent, num_steps)

        def step_complete(self, phase: str, step: int) -> bool:
            self.phases.step(phase, step)
            if self.phases.share - self.sent < 0.01:
                return True
            self.sent = self.phases.share
            try:
                _send(replies, {"kind": "progress", "phase": phase, "share": round(self.sent, 4)})
            except OSError:
                return False
            return True

        def phase_finish(self, phase: str) -> None:
            self.phases.finish(phase)

    return Monitor()


class Phases:
    """The share of a build that is done, from the library's nested phases; it never goes back.

    >>> phases = Phases()
    >>> phases.start("build", None, 4); phases.step("build", 0); phases.start("inner", "build", 2)
    >>> phases.step("inner", 0); phases.share
    0.375
    """

    def __init__(self) -> None:
        self._phases: dict[str, tuple[str | None, int, int]] = {}
        self.share = 0.0

    def start(self, phase: str, parent: str | None, num_steps: int) -> None:
        """A phase begins within ``parent``, or by itself."""
        self._phases[phase] = (parent, max(num_steps, 1), 0)

    def step(self, phase: str, step: int) -> None:
        """A step is done, counted from 0."""
        parent, num_steps, _ = self._phases.get(phase, (None, step + 1, 0))
        self._phases[phase] = (parent, num_steps, min(step + 1, num_steps))
        share = 0.0
        name: str | None = phase
        for _ in range(len(self._phases)):
            if name is None or name not in self._phases:
                break
            parent, num_steps, done = self._phases[name]
            share = min((done + share) / num_steps, 1.0)
            name = parent
        self.share = max(self.share, share)

    def finish(self, phase: str) -> None:
        """A phase is over; its parent reports the step."""
        self._phases.pop(phase, None)


def _parsed(trt: ModuleType, network: Any, onnx: bytes, log: Any, title: str) -> Any:  # noqa: ANN401
    parser = trt.OnnxParser(network, log)
    if parser.parse(onnx) and network.num_outputs:
        return parser
    errors = [parser.get_error(k) for k in range(parser.num_errors)]
    if not errors:
        reason = _first(log.errors) if log.errors else "it has no output"
        raise _Refusal(f"{title} cannot read the graph: {reason}; export it again")
    raise _Refusal(sentence_from_parser(title, errors[0]))


def sentence_from_parser(title: str, error: Any) -> str:  # noqa: ANN401
    """One error of the ONNX parser as a sentence that names the node."""
    code = str(error.code()).rpartition(".")[2]
    if code == "MODEL_DESERIALIZE_FAILED":
        return f"{title} cannot read the graph: it is not a whole ONNX model; export it again"
    name, operator = error.node_name(), error.node_operator()
    where = f"node {name!r} ({operator})" if name else f"node number {error.node()}"
    reason = _cleaned(error.desc())
    if code.startswith("UNSUPPORTED") and reason in {"", "false"}:
        reason = f"operator {operator} is not supported here"
    return (
        f"{title} refuses {where} of the graph: {reason} ({code.lower().replace('_', ' ')});"
        " export the bundle again with this hffnet, or use --engine onnxruntime"
    )


def _build_failure(errors: list[str], title: str) -> str:
    text = " ".join(errors).lower()
    if "buildcanceled" in text:
        return f"{title}: the build was cancelled"
    if any(sign in text for sign in _OUT_OF_MEMORY) or _is_at_its_limit():
        return (
            f"{title} ran out of memory while building: {_first(errors)}; close other programs, add swap,"
            " lower the workspace, or choose int8"
        )
    return f"{title} cannot build this graph: {_first(errors)}; use another precision, GPU or engine"


def _is_at_its_limit() -> bool:
    """Whether this process has had all the memory it may have: the library then fails in any place."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    found = re.search(r"VmPeak:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return limit != resource.RLIM_INFINITY and found is not None and int(found[1]) * 1024 > limit - _LAST_BYTES


def _first(errors: list[str]) -> str:
    """The first error that is not merely the absence of a driver, which ahead-of-time builds do without."""
    telling = [line for line in errors if "cudaError 35" not in line] or errors
    return _cleaned(telling[0]) if telling else "it gave no reason"


def _cleaned(text: str) -> str:
    lines = (_SOURCE_PLACE.sub("", line).strip() for line in text.splitlines() if "cudaError 35" not in line)
    kept = [line for line in lines if line and not line.startswith("Invalid Node - ")]
    return "; ".join(kept).rstrip(".;")


def _set_batch(builder: Any, network: Any, config: Any, batch: tuple[int, ...], title: str) -> None:  # noqa: ANN401
    for k in range(network.num_inputs):
        tensor = network.get_input(k)
        first, *rest = tuple(tensor.shape)
        if first != -1 and set(batch) != {first}:
            raise _Refusal(f"the graph takes exactly {first} frames, {batch[2]} were asked for; export it again")
        if any(size < 1 for size in rest):
            raise _Refusal(f"input {tensor.name!r} has the shape {tuple(tensor.shape)}; only the batch may vary")
        if first == -1 and len(set(batch)) == 1:
            tensor.shape = (batch[0], *rest)
        elif first == -1:
            profile = builder.create_optimization_profile()
            profile.set_shape(tensor.name, *((size, *rest) for size in batch))
            if config.add_optimization_profile(profile) < 0:
                raise _Refusal(f"{title} refuses a batch of {batch}: smallest, best and largest must not decrease")


def _set_architectures(trt: ModuleType, config: Any, wanted: tuple[str, ...], title: str) -> None:  # noqa: ANN401
    if not wanted:
        return
    supported = supported_architectures(trt)
    if not supported:
        raise _Refusal(f"{title} builds for the GPU of this machine only; leave out --gpu")
    if unknown := [name for name in wanted if name not in supported]:
        raise _Refusal(f"{title} does not support {', '.join(unknown)}; it builds for {', '.join(supported)}")
    config.num_compute_capabilities = len(wanted)
    for k, name in enumerate(wanted):
        if not config.set_compute_capability(getattr(trt.ComputeCapability, name.upper()), k):
            raise _Refusal(f"{title} refuses the architecture {name}")


def _workspace(gpu: Gpu | None) -> int:
    if gpu is None:
        return _DEFAULT_WORKSPACE
    from hffnet.runtime.engines.device_memory import open_device_memory

    return max(open_device_memory().free_bytes() // 2, 256 << 20)


def _set_timing_cache(config: Any, flavour: Flavour, stored: bytes) -> Any:  # noqa: ANN401
    if not flavour.has_timing_cache:
        return None
    cache = config.create_timing_cache(stored)
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def audit_of(network: Any) -> dict[str, Any]:  # noqa: ANN401
    """Count what the strongly typed network computes in; see ``sidecar.Audit``."""
    layers = [network.get_layer(k) for k in range(network.num_layers)]
    dequantized = {layer.get_output(0).name for layer in layers if str(layer.type).rpartition(".")[2] == "DEQUANTIZE"}
    convolutions, products, outputs = Counter[str](), Counter[str](), Counter[str]()
    for layer in layers:
        kind = str(layer.type).rpartition(".")[2]
        outputs[_type_name(layer.get_output(0).dtype)] += 1
        if kind in {"CONVOLUTION", "MATRIX_MULTIPLY"}:
            source = layer.get_input(0)
            computed = "int8" if source.name in dequantized else _type_name(source.dtype)
            (convolutions if kind == "CONVOLUTION" else products)[computed] += 1
    weighted = convolutions + products
    floats = {kind: number for kind, number in (weighted or outputs).items() if kind in {"fp32", "fp16"}}
    precision = "int8" if weighted["int8"] else max(floats, key=floats.__getitem__, default="fp32")
    return {"precision": precision, "convolutions": convolutions, "products": products, "layers": outputs}


def _tensor_spec(tensor: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"name": tensor.name, "dtype": _type_name(tensor.dtype), "shape": list(tensor.shape)}


def _type_name(dtype: object) -> str:
    name = str(dtype).rpartition(".")[2]
    return _TYPES.get(name, name.lower())


def _die_with_parent() -> None:
    """Have the kernel end this process when the one that asked is gone: nobody would take the engine."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Keep stdout for the protocol: native libraries print there too."""
    _die_with_parent()
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(sys.stdin.buffer, replies)
    # The reader is gone or has everything; native destructors have nothing to add.
    replies.close()
    os._exit(0)


if __name__ == "__main__":
    main()
