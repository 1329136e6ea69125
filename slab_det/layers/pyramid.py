"""The layers of PVT: attention with spatially reduced keys and values, patches, feed-forward.

Source: Wang et al., "Pyramid Vision Transformer", ICCV 2021, section 3.3; with linear attention,
Guo et al., "SLAB", ICML 2024 (models ``slab_pvt_*``).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import LinearMixing, check_heads
from .folding import fold_norm_after_conv, fold_norm_into_conv, fold_norm_into_linear
from .padding import follow_map

NormLayer = Callable[[int], nn.Module]


class _ReducedProjection(nn.Module):
    """Queries of every token, keys and values of every ``sr_ratio x sr_ratio`` patch of tokens.

    Patches that the map does not fill at the bottom and right are left out.

    Args:
        dim: channels C.
        num_heads: attention heads.
        sr_ratio: reduction R of the keys' and values' map; 1 for none.
        norm_layer: builds the norm behind the reduction from a number of channels.
        qkv_bias: whether queries, keys and values have a bias.
    """

    def __init__(
        self, dim: int, num_heads: int, sr_ratio: int, norm_layer: NormLayer, qkv_bias: bool = True
    ) -> None:
        super().__init__()
        check_heads(dim, num_heads)
        self.num_heads = num_heads
        self.sr_ratio = sr_ratio
        self.q = nn.Linear(dim, dim, bias=qkv_bias)
        self.kv = nn.Linear(dim, 2 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        if sr_ratio > 1:
            self.sr = nn.Conv2d(dim, dim, sr_ratio, stride=sr_ratio)
            self.norm = norm_layer(dim)

    def project(self, x: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return q ``(B, N, C)``, k and v ``(B, M, C)`` of ``x: (B, N, C)``; ``N = height *
        width``, ``M = (height // R) * (width // R)``."""
        source = x
        if self.sr_ratio > 1:
            image = x.view(x.shape[0], height, width, -1).permute(0, 3, 1, 2)
            image = self.sr(image)
            follow_map((height, width), image.shape[-2:], lambda side: side // self.sr_ratio)
            source = self.norm(image.permute(0, 2, 3, 1).flatten(1, 2))
        return (self.q(x), *self.kv(source).chunk(2, dim=-1))

    def residual(self, x: Tensor, norm: nn.Module, height: int, width: int) -> Tensor:
        """Return ``x + self(norm(x))``."""
        return x + self(norm(x), height, width)

    def fold(self, norm: nn.Module) -> nn.Identity:
        """Fold the norm of the tokens that come in, and the norm behind the reduction, into the
        layers behind them; return what takes the norm's place.

        The reduction does not pad, so this is exact. The norm feeds the query and, besides, the
        reduction or the key and value.
        """
        fold_norm_into_linear(norm, self.q)
        if self.sr_ratio == 1:
            return fold_norm_into_linear(norm, self.kv)
        self.norm = fold_norm_into_linear(self.norm, self.kv)
        return fold_norm_into_conv(norm, self.sr)


class ReducedSoftmaxAttention(_ReducedProjection):
    """``softmax(q k^T / sqrt(d)) v`` per head, over the whole map."""

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """Attend over ``x: (B, height * width, C)``."""
        q, k, v = (
            t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for t in self.project(x, height, width)
        )
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).flatten(2))


class ReducedLinearAttention(_ReducedProjection, LinearMixing):
    """Simplified linear attention over the whole map.

    The positional encoding of the keys lies on the map of keys of the images that the network
    was made for, and is resized to that of others. Reduced values are upsampled for the
    convolution along the flattened sequence, not along height and width: so do the published
    models.

    Args:
        dim, num_heads, sr_ratio, norm_layer, qkv_bias: as for softmax attention.
        grid: height and width of the map for which the positional encoding is made.
        kernel_size: side of the depth-wise convolution.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        sr_ratio: int,
        norm_layer: NormLayer,
        qkv_bias: bool = True,
        grid: tuple[int, int] = (56, 56),
        kernel_size: int = 5,
    ) -> None:
        super().__init__(dim, num_heads, sr_ratio, norm_layer, qkv_bias)
        key_grid = grid[0] // sr_ratio, grid[1] // sr_ratio
        self.build_mixing(dim, num_heads, key_grid, kernel_size)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """Attend over ``x: (B, height * width, C)``."""
        q, k, v = self.project(x, height, width)
        return self.proj(self.mix(q, k, v, height, width, self.sr_ratio))


class DepthwiseMlp(nn.Module):
    """``fc2(gelu(conv(fc1(x))))`` with a 3x3 depth-wise convolution over the map, as in PVTv2.

    Args:
        dim: channels C.
        hidden: channels between the two layers.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """Map tokens ``(B, height * width, C)`` to the same shape."""
        image = self.fc1(x).view(x.shape[0], height, width, -1).permute(0, 3, 1, 2)
        hidden = self.dwconv(image).permute(0, 2, 3, 1).flatten(1, 2)
        return self.fc2(F.gelu(hidden))

    def residual(self, x: Tensor, norm: nn.Module, height: int, width: int) -> Tensor:
        """Return ``x + self(norm(x))``."""
        return x + self(norm(x), height, width)


class ConvPatchEmbed(nn.Module):
    """Embed patches of a map with a convolution: ``norm(conv(x))``, ``kernel_size`` by
    ``kernel_size`` patches every ``stride`` positions.

    Without padding what does not fill a patch at the bottom and right is left out, as in PVT.

    Args:
        in_chans: channels that come in.
        dim: channels C of a token.
        kernel_size: side of a patch.
        stride: distance between patches.
        padding: zeros around the map.
        norm_layer: builds the norm from a number of channels.
    """

    def __init__(
        self,
        in_chans: int,
        dim: int,
        kernel_size: int,
        stride: int,
        padding: int,
        norm_layer: NormLayer,
    ) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, kernel_size, stride=stride, padding=padding)
        self.norm = norm_layer(dim)

    def output_size(self, size: int) -> int:
        """Return the patches along a side of ``size`` positions, 0 where none fits."""
        conv = self.proj
        return max(0, (size + 2 * conv.padding[0] - conv.kernel_size[0]) // conv.stride[0] + 1)

    def forward(self, x: Tensor) -> tuple[Tensor, int, int]:
        """Return tokens ``(B, H * W, C)`` of a map ``(B, in_chans, h, w)``, H and W."""
        before = x.shape[-2:]
        # Channels last in, channels last out: the tokens are then rows without a copy.
        x = self.proj(x.contiguous(memory_format=torch.channels_last))
        height, width = x.shape[-2:]
        follow_map(before, (height, width), self.output_size)
        return self.norm(x.permute(0, 2, 3, 1).flatten(1, 2)), height, width

    def reparameterize(self) -> None:
        """Fold the norm into the convolution."""
        if not isinstance(self.norm, nn.Identity):
            self.norm = fold_norm_after_conv(self.proj, self.norm)


class ConvMerging(ConvPatchEmbed):
    """Embed patches of one stage's tokens for the next; see :class:`ConvPatchEmbed`."""

    def forward(self, x: Tensor, height: int, width: int) -> tuple[Tensor, int, int]:
        """Return tokens ``(B, H * W, C)`` of tokens ``(B, height * width, in_chans)``, H and W."""
        # A channels-last view: nothing is copied. (Exporters to ONNX make constants of the sizes
        # that unflatten takes.)
        return super().forward(x.view(x.shape[0], height, width, -1).permute(0, 3, 1, 2))
