"""Transformer2D: the paper's encoder on feature maps, written with 1×1 convolutions.

Channels are the token's vector and positions are the tokens, so every module maps (N, C, h, w) to the same shape.
Nothing here knows how the map was made or what is read from it.
"""

from typing import Literal

import torch.nn.functional as F  # noqa: N812 (the name every torch reader knows)
from torch import Tensor, nn

Norm = Literal["pre", "post", "none"]


class LayerNorm2D(nn.LayerNorm):
    """LayerNorm over the channels of each position of (N, C, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) to the same shape."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class MultiHeadAttention2D(nn.Module):
    """Softmax(Q Kᵀ / √head_dim) V between all positions, per head; then ``proj`` mixes the heads."""

    def __init__(self, channels: int, heads: int, *, qkv_bias: bool, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=qkv_bias)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) to the same shape; ``qkv`` channels are ordered (3, heads, head_dim)."""
        n, channels, h, w = x.shape
        qkv = self.qkv(x).reshape(n, 3, self.heads, channels // self.heads, h * w)
        q, k, v = qkv.transpose(-1, -2).unbind(1)  # each (N, heads, positions, head_dim)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        out: Tensor = self.proj(mixed.transpose(-1, -2).reshape(n, channels, h, w))
        return out


class FeedForward2D(nn.Module):
    """1×1 convolution to ``hidden_dim``, exact GELU, 1×1 convolution back."""

    def __init__(self, channels: int, hidden_dim: int, *, dropout: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, hidden_dim, 1)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(hidden_dim, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) to the same shape."""
        out: Tensor = self.conv2(self.dropout(F.gelu(self.conv1(x))))
        return out


class EncoderLayer2D(nn.Module):
    """Attention and feed-forward, each with its norm and its residual sum where the configuration has them."""

    def __init__(
        self, channels: int, heads: int, mlp_dim: int, *, norm: Norm, residual: bool, qkv_bias: bool, dropout: float
    ) -> None:
        super().__init__()
        self.norm = norm
        self.residual = residual
        self.norm1 = nn.Identity() if norm == "none" else LayerNorm2D(channels)
        self.attention = MultiHeadAttention2D(channels, heads, qkv_bias=qkv_bias, dropout=dropout)
        self.norm2 = nn.Identity() if norm == "none" else LayerNorm2D(channels)
        self.feed_forward = FeedForward2D(channels, mlp_dim, dropout=dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) to the same shape."""
        x = self._half(x, self.norm1, self.attention)
        return self._half(x, self.norm2, self.feed_forward)

    def _half(self, x: Tensor, norm: nn.Module, part: nn.Module) -> Tensor:
        out: Tensor = self.dropout(part(x if self.norm == "post" else norm(x)))
        if self.residual:
            out = x + out
        return norm(out) if self.norm == "post" else out


class Transformer2D(nn.Sequential):
    """``depth`` encoder layers one after another; the identity when depth is 0."""

    def __init__(
        self,
        channels: int,
        depth: int,
        heads: int,
        mlp_dim: int,
        *,
        norm: Norm,
        residual: bool,
        qkv_bias: bool,
        dropout: float,
    ) -> None:
        super().__init__(
            *(
                EncoderLayer2D(
                    channels, heads, mlp_dim, norm=norm, residual=residual, qkv_bias=qkv_bias, dropout=dropout
                )
                for _ in range(depth)
            )
        )
