"""A slot's logic on memory of the host: what is copied when, what a graph must repeat, what is given back.

``HostMemory`` is a second provider of the interface, for tests: addresses are real, work runs when it is enqueued and a
graph is the list of what was enqueued. The GPU's own provider runs in the tests marked ``gpu``.
"""

import ctypes
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from hffnet.runtime.engines.device_memory import HostBuffer, Stream
from hffnet.runtime.engines.slot import Slot, TensorPlan
from hffnet.runtime.errors import EngineError

PLANS = (
    TensorPlan(name="frames", shape=(1, 4, 4), dtype=np.dtype(np.uint8), is_input=True),
    TensorPlan(name="logits", shape=(1, 2), dtype=np.dtype(np.float32), is_input=False),
    TensorPlan(name="evidence", shape=(1, 2, 2, 2), dtype=np.dtype(np.float32), is_input=False),
)


class HostMemory:
    """See the module."""

    def __init__(self, *, integrated: bool = False, has_graphs: bool = True, room: int = 1 << 20) -> None:
        self.integrated = integrated
        self.has_graphs = has_graphs
        self.room = room
        self.alive: dict[int, npt.NDArray[np.uint8]] = {}
        self.streams = 0
        self.graphs = 0
        self.num_copies = 0
        self.recording: list[Callable[[], None]] | None = None
        self.passed_ms: dict[int, float] = {}
        self.now_ms = 0.0  # of the GPU: a copy takes 2, a run of the network 5

    def use_in_this_thread(self) -> None:
        pass

    def free_bytes(self) -> int:
        return self.room

    def allocate(self, num_bytes: int) -> int:
        if num_bytes > self.room:
            raise EngineError(f"the GPU could not allocate {num_bytes} bytes")
        self.room -= num_bytes
        array = np.zeros(num_bytes, np.uint8)
        self.alive[array.ctypes.data] = array
        return array.ctypes.data

    def free(self, address: int) -> None:
        self.room += self.alive.pop(address).nbytes

    def allocate_host(self, num_bytes: int) -> HostBuffer:
        address = self.allocate(num_bytes)
        return HostBuffer(self.alive[address], address if self.integrated else None, address)

    def free_host(self, buffer: HostBuffer) -> None:
        assert isinstance(buffer.owner, int)
        self.free(buffer.owner)

    def open_stream(self) -> Stream:
        self.streams += 1
        return Stream(None, 7)

    def close_stream(self, stream: Stream) -> None:
        del stream
        self.streams -= 1

    def enqueue(self, work: Callable[[], None]) -> None:
        if self.recording is not None:
            self.recording.append(work)
        else:
            work()

    def _copy(self, target: int, source: int, num_bytes: int) -> None:
        self.num_copies += 1
        self.now_ms += 2.0
        ctypes.memmove(target, source, num_bytes)

    def copy_to_device(self, address: int, source: HostBuffer, stream: Stream) -> None:
        del stream
        self.enqueue(lambda: self._copy(address, source.array.ctypes.data, source.array.nbytes))

    def copy_to_host(self, target: HostBuffer, address: int, stream: Stream) -> None:
        del stream
        self.enqueue(lambda: self._copy(target.array.ctypes.data, address, target.array.nbytes))

    def open_mark(self) -> object:
        number = len(self.passed_ms)
        self.passed_ms[number] = float("nan")
        return number

    def mark(self, mark: object, stream: Stream) -> None:
        del stream
        assert isinstance(mark, int)
        self.enqueue(lambda: self.passed_ms.__setitem__(mark, self.now_ms))

    def ms_between(self, first: object, last: object) -> float:
        assert isinstance(first, int)
        assert isinstance(last, int)
        return self.passed_ms[last] - self.passed_ms[first]

    def close_mark(self, mark: object) -> None:
        assert isinstance(mark, int)
        del self.passed_ms[mark]

    def synchronize(self, stream: Stream) -> None:
        del stream

    def capture(self, stream: Stream, work: Callable[[], None]) -> object:
        del stream
        self.recording = []
        try:
            work()
            self.graphs += 1
            return self.recording
        finally:
            self.recording = None

    def launch(self, graph: object, stream: Stream) -> None:
        del stream
        assert isinstance(graph, list)
        for work in graph:
            work()

    def close_graph(self, graph: object) -> None:
        del graph
        self.graphs -= 1


class Context:
    """Computes evidence from the frame's quarters, at the addresses it was told."""

    def __init__(self, memory: HostMemory) -> None:
        self.memory = memory
        self.addresses: dict[str, int] = {}
        self.enqueued = 0
        self.refuses: set[str] = set()
        self.drift = 0.0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        return "shape" not in self.refuses and (name, shape) == ("frames", (1, 4, 4))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return name not in self.refuses

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert stream_handle == 7
        self.enqueued += 1
        self.memory.enqueue(self._run)
        return "enqueue" not in self.refuses

    def _run(self) -> None:
        self.memory.now_ms += 5.0
        frame = self._view("frames").reshape(4, 4).astype(np.float32)
        quarters = frame.reshape(2, 2, 2, 2).mean(axis=(1, 3)) + self.drift
        evidence = np.stack([quarters, -quarters])
        self._view("evidence").view(np.float32)[:] = evidence.reshape(-1)
        self._view("logits").view(np.float32)[:] = evidence.mean(axis=(1, 2))

    def _view(self, name: str) -> npt.NDArray[np.uint8]:
        return self.memory.alive[self.addresses[name]]


def opened(memory: HostMemory, context: Any = None) -> tuple[Slot, Context]:
    context = context or Context(memory)
    return Slot(memory, context, PLANS), context


@pytest.mark.parametrize("graph", [True, False], ids=["graph", "eager"])
@pytest.mark.parametrize("integrated", [True, False], ids=["integrated", "discrete"])
def test_a_slot_answers_and_gives_everything_back(*, graph: bool, integrated: bool) -> None:
    memory = HostMemory(integrated=integrated)
    slot, context = opened(memory)
    slot.prepare(graph=graph)
    assert slot.uses_graph == graph
    frames_NHW = np.full((1, 4, 4), 9, np.uint8)
    before = context.enqueued
    for _ in range(3):
        slot.load(frames_NHW)
        slot.start()
        outputs = slot.finish()
    assert context.enqueued - before == (0 if graph else 3)
    assert outputs.logits.tolist() == [[9.0, -9.0]]
    np.testing.assert_array_equal(outputs.evidence.mean(axis=(2, 3)), outputs.logits)
    assert (memory.num_copies == 0) == integrated
    # One input and two results of 2 ms each, and what is copied within the host's memory, however busy that is.
    assert outputs.copy_ms is not None
    assert (0.0 if integrated else 6.0) <= outputs.copy_ms < 1000.0
    slot.close()
    assert not memory.alive
    assert not memory.streams
    assert not memory.graphs
    assert not memory.passed_ms


def test_answers_are_copies() -> None:
    slot, _ = opened(HostMemory())
    slot.prepare(graph=True)
    answers = []
    for value in (1, 2):
        slot.load(np.full((1, 4, 4), value, np.uint8))
        slot.start()
        answers.append(slot.finish())
    assert [one.logits[0, 0] for one in answers] == [1.0, 2.0]


class Empty(HostMemory):
    """Records nothing: what a capture on the wrong stream would do."""

    def launch(self, graph: object, stream: Stream) -> None:
        pass


class Failing(HostMemory):
    """Refuses to record."""

    def capture(self, stream: Stream, work: Callable[[], None]) -> object:
        del stream, work
        raise EngineError("the GPU could not record a graph (900)")


class Drifting(HostMemory):
    """Replays something else than it recorded."""

    def launch(self, graph: object, stream: Stream) -> None:
        super().launch(graph, stream)
        for array in self.alive.values():
            array[:] = array + 1


@pytest.mark.parametrize(
    ("memory", "sentence"),
    [
        (Empty(), "first replay differs from the eager run by 1"),
        (Failing(), r"could not record a graph"),
        (Drifting(), "first replay differs"),
        (HostMemory(has_graphs=False), "cannot record one"),
    ],
    ids=["empty", "failing", "drifting", "no graphs"],
)
def test_a_doubtful_graph_is_not_used(memory: HostMemory, sentence: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        slot, _ = opened(memory)
        slot.prepare(graph=True)
    assert not slot.uses_graph
    assert "no CUDA graph" in caplog.text
    assert any(sentence in line for line in caplog.messages)
    slot.load(np.full((1, 4, 4), 3, np.uint8))
    slot.start()
    assert slot.finish().logits[0, 0] == 3.0
    assert not memory.graphs


class Unmarked(HostMemory):
    """Takes no time, at all or in a graph."""

    def __init__(self, *, only_in_graph: bool) -> None:
        super().__init__()
        self.only_in_graph = only_in_graph

    def mark(self, mark: object, stream: Stream) -> None:
        if self.recording is not None or not self.only_in_graph:
            raise EngineError("the GPU could not take the time (1)")
        super().mark(mark, stream)


class Markless(HostMemory):
    """Has one mark to give."""

    def open_mark(self) -> object:
        if self.passed_ms:
            raise EngineError("the GPU could not make a mark (2)")
        return super().open_mark()


class Timeless(HostMemory):
    """Does not tell the time between marks."""

    def ms_between(self, first: object, last: object) -> float:
        del first, last
        raise EngineError("the GPU could not tell how long it took (400)")


@pytest.mark.parametrize(
    "memory",
    [Unmarked(only_in_graph=True), Unmarked(only_in_graph=False), Markless(), Timeless()],
    ids=["none in graphs", "none", "one alone", "no difference"],
)
def test_copies_that_cannot_be_timed_cost_neither_engine_nor_graph(
    memory: HostMemory, caplog: pytest.LogCaptureFixture
) -> None:
    slot, _ = opened(memory)
    with caplog.at_level(logging.WARNING):
        slot.prepare(graph=True)
    assert slot.uses_graph
    assert len([line for line in caplog.messages if "are not timed: the GPU could not" in line]) == 1
    slot.load(np.full((1, 4, 4), 3, np.uint8))
    slot.start()
    outputs = slot.finish()
    assert (outputs.logits[0, 0], outputs.copy_ms) == (3.0, None)
    slot.close()
    assert not memory.passed_ms


@pytest.mark.parametrize("what", ["shape", "frames", "logits", "evidence"])
def test_a_refused_tensor_leaves_nothing_allocated(what: str) -> None:
    memory = HostMemory()
    context = Context(memory)
    context.refuses.add(what)
    with pytest.raises(EngineError, match="refuses the"):
        Slot(memory, context, PLANS)
    assert not memory.alive
    assert not memory.streams


def test_full_memory_leaves_nothing_allocated() -> None:
    memory = HostMemory(room=40)
    with pytest.raises(EngineError, match="allocate"):
        opened(memory)
    assert not memory.alive


def test_work_that_cannot_be_enqueued_is_an_error() -> None:
    memory = HostMemory()
    context = Context(memory)
    slot, _ = opened(memory, context)
    context.refuses.add("enqueue")
    with pytest.raises(EngineError, match="could not enqueue"):
        slot.prepare(graph=True)
    slot.close()
    assert not memory.alive
