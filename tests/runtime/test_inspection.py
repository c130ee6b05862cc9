"""Estimated times: only when asked for, from products that this machine really ran."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from hffnet.runtime.bundle import open_bundle
from hffnet.runtime.cli import main
from hffnet.runtime.inspection import document_from_bundle, tables_from_bundle
from hffnet.runtime.throughput import Throughput, measured_throughput, onnx_from_product
from tests.tiny import tiny_graph, write_tiny_bundle

KNOWN = Throughput(by_type={"float32": 1e9, "int8": 4e9}, basis="a table")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = onnx.shape_inference.infer_shapes(tiny_graph(np.ones((1, 5))), data_prop=True)
    return write_tiny_bundle(tmp_path_factory.mktemp("inspect") / "tiny.hffnet", model=model)


def test_the_products_are_sound_graphs_that_multiply() -> None:
    rng = np.random.default_rng(0)
    x, weight = (rng.normal(size=shape).astype(np.float32) for shape in ((196, 512), (512, 512)))
    model = onnx_from_product("MatMul", weight, 1, 1)
    onnx.checker.check_model(onnx.load_model_from_string(model), full_check=True)
    found = onnxruntime.InferenceSession(model).run(["y"], {"x": x})[0]
    np.testing.assert_allclose(found, x @ weight, rtol=1e-3, atol=1e-2)
    small, levels = np.full((512, 512), -3, np.int8), np.full((196, 512), 200, np.uint8)
    model = onnx_from_product("MatMulInteger", small, 2, 6)
    onnx.checker.check_model(onnx.load_model_from_string(model), full_check=True)
    assert (onnxruntime.InferenceSession(model).run(["y"], {"x": levels})[0] == -3 * 200 * 512).all()


def test_both_arithmetics_are_measured() -> None:
    found = measured_throughput(seconds=0.01)
    assert found.by_type.keys() == {"float32", "int8"}
    assert min(found.by_type.values()) > 1e6
    assert "estimate" in found.basis


@pytest.mark.parametrize(
    ("macs", "expected"),
    [
        ({"float32": 2_000_000}, 2.0),
        ({"float32": 1_000_000, "int8": 4_000_000}, 2.0),
        ({"float16": 5}, None),
        ({}, None),
    ],
    ids=["float32", "mixed", "not-measured", "no-products"],
)
def test_work_over_speed(macs: dict[str, int], expected: float | None) -> None:
    assert KNOWN.milliseconds(macs) == expected


def test_times_are_told_only_when_asked_for(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened = open_bundle(bundle)
    (graph,) = document_from_bundle(opened)["graphs"].values()
    assert "estimated_ms" not in graph
    document = document_from_bundle(opened, KNOWN)
    assert document["throughput"]["basis"] == "a table"
    (timed,) = document["graphs"].values()
    assert timed["estimated_ms"] == pytest.approx(timed["macs"]["float32"] / 1e6)
    assert timed["estimated_ms"] > 0
    assert len(tables_from_bundle(opened, KNOWN)[1].columns) == len(tables_from_bundle(opened)[1].columns) + 1
    with pytest.raises(SystemExit) as ended:
        main(["inspect", str(bundle), "--time", "--json"])
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)["throughput"]["macs_per_second"]["int8"] > 0
