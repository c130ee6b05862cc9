"""GPU memory, streams and graphs behind one small interface; cuda-python provides it, pycuda may.

cuda-python is the default: it is maintained by NVIDIA, comes as wheels for x86-64 and Jetson, imports without a driver
and answers with error codes, each of which is checked here. pycuda serves those who have it already; it has no graphs.
Sources: https://docs.nvidia.com/cuda/cuda-runtime-api/ and the CUDA for Tegra application note (zero copy).
"""

import ctypes
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, NoReturn, Protocol

import numpy as np
import numpy.typing as npt

from hffnet.runtime.engines.driver import probe_gpu
from hffnet.runtime.errors import EngineError, MissingExtraError

Wait = Literal["auto", "spin", "block"]
"""How the CPU waits for the GPU: spinning answers soonest, blocking leaves the core to others."""


@dataclass(frozen=True, slots=True)
class HostBuffer:
    """Page-locked memory of the host.

    Attributes:
        array: (n,) uint8 view of it.
        device_address: where the GPU sees it, on an integrated GPU; None on a card of its own.
        owner: what the provider needs to free it.
    """

    array: npt.NDArray[np.uint8]
    device_address: int | None
    owner: object


@dataclass(frozen=True, slots=True)
class Stream:
    """A non-default stream; ``address`` is what TensorRT takes."""

    handle: Any
    address: int


class DeviceMemory(Protocol):
    """What an engine needs of a GPU. Every method raises EngineError, naming action and code, where the GPU refuses."""

    @property
    def integrated(self) -> bool:
        """Whether host and GPU share one memory, so that nothing needs to be copied."""

    @property
    def has_graphs(self) -> bool:
        """Whether ``capture`` works."""

    def use_in_this_thread(self) -> None:
        """Make the GPU's context current in the calling thread; to be called before anything else there."""

    def free_bytes(self) -> int:
        """Memory that is free on the GPU."""

    def allocate(self, num_bytes: int) -> int:
        """Address of new GPU memory."""

    def free(self, address: int) -> None:
        """Give GPU memory back."""

    def allocate_host(self, num_bytes: int) -> HostBuffer:
        """New page-locked memory, mapped for the GPU where it is integrated."""

    def free_host(self, buffer: HostBuffer) -> None:
        """Give page-locked memory back."""

    def open_stream(self) -> Stream:
        """A stream that does not wait for the default one."""

    def close_stream(self, stream: Stream) -> None:
        """Give a stream back."""

    def copy_to_device(self, address: int, source: HostBuffer, stream: Stream) -> None:
        """Enqueue a copy of the whole buffer."""

    def copy_to_host(self, target: HostBuffer, address: int, stream: Stream) -> None:
        """Enqueue a copy that fills the whole buffer."""

    def open_mark(self) -> object:
        """A new mark of time."""

    def mark(self, mark: object, stream: Stream) -> None:
        """Enqueue it: it takes the time when the GPU gets there, in a recorded graph at each launch."""

    def ms_between(self, first: object, last: object) -> float:
        """Milliseconds of the GPU between two marks that it has passed."""

    def close_mark(self, mark: object) -> None:
        """Give a mark back."""

    def synchronize(self, stream: Stream) -> None:
        """Wait until everything enqueued is done."""

    def capture(self, stream: Stream, work: Callable[[], None]) -> object:
        """Record what ``work`` enqueues, as an executable graph; nothing runs."""

    def launch(self, graph: object, stream: Stream) -> None:
        """Enqueue a recorded graph."""

    def close_graph(self, graph: object) -> None:
        """Give a graph back."""


def open_device_memory(wait: Wait = "auto") -> DeviceMemory:
    """Memory of the first GPU, through cuda-python, else through pycuda.

    Raises:
        EngineError: no driver or no GPU.
        MissingExtraError: neither library is installed.
    """
    probe_gpu()
    if is_module_found("cuda.bindings.runtime"):
        return CudaPythonMemory(wait)
    if is_module_found("pycuda.driver"):
        return PycudaMemory(wait)
    raise MissingExtraError("no library for GPU memory is installed: pip install 'cuda-bindings>=12.9,<14'")


def is_module_found(module: str) -> bool:
    """Whether a module could be imported; nothing of it runs but its parent packages."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


class CudaPythonMemory:
    """Through ``cuda.bindings.runtime``; uses the primary context, as TensorRT itself does."""

    has_graphs = True

    def __init__(self, wait: Wait) -> None:
        from cuda.bindings import runtime

        self._cuda = runtime
        flags = {
            "auto": runtime.cudaDeviceScheduleAuto,
            "spin": runtime.cudaDeviceScheduleSpin,
            "block": runtime.cudaDeviceScheduleBlockingSync,
        }
        self._call("choose the first GPU", runtime.cudaSetDevice(0))
        self._call("set how to wait", runtime.cudaSetDeviceFlags(flags[wait] | runtime.cudaDeviceMapHost))
        attribute = runtime.cudaDeviceAttr.cudaDevAttrIntegrated
        (integrated,) = self._call("describe the GPU", runtime.cudaDeviceGetAttribute(attribute, 0))
        self.integrated = bool(integrated)

    def _call(self, action: str, result: tuple[Any, ...]) -> tuple[Any, ...]:
        """Values of a result whose first entry is an error code."""
        code, *values = result
        if int(code) != 0:
            _refuse(action, f"{code.name}, {int(code)}")
        return tuple(values)

    def use_in_this_thread(self) -> None:
        """See ``DeviceMemory``."""
        self._call("choose the first GPU", self._cuda.cudaSetDevice(0))

    def free_bytes(self) -> int:
        """See ``DeviceMemory``."""
        return int(self._call("tell its free memory", self._cuda.cudaMemGetInfo())[0])

    def allocate(self, num_bytes: int) -> int:
        """See ``DeviceMemory``."""
        return int(self._call(f"allocate {num_bytes} bytes", self._cuda.cudaMalloc(num_bytes))[0])

    def free(self, address: int) -> None:
        """See ``DeviceMemory``."""
        self._call("free memory", self._cuda.cudaFree(address))

    def allocate_host(self, num_bytes: int) -> HostBuffer:
        """See ``DeviceMemory``."""
        flags = self._cuda.cudaHostAllocMapped if self.integrated else self._cuda.cudaHostAllocDefault
        (host,) = self._call(f"lock {num_bytes} bytes", self._cuda.cudaHostAlloc(num_bytes, flags))
        device = None
        if self.integrated:
            device = int(self._call("map host memory", self._cuda.cudaHostGetDevicePointer(host, 0))[0])
        view = (ctypes.c_uint8 * num_bytes).from_address(int(host))
        return HostBuffer(np.ctypeslib.as_array(view), device, host)

    def free_host(self, buffer: HostBuffer) -> None:
        """See ``DeviceMemory``."""
        self._call("free host memory", self._cuda.cudaFreeHost(buffer.owner))

    def open_stream(self) -> Stream:
        """See ``DeviceMemory``."""
        created = self._cuda.cudaStreamCreateWithFlags(self._cuda.cudaStreamNonBlocking)
        (handle,) = self._call("open a stream", created)
        return Stream(handle, int(handle))

    def close_stream(self, stream: Stream) -> None:
        """See ``DeviceMemory``."""
        self._call("close a stream", self._cuda.cudaStreamDestroy(stream.handle))

    def copy_to_device(self, address: int, source: HostBuffer, stream: Stream) -> None:
        """See ``DeviceMemory``."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        copied = self._cuda.cudaMemcpyAsync(address, source.owner, source.array.nbytes, kind, stream.handle)
        self._call("copy a frame to the GPU", copied)

    def copy_to_host(self, target: HostBuffer, address: int, stream: Stream) -> None:
        """See ``DeviceMemory``."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        copied = self._cuda.cudaMemcpyAsync(target.owner, address, target.array.nbytes, kind, stream.handle)
        self._call("copy a result from the GPU", copied)

    def open_mark(self) -> object:
        """See ``DeviceMemory``."""
        (event,) = self._call("make a mark of time", self._cuda.cudaEventCreate())
        return event

    def mark(self, mark: object, stream: Stream) -> None:
        """See ``DeviceMemory``."""
        (status,) = self._call("tell whether it records", self._cuda.cudaStreamIsCapturing(stream.handle))
        is_recording = status == self._cuda.cudaStreamCaptureStatus.cudaStreamCaptureStatusActive
        # Without the flag a captured event is only an order between streams and has no time; outside it is not allowed.
        flag = self._cuda.cudaEventRecordExternal if is_recording else self._cuda.cudaEventRecordDefault
        self._call("take the time", self._cuda.cudaEventRecordWithFlags(mark, stream.handle, flag))

    def ms_between(self, first: object, last: object) -> float:
        """See ``DeviceMemory``."""
        return float(self._call("tell how long it took", self._cuda.cudaEventElapsedTime(first, last))[0])

    def close_mark(self, mark: object) -> None:
        """See ``DeviceMemory``."""
        self._call("free a mark of time", self._cuda.cudaEventDestroy(mark))

    def synchronize(self, stream: Stream) -> None:
        """See ``DeviceMemory``."""
        self._call("finish its work", self._cuda.cudaStreamSynchronize(stream.handle))

    def capture(self, stream: Stream, work: Callable[[], None]) -> object:
        """See ``DeviceMemory``."""
        # Thread-local: other threads may go on allocating while this one records.
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("begin to record a graph", self._cuda.cudaStreamBeginCapture(stream.handle, mode))
        try:
            work()
        except BaseException:
            self._cuda.cudaStreamEndCapture(stream.handle)  # leaves capture mode; its code repeats what went wrong
            raise
        (graph,) = self._call("end recording a graph", self._cuda.cudaStreamEndCapture(stream.handle))
        try:
            (executable,) = self._call("instantiate a graph", self._cuda.cudaGraphInstantiate(graph, 0))
        finally:
            self._call("free a graph", self._cuda.cudaGraphDestroy(graph))
        return executable

    def launch(self, graph: object, stream: Stream) -> None:
        """See ``DeviceMemory``."""
        self._call("launch a graph", self._cuda.cudaGraphLaunch(graph, stream.handle))

    def close_graph(self, graph: object) -> None:
        """See ``DeviceMemory``."""
        self._call("free a graph", self._cuda.cudaGraphExecDestroy(graph))


class PycudaMemory:
    """Through ``pycuda.driver``, on the primary context that TensorRT uses too; without graphs."""

    has_graphs = False

    def __init__(self, wait: Wait) -> None:
        self._cuda: Any = import_module("pycuda.driver")
        self._pushed = threading.local()
        self._allocations: dict[int, Any] = {}
        try:
            self._cuda.init()
            device = self._cuda.Device(0)
            self._context = device.retain_primary_context()
        except self._cuda.Error as error:
            _refuse("start through pycuda", str(error))
        if wait != "auto":
            raise EngineError(f"wait={wait!r} needs cuda-python: pip install 'cuda-bindings>=12.9,<14'")
        self.integrated = bool(device.get_attribute(self._cuda.device_attribute.INTEGRATED))
        self.use_in_this_thread()

    def _call(self, action: str, function: Callable[..., Any], *arguments: object, **options: object) -> Any:  # noqa: ANN401
        try:
            return function(*arguments, **options)
        except self._cuda.Error as error:
            _refuse(action, str(error))

    def use_in_this_thread(self) -> None:
        """See ``DeviceMemory``."""
        if not getattr(self._pushed, "done", False):
            self._call("be used in a thread", self._context.push)
            self._pushed.done = True

    def free_bytes(self) -> int:
        """See ``DeviceMemory``."""
        return int(self._call("tell its free memory", self._cuda.mem_get_info)[0])

    def allocate(self, num_bytes: int) -> int:
        """See ``DeviceMemory``."""
        allocation = self._call(f"allocate {num_bytes} bytes", self._cuda.mem_alloc, num_bytes)
        self._allocations[int(allocation)] = allocation
        return int(allocation)

    def free(self, address: int) -> None:
        """See ``DeviceMemory``."""
        self._call("free memory", self._allocations.pop(address).free)

    def allocate_host(self, num_bytes: int) -> HostBuffer:
        """See ``DeviceMemory``."""
        flags = self._cuda.host_alloc_flags.DEVICEMAP if self.integrated else 0
        array = self._call(f"lock {num_bytes} bytes", self._cuda.pagelocked_empty, num_bytes, np.uint8, mem_flags=flags)
        device = int(self._call("map host memory", array.base.get_device_pointer)) if self.integrated else None
        return HostBuffer(array, device, array.base)

    def free_host(self, buffer: HostBuffer) -> None:
        """See ``DeviceMemory``."""
        owner: Any = buffer.owner
        self._call("free host memory", owner.free)

    def open_stream(self) -> Stream:
        """See ``DeviceMemory``."""
        handle = self._call("open a stream", self._cuda.Stream)
        return Stream(handle, int(handle.handle))

    def close_stream(self, stream: Stream) -> None:
        """See ``DeviceMemory``: pycuda destroys it with the last reference."""

    def copy_to_device(self, address: int, source: HostBuffer, stream: Stream) -> None:
        """See ``DeviceMemory``."""
        self._call("copy a frame to the GPU", self._cuda.memcpy_htod_async, address, source.array, stream=stream.handle)

    def copy_to_host(self, target: HostBuffer, address: int, stream: Stream) -> None:
        """See ``DeviceMemory``."""
        self._call(
            "copy a result from the GPU", self._cuda.memcpy_dtoh_async, target.array, address, stream=stream.handle
        )

    def open_mark(self) -> object:
        """See ``DeviceMemory``."""
        return self._call("make a mark of time", self._cuda.Event)

    def mark(self, mark: object, stream: Stream) -> None:
        """See ``DeviceMemory``."""
        event: Any = mark
        self._call("take the time", event.record, stream.handle)

    def ms_between(self, first: object, last: object) -> float:
        """See ``DeviceMemory``."""
        event: Any = first
        return float(self._call("tell how long it took", event.time_till, last))

    def close_mark(self, mark: object) -> None:
        """See ``DeviceMemory``: pycuda destroys it with the last reference."""

    def synchronize(self, stream: Stream) -> None:
        """See ``DeviceMemory``."""
        self._call("finish its work", stream.handle.synchronize)

    def capture(self, stream: Stream, work: Callable[[], None]) -> object:
        """Not possible; see ``has_graphs``."""
        del stream, work
        _refuse("record a graph", "pycuda has no graphs")

    def launch(self, graph: object, stream: Stream) -> None:
        """Not possible; see ``has_graphs``."""
        del graph, stream
        _refuse("launch a graph", "pycuda has no graphs")

    def close_graph(self, graph: object) -> None:
        """Not possible; see ``has_graphs``."""
        del graph
        _refuse("free a graph", "pycuda has no graphs")


def _refuse(action: str, reason: str) -> NoReturn:
    raise EngineError(
        f"the GPU could not {action} ({reason}); close other programs that use it, see nvidia-smi or tegrastats,"
        " or use --engine openvino or onnxruntime"
    )
