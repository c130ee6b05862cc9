"""Is there an NVIDIA driver, and what does it drive? Asked of libcuda itself, before any other GPU library is touched.

TensorRT crashes instead of answering where the driver is absent (its lean 11.4 returns a runtime object that segfaults
when destroyed), so nothing of it is constructed before this probe succeeded. Uses the CUDA driver API through ctypes:
https://docs.nvidia.com/cuda/cuda-driver-api/.
"""

import ctypes
from dataclasses import dataclass

from hffnet.runtime.errors import EngineError

_LIBRARY = "libcuda.so.1"
_CUDA_ERRORS = {
    3: "the driver is being unloaded or is not initialised",
    34: "only a stub of the driver is installed",
    35: "the driver is older than this library of it",
    46: "the GPUs are busy or not available",
    100: "no GPU was found",
    101: "the GPU number is not valid",
    803: "driver and library are of different versions: restart after the update",
    804: "this GPU does not support the installed compatibility package",
    999: "unknown reason: see dmesg for messages of the kernel module",
}
_NO_GPU = 100
_COMPUTE_MAJOR, _COMPUTE_MINOR, _INTEGRATED = 75, 76, 18  # CUdevice_attribute


class NoGpuError(EngineError):
    """This machine has no NVIDIA GPU, or no driver for one: nothing is broken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU as its driver tells it.

    Attributes:
        compute_capability: e.g. (8, 9).
        memory_bytes: total; on an integrated GPU that is the machine's memory.
        integrated: shares its memory with the CPU (Jetson).
        cuda_version: newest CUDA the driver can serve, e.g. (13, 0).
    """

    name: str
    compute_capability: tuple[int, int]
    memory_bytes: int
    integrated: bool
    cuda_version: tuple[int, int]

    @property
    def architecture(self) -> str:
        """As compilers and TensorRT-RTX name it, e.g. ``sm89``."""
        return f"sm{self.compute_capability[0]}{self.compute_capability[1]}"


def probe_gpu(library: str = _LIBRARY) -> Gpu:
    """The first GPU that the driver shows (CUDA_VISIBLE_DEVICES chooses).

    Raises:
        NoGpuError: no driver, or the driver shows no GPU.
        EngineError: there is a driver, but it refuses to start; the sentence says why.
    """
    try:
        cuda = ctypes.CDLL(library)
    except OSError as error:
        raise NoGpuError(
            f"there is no NVIDIA driver on this machine ({error});"
            " install the driver, or use --engine openvino or onnxruntime"
        ) from error
    _check(cuda.cuInit(0), "start")
    return Gpu(
        name=_name(cuda),
        compute_capability=(_attribute(cuda, _COMPUTE_MAJOR), _attribute(cuda, _COMPUTE_MINOR)),
        memory_bytes=_total_memory(cuda),
        integrated=bool(_attribute(cuda, _INTEGRATED)),
        cuda_version=_cuda_version(cuda),
    )


def _check(code: int, action: str) -> None:
    if code:
        kind = NoGpuError if code == _NO_GPU else EngineError
        reason = _CUDA_ERRORS.get(code, "see the list of CUresult in the CUDA driver documentation")
        raise kind(
            f"the NVIDIA driver cannot {action} (CUDA error {code}: {reason}); run nvidia-smi to see its state,"
            " or use --engine openvino or onnxruntime"
        )


def _cuda_version(cuda: ctypes.CDLL) -> tuple[int, int]:
    version = ctypes.c_int()
    _check(cuda.cuDriverGetVersion(ctypes.byref(version)), "tell its version")
    return version.value // 1000, version.value % 1000 // 10


def _attribute(cuda: ctypes.CDLL, number: int) -> int:
    value = ctypes.c_int()
    _check(cuda.cuDeviceGetAttribute(ctypes.byref(value), number, 0), "describe the first GPU")
    return value.value


def _total_memory(cuda: ctypes.CDLL) -> int:
    value = ctypes.c_size_t()
    _check(cuda.cuDeviceTotalMem_v2(ctypes.byref(value), 0), "tell the memory of the first GPU")
    return value.value


def _name(cuda: ctypes.CDLL) -> str:
    text = ctypes.create_string_buffer(256)
    _check(cuda.cuDeviceGetName(text, len(text), 0), "name the first GPU")
    return text.value.decode(errors="replace")
