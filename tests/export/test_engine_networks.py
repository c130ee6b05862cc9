"""All five networks in every precision on both CPU engines: self-test, parity, threads, and a wrong graph refused."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest

from hffnet.export.bundle_writer import write_bundle
from hffnet.runtime.bundle import Bundle, open_bundle
from hffnet.runtime.engines import open_engine
from hffnet.runtime.errors import EngineError
from hffnet.runtime.manifest import Family, Precision
from hffnet.train.network import MODEL_NAMES, ModelConfig
from tests.networks import member_of, write_network_bundle

ENGINES = ("onnxruntime", "openvino")
_PARTS = {
    "img_size": 64,
    "dim": 8,
    "depth": 1,
    "heads": 2,
    "mlp_dim": 12,
    "level_dim": 6,
    "trunk_blocks": (1, 1, 1, 1),
    "trunk_width": 4,
}


@pytest.fixture(params=MODEL_NAMES, scope="module")
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    config = ModelConfig.model_validate({"name": request.param, "num_classes": (2, 3), **_PARTS})
    return open_bundle(write_network_bundle(tmp_path_factory.mktemp("network") / "model.hffnet", config))


@pytest.mark.parametrize("precision", get_args(Precision))
@pytest.mark.parametrize("engine", ENGINES)
def test_every_network_proves_itself_and_serves_threads(bundle: Bundle, engine: str, precision: Precision) -> None:
    frames_NHW, reference_NC = bundle.vectors()
    with open_engine(bundle, engine=engine, precision=precision, threads=1) as opened:
        assert opened.identity.self_test.passed
        assert opened.identity.precision == precision
        alone = [opened.infer(frame[None]) for frame in frames_NHW]
        with ThreadPoolExecutor(3) as pool:
            order = [n for _ in range(3) for n in range(len(frames_NHW))]
            together = list(pool.map(lambda n: opened.infer(frames_NHW[n : n + 1]), order))
        tolerance = opened.identity.self_test.tolerance
    for n, outputs in zip(order, together, strict=True):
        np.testing.assert_array_equal(outputs.logits, alone[n].logits)
        np.testing.assert_array_equal(outputs.evidence, alone[n].evidence)
    logits_NC = np.concatenate([outputs.logits for outputs in alone])
    scale = np.abs(reference_NC).max()
    assert np.abs(logits_NC - reference_NC).max() <= tolerance * scale
    evidence = np.concatenate([outputs.evidence for outputs in alone])
    np.testing.assert_allclose(evidence.mean(axis=(2, 3)), logits_NC, atol=float(1e-2 * scale))


@pytest.mark.parametrize("precision", get_args(Precision))
def test_a_graph_that_lost_its_sign_is_refused(bundle: Bundle, tmp_path: Path, precision: Precision) -> None:
    """The head's weights negated: shapes, types and hashes of the new bundle are all in order."""
    manifest = bundle.manifest
    graph = next(g for g in manifest.graphs if g.member == member_of(precision, _family(precision)))
    model = onnx.load_from_string(bundle.member(graph.member))
    head = next(tensor for tensor in model.graph.initializer if tensor.name == "head.weight")
    head.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(head), head.name))
    frames_NHW, reference_NC = bundle.vectors()
    path = tmp_path / "corrupted.hffnet"
    members = {graph.member: model.SerializeToString()}
    changed = manifest.model_copy(update={"graphs": (graph,), "members": ()})
    write_bundle(path, changed, members, frames_NHW, reference_NC)
    for engine in ENGINES:
        with pytest.raises(EngineError, match="test vectors with an error of"):
            open_engine(open_bundle(path), engine=engine, precision=precision, threads=1)


def _family(precision: Precision) -> Family:
    return "tensorrt" if precision == "fp16" else "cpu"
