"""The TensorRT engine in C++ on machines that cannot run it: what is refused, how it is said, what auto does then."""

import os
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from hffnet.runtime.engines.driver import probe_gpu
from hffnet.runtime.errors import EngineError
from tests.parity.conftest import CppRuntime, GpuToolchain

pytestmark = pytest.mark.timeout(900)  # the first test that runs builds the C++ runtime


def has_driver() -> bool:
    try:
        probe_gpu()
    except EngineError:
        return False
    return True


no_driver = pytest.mark.skipif(has_driver(), reason="this machine has an NVIDIA driver")


@pytest.fixture
def tensorrt(cpp: CppRuntime, gpu_toolchain: GpuToolchain) -> CppRuntime:
    if gpu_toolchain.tensorrt is None or gpu_toolchain.cuda is None:
        pytest.skip("no headers of TensorRT and CUDA to compile the engine with: .ci/gpu-toolchain fetches them")
    return cpp


@pytest.fixture
def frame(tmp_path: Path) -> Path:
    path = tmp_path / "frame.png"
    picture = np.random.default_rng(3).integers(0, 256, (90, 120), np.uint8)
    cv2.imwrite(str(path), cv2.GaussianBlur(picture, (0, 0), 2))
    return path


def classify(
    cpp: CppRuntime,
    bundle: Path,
    frame: Path,
    engine: str,
    libraries: dict[str, str] | None = None,
    folder: Path | None = None,
) -> tuple[int, str, str]:
    """Exit code, stdout, stderr, with the build's refusing libraries under the names that the engine looks for."""
    environment = dict(os.environ)
    if folder is not None:
        for name, fake in (libraries or {}).items():
            shutil.copy(cpp.build / "tests" / "runtime" / "cpp" / "fakes" / f"lib{fake}.so", folder / name)
        environment["LD_LIBRARY_PATH"] = str(folder)
    words = [str(cpp.classify), "--engine", engine, "--precision", "fp32", str(bundle), str(frame)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@no_driver
def test_asked_for_without_a_driver(tensorrt: CppRuntime, bundle_path: Path, frame: Path) -> None:
    code, stdout, stderr = classify(tensorrt, bundle_path, frame, "tensorrt")
    assert (code, stdout) == (4, "")
    with pytest.raises(EngineError) as refused:
        probe_gpu()
    assert stderr == f"hffnet: {refused.value}\n".replace("openvino or onnxruntime", "openvino")


@no_driver
def test_auto_without_a_driver_says_nothing(tensorrt: CppRuntime, bundle_path: Path, frame: Path) -> None:
    code, stdout, stderr = classify(tensorrt, bundle_path, frame, "auto")
    assert (code, stderr) == (0, "")
    assert '"openvino' in stdout


@no_driver
@pytest.mark.parametrize(
    ("libraries", "sentence"),
    [
        ({"libcuda.so.1": "cuda-100"}, "the NVIDIA driver cannot start (CUDA error 100: no GPU was found)"),
        ({"libcuda.so.1": "cuda-0"}, "TensorRT is not on this machine (libnvinfer.so.10"),
        (
            {"libcuda.so.1": "cuda-0", "libnvinfer.so.10": "nvinfer-80601"},
            "libnvinfer.so.10 is TensorRT 8.6.1, but this hffnet was built for 10.x",
        ),
        (
            {"libcuda.so.1": "cuda-0", "libnvinfer.so.11": "nvinfer-110400"},
            "TensorRT 11 is on this machine, but this hffnet was built for TensorRT 10.x",
        ),
        (
            {"libcuda.so.1": "cuda-0", "libnvinfer.so.10": "nvinfer-100300"},
            "is TensorRT 10.3.0, older than the headers that this hffnet was built with (10.14.1)",
        ),
    ],
    ids=["no GPU", "no TensorRT", "other major inside", "other major beside", "older"],
)
def test_what_does_not_fit(
    tensorrt: CppRuntime, bundle_path: Path, frame: Path, tmp_path: Path, libraries: dict[str, str], sentence: str
) -> None:
    code, stdout, stderr = classify(tensorrt, bundle_path, frame, "tensorrt", libraries, tmp_path)
    assert (code, stdout) == (4, "")
    assert sentence in stderr
    code, stdout, stderr = classify(tensorrt, bundle_path, frame, "auto", libraries, tmp_path)
    assert code == 0
    assert stderr.startswith("hffnet: tensorrt fp32 is passed over: ")
    assert sentence in stderr
    assert '"openvino' in stdout


def test_a_bundle_without_a_graph_for_it(tensorrt: CppRuntime, bundle_path: Path, frame: Path) -> None:
    words = [str(tensorrt.classify), "--engine", "tensorrt", str(bundle_path), str(frame)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "holds fp32 (cpu), and no graph that tensorrt can run" in done.stderr


def test_the_program_needs_no_gpu_library_to_start(tensorrt: CppRuntime) -> None:
    done = subprocess.run(["readelf", "--dynamic", tensorrt.build / "runtime/cpp/libhffnet.so"], capture_output=True,
                          text=True, check=True)  # fmt: skip
    assert not [name for name in ("nvinfer", "nvonnxparser", "libcuda", "libcudart") if name in done.stdout]
