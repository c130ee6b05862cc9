"""What runs a graph on this machine: one protocol, one door, one module per library.

An engine is opened from a bundle's verified bytes, never from a file of unknown origin, and may classify only after
its self-test: the bundle's test vectors, on this device, within the graph's tolerance.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol, Self

import numpy as np
import numpy.typing as npt

from hffnet.runtime.errors import BundleError, ConfigError, EngineError, MissingExtraError

if TYPE_CHECKING:
    from hffnet.runtime.bundle import Bundle
    from hffnet.runtime.manifest import Family, Graph, Precision

EngineName = Literal["openvino", "onnxruntime"]
"""Engines in order of preference; `auto` takes the first that is installed and passes its self-test."""

_EXTRA: dict[str, str] = {"openvino": "openvino"}
_PREFERENCE: tuple[EngineName, ...] = ("openvino", "onnxruntime")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a graph answers for N frames.

    Attributes:
        logits: (N, ΣC) float32.
        evidence: (N, ΣC, h, w) float32; its mean over positions is ``logits``.
    """

    logits: npt.NDArray[np.float32]
    evidence: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTest:
    """How far the engine on this device is from the reference logits in the bundle.

    Attributes:
        error: largest difference divided by the largest reference logit in magnitude.
        tolerance: the graph's; a larger error refuses the engine.
        cosine: smallest cosine similarity of any frame's logits.
        num_frames: how many test vectors there are.
    """

    error: float
    tolerance: float
    cosine: float
    num_frames: int

    @property
    def passed(self) -> bool:
        """Whether the engine may classify. NaN does not pass."""
        return self.error <= self.tolerance


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineIdentity:
    """Which engine gave an answer; part of every record.

    Attributes:
        arithmetic: what the engine computes in where the graph is not quantized, e.g. ``f32`` or ``bf16``.
    """

    name: EngineName
    version: str
    device: str
    precision: "Precision"
    arithmetic: str
    graph_sha256: str
    self_test: SelfTest


class Engine(Protocol):
    """One graph, ready on one device. Not thread-safe: one engine per worker."""

    @property
    def version(self) -> str:
        """Version of the library."""

    @property
    def device(self) -> str:
        """The hardware, as the library names it."""

    @property
    def arithmetic(self) -> str:
        """What non-quantized operations compute in."""

    def infer(self, frames_NHW: npt.NDArray[np.uint8]) -> Outputs:
        """Run the graph.

        Args:
            frames_NHW: (N, size, size) uint8, C-contiguous, N ≥ 1.

        Raises:
            EngineError: the library failed.
        """

    def close(self) -> None:
        """Give memory back; the engine cannot be used afterwards."""


class OpenEngine:
    """An engine that passed its self-test, with its identity; a context manager."""

    def __init__(self, engine: Engine, identity: EngineIdentity, size: int) -> None:
        self._engine = engine
        self._size = size
        self.identity = identity

    def infer(self, frames_NHW: npt.NDArray[np.uint8]) -> Outputs:
        """Run the graph on (N, size, size) uint8 frames.

        Raises:
            EngineError: wrong shape or type, or the library failed.
        """
        if frames_NHW.dtype != np.uint8 or frames_NHW.ndim != 3 or frames_NHW.shape[1:] != (self._size, self._size):
            raise EngineError(
                f"frames of shape {frames_NHW.shape}, {frames_NHW.dtype} were given;"
                f" this bundle's graphs take (N, {self._size}, {self._size}) uint8: preprocess them first"
            )
        return self._engine.infer(frames_NHW)

    def close(self) -> None:
        """Give memory back."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def open_engine(
    bundle: "Bundle",
    *,
    engine: EngineName | Literal["auto"] = "auto",
    precision: "Precision | Literal['auto']" = "auto",
    threads: int | None = None,
) -> OpenEngine:
    """Open a graph of the bundle and prove it on this machine.

    ``auto`` precision is int8 where the bundle has it (it passed its accuracy gate at export), else fp32. ``auto``
    engine is the first of ``openvino``, ``onnxruntime`` that opens and passes; one that fails is named in a warning.

    Raises:
        BundleError: the bundle has no graph of that precision for these engines.
        MissingExtraError: the engine asked for is not installed.
        EngineError: no engine passed its self-test.
    """
    graph = _graph_of(bundle, precision)
    if engine != "auto":
        return _open_one(bundle, graph, engine, threads)
    failures = []
    for name in _PREFERENCE:
        try:
            return _open_one(bundle, graph, name, threads)
        except MissingExtraError:
            _log.debug("engine %s is not installed", name)
        except EngineError as error:
            _log.warning("engine %s is not used: %s", name, error)
            failures.append(f"{name}: {error}")
    raise EngineError("no engine can run this bundle here. " + " ".join(failures))


def _graph_of(bundle: "Bundle", precision: "Precision | Literal['auto']") -> "Graph":
    family: Family = "cpu"
    here = {graph.precision: graph for graph in bundle.manifest.graphs if graph.family == family}
    order: tuple[Precision, ...] = ("int8", "fp32", "fp16") if precision == "auto" else (precision,)
    for wanted in order:
        if wanted in here:
            return here[wanted]
    held = ", ".join(f"{graph.precision} ({graph.family})" for graph in bundle.manifest.graphs)
    raise BundleError(
        f"{bundle.path} holds {held}; a {precision} graph for CPU engines was asked for:"
        " choose another --precision, or export the bundle with it"
    )


def _open_one(bundle: "Bundle", graph: "Graph", name: EngineName, threads: int | None) -> OpenEngine:
    engine = _opener(name)(bundle.member(graph.member), threads)
    try:
        self_test = _passed_self_test(engine, name, bundle, graph)
    except BaseException:
        engine.close()
        raise
    identity = EngineIdentity(
        name=name,
        version=engine.version,
        device=engine.device,
        precision=graph.precision,
        arithmetic=engine.arithmetic,
        graph_sha256=bundle.sha256_of(graph.member),
        self_test=self_test,
    )
    return OpenEngine(engine, identity, bundle.manifest.preprocess.size)


def _opener(name: EngineName) -> Callable[[bytes, int | None], Engine]:
    if name not in _PREFERENCE:
        raise ConfigError(f"engine {name!r} is not known; expected one of auto, {', '.join(_PREFERENCE)}")
    if find_spec(name) is None:
        raise MissingExtraError(f"engine {name} is not installed: pip install 'hffnet[{_EXTRA.get(name, name)}]'")
    match name:
        case "openvino":
            from hffnet.runtime.engines.openvino import OpenVinoEngine

            return OpenVinoEngine
        case "onnxruntime":
            from hffnet.runtime.engines.onnxruntime import OnnxRuntimeEngine

            return OnnxRuntimeEngine


def _passed_self_test(engine: Engine, name: EngineName, bundle: "Bundle", graph: "Graph") -> SelfTest:
    self_test = _self_test(engine, bundle, graph)
    if not self_test.passed:
        raise EngineError(
            f"{name} {engine.version} on {engine.device} answers the bundle's test vectors with an error of"
            f" {self_test.error:.4g}; at most {self_test.tolerance:.4g} is allowed for {graph.precision}:"
            " use another engine or precision, and report the versions"
        )
    return self_test


def _self_test(engine: Engine, bundle: "Bundle", graph: "Graph") -> SelfTest:
    frames_NHW, reference_NC = bundle.vectors()
    # One frame at a time: the shape that will be run at the instrument.
    logits_NC = np.concatenate([engine.infer(frames_NHW[n : n + 1]).logits for n in range(len(frames_NHW))])
    error = float(np.abs(logits_NC - reference_NC).max() / max(float(np.abs(reference_NC).max()), 1e-6))
    norms = np.linalg.norm(logits_NC, axis=1) * np.linalg.norm(reference_NC, axis=1)
    cosine = float(((logits_NC * reference_NC).sum(axis=1) / np.maximum(norms, 1e-12)).min())
    return SelfTest(error=error, tolerance=graph.tolerance, cosine=cosine, num_frames=len(frames_NHW))
