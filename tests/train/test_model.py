"""HFFNet_2D in training form: the shapes, names and sums of the paper, and its configuration as a document."""

import math

import pytest
import torch
from pydantic import ValidationError

from hffnet.train.model import HFFNet2D, ModelConfig, build_model, nano_config, normalise, paper_config, small_config
from hffnet.train.transformer import MultiHeadAttention2D

_TINY = ModelConfig(
    num_classes=(2, 6),
    img_size=64,
    dim=8,
    depth=2,
    heads=2,
    mlp_dim=12,
    level_dim=6,
    trunk_blocks=(1, 1, 1, 1),
    trunk_width=4,
)


@pytest.mark.parametrize(
    ("config", "millions"),
    [
        pytest.param(paper_config((2, 6)), 254.2, id="paper"),
        pytest.param(small_config((2, 6)), 28.8, id="small"),
        pytest.param(nano_config((2, 6)), 0.82, id="nano"),
    ],
)
def test_sizes(config: ModelConfig, millions: float) -> None:
    with torch.device("meta"):
        model = build_model(config)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.01)


def test_parameters_are_those_of_the_paper() -> None:
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in build_model(paper_config((2, 6))).state_dict().items()}
    assert shapes["pos_embedding"] == (768, 7, 7)
    assert shapes["cls_token"] == (768, 1, 1)
    assert shapes["transformer.11.attention.qkv.weight"] == (3 * 1536, 1536, 1, 1)
    assert shapes["transformer.11.attention.proj.weight"] == (1536, 1536, 1, 1)
    assert shapes["transformer.11.feed_forward.conv1.weight"] == (3072, 1536, 1, 1)
    assert shapes["head.level_fc.1.weight"] == (768, 1536)
    assert shapes["head.level_classifier.1.weight"] == (6, 2 * 768)


@pytest.mark.parametrize("num_classes", [(3,), (2, 6), (2, 3, 7)], ids=["one-level", "paper", "three-levels"])
@pytest.mark.parametrize("width", ["dim2", "dim"])
def test_every_parameter_learns(num_classes: tuple[int, ...], width: str) -> None:
    model = HFFNet2D(ModelConfig.model_validate(_TINY.model_dump() | {"num_classes": num_classes, "width": width}))
    frames = torch.randint(0, 256, (4, 64, 64), dtype=torch.uint8)
    logits = model(normalise(frames, model.config))
    assert logits.shape == (4, sum(num_classes))
    logits.square().sum().backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert still == []
    assert model.pos_embedding.grad is not None
    assert model.pos_embedding.grad.abs().sum() > 0


def test_attention_is_the_formula_of_the_paper() -> None:
    torch.manual_seed(0)
    attention = MultiHeadAttention2D(8, 2, qkv_bias=True, dropout=0.0)
    x = torch.randn(1, 8, 2, 3)
    q, k, v = attention.qkv(x)[0].reshape(3, 2, 4, 6)  # (head, head_dim, position) each
    heads = [
        torch.softmax(q[h].T @ k[h] / math.sqrt(4), dim=-1) @ v[h].T  # (position, head_dim)
        for h in range(2)
    ]
    expected = attention.proj(torch.cat(heads, dim=1).T.reshape(1, 8, 2, 3))
    torch.testing.assert_close(attention(x), expected)


def test_logits_stand_level_by_level() -> None:
    model = HFFNet2D(_TINY).eval()
    frames = normalise(torch.randint(0, 256, (2, 64, 64), dtype=torch.uint8), _TINY)
    before = model(frames)
    with torch.no_grad():
        model.head.level_classifier[1].get_parameter("bias").add_(1.0)
    torch.testing.assert_close(model(frames) - before, torch.tensor([0.0] * 2 + [1.0] * 6).expand(2, 8))


def test_normalise_takes_bytes_and_floats_alike() -> None:
    frames = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16)
    expected = (frames.double() / 255 - _TINY.grey_mean) / _TINY.grey_std
    torch.testing.assert_close(normalise(frames, _TINY), expected.float().unsqueeze(1))
    torch.testing.assert_close(normalise(frames.float(), _TINY), normalise(frames, _TINY))


def test_config_survives_json() -> None:
    assert ModelConfig.model_validate_json(_TINY.model_dump_json()) == _TINY


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        pytest.param({"heads": 3}, "heads 3 does not divide the 16 channels", id="heads"),
        pytest.param({"width": "dim", "dim": 7}, "dim 7 is odd", id="odd-half"),
        pytest.param({"img_size": 100}, "multiple of 32", id="img_size"),
        pytest.param({"num_classes": ()}, "at least 1 item", id="no-level"),
        pytest.param({"depths": 3}, "Extra inputs", id="unknown-key"),
        pytest.param({"dim": "8"}, "valid integer", id="text-for-a-number"),
    ],
)
def test_impossible_configs_are_refused(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        ModelConfig.model_validate(_TINY.model_dump() | change)
