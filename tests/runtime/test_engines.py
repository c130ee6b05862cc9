"""Engines prove themselves, agree with each other, are chosen by measurement, and are refused with a sentence."""

import logging
import shutil
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from hffnet.runtime.bundle import open_bundle
from hffnet.runtime.engines import EngineName, open_engine, openvino
from hffnet.runtime.engines.cache import EngineCache
from hffnet.runtime.engines.choice import open_quickest, remembered_choice
from hffnet.runtime.engines.device_memory import open_device_memory
from hffnet.runtime.engines.driver import probe_gpu
from hffnet.runtime.engines.flavour import TENSORRT_RTX, check_driver, is_installed
from hffnet.runtime.engines.opening import OpenSettings, candidates_for
from hffnet.runtime.engines.tensorrt import GpuSettings, TensorRtEngine
from hffnet.runtime.errors import BundleError, ConfigError, EngineError, MissingExtraError
from hffnet.runtime.manifest import Precision
from tests.tiny import tiny_graph, write_tiny_bundle

CPU: tuple[EngineName, ...] = ("onnxruntime", "openvino")


def gpu_is_here() -> bool:
    try:
        probe_gpu()
    except EngineError:
        return False
    return True


no_driver = pytest.mark.skipif(gpu_is_here(), reason="there is a GPU with its driver")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("engine", CPU)
def test_cpu_engines_agree_with_the_reference(
    network_bundle_path: Path, engine: EngineName, precision: Precision
) -> None:
    bundle = open_bundle(network_bundle_path)
    frames_NHW, logits_NC = bundle.vectors()
    with open_engine(bundle, engine=engine, precision=precision, threads=1) as opened:
        outputs = opened.infer(frames_NHW)
        identity = opened.identity
    assert identity.precision == precision
    assert identity.self_test.passed
    assert identity.self_test.cosine > 0.99
    assert identity.self_test.num_frames == len(frames_NHW)
    scale = np.abs(logits_NC).max()
    assert np.abs(outputs.logits - logits_NC).max() / scale <= identity.self_test.tolerance
    # The mean of the evidence is the answer: an engine that reorders sums differs in the last bits only.
    np.testing.assert_allclose(outputs.evidence.mean(axis=(2, 3)), outputs.logits, atol=float(1e-2 * scale))


@pytest.mark.parametrize("engine", CPU)
def test_threads_may_share_an_engine(network_bundle_path: Path, engine: EngineName) -> None:
    bundle = open_bundle(network_bundle_path)
    frames_NHW = np.random.default_rng(5).integers(0, 256, (8, 64, 64), dtype=np.uint8)
    with open_engine(bundle, engine=engine, precision="int8", threads=1) as opened:
        alone = [opened.infer(frame[None]) for frame in frames_NHW]
        with ThreadPoolExecutor(4) as pool:
            order = [n for _ in range(6) for n in range(len(frames_NHW))]
            together = list(pool.map(lambda n: opened.infer(frames_NHW[n][None]), order))
    for n, outputs in zip(order, together, strict=True):
        np.testing.assert_array_equal(outputs.logits, alone[n].logits)
        np.testing.assert_array_equal(outputs.evidence, alone[n].evidence)


@pytest.mark.parametrize("engine", CPU)
def test_a_corrupted_graph_fails_its_self_test(tmp_path: Path, engine: EngineName) -> None:
    model = tiny_graph(np.random.default_rng(0).normal(size=(1, 5)) * 4)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "weight")
    values = onnx.numpy_helper.to_array(weight).copy()
    values[2] *= -1
    weight.CopyFrom(onnx.numpy_helper.from_array(values, "weight"))
    bundle = open_bundle(write_tiny_bundle(tmp_path / "corrupted.hffnet", model=model))
    with pytest.raises(EngineError, match=r"test vectors with an error of .* at most 0\.02 is allowed"):
        open_engine(bundle, engine=engine)


@pytest.mark.parametrize("engine", CPU)
def test_a_closed_engine_says_so(bundle_path: Path, engine: EngineName) -> None:
    opened = open_engine(open_bundle(bundle_path), engine=engine)
    opened.close()
    opened.close()
    with pytest.raises(EngineError, match="was closed"):
        opened.infer(np.zeros((1, 32, 32), dtype=np.uint8))


@pytest.mark.parametrize(
    ("settings", "error", "sentence"),
    [
        ({"engine": "coreml"}, ConfigError, "expected one of auto, tensorrt"),
        ({"threads": 0}, ConfigError, "at least 1"),
        ({"precision": "fp16"}, BundleError, r"holds fp32 \(cpu\), and no fp16 graph"),
        ({"engine": "onnxruntime", "precision": "int8"}, BundleError, "export the bundle with it"),
    ],
    ids=["engine", "threads", "precision", "precision of one engine"],
)
def test_wrong_wishes(bundle_path: Path, settings: dict[str, object], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        open_engine(open_bundle(bundle_path), **settings)  # type: ignore[arg-type]


def test_auto_takes_the_quickest_and_remembers(
    bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HFFNET_CACHE_DIR", str(tmp_path))
    bundle, settings = open_bundle(bundle_path), OpenSettings(threads=1)
    candidates = candidates_for(bundle, "auto", "auto")
    assert remembered_choice(bundle, candidates, settings) is None
    with open_engine(bundle, threads=1) as opened:
        first = opened.identity.name
    choice = remembered_choice(bundle, candidates, settings)
    assert choice is not None
    assert choice.winner is not None
    assert choice.winner.engine == first
    assert {row.engine for row in choice.rows if row.median_ms} >= set(CPU)
    # Two engines meet in one comparison, so the quicker of its two medians has won.
    assert choice.winner.median_ms == min(row.median_ms for row in choice.rows if row.median_ms)
    assert [row.chosen for row in choice.rows].count(True) == 1
    (stored,) = tmp_path.glob("choice-*.sealed")
    written = stored.stat().st_ino  # a file that is written anew is another file
    with open_engine(bundle, threads=1) as opened:
        assert opened.identity.name == first
    assert stored.stat().st_ino == written


def test_a_damaged_memory_is_measured_again(
    bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HFFNET_CACHE_DIR", str(tmp_path))
    bundle = open_bundle(bundle_path)
    open_engine(bundle, threads=1).close()
    (stored,) = tmp_path.glob("choice-*.sealed")
    stored.write_bytes(stored.read_bytes()[:-1] + b"x")
    open_engine(bundle, threads=1).close()
    assert "will be made anew" in caplog.text


@no_driver
@pytest.mark.tensorrt
@pytest.mark.skipif(not is_installed(TENSORRT_RTX), reason=f"no TensorRT-RTX: {TENSORRT_RTX.install}")
def test_that_there_is_no_gpu_is_said_once_and_calmly(
    network_bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HFFNET_CACHE_DIR", str(tmp_path))
    caplog.set_level(logging.INFO, logger="hffnet.runtime.engines.choice")
    bundle, said = open_bundle(network_bundle_path), list[list[str]]()
    for _ in ("measured", "remembered"):
        caplog.clear()
        with open_engine(bundle, threads=1) as opened:
            assert opened.identity.name in CPU
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
        said.append([line for line in caplog.messages if "no NVIDIA GPU here: tensorrt-rtx stay unused" in line])
    assert [len(lines) for lines in said] == [1, 0]


@no_driver
@pytest.mark.parametrize(
    "action",
    [
        probe_gpu,
        open_device_memory,
        lambda: TensorRtEngine(b"vtrt", TENSORRT_RTX, "fp16", GpuSettings()),
    ],
    ids=["probe", "memory", "engine"],
)
def test_without_a_driver_everything_of_the_gpu_says_so(action: Callable[[], object]) -> None:
    with pytest.raises(EngineError, match="no NVIDIA driver on this machine"):
        action()


@no_driver
@pytest.mark.tensorrt
def test_tensorrt_asked_for_without_a_driver(network_bundle_path: Path) -> None:
    with pytest.raises((EngineError, MissingExtraError), match=r"no NVIDIA driver|is not installed"):
        open_engine(open_bundle(network_bundle_path), engine="tensorrt-rtx", precision="fp16")


_DRIVER = """
int cuInit(unsigned flags) { return INIT; }
int cuDriverGetVersion(int *version) { *version = 12080; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 8 : attribute == 76 ? 7 : 1;
    return 0;
}
int cuDeviceTotalMem_v2(unsigned long *bytes, int device) { *bytes = 8UL << 30; return 0; }
int cuDeviceGetName(char *name, int length, int device) { name[0] = 'O'; name[1] = 0; return 0; }
"""


def _driver_library(folder: Path, init: int) -> str:
    """A shared library with the driver's five functions: ctypes calls it as it would call the real one."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc) to make a driver library from")
    source, library = folder / "driver.c", folder / "libcuda-test.so"
    source.write_text(_DRIVER.replace("INIT", str(init)))
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    return str(library)


def test_the_probe_reads_the_driver(tmp_path: Path) -> None:
    gpu = probe_gpu(_driver_library(tmp_path, 0))
    assert (gpu.name, gpu.architecture, gpu.integrated) == ("O", "sm87", True)
    assert gpu.cuda_version == (12, 8)
    assert gpu.memory_bytes == 8 << 30


@pytest.mark.parametrize(
    ("code", "sentence"),
    [(35, "older than"), (100, "no GPU was found"), (803, "restart after the update"), (7, "CUDA error 7")],
)
def test_a_driver_that_refuses(tmp_path: Path, code: int, sentence: str) -> None:
    with pytest.raises(EngineError, match=sentence):
        probe_gpu(_driver_library(tmp_path, code))


@pytest.mark.tensorrt
@pytest.mark.skipif(not is_installed(TENSORRT_RTX), reason=f"no TensorRT-RTX: {TENSORRT_RTX.install}")
def test_a_driver_older_than_the_library(tmp_path: Path) -> None:
    gpu = probe_gpu(_driver_library(tmp_path, 0))
    with pytest.raises(EngineError, match=r"driver serves CUDA 12\.8, but TensorRT-RTX .* update the driver"):
        check_driver(TENSORRT_RTX, gpu)
    check_driver(TENSORRT_RTX, replace(gpu, cuda_version=(13, 0)))


def test_compiled_openvino_models_are_kept_sealed(
    network_bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(openvino, "WORTH_KEEPING_SECONDS", 0.0)
    bundle, cache = open_bundle(network_bundle_path), EngineCache(tmp_path)
    graph, frames_NHW = bundle.member("graphs/int8-cpu.onnx"), bundle.vectors()[0]
    first = openvino.OpenVinoEngine(graph, 1, cache).infer(frames_NHW)
    (stored,) = tmp_path.glob("openvino-*.sealed")
    again = openvino.OpenVinoEngine(graph, 1, cache).infer(frames_NHW)
    np.testing.assert_allclose(again.logits, first.logits, rtol=1e-5)
    stored.write_bytes(stored.read_bytes()[:-1] + b"x")
    openvino.OpenVinoEngine(graph, 1, cache).infer(frames_NHW)
    assert "is not used and will be made anew" in caplog.text


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_tensorrt_on_a_gpu(network_bundle_path: Path, precision: Precision) -> None:
    bundle = open_bundle(network_bundle_path)
    frames_NHW, _ = bundle.vectors()
    for engine in ("tensorrt", "tensorrt-rtx"):
        try:
            opened = open_engine(bundle, engine=engine, precision=precision, gpu=GpuSettings(keep_warm_seconds=0.1))
        except (EngineError, MissingExtraError) as error:
            continue_reason = str(error)
            continue
        with opened:
            alone = np.concatenate([opened.infer(frame[None]).logits for frame in frames_NHW])
            np.testing.assert_array_equal(opened.infer(frames_NHW).logits, alone)
            assert opened.identity.self_test.flips == 0
        return
    pytest.skip(continue_reason)


def test_a_single_candidate_is_not_timed(bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HFFNET_CACHE_DIR", str(tmp_path))
    bundle = open_bundle(bundle_path)
    open_quickest(bundle, candidates_for(bundle, "onnxruntime", "auto"), OpenSettings()).close()
    assert not list(tmp_path.glob("choice-*"))


def test_engines_open_in_any_thread(bundle_path: Path) -> None:
    bundle, results = open_bundle(bundle_path), list[int]()

    def work() -> None:
        with open_engine(bundle, engine="onnxruntime") as opened:
            results.append(len(opened.infer(bundle.vectors()[0]).logits))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [4, 4]
