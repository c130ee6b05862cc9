"""The TensorRT engine around its slots, on memory of the host: order, overlap, keep-warm, refusals, giving back.

The library is stood in for by the few calls that are used of it, as without a GPU it can make no engine; the real one
runs in the tests marked ``gpu``.
"""

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hffnet.runtime.engines import tensorrt
from hffnet.runtime.engines.device_memory import PycudaMemory, Stream
from hffnet.runtime.engines.driver import Gpu
from hffnet.runtime.engines.flavour import TENSORRT, TENSORRT_RTX
from hffnet.runtime.engines.slot import TensorPlan
from hffnet.runtime.engines.tensorrt import GpuSettings, TensorRtEngine
from hffnet.runtime.errors import ConfigError, EngineError
from tests.runtime.test_tensorrt_slots import PLANS, Context, HostMemory

GPU = Gpu(name="A4000", compute_capability=(8, 6), memory_bytes=1, integrated=False, cuda_version=(13, 0))


class Watched(HostMemory):
    """Tells when work was enqueued and when it was waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[str, int]] = []
        self.enqueued = threading.Semaphore(0)

    def open_stream(self) -> Stream:
        super().open_stream()
        return Stream(self.streams, 7)  # the handle numbers the slot

    def launch(self, graph: object, stream: Stream) -> None:
        super().launch(graph, stream)
        self.events.append(("start", stream.handle))
        self.enqueued.release()

    def synchronize(self, stream: Stream) -> None:
        self.events.append(("finish", stream.handle))


class ILogger:
    ERROR, INTERNAL_ERROR, WARNING = "error", "internal", "warning"

    def __init__(self) -> None:
        pass


class Engine:
    """What a deserialised engine tells of itself."""

    def __init__(self, memory: HostMemory, plans: tuple[TensorPlan, ...] = PLANS) -> None:
        self._memory, self._plans = memory, {plan.name: plan for plan in plans}
        self.num_io_tensors = len(plans)
        self.contexts: list[Context] = []

    def get_tensor_name(self, number: int) -> str:
        return list(self._plans)[number]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._plans[name].shape

    def get_tensor_dtype(self, name: str) -> np.dtype[Any]:
        return self._plans[name].dtype

    def get_tensor_mode(self, name: str) -> str:
        return "input" if self._plans[name].is_input else "output"

    def create_execution_context(self) -> Context:
        self.contexts.append(Context(self._memory))
        return self.contexts[-1]


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Watched:
    memory = Watched()
    monkeypatch.setattr(tensorrt, "probe_gpu", lambda: GPU)
    monkeypatch.setattr(tensorrt, "open_device_memory", lambda _: memory)
    return memory


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, memory: Watched) -> SimpleNamespace:
    """The library; its runtime hands out ``library.engine``, whatever the bytes."""
    library = SimpleNamespace(
        __version__="11.4.0",
        ILogger=ILogger,
        TensorIOMode=SimpleNamespace(INPUT="input"),
        nptype=lambda dtype: dtype,
        engine=Engine(memory),
    )
    library.Runtime = lambda _: SimpleNamespace(deserialize_cuda_engine=lambda _: library.engine)
    monkeypatch.setattr(tensorrt, "import_flavour", lambda _: library)
    return library


def opened(settings: GpuSettings | None = None) -> TensorRtEngine:
    return TensorRtEngine(b"engine", TENSORRT, "fp16", settings or GpuSettings())


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("num_slots", [1, 2, 3])
def test_answers_come_in_the_order_of_the_frames_and_slots_overlap(memory: Watched, num_slots: int) -> None:
    engine = opened(GpuSettings(num_slots=num_slots))
    memory.events.clear()
    frames_NHW = np.stack([np.full((4, 4), value, np.uint8) for value in range(1, 6)])
    outputs = engine.infer(frames_NHW)
    assert outputs.logits[:, 0].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert outputs.evidence.shape == (5, 2, 2, 2)
    before_first_finish = [what for what, _ in memory.events].index("finish")
    assert before_first_finish == num_slots, "as many frames are in flight as there are slots"
    assert {slot for _, slot in memory.events} == set(range(1, num_slots + 1)), "each on a stream of its own"
    assert outputs.copy_ms is not None
    assert 5 * 6.0 <= outputs.copy_ms < 1000.0, "one input and two results of each frame, 2 ms each"
    engine.close()
    assert not memory.alive
    assert not memory.streams
    assert not memory.graphs


@pytest.mark.usefixtures("library")
def test_an_idle_engine_is_kept_warm_until_it_is_closed(memory: Watched) -> None:
    engine = opened(GpuSettings(keep_warm_seconds=0.01))
    for _ in range(3):
        assert memory.enqueued.acquire(timeout=30), "nothing ran though nobody asked for anything"
    engine.close()
    assert not [thread for thread in threading.enumerate() if thread is engine._warmer]
    assert not memory.alive


@pytest.mark.parametrize(
    ("plans", "sentence"),
    [
        (PLANS[:2], r"has the tensors .* expected \['evidence', 'frames', 'logits'\]: build it again"),
        (
            (*PLANS[:2], SimpleNamespace(name="evidence", shape=(4, 2, 2, 2), dtype=np.float32, is_input=False)),
            "one frame",
        ),
    ],
    ids=["tensors", "batch"],
)
def test_an_engine_of_another_form_is_refused(
    library: SimpleNamespace, memory: Watched, plans: tuple[TensorPlan, ...], sentence: str
) -> None:
    library.engine = Engine(memory, plans)
    with pytest.raises(EngineError, match=sentence):
        opened()
    assert not memory.alive


@pytest.mark.usefixtures("memory")
def test_an_engine_that_cannot_be_loaded_is_refused_with_the_librarys_words(library: SimpleNamespace) -> None:
    def runtime(log: Any) -> SimpleNamespace:
        def deserialize(_: object) -> None:
            log.log("error", "Serialization assertion stdVersionRead == kSERIALIZATION_VERSION failed")

        return SimpleNamespace(deserialize_cuda_engine=deserialize)

    library.Runtime = runtime
    with pytest.raises(
        EngineError, match=r"TensorRT 11\.4\.0 on A4000 cannot load the engine: Serialization assertion"
    ):
        opened()


@pytest.mark.usefixtures("memory")
def test_an_engine_for_another_gpu_is_refused_before_it_is_loaded(library: SimpleNamespace) -> None:
    members = {"UNSUPPORTED_CC": 4, "OLD_CUDA_DRIVER": 8}
    library.EngineValidity = SimpleNamespace(INVALID="invalid")
    library.EngineInvalidityDiagnostics = SimpleNamespace(__members__=members)
    library.Runtime = lambda _: SimpleNamespace(get_engine_validity=lambda _: ("invalid", 12))
    with pytest.raises(EngineError, match=r"refuses the engine: unsupported cc, old cuda driver \(sm86\)"):
        TensorRtEngine(b"engine", TENSORRT_RTX, "fp16", GpuSettings())


def test_no_memory_for_a_context_is_a_sentence(library: SimpleNamespace, memory: Watched) -> None:
    library.engine.create_execution_context = lambda: None
    with pytest.raises(EngineError, match="fewer slots or a smaller batch need less memory"):
        opened()
    assert not memory.alive


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [({"num_slots": 0}, "1 to 8"), ({"num_slots": 9}, "1 to 8"), ({"keep_warm_seconds": 0.0}, "positive")],
)
def test_wrong_settings(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        GpuSettings(**settings)


BUFFER, STREAM = SimpleNamespace(array=None), SimpleNamespace(handle=1)


class CudaError(Exception):
    """As ``pycuda.driver.Error``."""


def failing(*_: object, **__: object) -> None:
    raise CudaError("cuInit failed: no CUDA-capable device is detected")


def test_pycuda_that_cannot_start_is_refused_with_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(Error=CudaError, init=failing)
    monkeypatch.setattr("hffnet.runtime.engines.device_memory.import_module", lambda _: module)
    with pytest.raises(EngineError, match=r"could not start through pycuda \(cuInit failed: no CUDA-capable device"):
        PycudaMemory("auto")


@pytest.mark.parametrize(
    ("call", "action"),
    [
        (lambda memory: memory.free_bytes(), "tell its free memory"),
        (lambda memory: memory.allocate(64), "allocate 64 bytes"),
        (lambda memory: memory.allocate_host(64), "lock 64 bytes"),
        (lambda memory: memory.open_stream(), "open a stream"),
        (
            lambda memory: memory.copy_to_device(1, SimpleNamespace(array=None), SimpleNamespace(handle=1)),
            "copy a frame",
        ),
        (
            lambda memory: memory.copy_to_host(SimpleNamespace(array=None), 1, SimpleNamespace(handle=1)),
            "copy a result",
        ),
        (lambda memory: memory.open_mark(), "make a mark of time"),
        (lambda memory: memory.mark(SimpleNamespace(record=failing), STREAM), "take the time"),
        (lambda memory: memory.ms_between(SimpleNamespace(time_till=failing), None), "tell how long it took"),
        (lambda memory: memory.capture(None, None), "record a graph"),
        (lambda memory: memory.launch(None, None), "launch a graph"),
    ],
    ids=[
        *("free", "allocate", "lock", "stream", "to device", "to host"),
        *("mark", "take", "between", "capture", "launch"),
    ],
)
def test_every_call_of_pycuda_is_checked(call: Any, action: str) -> None:
    copies = ("memcpy_htod_async", "memcpy_dtoh_async")
    names = ("Event", "mem_get_info", "mem_alloc", "pagelocked_empty", "Stream", *copies)
    memory = object.__new__(PycudaMemory)  # opening would be refused already
    memory._cuda = SimpleNamespace(Error=CudaError, **dict.fromkeys(names, failing))
    memory.integrated = False
    with pytest.raises(EngineError, match=rf"could not {action}"):
        call(memory)
