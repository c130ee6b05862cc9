"""TensorRT and TensorRT-RTX on the GPU: one engine, several slots, answers in the order of the frames.

The driver is probed before any object of the library is made. Engines come from the cache's sealed files or fresh from
the builder, never from elsewhere.
"""

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from hffnet.runtime.engines import Outputs
from hffnet.runtime.engines.device_memory import DeviceMemory, Wait, open_device_memory
from hffnet.runtime.engines.driver import Gpu, probe_gpu
from hffnet.runtime.engines.flavour import Flavour, import_flavour
from hffnet.runtime.engines.slot import Slot, TensorPlan
from hffnet.runtime.errors import ConfigError, EngineError
from hffnet.runtime.manifest import Precision

_TENSORS = {"frames", "logits", "evidence"}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSettings:
    """How a GPU engine runs.

    Attributes:
        num_slots: frames in flight at once when several are given; each costs one set of activations.
        graph: replay a CUDA graph instead of enqueueing kernel by kernel.
        wait: how the CPU waits; ``spin`` is quickest and keeps one core busy.
        keep_warm_seconds: run an idle engine this often, so that the GPU's clocks stay up between frames that come
            seldom; None to let it rest.
        version_compatible: build TensorRT engines so that later releases and the lean runtime on this machine may run
            them; they may be slower.
    """

    num_slots: int = 2
    graph: bool = True
    wait: Wait = "auto"
    keep_warm_seconds: float | None = None
    version_compatible: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.num_slots <= 8:
            raise ConfigError(f"{self.num_slots} slots were asked for; expected 1 to 8")
        if self.keep_warm_seconds is not None and self.keep_warm_seconds <= 0:
            raise ConfigError(f"keep_warm_seconds is {self.keep_warm_seconds}; expected a positive number")


class TensorRtEngine:
    """A deserialised engine with its slots; ``Engine`` of the protocol.

    Args:
        serialized: an engine built on this machine.
        flavour: the library that built it.
        precision: of the graph it was built from.
        settings: how to run.
        runtime_cache: kernels that TensorRT-RTX compiled for this GPU in an earlier run; empty for none.

    Raises:
        EngineError: no driver, the library refuses the engine, or it does not run.
        MissingExtraError: the library is not installed.
    """

    def __init__(
        self,
        serialized: bytes | memoryview,
        flavour: Flavour,
        precision: Precision,
        settings: GpuSettings,
        runtime_cache: bytes = b"",
    ) -> None:
        gpu = probe_gpu()
        trt = import_flavour(flavour)
        self.version: str = trt.__version__
        self.device: str = gpu.name
        self.arithmetic: str = "f32" if precision == "fp32" else "f16"
        self._title = f"{flavour.title} {trt.__version__} on {gpu.name}"
        self._memory: DeviceMemory = open_device_memory(settings.wait)
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._slots: list[Slot] = []
        self._last_use = time.monotonic()
        self._log = _forwarding_log(trt)
        self._runtime = trt.Runtime(self._log)
        try:
            self._engine = self._deserialized(trt, serialized, gpu)
            self._runtime_config, self._runtime_cache = _runtime_config(self._engine, runtime_cache)
            plans = _plans(trt, self._engine, self._title)
            for _ in range(settings.num_slots):
                slot = Slot(self._memory, self._context(), plans)
                self._slots.append(slot)
                slot.prepare(graph=settings.graph)
        except BaseException:
            self.close()
            raise
        self._warmer = threading.Thread(target=self._keep_warm, args=(settings.keep_warm_seconds,), daemon=True)
        if settings.keep_warm_seconds is not None:
            self._warmer.start()

    def _deserialized(self, trt: ModuleType, serialized: bytes | memoryview, gpu: Gpu) -> Any:  # noqa: ANN401
        if hasattr(self._runtime, "get_engine_validity"):
            validity, diagnostics = self._runtime.get_engine_validity(serialized)
            # (INVALID, 0) means that the library could not find out.
            if validity == trt.EngineValidity.INVALID and diagnostics:
                flags = ", ".join(names_of_diagnostics(trt, diagnostics))
                raise EngineError(f"{self._title} refuses the engine: {flags} ({gpu.architecture}); remove the cache")
        engine = self._runtime.deserialize_cuda_engine(serialized)
        if engine is None:
            raise EngineError(f"{self._title} cannot load the engine: {self._log.last_error or 'it gave no reason'}")
        return engine

    def _context(self) -> Any:  # noqa: ANN401
        if self._runtime_config is None:
            context = self._engine.create_execution_context()
        else:
            context = self._engine.create_execution_context(self._runtime_config)
        if context is None:
            raise EngineError(
                f"{self._title} cannot create a context: {self._log.last_error or 'it gave no reason'};"
                " fewer slots or a smaller batch need less memory"
            )
        return context

    @property
    def compiled_kernels(self) -> bytes:
        """What TensorRT-RTX compiled for this GPU, to be handed in at the next start; empty for TensorRT."""
        return b"" if self._runtime_cache is None else bytes(memoryview(self._runtime_cache.serialize()))

    def infer(self, frames_NHW: npt.NDArray[np.uint8]) -> Outputs:
        """See ``Engine.infer``: one frame per slot, as many in flight as there are slots."""
        with self._lock:
            self._memory.use_in_this_thread()
            outputs = list[Outputs]()
            running = deque[Slot]()
            for n in range(len(frames_NHW)):
                if len(running) == len(self._slots):
                    outputs.append(running.popleft().finish())
                slot = self._slots[n % len(self._slots)]
                slot.load(frames_NHW[n : n + 1])
                slot.start()
                running.append(slot)
            outputs += [slot.finish() for slot in running]
            self._last_use = time.monotonic()
        if len(outputs) == 1:
            return outputs[0]
        copies_ms = [one.copy_ms for one in outputs]
        return Outputs(
            logits=np.concatenate([one.logits for one in outputs]),
            evidence=np.concatenate([one.evidence for one in outputs]),
            copy_ms=None if None in copies_ms else sum(ms for ms in copies_ms if ms is not None),
        )

    def _keep_warm(self, seconds: float) -> None:
        while not self._closed.wait(seconds):
            with self._lock:
                if self._closed.is_set() or time.monotonic() - self._last_use < seconds:
                    continue
                try:
                    self._memory.use_in_this_thread()
                    self._slots[0].start()
                    self._slots[0].finish()
                except EngineError as error:
                    _log.warning("the GPU is not kept warm any more: %s", error)
                    return

    def close(self) -> None:
        """See ``Engine.close``: slots, then engine, then runtime."""
        self._closed.set()
        with self._lock:
            self._memory.use_in_this_thread()
            while self._slots:
                self._slots.pop().close()
            self._runtime_cache = self._runtime_config = self._engine = self._runtime = None
        warmer = getattr(self, "_warmer", None)
        if warmer is not None and warmer.is_alive():
            warmer.join()


def names_of_diagnostics(trt: ModuleType, diagnostics: int) -> list[str]:
    """Names of the bits that ``get_engine_validity`` sets, in words."""
    members = trt.EngineInvalidityDiagnostics.__members__.items()
    return [name.lower().replace("_", " ") for name, value in members if diagnostics & int(value)]


def _forwarding_log(trt: ModuleType) -> Any:  # noqa: ANN401
    class ForwardingLog(trt.ILogger):  # type: ignore[misc, name-defined]
        """The library's lines in the program's log; keeps the last error for sentences."""

        def __init__(self) -> None:
            super().__init__()
            self.last_error: str | None = None

        def log(self, severity: object, message: str) -> None:
            if severity in {trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR}:
                self.last_error = message
                _log.error("%s", message)
            elif severity == trt.ILogger.WARNING:
                _log.info("%s", message)

    return ForwardingLog()


def _runtime_config(engine: Any, stored: bytes) -> tuple[Any, Any]:  # noqa: ANN401
    """Configuration and kernel cache of TensorRT-RTX; (None, None) for TensorRT, which compiles when it builds."""
    if not hasattr(engine, "create_runtime_config"):
        return None, None
    config = engine.create_runtime_config()
    if not hasattr(config, "create_runtime_cache"):
        return None, None
    cache = config.create_runtime_cache()
    if stored and not cache.deserialize(stored):
        _log.info("the stored kernels are of another GPU, driver or version; they are compiled again")
    config.set_runtime_cache(cache)
    return config, cache


def _plans(trt: ModuleType, engine: Any, title: str) -> tuple[TensorPlan, ...]:  # noqa: ANN401
    names = [engine.get_tensor_name(k) for k in range(engine.num_io_tensors)]
    if set(names) != _TENSORS:
        raise EngineError(f"{title}: the engine has the tensors {names}; expected {sorted(_TENSORS)}: build it again")
    plans = tuple(
        TensorPlan(
            name=name,
            shape=tuple(engine.get_tensor_shape(name)),
            dtype=np.dtype(trt.nptype(engine.get_tensor_dtype(name))),
            is_input=engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT,
        )
        for name in names
    )
    for plan in plans:
        if plan.shape[0] != 1 or min(plan.shape) < 1:
            raise EngineError(f"{title}: {plan.name} has the shape {plan.shape}; expected one frame: build it again")
    return plans
