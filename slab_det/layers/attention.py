"""Simplified linear attention (SLA) and windowed softmax attention."""

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

from .cache import EvalCache
from .traced import TracedLayout, traced_mask, traced_merge, traced_padding, traced_partition


def simplified_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    height: int,
    width: int,
    num_heads: int,
    dwc_weight: Tensor,
    dwc_bias: Tensor | None = None,
    eps: float = 1e-6,
    upsample_values: bool = False,
) -> Tensor:
    """Simplified linear attention with ReLU kernel and depth-wise convolution.

    Per head, over the N tokens of one window or map::

        out = relu(q) (relu(k)^T v) / (relu(q) . sum(relu(k)) + eps) + DWC(v)

    Time and memory are linear in N. The sums run over thousands of
    tokens, so half precision, under autocast or not, is computed in float32; float64 stays.

    Args:
        q: queries ``(B, N, C)``, before the ReLU.
        k: keys ``(B, M, C)``, before the ReLU, positional encoding already added; M is N unless
            keys and values were reduced.
        v: values ``(B, M, C)``.
        height, width: the ``N = height * width`` tokens in row-major order are convolved as
            such a map.
        num_heads: heads that C divides into.
        dwc_weight: ``(C / num_heads, 1, K, K)``, one kernel per channel of a head, shared by
            all heads, or ``(C, 1, K, K)``, one per channel.
        dwc_bias: one entry per kernel, or None.
        eps: keeps the quotient finite where a query is zero.
        upsample_values: M differs from N; the values are then interpolated for the convolution,
            linearly along the flattened sequence, as in the published models.

    Returns:
        ``(B, N, C)``, in the type of ``v``.

    Raises:
        ValueError: the number of values is not ``height * width`` and they are not upsampled.

    Source: Guo et al., "SLAB", ICML 2024, section 3.3.
    """
    if v.shape[1] != height * width and not upsample_values:
        raise ValueError(f'v holds {v.shape[1]} tokens, but height x width is {height} x {width}.')
    dtype = v.dtype
    with torch.autocast(q.device.type, enabled=False):
        q, k, v = (
            x.float() if x.dtype in (torch.float16, torch.bfloat16) else x for x in (q, k, v)
        )
        weight = dwc_weight.to(v.dtype)
        bias = None if dwc_bias is None else dwc_bias.to(v.dtype)
        out = relu_linear_attention(q, k, v, num_heads, eps)
        if v.shape[1] != height * width:
            v = F.interpolate(v.transpose(1, 2), size=height * width, mode='linear').transpose(1, 2)
        return (out + depthwise_over_heads(v, height, width, weight, bias)).to(dtype)


def relu_linear_attention(q: Tensor, k: Tensor, v: Tensor, num_heads: int, eps: float) -> Tensor:
    """Return ``relu(q) (relu(k)^T v) / (relu(q) . sum(relu(k)) + eps)`` per head, ``(B, N, C)``."""
    batch, tokens, channels = q.shape
    q, k, v = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (q.relu(), k.relu(), v))
    total = k.sum(2).unsqueeze(-1)
    out = (q @ (k.transpose(-2, -1) @ v)) / (q @ total + eps)
    return out.transpose(1, 2).reshape(batch, tokens, channels)


def depthwise_over_heads(
    v: Tensor, height: int, width: int, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """Convolve ``v: (B, height * width, C)`` depth-wise with ``weight: (D, 1, K, K)``, repeated
    ``C / D`` times where the kernels are one per channel of a head.

    Tokens are a channels-last image, so that nothing is transposed.
    """
    batch, _, channels = v.shape
    image = v.contiguous().view(batch, height, width, channels).permute(0, 3, 1, 2)
    # int(), because a traced graph takes its channels and kernels for constants.
    times = int(channels) // len(weight)
    bias = None if bias is None else torch.cat([bias] * times)
    out = F.conv2d(
        image,
        torch.cat([weight] * times),
        bias,
        padding=int(weight.shape[-1]) // 2,
        groups=int(channels),
    )
    return out.permute(0, 2, 3, 1).reshape(batch, height * width, channels)


class _WindowProjection(EvalCache):
    """Query, key and value of window tokens, and the projection of the result.

    Args:
        dim: channels C.
        num_heads: attention heads.
        qkv_bias: whether the projection to query, key and value has a bias.
    """

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f'num_heads={num_heads} does not divide dim={dim} channels.')
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        # What padding yields once a norm is folded into qkv, see project().
        self.register_buffer('pad_qkv', None)

    def forward(
        self, x: Tensor, padded: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Attend within windows and project the result, ``(B * num_windows, N, C)`` to the same
        shape; the arguments are those of :meth:`mix`."""
        return self.proj(self.mix(x, padded, mask))

    def mix(self, x: Tensor, padded: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Attend within windows, short of the projection: it is token-wise, so that a map may
        drop its padding first.

        Args:
            x: ``(B * num_windows, N, C)``.
            padded: rows of ``x.view(-1, C)`` that are padding.
            mask: ``(num_windows, N, N)``, added to the logits of softmax attention.
        """
        return self.attend(*self.project(x, padded), mask)

    def project(self, x: Tensor, padded: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return q, k, v of ``x: (windows, N, C)``.

        Zero tokens that pad the normed map yield the bias of the projection. A folded norm
        changes that bias, so the padded rows are then overwritten by the original one, which
        is exact for every value of the norm's parameters.
        """
        qkv = self.qkv(x)
        if self.pad_qkv is not None and padded is not None:
            qkv.view(-1, qkv.shape[-1])[padded] = self.pad_qkv.to(qkv.dtype)
        return qkv.chunk(3, dim=-1)

    def traced(self, x: Tensor, layout: TracedLayout, masked: bool) -> Tensor:
        """Attend within the windows of maps ``x: (B, H * W, C)`` whose layout is part of the
        graph; return ``(B, H * W, C)``.

        Queries, keys and values are projected apart, which spares a runtime to cut them out of one
        tensor. Padded queries are never looked at.
        """
        batch = x.shape[0]
        rows = traced_partition(x, layout, self.qkv.in_features)
        weights = self.qkv.weight.chunk(3)
        biases = (None,) * 3 if self.qkv.bias is None else self.qkv.bias.chunk(3)
        q, k, v = (F.linear(rows, weight, bias) for weight, bias in zip(weights, biases))
        pad = self.qkv.bias if self.pad_qkv is None else self.pad_qkv
        if pad is None:
            pad = self.qkv.weight.new_zeros(self.qkv.out_features)
        _, pad_k, pad_v = pad.chunk(3)
        k = traced_padding(k, pad_k, layout, batch)
        v = traced_padding(v, pad_v, layout, batch)
        q, k, v = (t.view(-1, layout.tokens, self.proj.in_features) for t in (q, k, v))
        mask = traced_mask(layout, v) if masked else None
        out = traced_merge(self.attend(q, k, v, mask), layout, batch)
        dim = self.proj.in_features
        return self.proj(out.reshape(-1, dim)).view(batch, -1, dim)


class WindowLinearAttention(_WindowProjection):
    """Simplified linear attention within windows, without a mask.

    Args:
        dim: channels C.
        window: side of a window; the positional encoding of the keys has ``window**2`` tokens.
        num_heads: attention heads.
        qkv_bias: whether the projection to query, key and value has a bias.
        kernel_size: side of the depth-wise convolution.
    """

    def __init__(
        self, dim: int, window: int, num_heads: int, qkv_bias: bool = True, kernel_size: int = 5
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias)
        self.window = window
        head_dim = dim // num_heads
        self.dwc = nn.Conv2d(
            head_dim, head_dim, kernel_size, padding=kernel_size // 2, groups=head_dim
        )
        self.positional_encoding = nn.Parameter(torch.zeros(1, window * window, dim))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend with projected ``(windows, window**2, C)`` queries, keys and values; ``mask``
        has no meaning here."""
        k = k + self.positional_encoding
        return simplified_linear_attention(
            q, k, v, self.window, self.window, self.num_heads, self.dwc.weight, self.dwc.bias
        )


class WindowSoftmaxAttention(_WindowProjection):
    """Softmax attention within windows with a relative position bias, as in Swin.

    ``softmax(q k^T / sqrt(d) + bias + mask) v`` per head.

    Args:
        dim: channels C.
        window: side of a window.
        num_heads: attention heads.
        qkv_bias: whether the projection to query, key and value has a bias.
    """

    def __init__(self, dim: int, window: int, num_heads: int, qkv_bias: bool = True) -> None:
        super().__init__(dim, num_heads, qkv_bias)
        self.window = window
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros((2 * window - 1) ** 2, num_heads)
        )
        trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer(
            'relative_position_index', relative_position_index(window), persistent=False
        )

    def position_bias(self) -> Tensor:
        """Return the bias ``(num_heads, N, N)`` between the N tokens of a window."""
        tokens = self.window * self.window
        bias = self.relative_position_bias_table[self.relative_position_index]
        return bias.view(tokens, tokens, self.num_heads).permute(2, 0, 1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend with projected ``(B * num_windows, N, C)`` queries, keys and values."""
        windows, tokens, channels = q.shape
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
        bias = self.cached(
            q.dtype,
            self.relative_position_bias_table,
            lambda: self.position_bias().unsqueeze(0).to(q.dtype).contiguous(),
        )
        if mask is not None:
            bias = bias + mask.unsqueeze(1).to(q.dtype)
            if windows != mask.shape[0]:
                bias = bias.repeat(windows // mask.shape[0], 1, 1, 1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return out.transpose(1, 2).reshape(windows, tokens, channels)


def relative_position_index(window: int) -> Tensor:
    """Return ``(window**4,)``: the row of the bias table for each pair of tokens of a window.

    The row of a token at offset ``(dy, dx)`` from another is ``(dy + w - 1) (2 w - 1) + dx + w -
    1`` for window side w.
    """
    y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing='ij')
    y, x = y.flatten(), x.flatten()
    dy = y[:, None] - y[None, :] + window - 1
    dx = x[:, None] - x[None, :] + window - 1
    return (dy * (2 * window - 1) + dx).flatten()
