"""Plain classifiers as others export them: nothing of this project's deploy form, straight from torch to ONNX."""

import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from hffnet.train.resnet import ResNetTrunk, load_trunk_weights


class PlainResNet(nn.Module):
    """ResNet with its ImageNet classifier; ``blocks=(3, 4, 6, 3), width=64`` is ResNet50."""

    def __init__(self, blocks: tuple[int, int, int, int], width: int, num_classes: int, in_channels: int = 1) -> None:
        super().__init__()
        self.trunk = ResNetTrunk(blocks, width, in_channels)
        self.fc = nn.Linear(self.trunk.out_channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to logits."""
        logits: Tensor = self.fc(self.trunk(x).mean(dim=(2, 3)))
        return logits


class PlainViT(nn.Module):
    """Vision transformer: patches, class token, pre-norm encoder of torch's own layers, linear head."""

    def __init__(
        self, size: int, patch: int, dim: int, depth: int, heads: int, num_classes: int, in_channels: int = 1
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(in_channels, dim, patch, patch)
        self.token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, (size // patch) ** 2 + 1, dim) * 0.02)
        layer = nn.TransformerEncoderLayer(dim, heads, 4 * dim, 0.0, "gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, depth, nn.LayerNorm(dim), enable_nested_tensor=False)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, size, size) to logits."""
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], dim=1) + self.positions
        logits: Tensor = self.head(self.encoder(tokens)[:, 0])
        return logits


class _OfFrames(nn.Module):
    """The same network behind grey uint8 frames."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, frames: Tensor) -> Tensor:
        logits: Tensor = self.network((frames.unsqueeze(1).float() / 255 - 0.449) / 0.226)
        return logits


def resnet50(weights: Path, in_channels: int = 1) -> PlainResNet:
    """ResNet50 for grey pictures, or as it was trained for three channels, with weights in torchvision's names."""
    model = PlainResNet((3, 4, 6, 3), 64, 1000, in_channels)
    load_trunk_weights(model.trunk, weights)
    tensors = load_file(weights)
    model.fc.load_state_dict({name: tensors[f"fc.{name}"].float() for name in ("weight", "bias")})
    return model


def write_onnx(network: nn.Module, path: Path, size: int) -> None:
    """One self-contained file: input ``frames``, uint8 (1, size, size); output ``logits``."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _OfFrames(network).eval(),
            (torch.zeros(1, size, size, dtype=torch.uint8),),
            dynamo=True,
            opset_version=20,
            input_names=["frames"],
            output_names=["logits"],
            verbose=False,
        )
    assert program is not None
    program.save(path)


def write_torch_onnx(network: nn.Module, path: Path, size: int, channels: int = 3) -> None:
    """As people export a network: float32 (1, channels, size, size), the weights where torch puts them by default."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(network.eval(), (torch.zeros(1, channels, size, size),), path, verbose=False)
