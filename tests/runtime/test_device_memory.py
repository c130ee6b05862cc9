"""Every call of cuda-python is checked: without a driver each one is refused with a sentence that names it."""

from collections.abc import Callable

import numpy as np
import pytest

from hffnet.runtime.engines.device_memory import CudaPythonMemory, HostBuffer, Stream, open_device_memory
from hffnet.runtime.engines.driver import probe_gpu
from hffnet.runtime.errors import EngineError

runtime = pytest.importorskip("cuda.bindings.runtime", reason="no cuda-bindings: pip install 'cuda-bindings>=12.9,<14'")


def gpu_is_here() -> bool:
    try:
        probe_gpu()
    except EngineError:
        return False
    return True


no_driver = pytest.mark.skipif(gpu_is_here(), reason="there is a GPU with its driver")
STREAM = Stream(runtime.cudaStream_t(0), 0)
BUFFER = HostBuffer(np.zeros(8, np.uint8), None, 4096)


def nothing() -> None:
    """Enqueues nothing."""


@no_driver
@pytest.mark.parametrize("wait", ["auto", "spin", "block"])
def test_opening_names_the_code(wait: str) -> None:
    with pytest.raises(EngineError, match=r"choose the first GPU \(cudaErrorInsufficientDriver, 35\)"):
        CudaPythonMemory(wait)  # type: ignore[arg-type]


@no_driver
@pytest.mark.parametrize(
    ("call", "action"),
    [
        (lambda memory: memory.use_in_this_thread(), "choose the first GPU"),
        (lambda memory: memory.free_bytes(), "tell its free memory"),
        (lambda memory: memory.allocate(64), "allocate 64 bytes"),
        (lambda memory: memory.free(4096), "free memory"),
        (lambda memory: memory.allocate_host(64), "lock 64 bytes"),
        (lambda memory: memory.free_host(BUFFER), "free host memory"),
        (lambda memory: memory.open_stream(), "open a stream"),
        (lambda memory: memory.close_stream(STREAM), "close a stream"),
        (lambda memory: memory.copy_to_device(4096, BUFFER, STREAM), "copy a frame to the GPU"),
        (lambda memory: memory.copy_to_host(BUFFER, 4096, STREAM), "copy a result from the GPU"),
        (lambda memory: memory.open_mark(), "make a mark of time"),
        (lambda memory: memory.mark(runtime.cudaEvent_t(0), STREAM), "tell whether it records"),
        (lambda memory: memory.ms_between(runtime.cudaEvent_t(0), runtime.cudaEvent_t(0)), "tell how long it took"),
        (lambda memory: memory.close_mark(runtime.cudaEvent_t(0)), "free a mark of time"),
        (lambda memory: memory.synchronize(STREAM), "finish its work"),
        (lambda memory: memory.capture(STREAM, nothing), "begin to record a graph"),
        (lambda memory: memory.launch(runtime.cudaGraphExec_t(0), STREAM), "launch a graph"),
        (lambda memory: memory.close_graph(runtime.cudaGraphExec_t(0)), "free a graph"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("integrated", [True, False], ids=["integrated", "discrete"])
def test_every_call_is_checked(call: Callable[[CudaPythonMemory], object], action: str, *, integrated: bool) -> None:
    memory = object.__new__(CudaPythonMemory)  # opening would be refused already
    memory._cuda = runtime
    memory.integrated = integrated
    with pytest.raises(EngineError, match=rf"{action} \(cudaErrorInsufficientDriver, 35\)"):
        call(memory)


@pytest.mark.gpu
@pytest.mark.skipif(not gpu_is_here(), reason="no GPU with its driver")
def test_copies_and_graphs_on_a_gpu() -> None:
    memory = open_device_memory()
    stream, source, target = memory.open_stream(), memory.allocate_host(1024), memory.allocate_host(1024)
    address = memory.allocate(1024)
    before, after = memory.open_mark(), memory.open_mark()

    def there_and_back() -> None:
        memory.mark(before, stream)
        memory.copy_to_device(address, source, stream)
        memory.copy_to_host(target, address, stream)
        memory.mark(after, stream)

    graph = memory.capture(stream, there_and_back)
    for value in (3, 4):
        source.array.fill(value)
        memory.launch(graph, stream)
        memory.synchronize(stream)
        assert (target.array == value).all()
        assert 0 < memory.ms_between(before, after) < 1000
    there_and_back()
    memory.synchronize(stream)
    assert 0 < memory.ms_between(before, after) < 1000
    memory.close_graph(graph)
    memory.close_mark(before)
    memory.close_mark(after)
    memory.free(address)
    memory.free_host(source)
    memory.free_host(target)
    memory.close_stream(stream)
