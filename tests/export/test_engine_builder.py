"""TensorRT-RTX engines are really built, without a GPU; what cannot be built is refused with a sentence."""

import hashlib
import os
import resource
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from hffnet.export.engine_builder import write_engine
from hffnet.runtime.bundle import open_bundle
from hffnet.runtime.engines import open_engine
from hffnet.runtime.engines.build_process import Phases, _set_timing_cache
from hffnet.runtime.engines.builder import BuildOptions, BuildProgress, architectures_from_text, engine_from_onnx
from hffnet.runtime.engines.driver import Gpu, probe_gpu
from hffnet.runtime.engines.flavour import (
    FLAVOURS,
    TENSORRT,
    TENSORRT_LEAN,
    TENSORRT_RTX,
    check_versions,
    import_flavour,
    is_installed,
)
from hffnet.runtime.engines.sidecar import Sidecar
from hffnet.runtime.errors import BundleError, ConfigError, EngineError, GraphError, MissingExtraError
from hffnet.runtime.manifest import Precision
from hffnet.train.model import small_config
from tests.networks import write_network_bundle
from tests.tiny import tiny_graph

RTX = BuildOptions(architectures=("sm86", "sm89", "sm120"))
needs_rtx = pytest.mark.skipif(not is_installed(TENSORRT_RTX), reason=f"no TensorRT-RTX: {TENSORRT_RTX.install}")


@pytest.fixture(scope="session")
def tiny_onnx() -> bytes:
    return bytes(tiny_graph(np.ones((1, 5))).SerializeToString())


def children() -> list[int]:
    """Build processes that this one started."""
    found = (int(child) for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())
    return [child for child in found if b"build_process" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.mark.tensorrt
@needs_rtx
@pytest.mark.parametrize(
    ("precision", "convolutions"),
    [
        ("fp32", {"fp32": 18}),
        ("fp16", {"fp16": 18}),
        ("int8", {"fp16": 1, "int8": 17}),
    ],  # the one that reads the picture
    ids=["fp32", "fp16", "int8"],
)
def test_engine_and_sidecar(
    network_bundle_path: Path, tmp_path: Path, precision: Precision, convolutions: dict[str, int]
) -> None:
    bundle = open_bundle(network_bundle_path)
    path = tmp_path / "nano.engine"
    seen = list[BuildProgress]()
    written = write_engine(bundle, path, TENSORRT_RTX, RTX, precision=precision, progress=seen.append)
    sidecar = Sidecar.model_validate_json((tmp_path / "nano.engine.json").read_text())
    assert sidecar == written
    assert sidecar.audit.precision == precision
    assert sidecar.audit.convolutions == convolutions
    assert sidecar.architectures == ("sm86", "sm89", "sm120")
    assert sidecar.gpu is None
    assert sidecar.engine_bytes == path.stat().st_size
    assert sidecar.onnx_sha256 in {member.sha256 for member in bundle.manifest.members}
    assert [(tensor.name, tensor.dtype, tensor.shape) for tensor in sidecar.inputs] == [
        ("frames", "uint8", (1, 64, 64))
    ]
    assert {tensor.name: tensor.shape for tensor in sidecar.outputs} == {"logits": (1, 5), "evidence": (1, 5, 2, 2)}
    shares = [one.share for one in seen]
    assert shares == sorted(shares)
    assert shares[-1] > 0.5
    assert sorted(file.name for file in tmp_path.iterdir()) == ["nano.engine", "nano.engine.json"]


@pytest.mark.tensorrt
@needs_rtx
def test_a_batch_profile_leaves_the_batch_open(tiny_onnx: bytes) -> None:
    options = BuildOptions(architectures=("sm89",), batch=(1, 4, 8))
    sidecar = engine_from_onnx(tiny_onnx, TENSORRT_RTX, options).sidecar
    assert sidecar.batch == (1, 4, 8)
    assert sidecar.inputs[0].shape == (-1, 32, 32)


def _with_unknown_operator(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.node[3].op_type = "Det"
    model.graph.node[3].name = "trunk/Det"
    return model


@pytest.mark.tensorrt
@needs_rtx
@pytest.mark.parametrize(
    ("model", "options", "sentence"),
    [
        (_with_unknown_operator(tiny_graph(np.ones((1, 5)))).SerializeToString(), RTX, r"node 'trunk/Det' \(Det\)"),
        (tiny_graph(np.ones((1, 5))).SerializeToString()[:-200], RTX, "not a whole ONNX model"),
        (b"", RTX, "not a whole ONNX model|cannot read the graph"),
        (
            tiny_graph(np.ones((1, 5))).SerializeToString(),
            BuildOptions(architectures=("sm87",)),
            "does not support sm87",
        ),
    ],
    ids=["unknown operator", "cut off", "empty", "unsupported GPU"],
)
def test_refusals_are_sentences(model: bytes, options: BuildOptions, sentence: str) -> None:
    with pytest.raises(EngineError, match=sentence):
        engine_from_onnx(model, TENSORRT_RTX, options)


@pytest.mark.tensorrt
@needs_rtx
def test_precision_said_and_precision_built_must_agree(tiny_onnx: bytes) -> None:
    with pytest.raises(GraphError, match="said to be fp16, but its types compute fp32"):
        engine_from_onnx(tiny_onnx, TENSORRT_RTX, RTX, precision="fp16")


@pytest.mark.tensorrt
@needs_rtx
def test_a_killed_build_is_explained_and_leaves_nothing(network_bundle_path: Path, tmp_path: Path) -> None:
    def kill(_: BuildProgress) -> None:
        for child in children():
            os.kill(child, signal.SIGKILL)

    with pytest.raises(EngineError, match="memory ran out"):
        write_engine(
            open_bundle(network_bundle_path), tmp_path / "a.engine", TENSORRT_RTX, RTX, precision="int8", progress=kill
        )
    assert not list(tmp_path.iterdir())
    assert not children()


@pytest.mark.tensorrt
@needs_rtx
def test_a_cancelled_build_ends_its_process(network_bundle_path: Path) -> None:
    bundle, cancel = open_bundle(network_bundle_path), threading.Event()
    with pytest.raises(EngineError, match="cancelled"):
        engine_from_onnx(
            bundle.member("graphs/int8-tensorrt.onnx"),
            TENSORRT_RTX,
            RTX,
            progress=lambda _: cancel.set(),
            cancel=cancel,
        )
    assert not children()


@pytest.mark.tensorrt
@needs_rtx
def test_without_a_gpu_the_architecture_must_be_named(tiny_onnx: bytes) -> None:
    try:
        probe_gpu()
    except EngineError:
        with pytest.raises(EngineError, match="--gpu sm86"):
            engine_from_onnx(tiny_onnx, TENSORRT_RTX, BuildOptions())
    else:
        pytest.skip("there is a GPU")


def test_an_absent_library_names_its_source(tiny_onnx: bytes) -> None:
    absent = [flavour for flavour in FLAVOURS.values() if not is_installed(flavour)]
    if not absent:
        pytest.skip("both TensorRT flavours are installed")
    with pytest.raises(MissingExtraError, match=r"is not installed: .*(JetPack|pip install)"):
        engine_from_onnx(tiny_onnx, absent[0], BuildOptions())


def test_a_bundle_without_the_precision_is_named(bundle_path: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"has no fp16 graph for TensorRT, only fp32 \(cpu\)"):
        write_engine(open_bundle(bundle_path), tmp_path / "a.engine", TENSORRT_RTX, RTX, precision="fp16")


def test_a_missing_folder_is_refused_before_the_build(bundle_path: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="existing folder"):
        write_engine(open_bundle(bundle_path), tmp_path / "no" / "a.engine", TENSORRT_RTX, RTX, precision="fp32")


@pytest.mark.parametrize("text", ["", "sm86,", "89", "smx", "sm86,SM86"])
def test_wrong_gpu_lists(text: str) -> None:
    with pytest.raises(ConfigError, match="--gpu"):
        architectures_from_text(text)


@pytest.mark.parametrize(
    ("flavour", "bindings", "library", "sentence"),
    [
        (TENSORRT, "10.13.3", 110400, "the shared library says 11.4"),
        (TENSORRT_RTX, "1.7.1.116", 10600, "the shared library says 1.6"),
        (TENSORRT, "8.6.2", None, "10.3"),
    ],
    ids=["other major", "other minor", "too old"],
)
def test_halves_of_different_releases_are_refused(
    flavour: object, bindings: str, library: int | None, sentence: str
) -> None:
    with pytest.raises(EngineError, match=sentence):
        check_versions(flavour, bindings, library)  # type: ignore[arg-type]


def test_progress_is_one_share_of_nested_phases() -> None:
    phases = Phases()
    phases.start("build", None, 2)
    phases.start("first", "build", 4)
    phases.step("first", 1)
    assert phases.share == 0.25
    phases.finish("first")
    phases.step("build", 0)
    assert phases.share == 0.5
    phases.start("second", "build", 2)
    phases.step("second", 0)
    assert phases.share == 0.75


@pytest.fixture(scope="session")
def small_bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The size ``small`` with its whole trunk and encoder (ResNet50, four layers of 384 channels), on small frames."""
    config = small_config((2, 3)).model_copy(update={"img_size": 64})
    return write_network_bundle(tmp_path_factory.mktemp("small") / "small.hffnet", config)


@pytest.mark.tensorrt
@needs_rtx
@pytest.mark.parametrize(
    ("precision", "convolutions"),
    [("fp16", {"fp16": 54}), ("int8", {"fp16": 1, "int8": 53})],  # 53 of the trunk, one that adapts
    ids=["fp16", "int8"],
)
def test_a_network_with_a_transformer_is_built_for_several_gpus(
    small_bundle_path: Path, tmp_path: Path, precision: Precision, convolutions: dict[str, int]
) -> None:
    path = tmp_path / "small.engine"
    write_engine(open_bundle(small_bundle_path), path, TENSORRT_RTX, RTX, precision=precision)
    sidecar = Sidecar.model_validate_json((tmp_path / "small.engine.json").read_text())
    assert sidecar.engine_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert sidecar.architectures == ("sm86", "sm89", "sm120")
    assert sidecar.audit.precision == precision
    assert sidecar.audit.convolutions == convolutions
    weighted = 4 * 4  # qkv, projection and two of the feed-forward part, in each of four layers
    float_products = sidecar.audit.products["fp16"]
    assert sidecar.audit.products.get("int8", 0) == (weighted if precision == "int8" else 0)
    assert float_products >= 4 * 2 + 1, "attention and the head stay float"
    assert sidecar.engine_bytes > {"fp16": 50e6, "int8": 25e6}[precision]
    assert sidecar.peak_rss_bytes > sidecar.engine_bytes
    assert 0 < sidecar.build_seconds <= sidecar.total_seconds


@pytest.mark.tensorrt
@needs_rtx
def test_the_workspace_is_what_was_asked_for(tiny_onnx: bytes) -> None:
    options = BuildOptions(architectures=("sm89",), workspace_bytes=64 << 20)
    assert engine_from_onnx(tiny_onnx, TENSORRT_RTX, options).sidecar.workspace_bytes == 64 << 20


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"workspace_bytes": 0}, "positive"),
        ({"batch": (2, 1, 1)}, "not decrease"),
        ({"batch": (0, 1, 1)}, "at least 1"),
    ],
)
def test_wrong_build_options(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        BuildOptions(**options)  # type: ignore[arg-type]


@pytest.mark.tensorrt
@needs_rtx
def test_a_build_without_enough_memory_says_so(network_bundle_path: Path) -> None:
    """A real shortage: as soon as the build reports, its process may take no more memory than it has."""
    graph, limited = open_bundle(network_bundle_path).member("graphs/fp16-tensorrt.onnx"), list[int]()

    def take_memory(_: BuildProgress) -> None:
        for child in children() if not limited else ():
            used = int(Path(f"/proc/{child}/statm").read_text().split()[0]) * resource.getpagesize()
            resource.prlimit(child, resource.RLIMIT_AS, (used, used))
            limited.append(child)

    with pytest.raises(EngineError, match=r"(ran out of memory while building|memory runs out).*close other programs"):
        engine_from_onnx(graph, TENSORRT_RTX, RTX, progress=take_memory)
    assert limited
    assert not children()


@pytest.mark.tensorrt
@needs_rtx
def test_only_tensorrt_itself_builds_for_the_lean_runtime(tiny_onnx: bytes) -> None:
    with pytest.raises(ConfigError, match="TensorRT-RTX has no version-compatible engines"):
        engine_from_onnx(tiny_onnx, TENSORRT_RTX, BuildOptions(architectures=("sm89",), version_compatible=True))


def test_the_lean_runtime_builds_nothing(tiny_onnx: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hffnet.runtime.engines.builder.installed_version", lambda _: "11.4.0")
    with pytest.raises(ConfigError, match="builds no engines; build with --engine tensorrt"):
        engine_from_onnx(tiny_onnx, TENSORRT_LEAN, BuildOptions())


@pytest.mark.tensorrt
@needs_rtx
@pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops:DeprecationWarning")
@pytest.mark.parametrize("stored", [b"", b"of another device"], ids=["new", "not usable"])
def test_the_timing_cache_starts_anew_where_it_does_not_fit(stored: bytes) -> None:
    """TensorRT-RTX has the calls and keeps nothing, so this is the code that TensorRT will run, not its effect."""
    trt = import_flavour(TENSORRT_RTX)
    config = trt.Builder(trt.Logger(trt.Logger.ERROR)).create_builder_config()
    assert _set_timing_cache(config, TENSORRT_RTX, stored) is None
    assert _set_timing_cache(config, replace(TENSORRT_RTX, has_timing_cache=True), stored) is not None


@pytest.mark.tensorrt
@needs_rtx
def test_a_gpu_that_the_library_does_not_know_is_refused_at_opening(
    network_bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = Gpu(name="H200", compute_capability=(9, 0), memory_bytes=1, integrated=False, cuda_version=(13, 0))
    monkeypatch.setattr("hffnet.runtime.engines.opening.probe_gpu", lambda: gpu)
    monkeypatch.setenv("HFFNET_CACHE_DIR", str(tmp_path))
    with pytest.raises(EngineError, match=r"does not support sm90; it builds for sm75"):
        open_engine(open_bundle(network_bundle_path), engine="tensorrt-rtx", precision="fp16")


@pytest.mark.tensorrt
@needs_rtx
def test_two_processes_build_one_engine(network_bundle_path: Path, tmp_path: Path) -> None:
    onnx_path, cache = tmp_path / "graph.onnx", tmp_path / "cache"
    onnx_path.write_bytes(open_bundle(network_bundle_path).member("graphs/fp16-tensorrt.onnx"))
    command = [sys.executable, "-c", _BUILD_INTO_CACHE, str(cache), str(onnx_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    answers = [process.communicate() for process in started]
    assert [process.returncode for process in started] == [0, 0], answers
    hashes = {stdout.split()[0] for stdout, _ in answers}
    assert len(hashes) == 1, "two builds differ in some bytes: one process took the other's engine"
    assert sorted(stdout.split()[1] for stdout, _ in answers) == ["built", "taken"]
    assert len(list(cache.glob("*.sealed"))) == 1


_BUILD_INTO_CACHE = """
import hashlib, sys
from pathlib import Path
from hffnet.runtime.engines.builder import BuildOptions, engine_from_onnx
from hffnet.runtime.engines.cache import EngineCache, EngineKey
from hffnet.runtime.engines.flavour import TENSORRT_RTX, installed_version

options, how = BuildOptions(architectures=("sm89",)), []
key = EngineKey(onnx_sha256="a" * 64, library="tensorrt-rtx", library_version=installed_version(TENSORRT_RTX),
                gpu="x", options=options)

def build():
    how.append("built")
    return engine_from_onnx(Path(sys.argv[2]).read_bytes(), TENSORRT_RTX, options)

engine, _ = EngineCache(Path(sys.argv[1])).engine(key, build)
print(hashlib.sha256(engine).hexdigest(), how[0] if how else "taken")
"""
