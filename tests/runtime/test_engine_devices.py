"""One library, several devices: what ``--engine NAME:DEVICE`` means, and that nothing else is taken in its place."""

import logging
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from hffnet.runtime.bundle import Bundle, open_bundle
from hffnet.runtime.engines import open_engine
from hffnet.runtime.engines import openvino as openvino_engine
from hffnet.runtime.engines.builder import BuildOptions
from hffnet.runtime.engines.cache import EngineCache, EngineKey
from hffnet.runtime.engines.choice import _warn_of_loss, measured_choice, open_quickest
from hffnet.runtime.engines.driver import Gpu, NoGpuError, probe_gpu
from hffnet.runtime.engines.flavour import TENSORRT_LEAN, is_installed
from hffnet.runtime.engines.onnxruntime import OnnxRuntimeEngine
from hffnet.runtime.engines.onnxruntime_providers import PROVIDERS, check_placement, options_with_provider
from hffnet.runtime.engines.opening import OpenSettings, candidates_for, stored_for_lean
from hffnet.runtime.engines.sealed_folder import sealed_folder
from hffnet.runtime.engines.target import devices_to_try, engine_texts, target_from_text
from hffnet.runtime.errors import ConfigError, EngineError, MissingExtraError
from hffnet.runtime.run_settings import EngineChoice
from tests.runtime.test_engine_cache import KEY, Builds

GPU = Gpu(name="A4000", compute_capability=(8, 6), memory_bytes=1, integrated=False, cuda_version=(13, 0))


@pytest.fixture
def bundle(network_bundle_path: Path) -> Bundle:
    return open_bundle(network_bundle_path)


def test_everything_that_may_be_said_is_understood() -> None:
    for text in engine_texts():
        engine, device = target_from_text(text)
        assert text == (engine if device is None else f"{engine}:{device}")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("tensorflow", "expected one of auto, tensorrt"),
        ("openvino:tpu", "expected openvino:cpu, openvino:gpu"),
        ("onnxruntime:rocm", "expected onnxruntime:cpu, onnxruntime:cuda"),
        ("tensorrt:0", "has only one; leave out ':0'"),
        ("openvino:", "names a device that is not known"),
        ("torch-tensorrt", "compiles a checkpoint, not a bundle"),
    ],
)
def test_unknown_engines_and_devices(bundle: Bundle, text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        open_engine(bundle, engine=text)
    with pytest.raises(ValueError, match=sentence):
        EngineChoice(name=text)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt", "nv-tensorrt-rtx"])
def test_a_provider_that_this_build_lacks_is_refused_and_not_replaced(bundle: Bundle, provider: str) -> None:
    if provider in devices_to_try("onnxruntime"):
        pytest.skip(f"this build of ONNX Runtime has {provider}")
    with pytest.raises(MissingExtraError, match=r"(has no \w+Provider, only .*|plugin .* not installed): .*--engine"):
        open_engine(bundle, engine=f"onnxruntime:{provider}")


@pytest.mark.parametrize("device", ["gpu", "gpu.1", "npu"])
def test_an_openvino_device_that_is_not_here_is_refused_and_not_replaced(bundle: Bundle, device: str) -> None:
    import openvino

    if any(one.lower().startswith(device[:3]) for one in openvino.Core().available_devices):
        pytest.skip(f"OpenVINO has a {device} here")
    with pytest.raises(EngineError, match=rf"sees no {device.upper()} on this machine, only CPU: install Intel's"):
        open_engine(bundle, engine=f"openvino:{device}", precision="fp16")


def test_what_is_tried_in_order(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hffnet.runtime.engines.target._has_provider", lambda _: True)
    texts = [f"{one.text} {one.graph.precision}" for one in candidates_for(bundle, "onnxruntime", "auto")]
    assert texts == [
        "onnxruntime:nv-tensorrt-rtx fp16",
        "onnxruntime:nv-tensorrt-rtx int8",
        "onnxruntime:tensorrt fp16",
        "onnxruntime:tensorrt int8",
        "onnxruntime:cuda fp16",
        "onnxruntime:cuda int8",
        "onnxruntime int8",
    ]
    named = candidates_for(bundle, "openvino:gpu", "fp32")
    assert [(one.device, one.graph.precision, one.graph.family) for one in named] == [("gpu", "fp32", "cpu")]


def test_precision_is_the_graphs_and_never_a_flag() -> None:
    """With trt_fp16_enable or trt_int8_enable the provider would leave strong typing."""
    for device, provider in PROVIDERS.items():
        options = onnxruntime.SessionOptions()
        if device == "nv-tensorrt-rtx":
            assert not any("fp16" in key or "int8" in key for key in provider.options)
            continue
        chosen = options_with_provider(device, options, 224, Path("/cache"))
        assert chosen[-1] == ("CPUExecutionProvider", {})
        flat = {key: value for _, one in chosen for key, value in one.items()}
        assert not any("fp16" in key or "int8" in key for key in flat)
        assert flat.get("use_tf32", "0") == "0"
        if device == "tensorrt":
            assert flat["trt_engine_cache_path"] == flat["trt_timing_cache_path"] == "/cache"
            assert flat["trt_profile_max_shapes"] == "frames:1x224x224"


def test_a_provider_that_left_the_work_to_the_cpu_is_refused(bundle: Bundle) -> None:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    graph = bundle.member("graphs/fp32-cpu.onnx")
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    assert check_placement(session, "cpu")["CPUExecutionProvider"] > 20
    with pytest.raises(EngineError, match="could not start CUDAExecutionProvider and would have used CPU"):
        check_placement(session, "cuda")

    class Started:  # as a session whose provider started and then took nothing
        get_provider_graph_assignment_info = session.get_provider_graph_assignment_info

        @staticmethod
        def get_providers() -> list[str]:
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    with pytest.raises(EngineError, match=r"leaves .*\d+ Conv.* of the graph to CPUExecutionProvider"):
        check_placement(Started(), "cuda")


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_pinned_threads_answer_the_same(bundle: Bundle, engine: str) -> None:
    frames_NHW, _ = bundle.vectors()
    with open_engine(bundle, engine=engine, precision="fp32", threads=2) as free:
        expected = free.infer(frames_NHW).logits
    with open_engine(bundle, engine=engine, precision="fp32", threads=2, pin=True) as pinned:
        np.testing.assert_allclose(pinned.infer(frames_NHW).logits, expected, rtol=1e-4, atol=1e-4)


def test_a_pinned_session_names_a_core_for_each_thread_it_makes(bundle: Bundle) -> None:
    engine = OnnxRuntimeEngine(bundle.member("graphs/fp32-cpu.onnx"), 3, pin=True)
    assert engine._session is not None
    entry = engine._session.get_session_options().get_session_config_entry("session.intra_op_thread_affinities")
    assert len(entry.split(";")) == 2
    assert all(int(core) >= 1 for core in entry.split(";"))


def test_openvino_computes_what_the_precision_says(bundle: Bundle) -> None:
    import openvino

    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    for precision, wanted, capability in (("fp32", "f32", "FP32"), ("fp16", "f16", "FP16"), ("int8", "bf16", "BF16")):
        family = "tensorrt" if precision == "fp16" else "cpu"
        engine = openvino_engine.OpenVinoEngine(bundle.member(f"graphs/{precision}-{family}.onnx"), 1)
        assert engine.arithmetic == (wanted if capability in able else "f32")
        engine.close()


def test_files_of_a_library_are_handed_back_only_as_they_were_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = EngineCache(tmp_path / "cache")
    with sealed_folder(cache, "ort") as folder:
        assert folder is not None
        (folder / "a.engine").write_bytes(b"native code")
    with sealed_folder(cache, "ort") as folder:
        assert folder is not None
        assert (folder / "a.engine").read_bytes() == b"native code"
    assert not caplog.messages
    for spoil in (
        lambda: (folder / "a.engine").write_bytes(b"foreign code"),
        lambda: (folder / "b.engine").write_bytes(b"one more"),
        lambda: (folder / "c.engine").symlink_to("/etc/hostname"),
    ):
        caplog.clear()
        spoil()
        with sealed_folder(cache, "ort") as again:
            assert again is not None
            assert list(again.iterdir()) == []
            (again / "a.engine").write_bytes(b"native code")
        (line,) = caplog.messages
        assert "not as this machine left them" in line


def test_folders_count_towards_the_size_of_the_cache(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path / "cache", max_bytes=20_000)
    with sealed_folder(cache, "old") as folder:
        assert folder is not None
        (folder / "a.engine").write_bytes(bytes(15_000))
    cache.engine(KEY, Builds(size=10_000))
    assert not folder.exists()


def test_an_unusable_cache_gives_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with sealed_folder(EngineCache(tmp_path / "file"), "ort") as folder:
        assert folder is None


def test_the_loss_of_an_engine_that_worked_is_loud(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Yesterday a GPU engine was the quickest; today its driver is gone, which by itself would be said calmly."""
    monkeypatch.setenv("HFFNET_CACHE_DIR", str(tmp_path))
    candidates, settings = candidates_for(bundle, "auto", "auto"), OpenSettings(threads=1)
    choice, opened = measured_choice(bundle, candidates, settings, seconds=0.01)
    assert opened is not None
    opened.close()
    row = choice.rows[0].model_copy(update={"target": "tensorrt", "chosen": True, "refused": None, "device": "A4000"})
    _warn_of_loss(EngineCache(tmp_path), bundle, choice.model_copy(update={"rows": (row,)}))
    assert not caplog.messages
    gone = row.model_copy(update={"chosen": False, "refused": "there is no NVIDIA driver", "no_gpu": True})
    rows = (gone, *(one for one in choice.rows if one.chosen))
    _warn_of_loss(EngineCache(tmp_path), bundle, choice.model_copy(update={"rows": rows}))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "tensorrt (" in record.message
    assert "was used here before and is refused now: there is no NVIDIA driver" in record.message
    caplog.clear()
    open_quickest(bundle, candidates, settings).close()
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


def test_the_lean_runtime_takes_only_version_compatible_engines_of_this_cache(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path / "cache")
    assert stored_for_lean(cache, "a" * 64, "11.4.0", GPU) is None
    key = EngineKey(
        onnx_sha256="a" * 64, library="tensorrt", library_version="1.7.1", gpu="A4000 sm86", options=BuildOptions()
    )
    cache.engine(key, Builds())
    assert stored_for_lean(cache, "a" * 64, "11.4.0", GPU) is None, "not built to be version-compatible"


@pytest.mark.parametrize(
    ("built_by", "runtime", "runs"),
    [("10.16.1", "11.4.0", True), ("11.4.0", "11.4.0.106", True), ("11.4.0", "10.16.1", False)],
    ids=["older", "same", "newer than the runtime"],
)
def test_versions_that_the_lean_runtime_runs(tmp_path: Path, built_by: str, runtime: str, *, runs: bool) -> None:
    cache = EngineCache(tmp_path / "cache")
    options = BuildOptions(version_compatible=True)
    key = EngineKey(
        onnx_sha256="a" * 64, library="tensorrt", library_version=built_by, gpu="A4000 sm86", options=options
    )
    builds = Builds(version=built_by)
    cache.engine(key, builds)
    stored = stored_for_lean(cache, "a" * 64, runtime, GPU)
    assert (stored is not None) is runs


def test_the_lean_runtime_is_opened_like_any_other(bundle: Bundle) -> None:
    if is_installed(TENSORRT_LEAN):
        with pytest.raises(EngineError, match=r"no NVIDIA driver|builds no engines|refuses"):
            open_engine(bundle, engine="tensorrt-lean", precision="fp16")
    else:
        with pytest.raises(MissingExtraError, match="tensorrt-lean-cu13"):
            open_engine(bundle, engine="tensorrt-lean")


def test_no_gpu_is_told_from_a_broken_driver() -> None:
    try:
        probe_gpu()
    except NoGpuError:
        assert issubclass(NoGpuError, EngineError)
    except EngineError:
        pytest.skip("there is a driver, and it is broken")
    else:
        pytest.skip("there is a GPU")
