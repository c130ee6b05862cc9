"""Operations counted in a graph, the probe graph, the bound, and the engines' own profiles."""

import numpy as np
import onnx
import pytest

from hffnet.runtime.benchmark.probe_graph import SIZE, probe_graph
from hffnet.runtime.benchmark.profiles import gmacs_of_graph, layers_of_engine
from hffnet.runtime.benchmark.roofline import memory_bandwidth, peak_gmac_s, weight_bytes
from hffnet.runtime.engines import EngineName
from hffnet.runtime.graph import facts_from_onnx
from hffnet.runtime.manifest import Precision
from tests.tiny import SIZE as TINY_SIZE
from tests.tiny import tiny_graph

FRAME_NHW = np.zeros((1, TINY_SIZE, TINY_SIZE), dtype=np.uint8)


def test_operations_of_a_convolution() -> None:
    """One channel in, three columns out, on 2 x 2 positions: 12 multiply-accumulates."""
    graph = tiny_graph(np.ones((1, 3))).SerializeToString()
    assert gmacs_of_graph(graph, FRAME_NHW) == pytest.approx(12e-9)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_probe_graph_is_sound_and_of_its_precision(precision: Precision) -> None:
    graph = probe_graph(precision)
    onnx.checker.check_model(onnx.load_from_string(graph), full_check=True)
    facts = facts_from_onnx(graph)
    assert facts.precision == precision
    assert weight_bytes(facts) == pytest.approx(8 * SIZE**2 * {"fp32": 4, "fp16": 2, "int8": 1}[precision], rel=0.001)


def test_the_probe_graph_has_the_operations_it_promises() -> None:
    frames_NHW = np.zeros((1, SIZE, SIZE), dtype=np.uint8)
    assert gmacs_of_graph(probe_graph("fp32"), frames_NHW) == pytest.approx(8 * 512**3 / 1e9)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_limits_are_measured(engine: EngineName) -> None:
    pytest.importorskip(engine, reason=f"{engine} is not installed")
    peak = peak_gmac_s(engine, "int8", 1)
    assert peak is not None
    assert 0 < peak < 1e6
    assert 0 < memory_bandwidth(1) < 1e4


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_layers_of_an_engine(engine: EngineName) -> None:
    pytest.importorskip(engine, reason=f"{engine} is not installed")
    layers = layers_of_engine(engine, tiny_graph(np.ones((1, 3))).SerializeToString(), FRAME_NHW, 1)
    assert any("Pool" in layer.kind or "Conv" in layer.kind for layer in layers)
    assert [layer.ms for layer in layers] == sorted((layer.ms for layer in layers), reverse=True)
