"""The kernels' arithmetic against Python's preprocess on real and odd frames; by the kernels where a GPU is."""

import json
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from hffnet.runtime.preprocess import PreprocessSpec, preprocess
from hffnet.runtime.read import read_frame
from tests.parity.conftest import CppRuntime, cuda_definitions, run

pytestmark = pytest.mark.timeout(900)  # the first test that runs builds the C++ runtime
ARCHITECTURES = {"75", "86", "87", "89", "90", "110", "120"}
NO_GPU = 77


def answers(program: Path, pictures: list[npt.NDArray[Any]], folder: Path, *options: str) -> subprocess.Popen[str]:
    """Run the program on pictures, each with a border that the crop leaves out; inputs go to ``folder/N.out``."""
    lines = []
    for number, picture in enumerate(pictures):
        whole = cv2.copyMakeBorder(picture, 3, 9, 5, 2, cv2.BORDER_REFLECT_101 if min(picture.shape[:2]) > 9 else 0)
        whole.tofile(folder / f"{number}.pixels")
        question = {
            "pixels": str(folder / f"{number}.pixels"),
            "out": str(folder / f"{number}.out"),
            "dtype": whole.dtype.name,
            "height": whole.shape[0],
            "width": whole.shape[1],
            "channels": 1 if whole.ndim == 2 else 3,
            "crop": [3, 5, *picture.shape[:2]],
            "size": 224,
        }
        lines.append(json.dumps(question) + "\n")
    child = subprocess.Popen([program, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    child.communicate("".join(lines))
    return child


def largest_difference(pictures: list[npt.NDArray[Any]], folder: Path) -> int:
    differences = []
    for number, picture in enumerate(pictures):
        grey: npt.NDArray[Any] = picture if picture.ndim == 2 else np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY))
        expected = preprocess(grey, PreprocessSpec(size=224)).astype(int)
        found = np.fromfile(folder / f"{number}.out", np.uint8).reshape(224, 224)
        differences.append(int(np.abs(found - expected).max()))
    return max(differences)


def odd_pictures() -> list[npt.NDArray[Any]]:
    """8 and 16 bit, grey and colour, shrinking and growing, one of a palette's few levels."""
    rng = np.random.default_rng(5)
    shapes = [(1, 1), (31, 500), (223, 225), (224, 224), (449, 671), (884, 1024)]
    pictures: list[npt.NDArray[Any]] = []
    for height, width in shapes:
        smooth = cv2.GaussianBlur(rng.normal(size=(height, width, 3)), (0, 0), 2)
        levels = (smooth - smooth.min()) / max(float(np.ptp(smooth)), 1e-9)
        for dtype, top in ((np.uint8, 255), (np.uint16, 60_000)):
            colour = (levels * top).astype(dtype)
            pictures += [colour, np.ascontiguousarray(colour[..., 0])]
    return [*pictures, rng.choice(np.array([0, 51, 102, 255], np.uint8), (300, 400))]


def test_kernel_code_gives_pythons_input(cpp: CppRuntime, tmp_path: Path) -> None:
    pictures = odd_pictures()
    assert answers(cpp.kernel_parity, pictures, tmp_path).returncode == 0
    assert largest_difference(pictures, tmp_path) <= 1


def test_kernel_code_on_vendor_frames(cpp: CppRuntime, shared: Path, tmp_path: Path) -> None:
    paths = [path for path in sorted((shared / "data" / "vendor_tiff").rglob("*.tif")) if path.parent.name != "broken"]
    pictures = [np.ascontiguousarray(read_frame(path).picture) for path in paths]
    assert pictures
    assert answers(cpp.kernel_parity, pictures, tmp_path).returncode == 0
    assert largest_difference(pictures, tmp_path) <= 1


@pytest.fixture
def kernels(cpp: CppRuntime) -> CppRuntime:
    """The build, where it has the kernels."""
    if not cuda_definitions():
        pytest.skip("no nvcc to compile the kernels with: .ci/gpu-toolchain fetches it, or install the CUDA toolkit")
    return cpp


def test_the_kernels_are_there_for_every_gpu(kernels: CppRuntime) -> None:
    cache = (kernels.build / "CMakeCache.txt").read_text()
    (line,) = (line for line in cache.splitlines() if line.startswith("CMAKE_CUDA_ARCHITECTURES:"))
    assert {word.removesuffix("-real") for word in line.partition("=")[2].split(";")} >= ARCHITECTURES
    library = kernels.build / "runtime" / "cpp" / "cuda" / "libhffnet_cuda.so"
    needed = run("readelf", "--dynamic", library)
    assert "libhffnet.so" in needed
    assert "libcudart" not in needed
    assert "libcuda.so" not in needed


def test_the_kernels_give_pythons_input(kernels: CppRuntime, tmp_path: Path) -> None:
    pictures = odd_pictures()
    child = answers(kernels.kernel_parity, pictures, tmp_path, "--gpu")
    if child.returncode == NO_GPU:
        pytest.skip("the kernels were compiled but not run: there is no GPU on this machine")
    assert child.returncode == 0
    assert largest_difference(pictures, tmp_path) <= 1


def test_the_gpu_programs_say_that_there_is_no_gpu(kernels: CppRuntime) -> None:
    tests = kernels.build / "tests" / "runtime" / "cpp" / "hffnet-gpu-tests"
    done = subprocess.run([tests], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        assert done.stdout == "all as on the CPU\n"
        return
    assert done.returncode == NO_GPU, done.stderr
    benchmark = kernels.build / "runtime" / "cpp" / "cuda" / "hffnet-cuda-benchmark"
    refused = subprocess.run([benchmark], capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stdout) == (4, "")
    assert "there is no GPU on this machine that CUDA can use" in refused.stderr
