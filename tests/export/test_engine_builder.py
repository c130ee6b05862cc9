"""TensorRT-RTX engines are really built, without a GPU; what cannot be built is refused with a sentence."""

import os
import signal
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest

from hffnet.export.engine_builder import write_engine
from hffnet.runtime.bundle import open_bundle
from hffnet.runtime.engines.build_process import Phases
from hffnet.runtime.engines.builder import BuildOptions, BuildProgress, architectures_from_text, engine_from_onnx
from hffnet.runtime.engines.driver import probe_gpu
from hffnet.runtime.engines.flavour import FLAVOURS, TENSORRT, TENSORRT_RTX, check_versions, is_installed
from hffnet.runtime.engines.sidecar import Sidecar
from hffnet.runtime.errors import BundleError, ConfigError, EngineError, GraphError, MissingExtraError
from hffnet.runtime.manifest import Precision
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
    [("fp32", {"fp32": 18}), ("fp16", {"fp16": 18}), ("int8", {"int8": 18})],
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
