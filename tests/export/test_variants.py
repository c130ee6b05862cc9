"""Every network of the family keeps its function through deploy form, ONNX, int8 and bundle, on both CPU engines."""

from pathlib import Path
from zipfile import ZipFile

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from hffnet.calibration.gate import Budget
from hffnet.calibration.int8 import CalibrationOptions
from hffnet.export.bundle import ExportOptions, bundle_from_checkpoint
from hffnet.export.deploy_form import deploy_form
from hffnet.export.parity import parity_of_deploy_form
from hffnet.runtime.classifier import Classifier
from hffnet.runtime.dataset import Dataset, open_dataset
from hffnet.runtime.split import split_dataset
from hffnet.train.checkpoint import open_checkpoint
from hffnet.train.loop import train
from hffnet.train.model import build_model
from hffnet.train.network import MODEL_NAMES, ModelConfig, ModelName, Network
from hffnet.train.plan import Plan
from hffnet.train.recipes import altered, recipe_by_name
from hffnet.train.synthetic import write_dataset

_ABLATIONS = MODEL_NAMES[1:]


def _trained_looking(name: ModelName, **change: object) -> Network:
    torch.manual_seed(0)
    small = {"img_size": 64, "dim": 8, "depth": 2, "heads": 2, "mlp_dim": 12, "level_dim": 6}
    trunk = {"trunk_blocks": (1, 2, 1, 1), "trunk_width": 4}
    config = ModelConfig.model_validate({"name": name, "num_classes": (2, 6), **small, **trunk, **change})
    model = build_model(config)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.1, 4.0)
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm | nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.normal_(module.bias, std=0.3)
    return model


def _frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 64, 64), dtype=np.uint8)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({}, id="default"),
        pytest.param({"num_classes": (2, 3, 7), "norm": "post", "final_norm": False}, id="three-levels-post"),
        pytest.param({"num_classes": (4,), "qkv_bias": False, "depth": 0}, id="no-encoder"),
    ],
)
@pytest.mark.parametrize("name", _ABLATIONS)
def test_deploy_form_is_the_training_form(name: ModelName, change: dict[str, object]) -> None:
    model = _trained_looking(name, **change)
    form = deploy_form(model)
    assert parity_of_deploy_form(model, form, _frames()).relative_error < 1e-5
    logits, evidence = form(torch.from_numpy(_frames()))
    grid = 4 if name == "HFFVT" else 2
    assert evidence.shape == (5, sum(model.config.num_classes), grid, grid)
    assert torch.equal(logits, evidence.mean(dim=(2, 3)))
    assert evidence.std(dim=(2, 3)).min() > 0, "evidence says where"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("drawn")
    write_dataset(folder, frames_per_class=6, seed=0)
    return split_dataset(open_dataset(folder), 0, (0.5, 0.25, 0.25))


@pytest.fixture(scope="module", params=MODEL_NAMES)
def bundle(request: pytest.FixtureRequest, drawn: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real nano training of one epoch, exported with int8."""
    folder = tmp_path_factory.mktemp(request.param)
    recipe = altered(recipe_by_name("nano", drawn.taxonomy.num_classes, request.param), epochs=1)
    checkpoint = open_checkpoint(train(Plan(dataset=drawn, recipe=recipe), folder / "checkpoint", threads=1))
    # Hardly trained, so its decisions hang on little: what is tested is the way, not the score.
    options = ExportOptions(
        int8=True,
        budget=Budget(max_drop=100.0),
        num_frames=8,
        calibration=CalibrationOptions(observer="minmax"),
    )
    bundle_from_checkpoint(checkpoint, folder / "model.hffnet", drawn, options)
    return folder / "model.hffnet"


def test_both_engines_classify_in_fp32_and_int8(bundle: Path, drawn: Dataset) -> None:
    pytest.importorskip("openvino", reason="the openvino extra is not installed")
    frame = drawn.frames_of("test")[0]
    confidence = dict[tuple[str, str], float]()
    for engine in ("onnxruntime", "openvino"):
        for precision in ("fp32", "int8"):
            with Classifier.open(bundle, engine=engine, precision=precision, threads=1) as classifier:
                prediction = classifier.classify(frame.path)
                network = classifier.bundle.manifest.network
            assert prediction.decision is not None
            assert prediction.path in {one.classes for one in drawn.frames}
            assert network.evidence_shape == ((14, 14) if network.name == "HFFVT" else (7, 7))
            confidence[engine, precision] = prediction.decision.confidence[0]
    assert confidence["openvino", "fp32"] == pytest.approx(confidence["onnxruntime", "fp32"], abs=1e-3)
    assert confidence["openvino", "int8"] == pytest.approx(confidence["onnxruntime", "fp32"], abs=0.1)


def test_the_graph_is_named_after_modules(bundle: Path) -> None:
    with ZipFile(bundle) as archive:
        graph = onnx.load_model_from_string(archive.read("graphs/fp32-cpu.onnx")).graph
    name, nodes = bundle.parent.name, {node.name for node in graph.node}
    expected = {"head/MatMul"}
    if not name.startswith("HFFCNN"):
        expected |= {"adapt/Conv", "transformer.1.attention.qkv/MatMul", "transformer.0/Add_1"}
    if not name.startswith("HFFVT"):
        expected |= {"trunk.conv1/Conv", "trunk.layer2.0/Add"}
    assert expected <= nodes
    assert ("head_cls/MatMul" in nodes) == ("VT" in name)
