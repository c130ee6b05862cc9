"""HFFNet_2D in training form, as the paper draws it (Sci. Rep. 15:19904, "HFFNet_2D network architecture").

Grey frame → ResNet trunk (stride 32) → 1×1 convolution → + position → concat class embedding along the channels →
Transformer2D → means of both halves (``prim_rep``) → one linear map per level → concat → one linear classifier per
level. `build_model` also knows the ablations of ``variants``.
"""

import torch
from torch import Tensor, nn

from hffnet.train.network import (
    HierarchicalHead,
    ModelConfig,
    Network,
    TrunkNetwork,
    initialise,
    nano_config,
    normalise,
    paper_config,
    small_config,
    transformer_from_config,
)
from hffnet.train.variants import HFFCNN, HFFCNNVT, HFFVT, HFFCNNConvVT

__all__ = [
    "HFFNet2D",
    "ModelConfig",
    "build_model",
    "nano_config",
    "normalise",
    "paper_config",
    "small_config",
]


class HFFNet2D(TrunkNetwork):
    """The paper's network; parameter names follow its text."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.adapt = nn.Conv2d(self.trunk.out_channels, config.half_channels, 1)
        self.pos_embedding = nn.Parameter(torch.empty(config.half_channels, config.grid, config.grid))
        self.cls_token = nn.Parameter(torch.empty(config.half_channels, 1, 1))
        self.transformer, self.final_norm = transformer_from_config(config)
        self.head = HierarchicalHead(config.channels, config.num_classes, config.level_dim)
        nn.init.trunc_normal_(self.pos_embedding, std=0.02)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        initialise(self.adapt, self.transformer, self.head)

    def logits_from_features(self, features: Tensor) -> Tensor:
        """See `TrunkNetwork`."""
        local = self.adapt(features) + self.pos_embedding
        cls = self.cls_token.expand_as(local)
        x = self.final_norm(self.transformer(torch.cat([cls, local], dim=1)))
        cls, local = x.chunk(2, dim=1)
        prim_rep = torch.cat([cls.mean(dim=(2, 3)), local.mean(dim=(2, 3))], dim=1)
        logits: Tensor = self.head(prim_rep)
        return logits


def build_model(config: ModelConfig) -> Network:
    """The network that a configuration names, in training form with fresh weights."""
    match config.name:
        case "HFFNet_2D":
            return HFFNet2D(config)
        case "HFFVT":
            return HFFVT(config)
        case "HFFCNN":
            return HFFCNN(config)
        case "HFF_CNN_VT":
            return HFFCNNVT(config)
        case "HFF_CNN_Conv_VT":
            return HFFCNNConvVT(config)
