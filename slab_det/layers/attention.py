"""Simplified linear attention (SLA) and windowed softmax attention."""

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

from .autocast import without_autocast
from .cache import EvalCache
from .folding import fold_norm_into_linear
from .positions import GridCache
from .windows import WindowLayout, window_merge, window_partition


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
    with without_autocast(q):
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


class QKVProjection(EvalCache):
    """The projection of tokens to query, key and value, and that of the result.

    Args:
        dim: channels C.
        num_heads: attention heads.
        qkv_bias: whether the projection to query, key and value has a bias.

    Raises:
        ValueError: the heads do not divide the channels.
    """

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        check_heads(dim, num_heads)
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)


def check_heads(dim: int, num_heads: int) -> None:
    """Raise ValueError unless ``num_heads`` divides ``dim``."""
    if dim % num_heads:
        raise ValueError(f'num_heads={num_heads} does not divide dim={dim} channels.')


class LinearMixing(GridCache):
    """Simplified linear attention between the projections: the learned part of it.

    A subclass calls :meth:`build_mixing` once and :meth:`mix` in its forward pass.
    """

    def build_mixing(
        self, dim: int, num_heads: int, grid: tuple[int, int], kernel_size: int = 5
    ) -> None:
        """Add the parameters.

        Args:
            dim: channels C.
            num_heads: attention heads.
            grid: height and width of the keys' positional encoding, which is resized to the map.
            kernel_size: side of the depth-wise convolution that the heads share.
        """
        self.num_heads = num_heads
        self.grid = tuple(grid)
        head_dim = dim // num_heads
        self.dwc = nn.Conv2d(
            head_dim, head_dim, kernel_size, padding=kernel_size // 2, groups=head_dim
        )
        self.positional_encoding = nn.Parameter(torch.zeros(1, grid[0] * grid[1], dim))

    def kernels(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias of the depth-wise convolution."""
        return self.dwc.weight, self.dwc.bias

    def mix(
        self, q: Tensor, k: Tensor, v: Tensor, height: int, width: int, reduction: int = 1
    ) -> Tensor:
        """Attend with projected queries ``(B, height * width, C)``, and keys and values of the
        map that is ``reduction`` times smaller."""
        key_map = height // reduction, width // reduction
        k = k + self.resized(self.positional_encoding, self.grid, key_map)
        return simplified_linear_attention(
            q, k, v, height, width, self.num_heads, *self.kernels(), upsample_values=reduction > 1
        )


class _WindowProjection(QKVProjection):
    """Attention among the tokens of windows, see :class:`QKVProjection`."""

    def __init__(self, dim: int, window: int, num_heads: int, qkv_bias: bool = True) -> None:
        super().__init__(dim, num_heads, qkv_bias)
        self.window = window
        # What padding yields once a norm is folded into qkv, see project().
        self.register_buffer('pad_qkv', None)

    def forward(
        self,
        x: Tensor,
        padded: Tensor | None = None,
        mask: Tensor | None = None,
        layout: WindowLayout | None = None,
    ) -> Tensor:
        """Attend within windows.

        Args:
            x: windows ``(B * num_windows, N, C)``; with a ``layout`` maps ``(B, H * W, C)``.
            padded: rows of ``x.view(-1, C)`` that are padding; a ``layout`` names them itself.
            mask: ``(num_windows, N, N)``, added to the logits of softmax attention.
            layout: how maps are cut into windows.

        Returns:
            The shape of ``x``.
        """
        if layout is None:
            return self.proj(self.attend(*self.project(x, padded), mask))
        windows = self.project(window_partition(x, layout), layout.padded)
        # The projection is token-wise, so that padding is dropped before it.
        return self.proj(window_merge(self.attend(*windows, mask), layout, x.shape[0]))

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

    def fold(self, norm: nn.Module) -> nn.Module:
        """Fold the norm of the tokens that come in into the projection; return what takes its
        place. Padding keeps the projection's original bias."""
        bias = self.qkv.bias
        pad = self.qkv.weight.new_zeros(self.qkv.out_features) if bias is None else bias
        self.pad_qkv = pad.detach().clone()
        return fold_norm_into_linear(norm, self.qkv)


class WindowLinearAttention(_WindowProjection, LinearMixing):
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
        super().__init__(dim, window, num_heads, qkv_bias)
        self.build_mixing(dim, num_heads, (window, window), kernel_size)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend with projected ``(windows, window**2, C)`` queries, keys and values; ``mask``
        has no meaning here."""
        return self.mix(q, k, v, self.window, self.window)


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
        super().__init__(dim, window, num_heads, qkv_bias)
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
            bias = bias.expand(windows // mask.shape[0], *bias.shape).flatten(0, 1)
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
