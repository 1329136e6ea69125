"""SLAB-CSWin: cross-shaped windows with PRepBN and simplified linear attention.

Sources: Guo et al., "SLAB", ICML 2024 (models ``slab_cswin_*``); Dong et al., "CSWin Transformer",
CVPR 2022. Any image size is taken: the last stripe of a map is as narrow as what is left, so
that no token is padding, and positional encodings are resized to the map.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp, calculate_drop_path_rates, to_2tuple
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from slab_det.layers import (
    ConvMerging,
    ConvPatchEmbed,
    LinearMixing,
    fold_norm_into_linear,
    make_norm_layer,
)
from slab_det.layers.build import Norm

from .base import (
    FeatureStages,
    Stage,
    check_attn_types,
    check_lengths,
    create_model,
    init_linear,
    pretrained_cfg,
)

#: Sizes of the published models.
ARCHS: dict[str, dict[str, Any]] = {
    'tiny': dict(embed_dim=64, depths=(2, 4, 18, 1), num_heads=(2, 4, 8, 16)),
    'small': dict(embed_dim=64, depths=(2, 4, 32, 2), num_heads=(2, 4, 8, 16)),
}


class MapLinearAttention(LinearMixing):
    """Simplified linear attention over the whole map, plus a 3x3 depth-wise convolution of the
    values, ``get_v``, with kernels of its own for every head.

    Args:
        dim: channels C.
        num_heads: attention heads.
        grid: height and width of the keys' positional encoding, which is resized to the map.
        kernel_size: side of the depth-wise convolution that the heads share.
    """

    def __init__(
        self, dim: int, num_heads: int, grid: tuple[int, int], kernel_size: int = 5
    ) -> None:
        super().__init__()
        self.get_v = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.build_mixing(dim, num_heads, grid, kernel_size)

    def forward(self, qkv: Tensor) -> Tensor:
        """Attend among ``qkv: (B, H, W, 3, C)``; return ``(B, H, W, C)``."""
        height, width = qkv.shape[1:3]
        out = self.mix(*qkv.flatten(1, 2).unbind(2), height, width)
        return out.view(qkv.shape[0], height, width, -1)

    def kernels(self) -> tuple[Tensor, Tensor]:
        """Return one convolution that equals both, which see the same values."""
        weight, bias = (torch.cat([part] * self.num_heads) for part in super().kernels())
        margin = (self.dwc.kernel_size[0] - 3) // 2
        return weight + _widen(self.get_v.weight, margin), bias + self.get_v.bias


def _widen(kernels: Tensor, margin: int) -> Tensor:
    """Return ``(C, 1, K, K)`` kernels with ``margin`` zeros around them.

    Concatenated rather than padded, because exporters do not see that a padded constant is one.
    """
    for dim in (2, 3):
        shape = [int(side) for side in kernels.shape]
        shape[dim] = margin
        zeros = kernels.new_zeros(shape)
        kernels = torch.cat([zeros, kernels, zeros], dim)
    return kernels


class StripeAttention(nn.Module):
    """Softmax attention within stripes, plus a 3x3 depth-wise convolution of each stripe's
    values, ``get_v``, which sees zeros around the stripe.

    Args:
        dim: channels C.
        num_heads: attention heads.
        stripe: width of a stripe in tokens; None for one stripe that is the whole map. Where the
            map does not divide, the last stripe is narrower.
        vertical: whether stripes stand (all rows, ``stripe`` columns) or lie.
    """

    def __init__(self, dim: int, num_heads: int, stripe: int | None, vertical: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.stripe = stripe
        self.vertical = vertical
        self.get_v = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, qkv: Tensor) -> Tensor:
        """Attend among ``qkv: (B, H, W, 3, C)``; return ``(B, H, W, C)``."""
        height, width = qkv.shape[1:3]
        if self.stripe is None:
            return self.attend(qkv, height, width)
        dim = 2 if self.vertical else 1
        whole = qkv.shape[dim] // self.stripe * self.stripe
        rest = qkv.shape[dim] - whole
        parts = []
        for start, length, side in ((0, whole, self.stripe), (whole, rest, rest)):
            if length:
                size = (height, side) if self.vertical else (side, width)
                parts.append(self.attend(qkv.narrow(dim, start, length), *size))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim)

    def attend(
        self, qkv: Tensor, stripe_h: int, stripe_w: int, mask: Tensor | None = None
    ) -> Tensor:
        """Attend within stripes of ``stripe_h x stripe_w`` tokens, which the map divides into.

        ``mask: (B * stripes, 1, 1, N)`` is added to the logits.
        """
        batch, height, width, _, channels = qkv.shape
        rows, cols = height // stripe_h, width // stripe_w
        x = qkv.reshape(batch, rows, stripe_h, cols, stripe_w, 3, self.num_heads, -1)
        # (3, B * stripes, heads, N, head_dim) in one copy.
        x = x.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(
            3, batch * rows * cols, self.num_heads, stripe_h * stripe_w, -1
        )
        q, k, v = x.unbind(0)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        image = v.transpose(1, 2).reshape(-1, stripe_h, stripe_w, channels).permute(0, 3, 1, 2)
        out = out + self.get_v(image).permute(0, 2, 3, 1).flatten(1, 2)
        out = out.view(batch, rows, cols, stripe_h, stripe_w, channels).transpose(2, 3)
        return out.reshape(batch, height, width, channels)


class CSWinBlock(nn.Module):
    """``x = x + proj(attn(qkv(norm1(x)))); x = x + mlp(norm2(x))``.

    Linear attention and a stage of one branch see all channels of the whole map; otherwise the
    first half of the heads attends in standing stripes and the second half in lying ones.

    Args:
        dim: channels C.
        num_heads: attention heads.
        attn_type: 'L' for simplified linear attention, 'S' for softmax.
        stripe: width of the stripes of softmax attention; None for the whole map.
        grid: height and width of linear attention's positional encoding.
        norm_layer: builds a norm from a number of channels.
        mlp_ratio: hidden channels of the feed-forward part over C.
        qkv_bias: whether query, key and value have a bias.
        drop_path: probability that a residual branch is dropped.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        attn_type: str,
        stripe: int | None,
        grid: tuple[int, int],
        norm_layer,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = norm_layer(dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        if attn_type == 'L':
            attns = [MapLinearAttention(dim, num_heads, grid)]
        elif stripe is None:
            attns = [StripeAttention(dim, num_heads, None, True)]
        else:
            attns = [
                StripeAttention(dim // 2, num_heads // 2, stripe, vertical)
                for vertical in (True, False)
            ]
        self.attns = nn.ModuleList(attns)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = norm_layer(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """Map tokens ``(B, height * width, C)`` to the same shape."""
        x = x + self.drop_path(self.proj(self.attend(self.norm1(x), height, width)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def attend(self, x: Tensor, height: int, width: int) -> Tensor:
        """Return the attention of ``x: (B, height * width, C)`` before its projection."""
        qkv = self.qkv(x).view(x.shape[0], height, width, 3, -1)
        out = [attn(part) for attn, part in zip(self.attns, qkv.chunk(len(self.attns), -1))]
        out = out[0] if len(out) == 1 else torch.cat(out, -1)
        return out.flatten(1, 2)

    def reparameterize(self) -> None:
        """Fold both norms into the linear layers behind them; no token is padding."""
        if not isinstance(self.norm1, nn.Identity):
            self.norm1 = fold_norm_into_linear(self.norm1, self.qkv)
            self.norm2 = fold_norm_into_linear(self.norm2, self.mlp.fc1)


class CSWinStage(Stage):
    """A merging convolution, but in the first stage, and a row of blocks."""

    def __init__(
        self,
        dim: int,
        drop_path: Sequence[float],
        norm_layer,
        downsample_from: int | None = None,
        **block: Any,
    ) -> None:
        super().__init__(
            downsample_from and ConvMerging(downsample_from, dim, 3, 2, 1, norm_layer),
            [CSWinBlock(dim, drop_path=rate, norm_layer=norm_layer, **block) for rate in drop_path],
        )


class CSWinTransformer(FeatureStages):
    """CSWin Transformer with PRepBN and simplified linear attention.

    Args:
        embed_dim: channels of the first stage; every stage doubles them.
        depths: blocks per stage.
        num_heads: attention heads per stage.
        attn_types: a letter per stage, 'L' for simplified linear attention, 'S' for softmax.
        split_sizes: width of the stripes of softmax attention per stage; None, and the last
            stage always, for the whole map.
        norm_layer: name, config or class of the norm, see :func:`slab_det.layers.make_norm_layer`.
        mlp_ratio: hidden channels of the feed-forward part over the stage's channels.
        qkv_bias: whether query, key and value have a bias.
        img_size: side, or height and width, in pixels of the images whose maps the positional
            encodings fit.
        in_chans: channels of the image.
        num_classes: classes of the head; 0 for none.
        global_pool: pooling before the head, in timm's words.
        drop_rate: dropout before the head.
        drop_path_rate: probability that the last residual branch is dropped; it rises linearly
            from 0 over the blocks.

    Raises:
        ValueError: lengths that do not agree, an unknown attention type or norm.
    """

    def __init__(
        self,
        embed_dim: int = 64,
        depths: Sequence[int] = (2, 4, 18, 1),
        num_heads: Sequence[int] = (2, 4, 8, 16),
        attn_types: str = 'LLSS',
        split_sizes: Sequence[int | None] = (1, 2, 7, 7),
        norm_layer: Norm = 'PRepBN',
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = 'avg',
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
    ) -> None:
        super().__init__()
        stages = len(depths)
        check_attn_types(attn_types, stages)
        check_lengths(stages, num_heads=num_heads, split_sizes=split_sizes)
        dims = [embed_dim * 2**i for i in range(stages)]
        stripes = [None if i == stages - 1 else split for i, split in enumerate(split_sizes)]
        _check_heads(dims, num_heads, attn_types, stripes)
        if any(side % 2 ** (stages + 1) for side in to_2tuple(img_size)):
            raise ValueError(
                f'img_size must be a multiple of {2 ** (stages + 1)} pixels, the stride '
                f'of the last stage, but got {img_size}.'
            )
        grids = [tuple(side // 2 ** (i + 2) for side in to_2tuple(img_size)) for i in range(stages)]

        make_norm = make_norm_layer(norm_layer)
        self.patch_embed = ConvPatchEmbed(in_chans, embed_dim, 7, 4, 2, make_norm)
        drop_paths = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        self.layers = nn.ModuleList(
            CSWinStage(
                dims[i],
                drop_paths[i],
                make_norm,
                downsample_from=dims[i - 1] if i else None,
                num_heads=num_heads[i],
                attn_type=attn_types[i],
                stripe=stripes[i],
                grid=grids[i],
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
            )
            for i in range(stages)
        )
        self.add_head(dims, 4, make_norm(dims[-1]), num_classes, global_pool, drop_rate)
        self.apply(init_linear)

    def forward_stages(self, x: Tensor, last: int | None = None) -> list[tuple[Tensor, int, int]]:
        """Return ``(tokens, H, W)`` of every stage up to number ``last``, tokens ``(B, H * W, C)``.

        Sides of the image that 4 does not divide are floored.

        Raises:
            ValueError: the image is too small for the first convolution.
        """
        if min(map(self.patch_embed.output_size, x.shape[-2:])) < 1:
            raise ValueError(
                f'image is {x.shape[-2]}x{x.shape[-1]} pixels (height x width), too '
                'small for a patch; resize it to at least 3x3.'
            )
        return super().forward_stages(x, last)


def _check_heads(
    dims: Sequence[int], num_heads: Sequence[int], attn_types: str, stripes: Sequence[int | None]
) -> None:
    for dim, heads, kind, stripe in zip(dims, num_heads, attn_types, stripes):
        if dim % heads:
            raise ValueError(
                f'num_heads={tuple(num_heads)} does not divide the channels '
                f'{tuple(dims)} of the stages.'
            )
        if kind == 'S' and stripe is not None and (heads % 2 or stripe < 1):
            raise ValueError(
                'stripes need an even number of heads and a width of 1 or more, but '
                f'got num_heads={tuple(num_heads)} and stripes {tuple(stripes)}.'
            )


default_cfgs = generate_default_cfgs({f'slab_cswin_{arch}': pretrained_cfg() for arch in ARCHS})


def _create(variant: str, arch: str, pretrained: bool, **kwargs: Any):
    return create_model(CSWinTransformer, variant, pretrained, kwargs, **ARCHS[arch])


@register_model
def slab_cswin_tiny(pretrained: bool = False, **kwargs: Any) -> CSWinTransformer:
    """SLAB-CSWin-T: linear attention in the first two stages, PRepBN."""
    return _create('slab_cswin_tiny', 'tiny', pretrained, **kwargs)


@register_model
def slab_cswin_small(pretrained: bool = False, **kwargs: Any) -> CSWinTransformer:
    """SLAB-CSWin-S: linear attention in the first two stages, PRepBN."""
    return _create('slab_cswin_small', 'small', pretrained, **{'drop_path_rate': 0.3, **kwargs})
