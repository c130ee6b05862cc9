"""Which graphs of a bundle which engines may run, and opening one of them so that it proves itself."""

import dataclasses
import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

import numpy as np

from hffnet.runtime.bundle import Bundle
from hffnet.runtime.decode import decode
from hffnet.runtime.engines import ENGINES, Engine, EngineIdentity, EngineName, OpenEngine, SelfTest
from hffnet.runtime.engines.builder import BuildOptions, BuildProgress, BuiltEngine, engine_from_onnx
from hffnet.runtime.engines.cache import EngineCache, EngineKey, cache_folder
from hffnet.runtime.engines.driver import Gpu, probe_gpu
from hffnet.runtime.engines.flavour import (
    FLAVOURS,
    TENSORRT,
    TENSORRT_LEAN,
    Flavour,
    check_driver,
    installed_version,
    is_installed,
    runs_version_compatible,
)
from hffnet.runtime.engines.sidecar import Sidecar
from hffnet.runtime.engines.target import (
    CPU,
    ORT_PROVIDERS,
    OrtProvider,
    devices_to_try,
    target_from_text,
    text_of_target,
)
from hffnet.runtime.engines.tensorrt import GpuSettings
from hffnet.runtime.errors import BundleError, ConfigError, EngineError, MissingExtraError
from hffnet.runtime.manifest import Family, Graph, Precision

if TYPE_CHECKING:
    from hffnet.runtime.engines.tensorrt import TensorRtEngine

_INSTALL = {"openvino": "pip install 'hffnet[openvino]'", "onnxruntime": "pip install onnxruntime"}
_Kinds = tuple[tuple[Precision, Family], ...]
_ON_CPU: _Kinds = (("int8", "cpu"), ("fp32", "cpu"), ("fp16", "tensorrt"))
"""``auto`` takes the first that the bundle has."""

_ON_GPU: dict[EngineName, _Kinds] = {
    # OpenVINO's own quantized kernels take unsigned activations also on Intel's GPUs.
    "openvino": (("fp16", "tensorrt"), ("int8", "cpu")),
    "onnxruntime": (("fp16", "tensorrt"), ("int8", "tensorrt")),
    **dict.fromkeys(("tensorrt", "tensorrt-rtx", "tensorrt-lean"), (("fp16", "tensorrt"), ("int8", "tensorrt"))),
}
"""``auto`` tries each that the bundle has; float32, which is the same for all, where it has none of them."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSettings:
    """How engines are opened; ``threads`` and ``pin`` for CPU engines, ``gpu`` for TensorRT."""

    threads: int | None = None
    pin: bool | None = None
    gpu: GpuSettings = field(default_factory=GpuSettings)

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"{self.threads} threads were asked for; expected at least 1")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One graph on one engine and device of it; "" where the engine has only one."""

    engine: EngineName
    graph: Graph
    device: str = ""

    @property
    def text(self) -> str:
        """As ``--engine`` takes it."""
        return text_of_target(self.engine, self.device)


def is_engine_installed(name: EngineName) -> bool:
    """Whether its library can be found; nothing is imported."""
    return is_installed(FLAVOURS[name]) if name in FLAVOURS else find_spec(name) is not None


def candidates_for(bundle: Bundle, engine: str, precision: Precision | Literal["auto"]) -> tuple[Candidate, ...]:
    """What may be opened, in order of preference; at least one.

    Raises:
        ConfigError: no such engine or device. MissingExtraError: the engine asked for is not installed.
        BundleError: no graph of that precision for the engines that are left.
    """
    if engine == "auto":
        targets = [(name, device) for name in ENGINES if is_engine_installed(name) for device in devices_to_try(name)]
    else:
        name, device = target_from_text(engine)
        if not is_engine_installed(name):
            how = FLAVOURS[name].install if name in FLAVOURS else _INSTALL[name]
            raise MissingExtraError(f"engine {name} is not installed: {how}")
        if name == "onnxruntime" and device is not None:
            from hffnet.runtime.engines.onnxruntime_providers import check_built_in

            check_built_in(_provider(device))
        targets = [(name, one) for one in (devices_to_try(name) if device is None else (device,))]
    found = tuple(
        Candidate(name, graph, device)
        for name, device in targets
        for graph in _graphs_for(bundle, name, device, precision)
    )
    if found:
        return found
    held = ", ".join(f"{graph.precision} ({graph.family})" for graph in bundle.manifest.graphs)
    wanted = "no graph" if precision == "auto" else f"no {precision} graph"
    names = " or ".join(text_of_target(name, device) for name, device in targets)
    raise BundleError(
        f"{bundle.path} holds {held}, and {wanted} that {names or 'an installed engine'} can run:"
        " choose another --precision or --engine, or export the bundle with it"
    )


def _graphs_for(
    bundle: Bundle, engine: EngineName, device: str, precision: Precision | Literal["auto"]
) -> tuple[Graph, ...]:
    here = {(graph.precision, graph.family): graph for graph in bundle.manifest.graphs}
    kinds = _ON_CPU if device == CPU else (*_ON_GPU[engine], ("fp32", "cpu"))
    found = [here[kind] for kind in kinds if kind in here and precision in {"auto", kind[0]}]
    if precision == "auto" and device == CPU:
        return tuple(found[:1])
    if precision == "auto" and len(found) > 1:
        return tuple(graph for graph in found if graph.precision != "fp32")
    return tuple(found)


def open_candidate(bundle: Bundle, candidate: Candidate, settings: OpenSettings) -> OpenEngine:
    """Open one and run its self-test.

    Raises:
        EngineError: it cannot be built or opened, or answers the test vectors wrongly.
        MissingExtraError: a library is not installed.
    """
    graph = candidate.graph
    engine = _opener(candidate)(bundle, graph, settings)
    try:
        self_test = _passed_self_test(engine, candidate.text, bundle, graph)
    except BaseException:
        engine.close()
        raise
    identity = EngineIdentity(
        name=candidate.engine,
        version=engine.version,
        device=engine.device,
        precision=graph.precision,
        arithmetic=engine.arithmetic,
        graph_sha256=bundle.sha256_of(graph.member),
        self_test=self_test,
    )
    return OpenEngine(engine, identity, bundle.manifest.preprocess.size)


def _opener(candidate: Candidate) -> Callable[[Bundle, Graph, OpenSettings], Engine]:
    match candidate.engine:
        case "openvino":
            return lambda bundle, graph, settings: _open_openvino(bundle, graph, settings, candidate.device)
        case "onnxruntime":
            return lambda bundle, graph, settings: _open_onnxruntime(bundle, graph, settings, candidate.device)
        case "tensorrt-lean":
            return _open_lean
        case "tensorrt" | "tensorrt-rtx":
            return lambda bundle, graph, settings: _open_tensorrt(bundle, graph, settings, FLAVOURS[candidate.engine])


def _open_onnxruntime(bundle: Bundle, graph: Graph, settings: OpenSettings, device: str) -> Engine:
    from hffnet.runtime.engines.onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(
        bundle.member(graph.member),
        settings.threads,
        provider=_provider(device),
        pin=bool(settings.pin),
        frame_size=bundle.manifest.preprocess.size,
        cache=EngineCache(cache_folder()),
        name=f"{device}-{bundle.sha256_of(graph.member)[:32]}",
    )


def _provider(device: str) -> OrtProvider:
    return next(one for one in ORT_PROVIDERS if one == device)


def _open_openvino(bundle: Bundle, graph: Graph, settings: OpenSettings, device: str) -> Engine:
    from hffnet.runtime.engines.openvino import OpenVinoEngine

    cache = EngineCache(cache_folder())
    return OpenVinoEngine(bundle.member(graph.member), settings.threads, cache, device=device, pin=settings.pin)


def _open_tensorrt(bundle: Bundle, graph: Graph, settings: OpenSettings, flavour: Flavour) -> Engine:
    from hffnet.runtime.engines.tensorrt import TensorRtEngine

    gpu, version = probe_gpu(), installed_version(flavour)
    check_driver(flavour, gpu)
    options = BuildOptions(
        architectures=(gpu.architecture,) if flavour.builds_without_gpu else (),
        version_compatible=settings.gpu.version_compatible and flavour is TENSORRT,
    )
    key = EngineKey(
        onnx_sha256=bundle.sha256_of(graph.member),
        library=flavour.name,
        library_version=version,
        gpu=f"{gpu.name} {gpu.architecture}",
        options=options,
    )
    cache = EngineCache(cache_folder())

    def build() -> BuiltEngine:
        _log.warning(
            "building the %s %s engine for %s: once, then it is kept", flavour.title, graph.precision, gpu.name
        )
        timings = f"timing-{hashlib.sha256(f'{version} {key.gpu}'.encode()).hexdigest()[:32]}"
        built = engine_from_onnx(
            bundle.member(graph.member),
            flavour,
            options,
            precision=graph.precision,
            progress=_log_progress,
            timing_cache=cache.read(timings) or b"" if flavour.has_timing_cache else b"",
        )
        if built.timing_cache:
            cache.write(timings, built.timing_cache)
        return built

    serialized, _ = cache.engine(key, build)
    kernels = cache.read(f"{key.stem}-kernels") or b""
    engine = TensorRtEngine(serialized, flavour, graph.precision, settings.gpu, kernels)
    _keep_kernels(cache, f"{key.stem}-kernels", kernels, engine)
    return engine


def _open_lean(bundle: Bundle, graph: Graph, settings: OpenSettings) -> Engine:
    """The lean runtime runs what TensorRT built on this machine and sealed in this cache; nothing else."""
    from hffnet.runtime.engines.tensorrt import TensorRtEngine

    gpu, version = probe_gpu(), installed_version(TENSORRT_LEAN)
    check_driver(TENSORRT_LEAN, gpu)
    stored = stored_for_lean(EngineCache(cache_folder()), bundle.sha256_of(graph.member), version, gpu)
    if stored is None:
        raise EngineError(
            f"{TENSORRT_LEAN.title} {version} builds no engines, and the cache holds no version-compatible"
            f" {graph.precision} engine of this bundle for {gpu.name}: open it once with --engine tensorrt and"
            " [engine.gpu] version_compatible = true, by the same user on this machine"
        )
    return TensorRtEngine(stored[0], TENSORRT_LEAN, graph.precision, settings.gpu)


def stored_for_lean(cache: EngineCache, onnx_sha256: str, version: str, gpu: Gpu) -> tuple[memoryview, Sidecar] | None:
    """The version-compatible engine of a graph that TensorRT of this or an earlier release left in the cache."""
    key = EngineKey(
        onnx_sha256=onnx_sha256,
        library=TENSORRT.name,
        library_version=version,
        gpu=f"{gpu.name} {gpu.architecture}",
        options=BuildOptions(version_compatible=True),
    )
    return cache.stored(key, lambda built_by: runs_version_compatible(built_by, version))


def _log_progress(progress: BuildProgress) -> None:
    _log.info("building: %s (%s)", progress.text, progress.phase)


def _keep_kernels(cache: EngineCache, name: str, before: bytes, engine: "TensorRtEngine") -> None:
    compiled = engine.compiled_kernels
    if compiled and compiled != before:
        cache.write(name, compiled)


def _passed_self_test(engine: Engine, name: str, bundle: Bundle, graph: Graph) -> SelfTest:
    result = self_test(engine, bundle, graph)
    _log.info("self-test of %s %s, %s: %s", name, engine.version, graph.precision, dataclasses.asdict(result))
    if not result.passed:
        raise EngineError(
            f"{name} {engine.version} on {engine.device} answers the bundle's test vectors with an error of"
            f" {result.error:.4g}; at most {result.tolerance:.4g} is allowed for {graph.precision}:"
            " use another engine or precision, and report the versions"
        )
    return result


def self_test(engine: Engine, bundle: Bundle, graph: Graph) -> SelfTest:
    """Run the bundle's test vectors, one frame at a time as at the instrument, and compare with the reference."""
    frames_NHW, reference_NC = bundle.vectors()
    logits_NC = np.concatenate([engine.infer(frames_NHW[n : n + 1]).logits for n in range(len(frames_NHW))])
    error = float(np.abs(logits_NC - reference_NC).max() / max(float(np.abs(reference_NC).max()), 1e-6))
    norms = np.linalg.norm(logits_NC, axis=1) * np.linalg.norm(reference_NC, axis=1)
    cosine = float(((logits_NC * reference_NC).sum(axis=1) / np.maximum(norms, 1e-12)).min())
    manifest = bundle.manifest
    found = decode(logits_NC, manifest.taxonomy, manifest.decode)
    expected = decode(reference_NC, manifest.taxonomy, manifest.decode)
    flips = sum(one.path != other.path for one, other in zip(found, expected, strict=True))
    return SelfTest(error=error, tolerance=graph.tolerance, cosine=cosine, flips=flips, num_frames=len(frames_NHW))
