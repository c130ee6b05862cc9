"""The ablations in training form: their differences from HFFNet_2D, and what of them is the same function."""

import pytest
import torch

from hffnet.train.model import HFFNet2D, build_model
from hffnet.train.network import MODEL_NAMES, ModelConfig, ModelName, TrunkNetwork, nano_config, normalise, paper_config
from hffnet.train.recipes import RECIPES, recipe_by_name
from hffnet.train.variants import HFFCNN, HFFCNNVT, HFFVT, HFFCNNConvVT


def _config(name: ModelName, num_classes: tuple[int, ...] = (2, 6)) -> ModelConfig:
    return ModelConfig(
        name=name,
        num_classes=num_classes,
        img_size=64,
        dim=8,
        depth=2,
        heads=2,
        mlp_dim=12,
        level_dim=6,
        trunk_blocks=(1, 1, 1, 1),
        trunk_width=4,
        dropout=0.0,
    )


@pytest.mark.parametrize("num_classes", [(3,), (2, 6), (2, 3, 7)], ids=["one-level", "paper", "three-levels"])
@pytest.mark.parametrize("name", MODEL_NAMES)
def test_every_parameter_learns(name: ModelName, num_classes: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = build_model(_config(name, num_classes))
    frames = torch.randint(0, 256, (4, 64, 64), dtype=torch.uint8)
    logits = model(normalise(frames, model.config))
    assert logits.shape == (4, sum(num_classes))
    logits.square().sum().backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert still == []


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        pytest.param("HFFNet_2D", 254.19, id="HFFNet_2D"),
        pytest.param("HFFVT", 87.78, id="HFFVT"),
        pytest.param("HFFCNN", 23.52, id="HFFCNN"),
        pytest.param("HFF_CNN_VT", 112.54, id="HFF_CNN_VT"),
        pytest.param("HFF_CNN_Conv_VT", 112.54, id="HFF_CNN_Conv_VT"),
    ],
)
def test_sizes_at_the_papers_numbers(name: ModelName, millions: float) -> None:
    with torch.device("meta"):
        model = build_model(paper_config((2, 6), name))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=1e-3)


def test_differences_from_hffnet_2d() -> None:
    models = [build_model(_config(name)) for name in MODEL_NAMES]
    assert [type(model) for model in models] == [HFFNet2D, HFFVT, HFFCNN, HFFCNNVT, HFFCNNConvVT]
    assert [isinstance(model, TrunkNetwork) for model in models] == [True, False, True, True, True]
    parts = [{name.split(".")[0] for name, _ in model.named_children()} for model in models]
    assert parts[0] == {"trunk", "adapt", "transformer", "final_norm", "head"}
    assert parts[1] == {"projection", "encoder"}
    assert parts[2] == {"trunk", "level_classifier"}
    assert parts[3] == {"trunk", "projection", "encoder"}
    assert parts[4] == {"trunk", "adapt", "encoder"}
    for model in models[3:]:
        shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        assert shapes["encoder.pos_embedding"] == (8, 2, 2)
        assert shapes["encoder.cls_token"] == (8, 1)
        assert shapes["encoder.head.level_fc.0.weight"] == (6, 16)


def test_hffvt_cuts_patches_as_a_picture_is_read() -> None:
    torch.manual_seed(0)
    model = build_model(_config("HFFVT"))
    assert isinstance(model, HFFVT)
    seen = list[torch.Tensor]()
    model.projection.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    frame = torch.arange(64.0 * 64).reshape(1, 1, 64, 64)
    model(frame)
    torch.testing.assert_close(seen[0][0, 1, 2].reshape(16, 16), frame[0, 0, 16:32, 32:48])


def test_projection_and_1x1_convolution_are_the_same_function() -> None:
    linear, conv = build_model(_config("HFF_CNN_VT")).eval(), build_model(_config("HFF_CNN_Conv_VT")).eval()
    tensors = linear.state_dict()
    tensors["adapt.weight"] = tensors.pop("projection.weight")[:, :, None, None]
    tensors["adapt.bias"] = tensors.pop("projection.bias")
    conv.load_state_dict(tensors)
    frames = torch.randn(3, 1, 64, 64)
    torch.testing.assert_close(linear(frames), conv(frames))


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", MODEL_NAMES)
def test_every_recipe_has_every_network(name: ModelName, recipe: str) -> None:
    made = recipe_by_name(recipe, (2, 6), name)
    assert made.model.name == name
    same = recipe_by_name(recipe, (2, 6)).model_dump(exclude={"model", "freeze"})
    assert made.model_dump(exclude={"model", "freeze"}) == same


def test_the_width_is_a_choice_of_hffnet_2d_only() -> None:
    with pytest.raises(ValueError, match="width 'dim' is a choice of HFFNet_2D only"):
        ModelConfig.model_validate(nano_config((2, 6), "HFFVT").model_dump() | {"width": "dim"})
