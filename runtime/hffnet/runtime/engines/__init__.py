"""What runs a graph on this machine: one protocol, one door, one module per library.

An engine is opened from a bundle's verified bytes, never from a file of unknown origin, and may classify only after
its self-test: the bundle's test vectors, on this device, within the graph's tolerance. Which engine is quickest here is
measured once (``choice``) and remembered.
"""

from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol, Self

import numpy as np
import numpy.typing as npt

from hffnet.runtime.errors import EngineError

if TYPE_CHECKING:
    from hffnet.runtime.bundle import Bundle
    from hffnet.runtime.engines.tensorrt import GpuSettings
    from hffnet.runtime.manifest import Precision

EngineName = Literal["tensorrt", "tensorrt-rtx", "tensorrt-lean", "openvino", "onnxruntime"]
ENGINES: tuple[EngineName, ...] = ("tensorrt", "tensorrt-rtx", "tensorrt-lean", "openvino", "onnxruntime")
"""Every engine, those of a GPU first."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a graph answers for N frames.

    Attributes:
        logits: (N, ΣC) float32.
        evidence: (N, ΣC, h, w) float32; its mean over positions is ``logits``.
        copy_ms: of the engine's time, what moving frames to the device and answers back took, summed over the frames;
            None where nothing is moved or the engine does not tell.
    """

    logits: npt.NDArray[np.float32]
    evidence: npt.NDArray[np.float32]
    copy_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTest:
    """How far the engine on this device is from the reference logits in the bundle.

    Attributes:
        error: largest difference divided by the largest reference logit in magnitude.
        tolerance: the graph's; a larger error refuses the engine.
        cosine: smallest cosine similarity of any frame's logits.
        flips: number of frames whose decision differs from the reference's.
        num_frames: how many test vectors there are.
    """

    error: float
    tolerance: float
    cosine: float
    flips: int
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

    name: EngineName | Literal["torch-tensorrt"]
    version: str
    device: str
    precision: "Precision"
    arithmetic: str
    graph_sha256: str
    self_test: SelfTest


class Engine(Protocol):
    """One graph, ready on one device. Several threads may call ``infer``; none may after or during ``close``."""

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
        self._engine: Engine | None = engine
        self._size = size
        self.identity = identity

    def infer(self, frames_NHW: npt.NDArray[np.uint8]) -> Outputs:
        """Run the graph on (N, size, size) uint8 frames.

        Raises:
            EngineError: wrong shape or type, the engine was closed, or the library failed.
        """
        if self._engine is None:
            raise EngineError("this engine was closed; open the bundle again")
        expected = (self._size, self._size)
        if frames_NHW.dtype != np.uint8 or frames_NHW.shape[1:] != expected or not len(frames_NHW):
            raise EngineError(
                f"frames of shape {frames_NHW.shape}, {frames_NHW.dtype} were given;"
                f" this bundle's graphs take (N, {self._size}, {self._size}) uint8: preprocess them first"
            )
        return self._engine.infer(np.ascontiguousarray(frames_NHW))

    def close(self) -> None:
        """Give memory back; a second call does nothing."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def open_engine(
    bundle: "Bundle",
    *,
    engine: str = "auto",
    precision: "Precision | Literal['auto']" = "auto",
    threads: int | None = None,
    pin: bool | None = None,
    gpu: "GpuSettings | None" = None,
) -> OpenEngine:
    """Open a graph of the bundle and prove it on this machine.

    ``auto`` engine: every engine that can run here is opened, proved and timed for about a second, once; the quickest
    is remembered for this bundle and machine. One that is here and is refused is named in a warning each time; that
    there is no GPU is said once. ``auto`` precision: int8 where the bundle has it for CPU engines (it passed its
    accuracy gate at export), else fp32; on a GPU the quicker of fp16 and int8, since that depends on the GPU.

    Args:
        bundle: a sound one.
        engine: ``auto``, an engine, or an engine and its device such as ``openvino:gpu`` (see ``target``).
        precision: of the graph, or ``auto``.
        threads: of a CPU engine; all cores if None.
        pin: whether its threads are tied to cores; each library's own choice if None.
        gpu: how a TensorRT engine runs; its defaults if None.

    Raises:
        BundleError: the bundle has no graph of that precision for these engines.
        MissingExtraError: the engine asked for is not installed.
        EngineError: no engine passed its self-test.
    """
    from hffnet.runtime.engines.choice import open_quickest
    from hffnet.runtime.engines.opening import OpenSettings, candidates_for

    settings = OpenSettings(threads=threads, pin=pin, **({} if gpu is None else {"gpu": gpu}))
    return open_quickest(bundle, candidates_for(bundle, engine, precision), settings)
