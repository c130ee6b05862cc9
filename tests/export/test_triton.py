"""``hffnet export --triton``: what Triton's own schema accepts, and graphs and instructions that give the decisions."""

import importlib.util
import json
import re
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tifffile
import typer
from google.protobuf import text_format
from typer.testing import CliRunner

from hffnet.export.cli import export
from hffnet.export.triton import TritonOptions, triton_from_bundle
from hffnet.runtime.bundle import open_bundle
from hffnet.runtime.classifier import Classifier
from hffnet.runtime.errors import ConfigError


@pytest.fixture(scope="module")
def schema() -> ModuleType:
    """Triton's model_config.proto, taken from its client without the client's own imports (grpc)."""
    try:
        files = distribution("tritonclient").files or []
    except PackageNotFoundError:
        pytest.skip("tritonclient is not installed: pip install --no-deps tritonclient")
    (place,) = [file.locate() for file in files if str(file).endswith("grpc/model_config_pb2.py")]
    spec = importlib.util.spec_from_file_location("triton_model_config_pb2", str(place))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def answers(model: Path, frames_NHW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    logits, evidence = session.run(["logits", "evidence"], {"frames": frames_NHW})
    return logits, evidence


def test_triton_takes_the_configuration(schema: ModuleType, bundle_path: Path, tmp_path: Path) -> None:
    bundle = open_bundle(bundle_path)
    (folder,) = triton_from_bundle(bundle, tmp_path / "models", TritonOptions(max_batch=4, instances=2))
    config = text_format.Parse((folder / "config.pbtxt").read_text(), schema.ModelConfig())
    assert config.name == folder.name == "tiny_fp32_cpu"
    assert (config.backend, config.max_batch_size) == ("onnxruntime", 4)
    frames_NHW, _ = bundle.vectors()
    logits, evidence = answers(folder / "1" / "model.onnx", frames_NHW)
    (frames,), outputs = config.input, {output.name: output for output in config.output}
    assert tuple(frames.dims) == frames_NHW.shape[1:]
    assert frames.data_type == schema.DataType.Value("TYPE_UINT8")
    assert tuple(outputs["logits"].dims) == logits.shape[1:]
    assert tuple(outputs["evidence"].dims) == evidence.shape[1:]
    labels = (folder / outputs["logits"].label_filename).read_text().splitlines()
    assert len(labels) == logits.shape[1]
    assert labels[:2] == ["level1/mechanical", "level1/thermal"]
    assert config.dynamic_batching.max_queue_delay_microseconds == 2000
    assert [(group.count, group.kind) for group in config.instance_group] == [(2, schema.ModelInstanceGroup.KIND_AUTO)]
    assert [sample.batch_size for sample in config.model_warmup] == [1, 4]
    for sample in config.model_warmup:
        warm_up = sample.inputs["frames"]
        # Each request of a sample takes one frame from the file.
        assert (folder / "warmup" / warm_up.input_data_file).stat().st_size >= np.prod(warm_up.dims)


def test_every_graph_is_a_model_that_answers_the_vectors(
    schema: ModuleType, network_bundle_path: Path, tmp_path: Path
) -> None:
    bundle = open_bundle(network_bundle_path)
    folders = triton_from_bundle(bundle, tmp_path / "models")
    assert len(folders) == len(bundle.manifest.graphs) == 4
    kinds = {"fp32_cpu": "KIND_AUTO", "int8_cpu": "KIND_CPU", "fp16_tensorrt": "KIND_GPU", "int8_tensorrt": "KIND_GPU"}
    for folder, graph in zip(folders, bundle.manifest.graphs, strict=True):
        config = text_format.Parse((folder / "config.pbtxt").read_text(), schema.ModelConfig())
        kind = schema.ModelInstanceGroup.Kind.Name(config.instance_group[0].kind)
        assert kind == kinds[f"{graph.precision}_{graph.family}"]
        vectors = np.load(folder / "vectors.npz")
        logits, evidence = answers(folder / "1" / "model.onnx", vectors["frames"])
        assert tuple(config.output[1].dims) == evidence.shape[1:]
        error = np.abs(logits - vectors["logits"]).max() / np.abs(vectors["logits"]).max()
        assert error <= json.loads((folder / "hffnet.json").read_text())["tolerance"]


def test_the_instructions_give_the_classifiers_decision(bundle_path: Path, tmp_path: Path) -> None:
    (folder,) = triton_from_bundle(open_bundle(bundle_path), tmp_path / "models")
    tifffile.imwrite(tmp_path / "a.tif", np.random.default_rng(5).integers(0, 255, (96, 128), dtype=np.uint8))
    code = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    compile(code[1], "README.md", "exec")  # asks a server, which is not here
    names: dict[str, Any] = {"FOLDER": folder}
    exec(code[0], names)
    decided = names["decision_from_frame"](
        tmp_path / "a.tif", lambda frames: answers(folder / "1" / "model.onnx", frames)[0]
    )
    with Classifier.open(bundle_path, engine="onnxruntime", threads=1) as classifier:
        expected = classifier.classify(tmp_path / "a.tif").decision
    assert expected is not None
    assert (decided.path, decided.answer, decided.confidence) == (expected.path, expected.answer, expected.confidence)


def test_nothing_is_written_over_and_nothing_half(bundle_path: Path, tmp_path: Path) -> None:
    bundle = open_bundle(bundle_path)
    (folder,) = triton_from_bundle(bundle, tmp_path / "models")
    (folder / "mine").touch()
    with pytest.raises(ConfigError, match="exists and is not written over"):
        triton_from_bundle(bundle, tmp_path / "models")
    assert (folder / "mine").exists()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        triton_from_bundle(bundle, tmp_path / "file")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "models"]


def _a_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "models"


def _a_model(folder: Path) -> Path:
    (folder / "steel_2_int8_cpu").mkdir()
    return folder


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (_a_file, r"cannot be written \(Not a directory\); name another --triton"),
        (lambda folder: _a_file(folder).parent, r"file is a file; name another --triton"),
        (_a_model, "steel_2_int8_cpu exists and is not written over"),
        (lambda _: Path("/proc/models"), r"/proc/models cannot be written \("),
    ],
    ids=["under a file", "file", "model", "no place"],
)
def test_a_repository_is_looked_at_before_the_export(
    tmp_path: Path, made: Callable[[Path], Path], sentence: str
) -> None:
    """The checkpoint is not even there: nothing has been opened when this is said."""
    app = typer.Typer()
    app.command()(export)
    wishes = ["--output", str(tmp_path / "a.hffnet"), "--data", str(tmp_path), "--int8", "--name", "Steel 2"]
    done = CliRunner().invoke(app, [str(tmp_path / "absent"), *wishes, "--triton", str(made(tmp_path))])
    assert isinstance(done.exception, ConfigError)
    assert re.search(sentence, str(done.exception))


@pytest.mark.parametrize("values", [{"max_batch": 0}, {"instances": 0}, {"max_wait_us": -1}], ids=str)
def test_what_cannot_be_served_is_refused(values: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="cannot be served"):
        TritonOptions(**values)


def test_from_a_bundle_on_the_command_line(bundle_path: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(export)
    done = CliRunner().invoke(app, [str(bundle_path), "--triton", str(tmp_path / "models"), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["triton"] == [str(tmp_path / "models" / "tiny_fp32_cpu")]
    lacking = CliRunner().invoke(app, [str(bundle_path)])
    assert isinstance(lacking.exception, ConfigError)
    assert "--output" in str(lacking.exception)
