"""The kernel beside TensorRT: used where it runs, passed over with a sentence where it does not."""

import logging
import sys
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest

from hffnet.runtime import native
from hffnet.runtime.errors import EngineError
from hffnet.runtime.gpu_preprocess import preprocess_beside
from hffnet.runtime.preprocess import PreprocessSpec, preprocess

SPEC = PreprocessSpec(size=32)
PICTURE = np.random.default_rng(0).integers(0, 256, (40, 60), np.uint8)
KERNELS_ANSWER = np.full((32, 32), 9, np.uint8)


class Kernel:
    """Stands for the kernel on a GPU."""

    def __init__(self, size: int, low: float, high: float, min_span: float) -> None:
        assert (size, low, high, min_span) == (SPEC.size, SPEC.low, SPEC.high, SPEC.min_span)

    def preprocess(self, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Columns lie side by side, as the extension wants them."""
        assert picture.strides[1] == picture.itemsize
        return KERNELS_ANSWER


class AbsentKernel:
    """Stands for the kernel on a machine without a driver."""

    def __init__(self, *_: float) -> None:
        raise RuntimeError("there is no GPU on this machine that CUDA can use (no NVIDIA driver); use the CPU")


class FailingKernel(Kernel):
    """Stands for a GPU that is lost."""

    def preprocess(self, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """As the extension fails."""
        raise RuntimeError(f"the GPU could not take a copy of {picture.shape}")


def with_kernel(monkeypatch: pytest.MonkeyPatch, kernel: type, interface: int = native.INTERFACE) -> None:
    monkeypatch.delenv(native.VARIABLE, raising=False)
    module = ModuleType("hffnet.runtime._native_cuda")
    module.__dict__.update(INTERFACE=interface, GpuPreprocessor=kernel)
    monkeypatch.setitem(sys.modules, module.__name__, module)


def test_it_is_used_beside_tensorrt_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    with_kernel(monkeypatch, Kernel)
    for engine in ("tensorrt", "tensorrt-rtx", "tensorrt-lean"):
        assert preprocess_beside(engine, SPEC)(PICTURE[:, ::2]) is KERNELS_ANSWER
    for engine in ("openvino", "onnxruntime", "torch-tensorrt"):
        np.testing.assert_array_equal(preprocess_beside(engine, SPEC)(PICTURE), preprocess(PICTURE, SPEC))


def test_without_a_driver_the_cpu_prepares_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with_kernel(monkeypatch, AbsentKernel)
    np.testing.assert_array_equal(preprocess_beside("tensorrt", SPEC)(PICTURE), preprocess(PICTURE, SPEC))
    assert "prepared on the CPU: there is no GPU" in caplog.text


def test_a_gpu_that_fails_is_the_engines_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    with_kernel(monkeypatch, FailingKernel)
    with pytest.raises(EngineError, match="could not take a copy"):
        preprocess_beside("tensorrt", SPEC)(PICTURE)


@pytest.mark.parametrize("case", ["other sources", "switched off", "not built"])
def test_where_it_cannot_be_used_nothing_changes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    with_kernel(monkeypatch, Kernel, interface=0 if case == "other sources" else native.INTERFACE)
    if case == "switched off":
        monkeypatch.setenv(native.VARIABLE, "0")
    if case == "not built":
        monkeypatch.setitem(sys.modules, "hffnet.runtime._native_cuda", None)
    with caplog.at_level(logging.DEBUG):
        np.testing.assert_array_equal(preprocess_beside("tensorrt", SPEC)(PICTURE), preprocess(PICTURE, SPEC))
    assert case in caplog.text


def test_an_extension_that_is_not_there_is_not_called_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(native.VARIABLE, raising=False)
    monkeypatch.setitem(sys.modules, "hffnet.runtime._native", None)
    assert native.find_native() == (None, "not built")
