"""What the paper's five networks have in common: their numbers, the pixels they take, trunk, encoder and head.

Everything the paper leaves open is a field of `ModelConfig`, with its default and the reason for it. How the parts
are put together is in ``model`` (HFFNet_2D) and ``variants`` (the ablations).
"""

from abc import abstractmethod
from typing import Annotated, Literal, Self, get_args

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from hffnet.train.resnet import ResNetTrunk
from hffnet.train.transformer import LayerNorm2D, Transformer2D

ModelName = Literal["HFFNet_2D", "HFFVT", "HFFCNN", "HFF_CNN_VT", "HFF_CNN_Conv_VT"]

MODEL_NAMES: tuple[ModelName, ...] = get_args(ModelName)
"""The seed network and its four ablations, in the paper's order."""

Count = Annotated[int, Field(ge=1, le=100_000)]
Blocks = Annotated[int, Field(ge=1, le=64)]

STRIDE = 32
"""Pixels per position of the trunk's feature map, in each direction."""


class ModelConfig(BaseModel):
    """Every number that defines the network; ``config.json`` of a checkpoint. The defaults are the paper's network.

    Attributes:
        name: which network of the family. HFFCNN has no transformer and HFFVT no trunk: fields about what a network
            lacks do nothing in it.
        num_classes: classes per level, from the first down. The paper prints "2,7" but describes six second-level
            classes; the taxonomy decides, so there is no default.
        img_size: side of the input, pixels, a multiple of 32. Paper: 224.
        dim: channels of the adapted feature map and of the class embedding. Paper: 768.
        depth: encoder layers. Paper: 12.
        patch_size: side of HFFVT's patches, pixels; divides ``img_size``. Paper: "fixed-size"; 16 as in the original
            ViT, whose base size has the paper's other numbers (768, 12, 12, 3072).
        heads: attention heads; must divide `channels`. Paper: 12.
        mlp_dim: hidden channels of the feed-forward part. Paper: 3072.
        width: channels of the transformer. ``dim2``: 2 · dim, as the paper's module descriptions and the concat have
            it (default). ``dim``: the paper's other sentence; both halves then have dim / 2 channels. Only HFFNet_2D
            has the choice: in the others the class embedding is a token of its own, and tokens have ``dim`` channels.
        trunk_blocks: bottlenecks per stage; the paper's "first four convolutional blocks of ResNet50" with an output of
            1/32 are its four stages, so (3, 4, 6, 3).
        trunk_width: channels after the stem. ResNet50: 64.
        level_dim: channels of each level's feature space (``level_fc``). Not in the paper; its ``dim``.
        norm: where LayerNorm over channels stands: before each part (``pre``, default: deep stacks train without
            warm-up), after the residual sum (``post``) or nowhere. Not in the paper.
        final_norm: LayerNorm after the last layer, usual with ``pre``, where nothing else bounds the sum. Not in the
            paper.
        residual: residual sums around attention and feed-forward. Not in the paper; twelve layers do not train without.
        qkv_bias: bias of the ``qkv`` convolution. Not in the paper; a plain convolution has one.
        dropout: on attention weights, after GELU and after each part. Not in the paper; 0.1 as in ViT.
        grey_mean, grey_std: of pixels in 0..1. The mean of ImageNet's three channels, because the trunk is
            pre-trained on them; the paper says only "Normalization".
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    name: ModelName = "HFFNet_2D"
    num_classes: Annotated[tuple[Count, ...], Field(min_length=1, max_length=64)]
    img_size: Annotated[int, Field(ge=STRIDE, le=4096, multiple_of=STRIDE)] = 224
    dim: Annotated[int, Field(ge=2, le=8192)] = 768
    depth: Annotated[int, Field(ge=0, le=64)] = 12
    heads: Annotated[int, Field(ge=1, le=256)] = 12
    mlp_dim: Annotated[int, Field(ge=1, le=32768)] = 3072
    patch_size: Annotated[int, Field(ge=4, le=256)] = 16
    width: Literal["dim2", "dim"] = "dim2"
    trunk_blocks: tuple[Blocks, Blocks, Blocks, Blocks] = (3, 4, 6, 3)
    trunk_width: Annotated[int, Field(ge=1, le=512)] = 64
    level_dim: Annotated[int, Field(ge=1, le=8192)] = 768
    norm: Literal["pre", "post", "none"] = "pre"
    final_norm: bool = True
    residual: bool = True
    qkv_bias: bool = True
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    grey_mean: Annotated[float, Field(ge=0.0, le=1.0)] = 0.449
    grey_std: Annotated[float, Field(gt=0.0, le=1.0)] = 0.226

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.name != "HFFNet_2D" and self.width != "dim2":
            raise ValueError(f"width {self.width!r} is a choice of HFFNet_2D only; leave it out for {self.name}")
        if self.img_size % self.patch_size:
            raise ValueError(f"patch_size {self.patch_size} does not divide img_size {self.img_size}")
        if self.width == "dim" and self.dim % 2:
            raise ValueError(f"dim {self.dim} is odd; with width 'dim' each half has dim / 2 channels")
        if self.channels % self.heads:
            raise ValueError(f"heads {self.heads} does not divide the {self.channels} channels of the transformer")
        return self

    @property
    def half_channels(self) -> int:
        """Channels of the class embedding, and of the local features."""
        return self.dim if self.width == "dim2" else self.dim // 2

    @property
    def channels(self) -> int:
        """Channels of the transformer: both halves in HFFNet_2D, ``dim`` where the class embedding is a token."""
        return 2 * self.half_channels if self.name == "HFFNet_2D" else self.dim

    @property
    def grid(self) -> int:
        """Positions along each side of what the head reads: patches in HFFVT, the trunk's feature map elsewhere."""
        return self.img_size // (self.patch_size if self.name == "HFFVT" else STRIDE)

    @property
    def grey_offset(self) -> float:
        """What is subtracted from a pixel in 0..255."""
        return 255.0 * self.grey_mean

    @property
    def grey_scale(self) -> float:
        """What the difference is multiplied by."""
        return 1.0 / (255.0 * self.grey_std)


def paper_config(num_classes: tuple[int, ...], name: ModelName = "HFFNet_2D") -> ModelConfig:
    """The network of the paper: about 250 million parameters."""
    return ModelConfig(name=name, num_classes=num_classes)


def small_config(num_classes: tuple[int, ...], name: ModelName = "HFFNet_2D") -> ModelConfig:
    """Full ResNet50 with a light transformer: fine-tuning on a desktop."""
    return ModelConfig(name=name, num_classes=num_classes, dim=192, depth=4, heads=6, mlp_dim=768, level_dim=192)


def nano_config(num_classes: tuple[int, ...], name: ModelName = "HFFNet_2D") -> ModelConfig:
    """Trains from scratch on two CPU cores in minutes; no public weights fit it, no dropout at this size."""
    return ModelConfig(
        name=name,
        num_classes=num_classes,
        dim=64,
        depth=2,
        heads=4,
        mlp_dim=256,
        level_dim=64,
        trunk_blocks=(1, 1, 1, 1),
        trunk_width=16,
        dropout=0.0,
    )


def normalise(frames_NHW: Tensor, config: ModelConfig) -> Tensor:
    """Network input of frames on the 0..255 scale: the one definition, which the exported graph repeats.

    Args:
        frames_NHW: (N, H, W) uint8, or float on the same scale (augmented frames).
        config: has mean and standard deviation.

    Returns:
        (N, 1, H, W) float32.
    """
    return (frames_NHW.unsqueeze(1).float() - config.grey_offset) * config.grey_scale


class HierarchicalHead(nn.Module):
    """``level_fc`` per level → concat → ``level_classifier`` per level; linear from end to end."""

    def __init__(self, channels: int, num_classes: tuple[int, ...], level_dim: int) -> None:
        super().__init__()
        self.level_fc = nn.ModuleList(nn.Linear(channels, level_dim) for _ in num_classes)
        fused = level_dim * len(num_classes)
        self.level_classifier = nn.ModuleList(nn.Linear(fused, num) for num in num_classes)

    def forward(self, prim_rep: Tensor) -> Tensor:
        """(N, channels) to logits (N, ΣC), level by level as in ``Taxonomy.slices``."""
        fused = torch.cat([fc(prim_rep) for fc in self.level_fc], dim=1)
        return torch.cat([classifier(fused) for classifier in self.level_classifier], dim=1)


class Network(nn.Module):
    """A network of the family, in training form.

    Attributes:
        config: the numbers it was built from.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def forward(self, frames: Tensor) -> Tensor:
        """(N, 1, img_size, img_size) float, from `normalise`, to logits (N, ΣC) in the order of ``Taxonomy.slices``."""

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return next(self.parameters()).device


class TrunkNetwork(Network):
    """A network that begins with a ResNet trunk, which public weights fit and which may be frozen."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.trunk = ResNetTrunk(config.trunk_blocks, config.trunk_width)

    def forward(self, frames: Tensor) -> Tensor:
        """See `Network`."""
        return self.logits_from_features(self.trunk(frames))

    @abstractmethod
    def logits_from_features(self, features: Tensor) -> Tensor:
        """All that follows the trunk: (N, trunk channels, grid, grid) to logits (N, ΣC)."""


def transformer_from_config(config: ModelConfig) -> tuple[Transformer2D, nn.Module]:
    """The encoder and the norm behind it."""
    encoder = Transformer2D(
        config.channels,
        config.depth,
        config.heads,
        config.mlp_dim,
        norm=config.norm,
        residual=config.residual,
        qkv_bias=config.qkv_bias,
        dropout=config.dropout,
    )
    return encoder, LayerNorm2D(config.channels) if config.final_norm else nn.Identity()


def initialise(*parts: nn.Module) -> None:
    """Fresh weights for convolutions and linear maps: Xavier uniform, biases 0. The trunk has its own."""
    for part in parts:
        for module in part.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight.flatten(1))  # a view: fills the weight in place
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
