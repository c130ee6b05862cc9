"""The exported graph: what engines and calibration rely on, read from the file, and two engines that agree on it."""

from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from hffnet.export import onnx as onnx_export
from hffnet.export.deploy_form import ConcatForm, DeployForm, deploy_form
from hffnet.export.onnx import onnx_from_deploy_form
from hffnet.export.parity import FP16_TOLERANCE, check_parity, logits_of_deploy_form, parity_of_onnx
from hffnet.runtime.errors import EngineError, GraphError, ParityError
from hffnet.train.model import ModelConfig, build_model

Frames = npt.NDArray[np.uint8]
Precision = Literal["fp32", "fp16"]

_TINY = ModelConfig(
    num_classes=(2, 6),
    img_size=64,
    dim=16,
    depth=2,
    heads=4,
    mlp_dim=24,
    level_dim=8,
    trunk_blocks=(1, 2, 1, 1),
    trunk_width=4,
)


def _form(config: ModelConfig) -> DeployForm:
    torch.manual_seed(0)
    model = build_model(config)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            nn.init.normal_(module.running_mean, std=0.1)
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm | nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.normal_(module.bias, std=0.1)
    return deploy_form(model)


@pytest.fixture(scope="module")
def form() -> DeployForm:
    return _form(_TINY)


@pytest.fixture(scope="module")
def smallest() -> DeployForm:
    """Quick to export: for what does not depend on the network."""
    return _form(ModelConfig.model_validate(_TINY.model_dump() | {"depth": 1, "trunk_blocks": (1, 1, 1, 1)}))


@pytest.fixture(scope="module")
def frames() -> Frames:
    return np.random.default_rng(0).integers(0, 256, (5, 64, 64), dtype=np.uint8)


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def exported(request: pytest.FixtureRequest, form: DeployForm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    precision: Precision = request.param
    path = tmp_path_factory.mktemp(precision) / f"{precision}.onnx"
    onnx_from_deploy_form(form, path, precision=precision)
    return path


def test_onnxruntime_agrees_for_any_batch(exported: Path, form: DeployForm, frames: Frames) -> None:
    tolerance = 1e-4 if exported.stem == "fp32" else FP16_TOLERANCE
    for batch in (frames[:1], frames):
        assert parity_of_onnx(form, exported, batch, tolerance).num_frames == len(batch)


def test_openvino_agrees(exported: Path, form: DeployForm, frames: Frames) -> None:
    openvino = pytest.importorskip("openvino", reason="the openvino extra is not installed")
    exact = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(str(exported), "CPU", exact)
    outputs = compiled({"frames": frames})
    logits, evidence = outputs["logits"], outputs["evidence"]
    reference = logits_of_deploy_form(form, frames)
    check_parity(reference, logits, 1e-4 if exported.stem == "fp32" else FP16_TOLERANCE, "OpenVINO")
    np.testing.assert_allclose(evidence.mean(axis=(2, 3)), logits, rtol=1e-5, atol=1e-6)


def test_graph_is_what_engines_and_calibration_expect(exported: Path) -> None:
    model = onnx.load(exported)
    graph = model.graph
    float_type = onnx.TensorProto.FLOAT if exported.stem == "fp32" else onnx.TensorProto.FLOAT16
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    assert {node.domain for node in graph.node} == {""}
    assert not model.functions
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    assert types == {
        "frames": onnx.TensorProto.UINT8,
        "logits": onnx.TensorProto.FLOAT,
        "evidence": onnx.TensorProto.FLOAT,
    }
    assert {w.data_type for w in graph.initializer} == {float_type, onnx.TensorProto.INT64}
    assert {w.data_location for w in graph.initializer} == {onnx.TensorProto.DEFAULT}
    operators = [node.op_type for node in graph.node]
    assert operators.count("LayerNormalization") == 2 * _TINY.depth + 1
    assert operators.count("Gelu") == _TINY.depth
    assert operators.count("MatMul") == 6 * _TINY.depth + 1
    assert not {"BatchNormalization", "Constant", "Shape", "Identity", "Dropout", "Gemm", "Erf"} & set(operators)


def test_names_are_those_of_the_modules(exported: Path) -> None:
    nodes = {node.name: node for node in onnx.load(exported).graph.node}
    expected = {
        "trunk.conv1/Conv",
        "trunk.layer1.0.downsample.0/Conv",
        "trunk.layer2.1/Add",
        "adapt/Conv",
        "transformer.0/Add",
        "transformer.0/Add_1",
        "transformer.1.attention.qkv/MatMul",
        "transformer.1.attention/Softmax",
        "transformer.1.feed_forward.fc2/MatMul",
        "final_norm/LayerNormalization",
        "head/MatMul",
    }
    assert expected <= nodes.keys()
    trunk_sums = {name for name, node in nodes.items() if node.op_type == "Add" and name.startswith("trunk.")}
    assert trunk_sums == {
        f"trunk.{block}/Add" for block in ("layer1.0", "layer2.0", "layer2.1", "layer3.0", "layer4.0")
    }
    assert nodes["transformer.0/Add"].output == ["transformer.0/Add"]
    assert nodes["transformer.1.attention.qkv/MatMul"].input[1] == "transformer.1.attention.qkv.weight"


def test_file_says_what_it_is_and_nothing_of_the_machine(exported: Path) -> None:
    model = onnx.load(exported)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["hffnet_precision"] == exported.stem
    assert ModelConfig.model_validate_json(metadata["hffnet_config"]) == _TINY
    assert b"site-packages" not in exported.read_bytes()
    assert str(Path.cwd()).encode() not in exported.read_bytes()


def test_same_form_gives_the_same_bytes_and_no_other_file(smallest: DeployForm, tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        onnx_from_deploy_form(smallest, tmp_path / name)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "b.onnx"]
    assert {p.dtype for p in smallest.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"depth": 0}, id="no-transformer"),
        pytest.param({"norm": "post", "final_norm": False, "qkv_bias": False, "width": "dim"}, id="other-readings"),
    ],
)
def test_other_configs_export(change: dict[str, object], frames: Frames, tmp_path: Path) -> None:
    form = _form(ModelConfig.model_validate(_TINY.model_dump() | change))
    onnx_from_deploy_form(form, tmp_path / "form.onnx", dynamic_batch=False)
    parity_of_onnx(form, tmp_path / "form.onnx", frames)


def test_parity_refuses_a_graph_of_other_weights(exported: Path, frames: Frames) -> None:
    other = _form(ModelConfig.model_validate(_TINY.model_dump() | {"level_dim": 9}))
    with pytest.raises(ParityError, match="against deploy form: logits differ"):
        parity_of_onnx(other, exported, frames)


def test_too_large_a_graph_is_refused_and_leaves_nothing(
    smallest: DeployForm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, "MAX_GRAPH_BYTES", 10_000)
    with pytest.raises(GraphError, match="holds 10000: choose a smaller recipe"):
        onnx_from_deploy_form(smallest, tmp_path / "large.onnx")
    assert list(tmp_path.iterdir()) == []


def test_float16_that_overflows_is_caught(frames: Frames, tmp_path: Path) -> None:
    large = _form(ModelConfig.model_validate(_TINY.model_dump() | {"depth": 0}))
    assert isinstance(large, ConcatForm)
    large.adapt.weight.data *= 1e5
    onnx_from_deploy_form(large, tmp_path / "overflow.onnx", precision="fp16")
    assert np.isfinite(logits_of_deploy_form(large, frames)).all()
    with pytest.raises(ParityError, match="infinite or NaN"):
        parity_of_onnx(large, tmp_path / "overflow.onnx", frames, FP16_TOLERANCE)


def test_a_missing_form_is_refused(smallest: DeployForm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_export, "OPSET", 19)  # has no Gelu: the exporter writes it with Erf
    with pytest.raises(GraphError, match="1 Gelu nodes, not 0"):
        onnx_from_deploy_form(smallest, tmp_path / "old.onnx")
    assert list(tmp_path.iterdir()) == []


def test_onnxruntime_refusal_is_a_sentence(form: DeployForm, frames: Frames, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a graph")
    with pytest.raises(EngineError, match=f"ONNX Runtime {ort.__version__} refuses"):
        parity_of_onnx(form, tmp_path / "broken.onnx", frames)
