"""The C++ runtime, configured and built once under build/, where there is what it takes."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PRESET = os.environ.get("HFFNET_CPP_PRESET", "dev")
"""``HFFNET_CPP_PRESET=asan pytest tests/parity`` runs the comparison under the sanitizers."""

BUILD = ROOT / "build" / PRESET
PROGRAMS = ("cmake", "ctest", "ninja", "pkg-config", "c++")
PACKAGES = ("libzip", "libtiff-4", "libpng", "libjpeg", "libcrypto", "nlohmann_json", "catch2", "stb")


@dataclass(frozen=True, slots=True)
class CppRuntime:
    """What was built."""

    build: Path

    @property
    def classify(self) -> Path:
        return self.build / "runtime" / "cpp" / "hffnet-classify-cpp"

    @property
    def kernel_parity(self) -> Path:
        return self.build / "tests" / "runtime" / "cpp" / "hffnet-kernel-parity"

    def answers(self, questions: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """The parity program's answer to each question."""
        lines = "".join(json.dumps(question) + "\n" for question in questions)
        program = self.build / "tests" / "runtime" / "cpp" / "hffnet-parity"
        done = subprocess.run([program], input=lines, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert not done.stderr, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]


def run(*command: object) -> str:
    """Run a build step; its last output becomes the failure's text."""
    done = subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{(done.stdout + done.stderr)[-6000:]}"
    return done.stdout


def missing() -> list[str]:
    """What a build needs and this machine lacks."""
    lacking = [name for name in PROGRAMS if shutil.which(name) is None]
    if "pkg-config" not in lacking:
        lacking += [
            name for name in PACKAGES if subprocess.run(["pkg-config", "--exists", name], check=False).returncode
        ]
    return lacking + ([] if find_spec("openvino") else ["openvino (pip install 'hffnet[openvino]')"])


@dataclass(frozen=True, slots=True)
class GpuToolchain:
    """What compiles the GPU parts, where it is; none of it needs a GPU.

    Attributes:
        tensorrt, cuda: folders of headers.
    """

    tensorrt: Path | None
    cuda: Path | None
    nvcc: Path | None


def found_gpu_toolchain() -> GpuToolchain:
    """Installed, or fetched into build/gpu by .ci/gpu-toolchain; ``TENSORRT_INCLUDE_DIR`` names other headers."""
    fetched = ROOT / "build" / "gpu"
    headers = [
        Path(os.environ.get("TENSORRT_INCLUDE_DIR", "/nowhere")),
        fetched / "tensorrt/kernel_lens/include/tensorrt",
    ]
    toolkits = [Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")), fetched / "cuda/nvidia/cu13"]
    return GpuToolchain(
        tensorrt=next((folder for folder in headers if (folder / "NvInfer.h").is_file()), None),
        cuda=next((kit / "include" for kit in toolkits if (kit / "include" / "cuda.h").is_file()), None),
        nvcc=next((kit / "bin" / "nvcc" for kit in toolkits if (kit / "bin" / "nvcc").is_file()), None),
    )


@pytest.fixture(scope="session")
def gpu_toolchain() -> GpuToolchain:
    return found_gpu_toolchain()


def configure(preset: str, *definitions: str) -> Path:
    """Configure a preset with what this machine has; its build folder."""
    spec = find_spec("openvino")
    assert spec is not None
    assert spec.origin is not None
    toolchain = found_gpu_toolchain()
    given = [f"-DOpenVINO_DIR={Path(spec.origin).parent / 'cmake'}", *definitions]
    if toolchain.tensorrt is not None:
        given.append(f"-DTENSORRT_INCLUDE_DIR={toolchain.tensorrt}")
    if toolchain.cuda is not None:
        given.append(f"-DCUDA_INCLUDE_DIR={toolchain.cuda}")
    run("cmake", "--preset", preset, *given)
    return ROOT / "build" / preset


def cuda_definitions() -> list[str]:
    """The kernels are compiled too where nvcc is; sanitizers are not for its code."""
    nvcc = found_gpu_toolchain().nvcc
    if nvcc is None or PRESET == "asan":
        return []
    return ["-DHFFNET_CUDA=ON", f"-DHFFNET_NVCC={nvcc}", f"-DCMAKE_CUDA_COMPILER={nvcc}"]


@pytest.fixture(scope="session")
def cpp() -> CppRuntime:
    if lacking := missing():
        pytest.skip(f"the C++ runtime is not built, missing: {', '.join(lacking)} (docs/how-to/cpp-runtime.md)")
    configure(PRESET, *cuda_definitions())
    run("cmake", "--build", "--preset", PRESET, "--parallel", "2")
    return CppRuntime(BUILD)
