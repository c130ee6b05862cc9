"""Classifiers that are not this project's, straight from torch: placed by the same rules, and still themselves."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hffnet.calibration.fidelity import logit_error, logits_from_onnx
from hffnet.calibration.graph import GraphIndex, model_from_path, node_labels
from hffnet.calibration.int8 import calibration_from_frames
from hffnet.calibration.quantize import ActivationType
from hffnet.runtime.graph import facts_from_onnx
from hffnet.runtime.taxonomy import Taxonomy
from hffnet.train.model import build_model, nano_config
from tests.calibration.graphs import textured_frames
from tests.classifiers import PlainResNet, PlainViT, write_onnx

FLAT = Taxonomy.from_paths([(name,) for name in "abcde"])
SIZE = 64


@pytest.fixture(scope="module", params=["resnet", "vit", "training-form", "training-form-without-norms"])
def classifier(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = nano_config((2, 3)).model_copy(update={"img_size": SIZE, "depth": 2})
    networks: dict[str, Callable[[], nn.Module]] = {
        "resnet": lambda: PlainResNet((1, 2, 1, 1), 16, 5),
        "vit": lambda: PlainViT(SIZE, 8, 32, 2, 4, 5),
        "training-form": lambda: build_model(config),
        "training-form-without-norms": lambda: build_model(config.model_copy(update={"norm": "none"})),
    }
    network = networks[request.param]()
    path = tmp_path_factory.mktemp("plain") / f"{request.param}.onnx"
    write_onnx(network, path, SIZE)
    return path


def trunk_sums(index: GraphIndex) -> set[str]:
    return {node.name for node in index.nodes if node.op_type == "Add" and any("trunk" in x for x in node_labels(node))}


@pytest.mark.parametrize("activations", ["int8", "uint8"])
def test_it_is_quantized_by_the_rules_and_stays_close(classifier: Path, activations: ActivationType) -> None:
    calibration = calibration_from_frames(classifier, textured_frames(8, SIZE), activations=activations)
    placement, graph = calibration.placement, calibration.quantized()
    reasons = {point.reason for point in placement.left_float}
    index = GraphIndex(model_from_path(classifier))
    norms = {node.output[0] for node in index.nodes if node.op_type == "LayerNormalization"}
    if classifier.stem.startswith("training-form"):
        # Channels first: Transpose stands between each sum and its LayerNorm, and the linear layers are convolutions.
        assert "both inputs are activations" in reasons
        sums = (*placement.residuals, *placement.cpu_sums)
        assert {point.node for point in sums} <= trunk_sums(index)
        assert not placement.residuals  # one block in each stage, and each has a shortcut
        assert len(placement.cpu_sums) == (8 if activations == "uint8" else 0)
    elif classifier.stem == "resnet":
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
