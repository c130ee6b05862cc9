"""Classifiers as torch exports them: float32 (N, C, S, S), normalised outside, through the whole command."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from hffnet.calibration.fidelity import logits_from_onnx
from hffnet.calibration.graph import self_contained
from hffnet.calibration.model_input import Normalisation
from hffnet.calibration.report import CalibrationReport
from hffnet.runtime.cli import main
from tests.calibration.graphs import textured_frames
from tests.classifiers import PlainResNet, PlainViT, resnet50, write_torch_onnx

SIZE = 64
RGB = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
IMAGENET = ["--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"]


def network(kind: str) -> tuple[nn.Module, int]:
    torch.manual_seed(0)
    match kind:
        case "resnet-rgb":
            return PlainResNet((1, 2, 1, 1), 16, 5, 3), 3
        case "vit-rgb":
            return PlainViT(SIZE, 8, 32, 2, 4, 5, 3), 3
        case _:
            return PlainViT(SIZE, 8, 32, 2, 4, 5), 1


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve train and four test frames of two classes."""
    root = tmp_path_factory.mktemp("data")
    lines = ["path,level1,split"]
    for number, pixels in enumerate(textured_frames(16, SIZE)):
        cv2.imwrite(str(root / f"{number}.png"), pixels)
        lines.append(f"{number}.png,{'ab'[number % 2]},{'train' if number < 12 else 'test'}")
    (root / "all.csv").write_text("\n".join(lines))
    return root / "all.csv"


@pytest.fixture(scope="module")
def rgb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small ResNet's graph and the weights beside it."""
    path = tmp_path_factory.mktemp("rgb") / "model.onnx"
    write_torch_onnx(network("resnet-rgb")[0], path, SIZE)
    assert path.with_name("model.onnx.data").is_file(), "torch puts weights beside the graph; this is to be tested"
    return path


def code_of(*command: object) -> object:
    with pytest.raises(SystemExit) as ended:
        main([str(part) for part in command])
    return ended.value.code


@pytest.mark.parametrize("kind", ["resnet-rgb", "vit-rgb", "vit-grey"])
def test_a_torch_export_is_calibrated_as_it_is(
    kind: str, rgb: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, channels = network(kind)
    graph, out = tmp_path / "model.onnx", tmp_path / "int8.onnx"
    if kind == "resnet-rgb":
        shutil.copytree(rgb.parent, tmp_path, dirs_exist_ok=True)
    else:
        write_torch_onnx(model, graph, SIZE, channels)
    options = IMAGENET if channels == 3 else ["--mean", "0.449", "--std", "0.226"]
    assert code_of("calibrate", graph, "--data", data, "-o", out, "--json", *options) == 0
    document = json.loads(capsys.readouterr().out)
    (entry,) = ort.InferenceSession(out).get_inputs()
    assert (entry.type, entry.shape) == ("tensor(float)", [1, channels, SIZE, SIZE])
    assert document["measured"]["num_frames"] == 4
    assert document["measured"]["logit_db"] > 20
    assert document["quantized_nodes"] >= 8
    report = CalibrationReport.model_validate_json(out.with_suffix(".calibration.json").read_bytes())
    assert report.normalisation == (RGB if channels == 3 else Normalisation(mean=(0.449,), std=(0.226,)))
    assert {path.name for path in tmp_path.iterdir()} - {"model.onnx.data"} == {
        "int8.calibration.json", "int8.onnx", "model.onnx",
    }  # fmt: skip
    assert document["bytes"] < 0.8 * document["float_bytes"]


def test_frames_reach_the_graph_as_torchvision_would_hand_them_over(rgb: Path, tmp_path: Path) -> None:
    model = network("resnet-rgb")[0].eval()
    frames = textured_frames(3, SIZE)
    found, _ = logits_from_onnx(self_contained(rgb, tmp_path), frames, normalisation=RGB)
    pictures = torch.from_numpy(frames)[:, None].expand(-1, 3, -1, -1) / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (RGB.mean, RGB.std))
    with torch.no_grad():
        expected = model((pictures - mean) / std)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_normalisation_decides_the_ranges(rgb: Path, data: Path, tmp_path: Path) -> None:
    ranges = []
    for number, options in enumerate((IMAGENET, ["--mean", "0", "--std", "1"])):
        out = tmp_path / f"{number}.onnx"
        assert code_of("calibrate", rgb, "--data", data, "-o", out, *options) == 0
        report = CalibrationReport.model_validate_json(out.with_suffix(".calibration.json").read_bytes())
        ranges.append(np.array(list(report.ranges.values())))
    # Pixels between 0 and 1 instead of -2 and 2: what follows is smaller.
    assert np.median(ranges[1] / ranges[0]) < 0.7


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "give --mean and --std, one number or one per channel"),
        (["--mean", "0.5"], "--mean and --std belong together"),
        (["--mean", "0.5,0.5", "--std", "1"], "--mean has 2 numbers for the 3 channels"),
        (["--mean", "grey", "--std", "1"], "--mean is 'grey'; expected numbers with commas"),
        (["--mean", "nan", "--std", "1"], "--mean is nan; expected finite numbers"),
        (["--mean", "0", "--std", "0"], "--std is 0; expected numbers above 0"),
        ([*IMAGENET, "--low", "0.9", "--high", "0.1"], "--low is 0.9 and --high 0.1; expected shares"),
    ],
    ids=["none", "half", "two", "text", "nan", "zero", "stretch"],
)
def test_a_missing_or_wrong_normalisation_is_asked_for(
    options: list[str], sentence: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> g (float[N, 3, 64, 64] x) => (float[N] y) { y = Relu (x) }'
    )
    onnx.save(graph, tmp_path / "model.onnx")
    assert code_of("calibrate", tmp_path / "model.onnx", "--data", data, "-o", tmp_path / "o.onnx", *options) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ("uint8[4, 64, 64]", "takes 4 frames at once"),
        ("uint8[N, 16, 16]", "has a side of 16 pixels; expected 32 to 4096"),
        ("uint8[N, 5000, 5000]", "has a side of 5000 pixels; expected 32 to 4096"),
        ("uint8[N, H, W]", "has an open side; expected 32 to 4096"),
        ("uint8[N, 64, 48]", "the graph's input is 'x', uint8 (?, 64, 48); expected one of"),
        ("float16[N, 3, 64, 64]", "the graph's input is 'x', float16 (?, 3, 64, 64); expected one of"),
        ("float[N, 4, 64, 64]", "the graph's input is 'x', float32 (?, 4, 64, 64); expected one of"),
        ("uint8[N, 64, 64] z, float[1]", "the graph has 2 inputs: 'z', uint8 (?, 64, 64); 'x', float32 (1)"),
    ],
    ids=["batch", "small", "large", "open", "oblong", "half", "four-channels", "two-inputs"],
)
def test_inputs_that_frames_cannot_become_are_described(
    shape: str, sentence: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = f'<ir_version: 10, opset_import: ["" : 20]> g ({shape} x) => (float[N] y) {{ y = Cast <to = 1> (x) }}'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "model.onnx")
    assert code_of("calibrate", tmp_path / "model.onnx", "--data", data, "-o", tmp_path / "o.onnx") == 3
    assert sentence in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("location", "sentence"),
    [
        ("../model.onnx.data", "keeps weights in '../model.onnx.data'; expected a file beside it"),
        ("gone.data", "keeps weights in 'gone.data'; expected a file beside it"),
        ("short.data", "the weights beside"),
    ],
    ids=["elsewhere", "absent", "cut-off"],
)
def test_weights_beside_the_graph_are_taken_from_there_only(
    location: str, sentence: str, rgb: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "short.data").write_bytes(rgb.with_name("model.onnx.data").read_bytes()[:5000])
    model = onnx.load(rgb, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    onnx.save(model, tmp_path / "model.onnx")
    arguments = ["calibrate", tmp_path / "model.onnx", "--data", data, "-o", tmp_path / "o.onnx", *IMAGENET]
    assert code_of(*arguments) == 3
    assert sentence in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_resnet50_as_torch_exports_it(
    shared: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph, out = tmp_path / "resnet50.onnx", tmp_path / "int8.onnx"
    write_torch_onnx(resnet50(shared / "weights" / "resnet50_imagenet_fp16.safetensors", 3), graph, 224)
    assert code_of("calibrate", graph, "--data", data, "-o", out, "--json", *IMAGENET) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["quantized_nodes"] == 52
    assert set(document["float_nodes"].values()) == {"reads the picture", "head"}
    assert document["measured"]["logit_db"] > 20
    assert document["bytes"] < 0.35 * (tmp_path / "resnet50.onnx.data").stat().st_size
