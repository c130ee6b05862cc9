"""Parts of the deploy form that work on (N, tokens, channels): the encoder's layers and the folded head.

Each is made from its trained counterpart on feature maps and computes the same.
"""

import math

import torch
import torch.nn.functional as F  # noqa: N812 (the name every torch reader knows)
from torch import Tensor, nn

from hffnet.train.network import HierarchicalHead
from hffnet.train.transformer import EncoderLayer2D, LayerNorm2D, MultiHeadAttention2D, Norm, Transformer2D


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
        self.norm1 = norm_from_map(layer.norm1)
        self.attention = TokenAttention(layer.attention)
        self.norm2 = norm_from_map(layer.norm2)
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


def norm_from_map(norm: nn.Module) -> nn.Module:
    """The same norm on tokens; the identity where there is none."""
    return TokenNorm(norm) if isinstance(norm, LayerNorm2D) else nn.Identity()


def layers_from_transformer(transformer: Transformer2D) -> nn.Sequential:
    """The same encoder on tokens."""
    return nn.Sequential(*(TokenEncoderLayer(one) for one in transformer if isinstance(one, EncoderLayer2D)))


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


def linear_from_classifiers(classifiers: nn.ModuleList) -> TokenLinear:
    """Classifiers of all levels side by side, as one matrix (channels, ΣC) and one bias."""
    weight, bias = _stacked(classifiers)
    return TokenLinear(weight.t().float(), bias.float())
