"""Classifiers that are not this project's, straight from torch: placed by the same rules, and still themselves."""

from pathlib import Path

import numpy as np
import pytest
import torch

from hffnet.calibration.fidelity import logit_error, logits_from_onnx
from hffnet.calibration.graph import GraphIndex, model_from_path
from hffnet.calibration.int8 import calibration_from_frames
from hffnet.calibration.quantize import ActivationType
from hffnet.runtime.graph import facts_from_onnx
from hffnet.runtime.taxonomy import Taxonomy
from tests.calibration.graphs import textured_frames
from tests.classifiers import PlainResNet, PlainViT, write_onnx

FLAT = Taxonomy.from_paths([(name,) for name in "abcde"])
SIZE = 64


@pytest.fixture(scope="module", params=["resnet", "vit"])
def classifier(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    resnet = request.param == "resnet"
    network = PlainResNet((1, 2, 1, 1), 16, 5) if resnet else PlainViT(SIZE, 8, 32, 2, 4, 5)
    path = tmp_path_factory.mktemp("plain") / f"{request.param}.onnx"
    write_onnx(network, path, SIZE)
    return path


@pytest.mark.parametrize("activations", ["int8", "uint8"])
def test_it_is_quantized_by_the_rules_and_stays_close(classifier: Path, activations: ActivationType) -> None:
    calibration = calibration_from_frames(classifier, textured_frames(8, SIZE), activations=activations)
    placement, graph = calibration.placement, calibration.quantized()
    reasons = {point.reason for point in placement.left_float}
    index = GraphIndex(model_from_path(classifier))
    norms = {node.output[0] for node in index.nodes if node.op_type == "LayerNormalization"}
    if classifier.stem == "resnet":
        assert reasons == {"reads the picture", "head"}
        assert len(placement.weighted) == 5 * 3 + 4  # three in each block, four where stages begin
        assert len(placement.residuals) == 1  # the one block without a shortcut
        assert len(placement.cpu_sums) == (9 if activations == "uint8" else 0)
    else:
        assert reasons == {"reads the picture", "both inputs are activations", "head"}
        assert len(placement.weighted) == 2 * 4
        assert placement.residuals == placement.cpu_sums == ()
        assert norms & set(placement.tensors)
    assert (facts_from_onnx(graph.SerializeToString()).macs.quantized_share or 0) > 0.6
    frames = textured_frames(8, SIZE, seed=3)
    expected, found = (logits_from_onnx(one, frames)[0] for one in (classifier, graph.SerializeToString()))
    assert np.isfinite(found).all()
    assert 0 < logit_error(expected, found, FLAT) < 0.1
