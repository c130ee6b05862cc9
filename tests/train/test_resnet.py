"""The trunk and the loading of public weights: all of a file or nothing, and a sentence that says what did not fit."""

import logging
import pickle
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from hffnet.runtime.errors import CheckpointError
from hffnet.train.resnet import ResNetTrunk, load_trunk_weights


def _tiny() -> ResNetTrunk:
    return ResNetTrunk((1, 1, 1, 1), width=4)


def _weights(seed: int = 0) -> dict[str, Tensor]:
    """A public file for the tiny trunk: RGB stem, a classifier, random statistics."""
    generator = torch.Generator().manual_seed(seed)
    weights = {
        name: torch.rand(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor.clone()
        for name, tensor in _tiny().state_dict().items()
    }
    weights["conv1.weight"] = torch.rand(4, 3, 7, 7, generator=generator)
    return weights | {"fc.weight": torch.zeros(10, 128), "fc.bias": torch.zeros(10)}


def test_imagenet_weights_fit_resnet50(shared: Path, caplog: pytest.LogCaptureFixture) -> None:
    trunk = ResNetTrunk()
    path = shared / "weights" / "resnet50_imagenet_fp16.safetensors"
    with caplog.at_level(logging.WARNING):
        report = load_trunk_weights(trunk, path)
    assert report.num_loaded == 318
    assert report.ignored == ("fc.bias", "fc.weight")
    assert report.stem_summed
    assert all(tensor.isfinite().all() for tensor in trunk.state_dict().values())
    # One variance of this file is over float16's range; it is taken as the largest float16, and said.
    assert report.saturated == ("bn1.running_var",)
    assert "bn1.running_var" in caplog.text
    with torch.inference_mode():
        features = trunk.eval()(torch.zeros(1, 1, 64, 64))
    assert features.shape == (1, 2048, 2, 2)


def test_names_and_shapes_are_torchvisions() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in ResNetTrunk().state_dict().items()}
    assert len(shapes) == 318  # torchvision's 320 without fc.weight and fc.bias
    assert shapes["layer1.0.downsample.0.weight"] == (256, 64, 1, 1)
    assert shapes["layer4.2.bn3.running_mean"] == (2048,)
    assert ResNetTrunk().layer2[0].get_submodule("conv2").stride == (2, 2)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_rgb_stem_becomes_grey(tmp_path: Path, suffix: str) -> None:
    path, weights, trunk = tmp_path / f"public{suffix}", _weights(), _tiny()
    if suffix == ".pth":
        torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in weights.items()}}, path)
    else:
        save_file(weights, path)
    load_trunk_weights(trunk, path)
    grey = torch.rand(2, 1, 32, 32)
    expected = torch.nn.functional.conv2d(grey.expand(-1, 3, -1, -1), weights["conv1.weight"], stride=2, padding=3)
    torch.testing.assert_close(trunk.conv1(grey), expected)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        pytest.param({"conv1.weight": None}, "1 missing: conv1.weight", id="missing"),
        pytest.param({"layer5.0.conv1.weight": torch.ones(1)}, "1 unexpected: layer5.0.conv1.weight", id="unexpected"),
        pytest.param(
            {"bn1.bias": torch.ones(5)}, r"1 of the wrong shape: bn1.bias \(found \(5,\), expected \(4,\)", id="shape"
        ),
        pytest.param({"bn1.weight": torch.full((4,), torch.nan)}, "bn1.weight .* infinities or NaN", id="nan"),
        pytest.param({"bn1.running_var": torch.full((4,), torch.inf)}, "infinities or NaN", id="infinite-float32"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_loaded(
    tmp_path: Path, change: dict[str, Tensor | None], sentence: str
) -> None:
    path, trunk = tmp_path / "public.safetensors", _tiny()
    save_file({name: tensor for name, tensor in (_weights() | change).items() if tensor is not None}, path)
    before = {name: tensor.clone() for name, tensor in trunk.state_dict().items()}
    with pytest.raises(CheckpointError, match=sentence):
        load_trunk_weights(trunk, path)
    assert all(torch.equal(before[name], tensor) for name, tensor in trunk.state_dict().items())


class _Touch:
    """Unpickling this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    path, marker = tmp_path / "public.pth", tmp_path / "ran"
    torch.save({"conv1.weight": _Touch(marker)}, path)
    with pytest.raises(CheckpointError, match="tensors only"):
        load_trunk_weights(_tiny(), path)
    path.write_bytes(pickle.dumps(_Touch(marker)))
    with pytest.raises(CheckpointError, match="tensors only"):
        load_trunk_weights(_tiny(), path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        pytest.param("w.safetensors", b"", "header of None bytes", id="empty"),
        pytest.param("w.safetensors", struct.pack("<Q", 1 << 60) + b"{}", f"header of {1 << 60}", id="huge-header"),
        pytest.param("w.safetensors", struct.pack("<Q", 2) + b"[]", "not a readable safetensors", id="no-table"),
        pytest.param("w.pth", b"PK\x03\x04 not a zip", "tensors only", id="broken-pth"),
        pytest.param("w.h5", b"", "ends in '.h5'", id="unknown-suffix"),
        pytest.param(None, b"", "cannot be read", id="absent"),
    ],
)
def test_hostile_files_are_refused(tmp_path: Path, name: str | None, content: bytes, sentence: str) -> None:
    path = tmp_path / (name or "absent.safetensors")
    if name:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=sentence):
        load_trunk_weights(_tiny(), path)
