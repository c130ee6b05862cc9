"""One engine cache for both runtimes: what one of them seals the other believes, and neither believes anything else."""

import logging
import subprocess
from pathlib import Path

import pytest

from hffnet.runtime.engines.cache import EngineCache
from tests.parity.conftest import CppRuntime

pytestmark = pytest.mark.timeout(900)  # the first test that runs builds the C++ runtime


def sealed(cpp: CppRuntime, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    program = cpp.build / "tests" / "runtime" / "cpp" / "hffnet-sealed"
    environment = {"HFFNET_CACHE_DIR": str(folder)}
    return subprocess.run([program, *words], env=environment, capture_output=True, text=True, check=False)


def test_python_believes_what_cpp_sealed(cpp: CppRuntime, tmp_path: Path) -> None:
    assert sealed(cpp, tmp_path / "cache", "write", "timings", "of one build").returncode == 0
    assert EngineCache(tmp_path / "cache").read("timings") == b"of one build"


def test_cpp_believes_what_python_sealed(cpp: CppRuntime, tmp_path: Path) -> None:
    EngineCache(tmp_path / "cache").write("timings", b"of one build")
    done = sealed(cpp, tmp_path / "cache", "read", "timings")
    assert (done.returncode, done.stdout, done.stderr) == (0, "of one build", "")


def test_neither_believes_a_changed_file(cpp: CppRuntime, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = EngineCache(tmp_path / "cache")
    cache.write("timings", b"of one build")
    path = tmp_path / "cache" / "timings.sealed"
    path.write_bytes(path.read_bytes().replace(b"one", b"two"))
    done = sealed(cpp, tmp_path / "cache", "read", "timings")
    assert done.returncode == 1
    with caplog.at_level(logging.WARNING):
        assert cache.read("timings") is None
    (record,) = caplog.records
    assert done.stderr == f"hffnet: {record.getMessage()}\n"
