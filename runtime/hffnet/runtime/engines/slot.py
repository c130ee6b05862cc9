"""One slot of a TensorRT engine: its own context, stream and buffers, so that frames overlap without sharing anything.

Addresses are set once. After a warm-up the slot's whole work, copies included, is recorded as a CUDA graph, and the
first replay must repeat what the eager run answered; otherwise the slot stays eager and says so. Marks of the GPU's own
time around the copies tell what they cost, in the graph too; an engine that cannot set them runs without.
"""

import logging
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from hffnet.runtime.engines import Outputs
from hffnet.runtime.engines.device_memory import DeviceMemory, HostBuffer, Stream
from hffnet.runtime.errors import EngineError

_REPLAY_TOLERANCE = 1e-3  # the same kernels on the same numbers; room only for sums in another order
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPlan:
    """One input or output of the engine, with its fixed shape."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_input: bool

    @property
    def num_bytes(self) -> int:
        """Size of its buffer."""
        return int(np.prod(self.shape)) * self.dtype.itemsize


class ExecutionContext(Protocol):
    """The part of ``IExecutionContext`` that is used."""

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        """False where the shape is outside the profile."""

    def set_tensor_address(self, name: str, memory: int) -> bool:
        """False where the library refuses."""

    def execute_async_v3(self, stream_handle: int) -> bool:
        """False where the library could not enqueue."""


@dataclass(frozen=True, slots=True)
class _Bound:
    plan: TensorPlan
    host: HostBuffer
    device: int
    array: npt.NDArray[Any]


class Slot:
    """Buffers, stream and graph around one execution context. Used by one thread at a time.

    Raises:
        EngineError: memory ran out, or the library refuses a shape or an address.
    """

    def __init__(self, memory: DeviceMemory, context: ExecutionContext, plans: tuple[TensorPlan, ...]) -> None:
        self._memory = memory
        self._context: ExecutionContext | None = context
        self._graph: object | None = None
        self._bound: dict[str, _Bound] = {}
        self._marks: list[object] = []
        self._is_timed = False
        self._load_ms = 0.0
        self._stream: Stream = memory.open_stream()
        try:
            for plan in plans:
                self._bound[plan.name] = self._bind(context, plan)
            if self._copied():
                self._is_timed = self._open_marks()
        except BaseException:
            self.close()
            raise

    def _open_marks(self) -> bool:
        try:
            for _ in range(4):
                self._marks.append(self._memory.open_mark())
        except EngineError as error:
            _log.warning("copies to and from the GPU are not timed: %s", error)
            return False
        return True

    @property
    def uses_graph(self) -> bool:
        """Whether work is replayed from a graph."""
        return self._graph is not None

    def _bind(self, context: ExecutionContext, plan: TensorPlan) -> _Bound:
        host = self._memory.allocate_host(plan.num_bytes)
        device = host.device_address
        if device is None:
            try:
                device = self._memory.allocate(plan.num_bytes)
            except EngineError:
                self._memory.free_host(host)
                raise
        bound = _Bound(plan, host, device, host.array.view(plan.dtype).reshape(plan.shape))
        if plan.is_input and not context.set_input_shape(plan.name, plan.shape):
            self._release(bound)
            raise EngineError(f"the engine refuses the shape {plan.shape} for {plan.name}; build it again")
        if not context.set_tensor_address(plan.name, device):
            self._release(bound)
            raise EngineError(f"the engine refuses the address of {plan.name}; build it again")
        return bound

    def prepare(self, *, graph: bool) -> None:
        """Warm up, and record a graph where it is wanted and possible.

        Raises:
            EngineError: the engine does not run.
        """
        frames = self._bound["frames"].array
        frames.reshape(-1)[:] = np.arange(frames.size) % 251  # any picture with structure
        self.start()
        self.finish()  # the first run may still choose and compile kernels
        self.start()
        eager = self.finish()
        if not graph:
            return
        if not self._memory.has_graphs or not self._capturable():
            _log.warning("no CUDA graph: this GPU library cannot record one; each frame costs more CPU time")
            return
        self._record(eager)

    def _capturable(self) -> bool:
        ask = getattr(self._context, "is_stream_capturable", None)
        return ask is None or bool(ask(self._stream.address))

    def _record(self, eager: Outputs) -> None:
        try:
            self._graph = self._captured()
            for bound in self._bound.values():
                if not bound.plan.is_input:
                    bound.array.fill(0)  # an empty graph must not pass with the eager run's numbers
            self.start()
            replayed = self.finish()
        except EngineError as error:
            _log.warning("no CUDA graph: %s", error)
            self._drop_graph()
            return
        for found, expected in ((replayed.logits, eager.logits), (replayed.evidence, eager.evidence)):
            difference = _difference(found, expected)  # no max over both: it may lose what is no number
            if not difference <= _REPLAY_TOLERANCE:
                _log.warning("no CUDA graph: its first replay differs from the eager run by %.3g", difference)
                self._drop_graph()
                return

    def _captured(self) -> object:
        was_timed = self._is_timed
        try:
            return self._memory.capture(self._stream, self._enqueue)
        except EngineError as error:
            if not was_timed:
                raise
            self._stop_timing(error)
            return self._memory.capture(self._stream, self._enqueue)

    def _stop_timing(self, error: EngineError) -> None:
        """Figures are no reason to do without a graph, or an engine; marks stay until a graph that holds them goes."""
        if self._is_timed:
            _log.warning("copies to and from the GPU are not timed: %s", error)
        self._is_timed = False

    def load(self, frames_NHW: npt.NDArray[np.uint8]) -> None:
        """Copy frames into the input buffer; only while nothing of this slot is running."""
        began = perf_counter_ns()
        np.copyto(self._bound["frames"].array, frames_NHW)
        self._load_ms = (perf_counter_ns() - began) / 1e6

    def start(self) -> None:
        """Enqueue the work; returns at once."""
        if self._graph is None:
            self._enqueue()
        else:
            self._memory.launch(self._graph, self._stream)

    def _enqueue(self) -> None:
        self._mark(0)
        for bound in self._copied():
            if bound.plan.is_input:
                self._memory.copy_to_device(bound.device, bound.host, self._stream)
        self._mark(1)
        if self._context is None or not self._context.execute_async_v3(self._stream.address):
            raise EngineError("the engine could not enqueue its work; its log above says why")
        self._mark(2)
        for bound in self._copied():
            if not bound.plan.is_input:
                self._memory.copy_to_host(bound.host, bound.device, self._stream)
        self._mark(3)

    def _mark(self, number: int) -> None:
        if self._is_timed:
            try:
                self._memory.mark(self._marks[number], self._stream)
            except EngineError as error:
                self._stop_timing(error)

    def _copied(self) -> list[_Bound]:
        """Tensors that lie in two memories; on an integrated GPU there are none."""
        return [bound for bound in self._bound.values() if bound.host.device_address is None]

    def finish(self) -> Outputs:
        """Wait for what was started; arrays are copies."""
        self._memory.synchronize(self._stream)
        began = perf_counter_ns()
        logits = self._bound["logits"].array.astype(np.float32)
        evidence = self._bound["evidence"].array.astype(np.float32)
        host_ms = self._load_ms + (perf_counter_ns() - began) / 1e6
        return Outputs(logits=logits, evidence=evidence, copy_ms=self._copy_ms(host_ms))

    def _copy_ms(self, host_ms: float) -> float | None:
        """In host memory and, where the GPU has its own, there and back."""
        if not self._copied():
            return host_ms
        if not self._is_timed:
            return None
        before, loaded, done, after = self._marks
        try:
            return host_ms + self._memory.ms_between(before, loaded) + self._memory.ms_between(done, after)
        except EngineError as error:
            self._stop_timing(error)
            return None

    def _drop_graph(self) -> None:
        if self._graph is not None:
            self._memory.close_graph(self._graph)
            self._graph = None

    def _release(self, bound: _Bound) -> None:
        if bound.host.device_address is None:
            self._memory.free(bound.device)
        self._memory.free_host(bound.host)

    def close(self) -> None:
        """Give everything back, in the order that the library wants: graph, context, buffers, stream."""
        self._memory.synchronize(self._stream)
        self._drop_graph()
        while self._marks:
            self._memory.close_mark(self._marks.pop())
        self._context = None
        for bound in self._bound.values():
            self._release(bound)
        self._bound.clear()
        self._memory.close_stream(self._stream)


def _difference(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    return float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-6))
