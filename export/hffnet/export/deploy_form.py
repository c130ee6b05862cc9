"""The deploy form: the function of a trained network, folded for inference.

Frames enter as uint8 and are normalised inside. BatchNorm is folded into the convolutions, the transformer works on
(N, positions, channels) with matrix products, and the linear head is one matrix. Pooling and head are both linear, so
they commute: the head is applied to every position (``evidence``), and the logits are the mean of that, exactly. Each
decision comes with its own spatial explanation at no cost. What this module does not know is ONNX.
"""

import copy
import math

import torch
import torch.nn.functional as F  # noqa: N812 (the name every torch reader knows)
from torch import Tensor, nn

from hffnet.train.model import HFFNet2D, HierarchicalHead, ModelConfig
from hffnet.train.resnet import ResNetTrunk
from hffnet.train.transformer import EncoderLayer2D, LayerNorm2D, MultiHeadAttention2D, Norm


class TokenLinear(nn.Module):
    """``x @ weight + bias`` on the last axis: exports as one MatMul whose weight needs no Transpose.

    Args:
        weight: (in, out).
        bias: (out,), or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, in) to (N, T, out)."""
        out = torch.matmul(x, self.weight)
        return out if self.bias is None else out + self.bias


class TokenNorm(nn.Module):
    """LayerNorm over the last axis, with the parameters of a `LayerNorm2D`."""

    def __init__(self, norm: LayerNorm2D) -> None:
        super().__init__()
        self.weight = nn.Parameter(norm.weight.detach(), requires_grad=False)
        self.bias = nn.Parameter(norm.bias.detach(), requires_grad=False)
        self.eps = norm.eps

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, C) to the same shape."""
        return F.layer_norm(x, (x.shape[-1],), self.weight, self.bias, self.eps)


class TokenAttention(nn.Module):
    """`MultiHeadAttention2D` on tokens; 1 / √head_dim is part of Q's weights."""

    def __init__(self, attention: MultiHeadAttention2D) -> None:
        super().__init__()
        channels = attention.proj.out_channels
        self.heads = attention.heads
        self.head_dim = channels // attention.heads
        self.qkv = linear_from_conv(attention.qkv)
        self.qkv.weight[:, :channels] /= math.sqrt(self.head_dim)
        if self.qkv.bias is not None:
            self.qkv.bias[:channels] /= math.sqrt(self.head_dim)
        self.proj = linear_from_conv(attention.proj)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, C) to the same shape."""
        num_tokens, channels = x.shape[1], x.shape[2]
        q, k, v = (
            part.reshape(-1, num_tokens, self.heads, self.head_dim) for part in self.qkv(x).chunk(3, dim=-1)
        )  # each (N, T, heads, head_dim)
        scores = torch.matmul(q.permute(0, 2, 1, 3), k.permute(0, 2, 3, 1))
        mixed = torch.matmul(torch.softmax(scores, dim=-1), v.permute(0, 2, 1, 3))
        out: Tensor = self.proj(mixed.permute(0, 2, 1, 3).reshape(-1, num_tokens, channels))
        return out


class TokenFeedForward(nn.Module):
    """`FeedForward2D` on tokens."""

    def __init__(self, conv1: nn.Conv2d, conv2: nn.Conv2d) -> None:
        super().__init__()
        self.fc1 = linear_from_conv(conv1)
        self.gelu = nn.GELU()
        self.fc2 = linear_from_conv(conv2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, C) to the same shape."""
        out: Tensor = self.fc2(self.gelu(self.fc1(x)))
        return out


class TokenEncoderLayer(nn.Module):
    """`EncoderLayer2D` on tokens: same norms, same residual sums, no dropout."""

    def __init__(self, layer: EncoderLayer2D) -> None:
        super().__init__()
        self.norm: Norm = layer.norm
        self.residual = layer.residual
        self.norm1 = _norm(layer.norm1)
        self.attention = TokenAttention(layer.attention)
        self.norm2 = _norm(layer.norm2)
        self.feed_forward = TokenFeedForward(layer.feed_forward.conv1, layer.feed_forward.conv2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, C) to the same shape."""
        x = self._half(x, self.norm1, self.attention)
        return self._half(x, self.norm2, self.feed_forward)

    def _half(self, x: Tensor, norm: nn.Module, part: nn.Module) -> Tensor:
        out: Tensor = part(x if self.norm == "post" else norm(x))
        if self.residual:
            out = x + out
        return norm(out) if self.norm == "post" else out


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
    """

    def __init__(self, model: HFFNet2D) -> None:
        super().__init__()
        self.config = model.config
        self.normalise = GreyNormalise(model.config)
        self.trunk = folded_trunk(model.trunk)
        self.adapt = nn.Conv2d(model.adapt.in_channels, model.adapt.out_channels, 1, bias=False)
        self.adapt.weight = nn.Parameter(model.adapt.weight.detach(), requires_grad=False)
        self.embedding = nn.Parameter(_embedding(model), requires_grad=False)
        self.transformer = nn.Sequential(*(TokenEncoderLayer(layer) for layer in _encoder_layers(model)))
        self.final_norm = _norm(model.final_norm)
        self.head = linear_from_head(model.head)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and what they are the mean of.

        Args:
            frames: (N, img_size, img_size) uint8.

        Returns:
            logits (N, ΣC) and evidence (N, ΣC, h, w), both float32 whatever the parameters' type.
        """
        grid, num_columns = self.config.grid, sum(self.config.num_classes)
        local = self.adapt(self.trunk(self.normalise(frames)))
        local = local.reshape(-1, self.config.half_channels, grid * grid).transpose(1, 2)
        # The class half is the same for all frames: it comes with the positions, in one table.
        tokens = F.pad(local, (self.config.half_channels, 0)) + self.embedding
        tokens = self.final_norm(self.transformer(tokens))
        evidence = self.head(tokens).transpose(1, 2).reshape(-1, num_columns, grid, grid).float()
        return evidence.mean(dim=(2, 3)), evidence


def deploy_form(model: HFFNet2D) -> DeployForm:
    """The same function as ``model.eval()`` on normalised frames, folded.

    Weights that need no change are shared with the model, so at the paper's size this costs less than a second
    network. Do not train the model on while the form is in use.

    Args:
        model: trained; it is not changed.
    """
    with torch.no_grad():
        form = DeployForm(model)
    return form.eval().requires_grad_(requires_grad=False)


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


def linear_from_conv(conv: nn.Conv2d) -> TokenLinear:
    """The same map as a 1×1 convolution, on tokens."""
    return TokenLinear(conv.weight.detach().flatten(1).t(), None if conv.bias is None else conv.bias.detach().clone())


def linear_from_head(head: HierarchicalHead) -> TokenLinear:
    """``level_fc`` → concat → ``level_classifier`` as one matrix (channels, ΣC) and one bias."""
    fc, fc_bias = _stacked(head.level_fc)
    classifier, classifier_bias = _stacked(head.level_classifier)
    return TokenLinear((classifier @ fc).t().float(), (classifier @ fc_bias + classifier_bias).float())


def _stacked(levels: nn.ModuleList) -> tuple[Tensor, Tensor]:
    linears = [level for level in levels if isinstance(level, nn.Linear)]
    return torch.cat([one.weight for one in linears]).double(), torch.cat([one.bias for one in linears]).double()


def _embedding(model: HFFNet2D) -> Tensor:
    """(1, positions, channels): the class embedding, then position and the bias of ``adapt``."""
    positions = model.pos_embedding.flatten(1)
    if model.adapt.bias is not None:
        positions = positions + model.adapt.bias[:, None]
    classes = model.cls_token.flatten(1).expand_as(positions)
    return torch.cat([classes, positions]).t().unsqueeze(0).contiguous()


def _encoder_layers(model: HFFNet2D) -> list[EncoderLayer2D]:
    return [layer for layer in model.transformer if isinstance(layer, EncoderLayer2D)]


def _norm(norm: nn.Module) -> nn.Module:
    return TokenNorm(norm) if isinstance(norm, LayerNorm2D) else nn.Identity()
