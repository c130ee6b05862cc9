"""HFFNet_2D in training form, as the paper draws it (Sci. Rep. 15:19904, "HFFNet_2D network architecture").

Grey frame → ResNet trunk (stride 32) → 1×1 convolution → + position → concat class embedding along the channels →
Transformer2D → means of both halves (``prim_rep``) → one linear map per level → concat → one linear classifier per
level. Everything the paper leaves open is a field of `ModelConfig`, with its default and the reason for it.
"""

from typing import Annotated, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from hffnet.train.resnet import ResNetTrunk
from hffnet.train.transformer import LayerNorm2D, Transformer2D

Count = Annotated[int, Field(ge=1, le=100_000)]
Blocks = Annotated[int, Field(ge=1, le=64)]

STRIDE = 32
"""Pixels per position of the trunk's feature map, in each direction."""


class ModelConfig(BaseModel):
    """Every number that defines the network; ``config.json`` of a checkpoint. The defaults are the paper's network.

    Attributes:
        name: which network of the family.
        num_classes: classes per level, from the first down. The paper prints "2,7" but describes six second-level
            classes; the taxonomy decides, so there is no default.
        img_size: side of the input, pixels, a multiple of 32. Paper: 224.
        dim: channels of the adapted feature map and of the class embedding. Paper: 768.
        depth: encoder layers. Paper: 12.
        heads: attention heads; must divide `channels`. Paper: 12.
        mlp_dim: hidden channels of the feed-forward part. Paper: 3072.
        width: channels of the transformer. ``dim2``: 2 · dim, as the paper's module descriptions and the concat have
            it (default). ``dim``: the paper's other sentence; both halves then have dim / 2 channels.
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

    name: Literal["HFFNet_2D"] = "HFFNet_2D"
    num_classes: Annotated[tuple[Count, ...], Field(min_length=1, max_length=64)]
    img_size: Annotated[int, Field(ge=STRIDE, le=4096, multiple_of=STRIDE)] = 224
    dim: Annotated[int, Field(ge=2, le=8192)] = 768
    depth: Annotated[int, Field(ge=0, le=64)] = 12
    heads: Annotated[int, Field(ge=1, le=256)] = 12
    mlp_dim: Annotated[int, Field(ge=1, le=32768)] = 3072
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
        """Channels of the transformer: both halves."""
        return 2 * self.half_channels

    @property
    def grid(self) -> int:
        """Positions along each side of the feature map."""
        return self.img_size // STRIDE

    @property
    def grey_offset(self) -> float:
        """What is subtracted from a pixel in 0..255."""
        return 255.0 * self.grey_mean

    @property
    def grey_scale(self) -> float:
        """What the difference is multiplied by."""
        return 1.0 / (255.0 * self.grey_std)


def paper_config(num_classes: tuple[int, ...]) -> ModelConfig:
    """The network of the paper: about 250 million parameters."""
    return ModelConfig(num_classes=num_classes)


def small_config(num_classes: tuple[int, ...]) -> ModelConfig:
    """Full ResNet50 with a light transformer: fine-tuning on a desktop."""
    return ModelConfig(num_classes=num_classes, dim=192, depth=4, heads=6, mlp_dim=768, level_dim=192)


def nano_config(num_classes: tuple[int, ...]) -> ModelConfig:
    """Trains from scratch on two CPU cores in minutes; no public weights fit it, no dropout at this size."""
    return ModelConfig(
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


class HFFNet2D(nn.Module):
    """The paper's network; parameter names follow its text.

    Attributes:
        config: the numbers it was built from.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = ResNetTrunk(config.trunk_blocks, config.trunk_width)
        self.adapt = nn.Conv2d(self.trunk.out_channels, config.half_channels, 1)
        self.pos_embedding = nn.Parameter(torch.empty(config.half_channels, config.grid, config.grid))
        self.cls_token = nn.Parameter(torch.empty(config.half_channels, 1, 1))
        self.transformer = Transformer2D(
            config.channels,
            config.depth,
            config.heads,
            config.mlp_dim,
            norm=config.norm,
            residual=config.residual,
            qkv_bias=config.qkv_bias,
            dropout=config.dropout,
        )
        self.final_norm = LayerNorm2D(config.channels) if config.final_norm else nn.Identity()
        self.head = HierarchicalHead(config.channels, config.num_classes, config.level_dim)
        self._initialise()

    def forward(self, frames: Tensor) -> Tensor:
        """(N, 1, img_size, img_size) float, from `normalise`, to logits (N, ΣC) in the order of ``Taxonomy.slices``."""
        return self.logits_from_features(self.trunk(frames))

    def logits_from_features(self, features: Tensor) -> Tensor:
        """All that follows the trunk: (N, trunk channels, grid, grid) to logits (N, ΣC)."""
        local = self.adapt(features) + self.pos_embedding
        cls = self.cls_token.expand_as(local)
        x = self.final_norm(self.transformer(torch.cat([cls, local], dim=1)))
        cls, local = x.chunk(2, dim=1)
        prim_rep = torch.cat([cls.mean(dim=(2, 3)), local.mean(dim=(2, 3))], dim=1)
        logits: Tensor = self.head(prim_rep)
        return logits

    def _initialise(self) -> None:
        nn.init.trunc_normal_(self.pos_embedding, std=0.02)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        for part in (self.adapt, self.transformer, self.head):
            for module in part.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    nn.init.xavier_uniform_(module.weight.flatten(1))  # a view: fills the weight in place
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)


def build_model(config: ModelConfig) -> HFFNet2D:
    """The network that a configuration names, in training form with fresh weights."""
    match config.name:
        case "HFFNet_2D":
            return HFFNet2D(config)
