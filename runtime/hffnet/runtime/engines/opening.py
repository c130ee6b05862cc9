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
from hffnet.runtime.engines.driver import probe_gpu
from hffnet.runtime.engines.flavour import FLAVOURS, Flavour, check_driver, installed_version, is_installed
from hffnet.runtime.engines.tensorrt import GpuSettings
from hffnet.runtime.errors import BundleError, ConfigError, EngineError, MissingExtraError
from hffnet.runtime.manifest import Graph, Precision

if TYPE_CHECKING:
    from hffnet.runtime.engines.tensorrt import TensorRtEngine

_INSTALL = {"openvino": "pip install 'hffnet[openvino]'", "onnxruntime": "pip install onnxruntime"}
_CPU_ORDER: tuple[Precision, ...] = ("int8", "fp32", "fp16")
_GPU_ORDER: tuple[Precision, ...] = ("fp16", "int8")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSettings:
    """How engines are opened; ``threads`` for CPU engines, ``gpu`` for TensorRT."""

    threads: int | None = None
    gpu: GpuSettings = field(default_factory=GpuSettings)

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"{self.threads} threads were asked for; expected at least 1")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One graph on one engine."""

    engine: EngineName
    graph: Graph


def is_engine_installed(name: EngineName) -> bool:
    """Whether its library can be found; nothing is imported."""
    return is_installed(FLAVOURS[name]) if name in FLAVOURS else find_spec(name) is not None


def candidates_for(
    bundle: Bundle, engine: EngineName | Literal["auto"], precision: Precision | Literal["auto"]
) -> tuple[Candidate, ...]:
    """What may be opened, in order of preference; at least one.

    Raises:
        ConfigError: no such engine. MissingExtraError: the engine asked for is not installed.
        BundleError: no graph of that precision for the engines that are left.
    """
    if engine != "auto" and engine not in ENGINES:
        raise ConfigError(f"engine {engine!r} is not known; expected one of auto, {', '.join(ENGINES)}")
    if engine != "auto" and not is_engine_installed(engine):
        how = FLAVOURS[engine].install if engine in FLAVOURS else _INSTALL[engine]
        raise MissingExtraError(f"engine {engine} is not installed: {how}")
    names = [name for name in ENGINES if is_engine_installed(name)] if engine == "auto" else [engine]
    found = tuple(Candidate(name, graph) for name in names for graph in _graphs_for(bundle, name, precision))
    if found:
        return found
    held = ", ".join(f"{graph.precision} ({graph.family})" for graph in bundle.manifest.graphs)
    wanted = "no graph" if precision == "auto" else f"no {precision} graph"
    raise BundleError(
        f"{bundle.path} holds {held}, and {wanted} that {' or '.join(names)} can run:"
        " choose another --precision or --engine, or export the bundle with it"
    )


def _graphs_for(bundle: Bundle, engine: EngineName, precision: Precision | Literal["auto"]) -> tuple[Graph, ...]:
    here = {(graph.precision, graph.family): graph for graph in bundle.manifest.graphs}
    if engine not in FLAVOURS:
        order = _CPU_ORDER if precision == "auto" else (precision,)
        return tuple(here[one, "cpu"] for one in order if (one, "cpu") in here)[:1]
    order = _GPU_ORDER if precision == "auto" else (precision,)
    found = tuple(here[one, "tensorrt"] for one in order if (one, "tensorrt") in here)
    if not found and precision == "fp32" and ("fp32", "cpu") in here:
        return (here["fp32", "cpu"],)  # float32 is the same for both families
    return found


def open_candidate(bundle: Bundle, candidate: Candidate, settings: OpenSettings) -> OpenEngine:
    """Open one and run its self-test.

    Raises:
        EngineError: it cannot be built or opened, or answers the test vectors wrongly.
        MissingExtraError: a library is not installed.
    """
    graph = candidate.graph
    engine = _opener(candidate.engine)(bundle, graph, settings)
    try:
        self_test = _passed_self_test(engine, candidate.engine, bundle, graph)
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


def _opener(name: EngineName) -> Callable[[Bundle, Graph, OpenSettings], Engine]:
    match name:
        case "openvino":
            return _open_openvino
        case "onnxruntime":
            return _open_onnxruntime
        case "tensorrt" | "tensorrt-rtx":
            return lambda bundle, graph, settings: _open_tensorrt(bundle, graph, settings, FLAVOURS[name])


def _open_onnxruntime(bundle: Bundle, graph: Graph, settings: OpenSettings) -> Engine:
    from hffnet.runtime.engines.onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(bundle.member(graph.member), settings.threads)


def _open_openvino(bundle: Bundle, graph: Graph, settings: OpenSettings) -> Engine:
    from hffnet.runtime.engines.openvino import OpenVinoEngine

    return OpenVinoEngine(bundle.member(graph.member), settings.threads, EngineCache(cache_folder()))


def _open_tensorrt(bundle: Bundle, graph: Graph, settings: OpenSettings, flavour: Flavour) -> Engine:
    from hffnet.runtime.engines.tensorrt import TensorRtEngine

    gpu, version = probe_gpu(), installed_version(flavour)
    check_driver(flavour, gpu)
    options = BuildOptions(architectures=(gpu.architecture,) if flavour.builds_without_gpu else ())
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


def _log_progress(progress: BuildProgress) -> None:
    left = "" if progress.remaining_seconds is None else f", about {progress.remaining_seconds:.0f} s left"
    _log.info("building: %.0f %%%s (%s)", 100 * progress.share, left, progress.phase)


def _keep_kernels(cache: EngineCache, name: str, before: bytes, engine: "TensorRtEngine") -> None:
    compiled = engine.compiled_kernels
    if compiled and compiled != before:
        cache.write(name, compiled)


def _passed_self_test(engine: Engine, name: EngineName, bundle: Bundle, graph: Graph) -> SelfTest:
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
