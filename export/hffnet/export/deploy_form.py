"""The deploy form: the function of a trained network, folded for inference.

Frames enter as uint8 and are normalised inside. BatchNorm is folded into the convolutions, the transformer works on
(N, positions, channels) with matrix products, and the linear head is one matrix. Pooling and head are both linear, so
they commute: the head is applied to every position (``evidence``), and the logits are the mean of that, exactly. Each
decision comes with its own spatial explanation at no cost. What this module does not know is ONNX.

There is one form per way from pixels to positions: `ConcatForm` (HFFNet_2D), `PatchForm` (HFFVT, HFF_CNN_VT,
HFF_CNN_Conv_VT) and `MapForm` (HFFCNN).
"""

import copy
from abc import abstractmethod

import torch
import torch.nn.functional as F  # noqa: N812 (the name every torch reader knows)
from torch import Tensor, nn

from hffnet.export.tokens import (
    TokenLinear,
    layers_from_transformer,
    linear_from_classifiers,
    linear_from_head,
    norm_from_map,
)
from hffnet.train.model import HFFNet2D
from hffnet.train.network import ModelConfig, Network
from hffnet.train.resnet import ResNetTrunk
from hffnet.train.variants import HFFCNN, HFFCNNVT, HFFVT, HFFCNNConvVT


class GreyNormalise(nn.Module):
    """uint8 frames to the trunk's input: subtract, then multiply.

    It is not folded into the stem: the stem pads with zeros after normalisation, so folding the offset would change
    the border, and folding only the factor would push small stem weights into float16's subnormal range.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.tensor(config.grey_offset), requires_grad=False)
        self.scale = nn.Parameter(torch.tensor(config.grey_scale), requires_grad=False)

    def forward(self, frames: Tensor) -> Tensor:
        """(N, H, W) uint8 to (N, 1, H, W) of the parameters' type."""
        # Cast first: TensorRT takes uint8 as a graph's input, but only Cast may read it.
        return (frames.to(self.scale.dtype).unsqueeze(1) - self.offset) * self.scale


class DeployForm(nn.Module):
    """A network folded for inference; made by `deploy_form`.

    Attributes:
        config: of the network it was made from.
        head: what turns a position into its evidence.
    """

    head: TokenLinear

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.normalise = GreyNormalise(config)

    @abstractmethod
    def evidence_NPC(self, frames: Tensor) -> Tensor:  # noqa: N802 (shape suffix)
        """(N, 1, img_size, img_size) normalised frames to what each position says, (N, positions, ΣC)."""

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and what they are the mean of.

        Args:
            frames: (N, img_size, img_size) uint8.

        Returns:
            logits (N, ΣC) and evidence (N, ΣC, h, w), both float32 whatever the parameters' type.
        """
        grid, num_columns = self.config.grid, sum(self.config.num_classes)
        evidence = self.evidence_NPC(self.normalise(frames))
        evidence = evidence.transpose(1, 2).reshape(-1, num_columns, grid, grid).float()
        return evidence.mean(dim=(2, 3)), evidence


class ConcatForm(DeployForm):
    """`HFFNet2D`: the class embedding is half of every token's channels."""

    def __init__(self, model: HFFNet2D) -> None:
        super().__init__(model.config)
        self.trunk = folded_trunk(model.trunk)
        self.adapt = _without_bias(model.adapt)
        self.embedding = nn.Parameter(_channel_embedding(model), requires_grad=False)
        self.transformer = layers_from_transformer(model.transformer)
        self.final_norm = norm_from_map(model.final_norm)
        self.head = linear_from_head(model.head)

    def evidence_NPC(self, frames: Tensor) -> Tensor:  # noqa: N802 (shape suffix)
        """See `DeployForm`."""
        local = self.adapt(self.trunk(frames))
        local = local.reshape(-1, self.config.half_channels, self.config.grid**2).transpose(1, 2)
        # The class half is the same for all frames: it comes with the positions, in one table.
        tokens = F.pad(local, (self.config.half_channels, 0)) + self.embedding
        out: Tensor = self.head(self.final_norm(self.transformer(tokens)))
        return out


class PatchForm(DeployForm):
    """The variants with a class token: patches are made by a convolution of the frame or of the trunk's map.

    Logits are linear in the mean of the patches and in the class token, which says the same at every position: the
    evidence of a patch is its own part plus that.
    """

    def __init__(self, model: HFFVT | HFFCNNVT | HFFCNNConvVT) -> None:
        super().__init__(model.config)
        self.trunk = nn.Identity() if isinstance(model, HFFVT) else folded_trunk(model.trunk)
        side = model.config.patch_size if isinstance(model, HFFVT) else 1
        convolution = model.adapt if isinstance(model, HFFCNNConvVT) else conv_from_projection(model.projection, side)
        self.adapt = _without_bias(convolution)
        encoder, dim = model.encoder, model.config.dim
        positions = encoder.pos_embedding.flatten(1)
        if convolution.bias is not None:
            positions = positions + convolution.bias[:, None]
        table = torch.cat([encoder.cls_token, positions], dim=1).t().unsqueeze(0).contiguous()
        self.embedding = nn.Parameter(table, requires_grad=False)
        self.transformer = layers_from_transformer(encoder.transformer)
        self.final_norm = norm_from_map(encoder.final_norm)
        whole = linear_from_head(encoder.head)
        self.head_cls = TokenLinear(whole.weight[:dim], whole.bias)
        self.head = TokenLinear(whole.weight[dim:], None)

    def evidence_NPC(self, frames: Tensor) -> Tensor:  # noqa: N802 (shape suffix)
        """See `DeployForm`."""
        local = self.adapt(self.trunk(frames)).reshape(-1, self.config.dim, self.config.grid**2).transpose(1, 2)
        # The class token is the same for all frames: it comes with the positions, in one table.
        tokens = F.pad(local, (0, 0, 1, 0)) + self.embedding
        tokens = self.final_norm(self.transformer(tokens))
        out: Tensor = self.head(tokens[:, 1:]) + self.head_cls(tokens[:, :1])
        return out


class MapForm(DeployForm):
    """`HFFCNN`: the classifiers at every position of the trunk's feature map."""

    def __init__(self, model: HFFCNN) -> None:
        super().__init__(model.config)
        self.trunk = folded_trunk(model.trunk)
        self.head = linear_from_classifiers(model.level_classifier)

    def evidence_NPC(self, frames: Tensor) -> Tensor:  # noqa: N802 (shape suffix)
        """See `DeployForm`."""
        positions: Tensor = self.trunk(frames).reshape(-1, self.trunk.out_channels, self.config.grid**2)
        out: Tensor = self.head(positions.transpose(1, 2))
        return out


def deploy_form(model: Network) -> DeployForm:
    """The same function as ``model.eval()`` on normalised frames, folded.

    Weights that need no change are shared with the model, so at the paper's size this costs less than a second
    network. Do not train the model on while the form is in use.

    Args:
        model: trained; it is not changed.

    Raises:
        TypeError: a network outside the family.
    """
    with torch.no_grad():
        form = _form(model)
    return form.eval().requires_grad_(requires_grad=False)


def _form(model: Network) -> DeployForm:
    match model:
        case HFFNet2D():
            return ConcatForm(model)
        case HFFVT() | HFFCNNVT() | HFFCNNConvVT():
            return PatchForm(model)
        case HFFCNN():
            return MapForm(model)
        case _:
            raise TypeError(f"{type(model).__name__} has no deploy form; write one beside the others")


def folded_trunk(trunk: ResNetTrunk) -> ResNetTrunk:
    """A copy of a trunk in which each BatchNorm is part of the convolution before it, with running statistics."""
    folded = copy.deepcopy(trunk)
    for block in folded.modules():
        for conv_name, norm_name in (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"), ("0", "1")):
            conv, norm = getattr(block, conv_name, None), getattr(block, norm_name, None)
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                _fold(conv, norm)
                setattr(block, norm_name, nn.Identity())
    return folded


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    # In float64: gain and offset of a channel with a small variance are large numbers that nearly cancel.
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    bias = norm.bias.double() - norm.running_mean.double() * gain
    conv.weight = nn.Parameter((conv.weight.double() * gain[:, None, None, None]).float())
    conv.bias = nn.Parameter(bias.float())


def conv_from_projection(projection: nn.Linear, side: int) -> nn.Conv2d:
    """A linear projection of ``side`` × ``side`` patches, or of single positions, as the same convolution."""
    channels = projection.in_features // side**2
    conv = nn.Conv2d(channels, projection.out_features, side, side)
    conv.weight = nn.Parameter(projection.weight.detach().reshape(-1, channels, side, side), requires_grad=False)
    conv.bias = nn.Parameter(projection.bias.detach(), requires_grad=False)
    return conv


def _without_bias(conv: nn.Conv2d) -> nn.Conv2d:
    """Sharing its weight; the bias goes into the table of positions."""
    side = conv.kernel_size[0]
    bare = nn.Conv2d(conv.in_channels, conv.out_channels, side, side, bias=False)
    bare.weight = nn.Parameter(conv.weight.detach(), requires_grad=False)
    return bare


def _channel_embedding(model: HFFNet2D) -> Tensor:
    """(1, positions, channels): the class embedding, then position and the bias of ``adapt``."""
    positions = model.pos_embedding.flatten(1)
    if model.adapt.bias is not None:
        positions = positions + model.adapt.bias[:, None]
    classes = model.cls_token.flatten(1).expand_as(positions)
    return torch.cat([classes, positions]).t().unsqueeze(0).contiguous()
