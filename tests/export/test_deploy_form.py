"""The deploy form computes what the training form does, whatever the statistics, sizes and options."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hffnet.export.deploy_form import deploy_form
from hffnet.export.parity import check_parity, parity_of_deploy_form
from hffnet.runtime.errors import ParityError
from hffnet.runtime.preprocess import PreprocessSpec, preprocess
from hffnet.train.model import HFFNet2D, ModelConfig, small_config
from hffnet.train.resnet import load_trunk_weights


def _trained_looking(config: ModelConfig, seed: int) -> HFFNet2D:
    """Weights, biases and BatchNorm statistics all away from their initial values."""
    torch.manual_seed(seed)
    model = HFFNet2D(config)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.01, 4.0)
        elif isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.normal_(module.bias, std=0.3)
    return model


_CONFIGS = st.builds(
    ModelConfig,
    num_classes=st.sampled_from([(3,), (2, 6), (2, 3, 7)]),
    img_size=st.sampled_from([32, 64, 96]),
    dim=st.sampled_from([4, 8, 12]),
    depth=st.integers(0, 3),
    heads=st.sampled_from([1, 2, 4]),
    mlp_dim=st.integers(1, 16),
    width=st.sampled_from(["dim2", "dim"]),
    trunk_blocks=st.sampled_from([(1, 1, 1, 1), (1, 2, 1, 1)]),
    trunk_width=st.integers(1, 4),
    level_dim=st.integers(1, 8),
    norm=st.sampled_from(["pre", "post", "none"]),
    final_norm=st.booleans(),
    residual=st.booleans(),
    qkv_bias=st.booleans(),
)


@given(config=_CONFIGS, seed=st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_same_function_for_any_config(config: ModelConfig, seed: int) -> None:
    model = _trained_looking(config, seed)
    form = deploy_form(model)
    frames = np.random.default_rng(seed).integers(0, 256, (3, config.img_size, config.img_size), dtype=np.uint8)
    report = parity_of_deploy_form(model, form, frames)  # raises over 1e-4
    assert report.num_frames == 3
    assert model.training
    logits, evidence = form(torch.from_numpy(frames))
    assert evidence.shape == (3, sum(config.num_classes), config.grid, config.grid)
    assert torch.equal(logits, evidence.mean(dim=(2, 3)))


def test_parity_on_real_frames_with_public_weights(shared: Path) -> None:
    config = small_config((2, 6))
    model = _trained_looking(config, seed=1)
    load_trunk_weights(model.trunk, shared / "weights" / "resnet50_imagenet_fp16.safetensors")
    files = sorted((shared / "data" / "sem_thermal").rglob("*.png"))[::60]
    assert files
    pictures = [cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) for file in files]
    frames = np.stack([preprocess(np.asarray(picture, dtype=np.uint8), PreprocessSpec()) for picture in pictures])
    assert parity_of_deploy_form(model, deploy_form(model), frames).relative_error < 1e-5


def test_a_changed_weight_fails_parity() -> None:
    config = ModelConfig(
        num_classes=(2, 6), img_size=32, dim=8, depth=1, heads=2, trunk_blocks=(1, 1, 1, 1), trunk_width=2
    )
    model = _trained_looking(config, seed=2)
    form = deploy_form(model)
    assert form.head.bias is not None
    form.head.bias.data[3] += 0.5
    frames = np.zeros((2, 32, 32), dtype=np.uint8)
    with pytest.raises(ParityError, match="deploy form against training form: logits differ by"):
        parity_of_deploy_form(model, form, frames)


@pytest.mark.parametrize(
    ("candidate", "sentence"),
    [
        pytest.param([[1.0, np.nan]], "infinite or NaN", id="nan"),
        pytest.param([[1.0]], r"shape \(1, 1\) against \(1, 2\)", id="shape"),
        pytest.param([[1.1, 2.0]], "differ by 5.00e-02 .* 1e-02 is accepted", id="difference"),
    ],
)
def test_parity_refuses(candidate: list[list[float]], sentence: str) -> None:
    with pytest.raises(ParityError, match=sentence):
        check_parity(np.array([[1.0, 2.0]]), np.array(candidate), 1e-2, "a against b")


def test_parity_counts_frames_with_a_changed_decision_per_level() -> None:
    reference = np.array([[1.0, 2.0, 5.0, 4.0], [1.0, 2.0, 5.0, 4.0]])
    candidate = np.array([[2.0, 1.0, 4.0, 5.0], [1.0, 2.0, 5.0, 4.0]])
    report = check_parity(reference, candidate, 1.0, "a against b", levels=(slice(0, 2), slice(2, 4)))
    assert report.num_flips == 1
    assert report.relative_error == pytest.approx(0.2)
