"""The paper's four ablations of HFFNet_2D (Sci. Rep. 15:19904, "Ablation experiments and algorithm analysis").

Trunk, encoder layers and head are those of HFFNet_2D. In the three with a transformer the class embedding is one more
token in front of the patches, as in the original ViT, and not a second half of every token's channels; position
encoding is one vector per patch, added to the patch and not to the class token, whose own vector is already free.
``prim_rep`` is the class token beside the mean of the patches ("Hierarchical feature fusion module").

docs/explanation/networks.md says where the text leaves a choice and what was chosen.
"""

import torch
from torch import Tensor, nn

from hffnet.train.network import (
    HierarchicalHead,
    ModelConfig,
    Network,
    TrunkNetwork,
    initialise,
    transformer_from_config,
)
from hffnet.train.transformer import Transformer2D


class PatchEncoder(nn.Module):
    """Patches to logits: position, class token, encoder, fusion, head. What the ViT-like variants share.

    Its parts are parameters of the network that holds it; see `HFFVT` for their names.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.empty(config.dim, config.grid, config.grid))
        self.cls_token = nn.Parameter(torch.empty(config.dim, 1))
        self.transformer: Transformer2D
        self.final_norm: nn.Module
        self.transformer, self.final_norm = transformer_from_config(config)
        self.head = HierarchicalHead(2 * config.dim, config.num_classes, config.level_dim)
        nn.init.trunc_normal_(self.pos_embedding, std=0.02)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        initialise(self.transformer, self.head)

    def forward(self, patches: Tensor) -> Tensor:
        """(N, dim, grid, grid) to logits (N, ΣC)."""
        local = (patches + self.pos_embedding).flatten(2)
        tokens = torch.cat([self.cls_token.expand(len(local), -1, -1), local], dim=2).unsqueeze(2)
        tokens = self.final_norm(self.transformer(tokens)).squeeze(2)  # (N, dim, 1 + patches)
        prim_rep = torch.cat([tokens[:, :, 0], tokens[:, :, 1:].mean(dim=2)], dim=1)
        logits: Tensor = self.head(prim_rep)
        return logits


class HFFVT(Network):
    """The baseline: no convolution at all.

    Against HFFNet_2D: the frame itself is divided into ``patch_size`` × ``patch_size`` patches, each mapped to a token
    by one linear projection, as in the original ViT. It has no trunk, so public ResNet weights do not fit it and
    nothing of it can be frozen. Evidence has one position per patch (14 × 14 at the paper's size).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.projection = nn.Linear(config.patch_size**2, config.dim)
        self.encoder = PatchEncoder(config)
        initialise_projection(self.projection)

    def forward(self, frames: Tensor) -> Tensor:
        """See `Network`."""
        grid, side = self.config.grid, self.config.patch_size
        cut = frames.reshape(-1, grid, side, grid, side).permute(0, 1, 3, 2, 4)
        patches = self.projection(cut.reshape(-1, grid, grid, side * side))
        logits: Tensor = self.encoder(patches.permute(0, 3, 1, 2))
        return logits


class HFFCNN(TrunkNetwork):
    """ResNet alone: "suppressing the HFF module and HFFVT".

    Against HFFNet_2D: no transformer, no class embedding, no ``level_fc`` and no fusion; one linear classifier per
    level on the global average of the trunk's feature map. Evidence is the classifier at each position of that map,
    the class activation map (arXiv:1512.04150).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.level_classifier = nn.ModuleList(nn.Linear(self.trunk.out_channels, num) for num in config.num_classes)
        initialise(self.level_classifier)

    def logits_from_features(self, features: Tensor) -> Tensor:
        """See `TrunkNetwork`."""
        pooled = features.mean(dim=(2, 3))
        return torch.cat([classifier(pooled) for classifier in self.level_classifier], dim=1)


class HFFCNNVT(TrunkNetwork):
    """ResNet, then a ViT on its feature map through a linear projection.

    Against HFFNet_2D: a linear projection of each position's features instead of the 1×1 convolution; class embedding
    and position encoding of the ViT. The feature map has 7 × 7 positions at the paper's size, so a patch is one
    position: no other patch of a 7 × 7 map gives more than one token.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.projection = nn.Linear(self.trunk.out_channels, config.dim)
        self.encoder = PatchEncoder(config)
        initialise_projection(self.projection)

    def logits_from_features(self, features: Tensor) -> Tensor:
        """See `TrunkNetwork`."""
        patches = self.projection(features.permute(0, 2, 3, 1))
        logits: Tensor = self.encoder(patches.permute(0, 3, 1, 2))
        return logits


class HFFCNNConvVT(TrunkNetwork):
    """HFF_CNN_VT with a 1×1 convolution in place of the linear projection.

    A 1×1 convolution *is* a linear projection of each position: with equal weights the two networks give equal logits.
    They differ in first weights only (Xavier uniform here, as `HFFNet2D`; ViT's truncated normal there), so a
    difference between their scores is that and chance.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.adapt = nn.Conv2d(self.trunk.out_channels, config.dim, 1)
        self.encoder = PatchEncoder(config)
        initialise(self.adapt)

    def logits_from_features(self, features: Tensor) -> Tensor:
        """See `TrunkNetwork`."""
        logits: Tensor = self.encoder(self.adapt(features))
        return logits


def initialise_projection(projection: nn.Linear) -> None:
    """As ViT does it: truncated normal of 1 / √(inputs), bias 0 (arXiv:2010.11929 and its published code)."""
    nn.init.trunc_normal_(projection.weight, std=projection.in_features**-0.5)
    nn.init.zeros_(projection.bias)
