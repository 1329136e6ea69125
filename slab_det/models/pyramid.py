"""What PVT and PVTv2 share: blocks, stages and the network over them."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from timm.layers import DropPath, Mlp, calculate_drop_path_rates, trunc_normal_
from torch import Tensor, nn

from slab_det.errors import InputError
from slab_det.layers import (
    ConvMerging,
    ConvPatchEmbed,
    DepthwiseMlp,
    GridCache,
    ReducedLinearAttention,
    ReducedSoftmaxAttention,
    fold_norm_into_linear,
    layer_norm_eps,
    make_norm_layer,
)
from slab_det.layers.build import Norm

from .base import FeatureStages, Stage, check_attn_types, check_lengths, run_block

#: Reduction of keys and values by attention type and stage, as published.
SR_RATIOS = {'L': (1, 1, 1, 1), 'S': (8, 4, 2, 1)}


class PyramidBlock(nn.Module):
    """``x = x + attn(norm1(x)); x = x + mlp(norm2(x))`` with attention over the whole map.

    Args:
        dim: channels C.
        num_heads: attention heads.
        attn_type: 'L' for simplified linear attention, 'S' for softmax.
        sr_ratio: reduction of the keys' and values' map.
        grid: height and width of the map that positional encodings are made for.
        norm_layer: builds a norm from a number of channels.
        mlp_ratio: hidden channels of the feed-forward part over C.
        qkv_bias: whether query, key and value have a bias.
        conv_mlp: whether the feed-forward part holds a depth-wise convolution.
        drop_path: probability that a residual branch is dropped.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        attn_type: str,
        sr_ratio: int,
        grid: tuple[int, int],
        norm_layer,
        mlp_ratio: float,
        qkv_bias: bool,
        conv_mlp: bool,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.norm1 = norm_layer(dim)
        if attn_type == 'L':
            self.attn = ReducedLinearAttention(dim, num_heads, sr_ratio, norm_layer, qkv_bias, grid)
        else:
            self.attn = ReducedSoftmaxAttention(dim, num_heads, sr_ratio, norm_layer, qkv_bias)
        self.norm2 = norm_layer(dim)
        self.conv_mlp = conv_mlp
        hidden = int(dim * mlp_ratio)
        self.mlp = DepthwiseMlp(dim, hidden) if conv_mlp else Mlp(dim, hidden)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """Map tokens ``(B, height * width, C)`` to the same shape."""
        x = x + self.drop_path(self.attn(self.norm1(x), height, width))
        size = (height, width) if self.conv_mlp else ()
        return x + self.drop_path(self.mlp(self.norm2(x), *size))

    def reparameterize(self) -> None:
        """Fold all norms into the linear and reduction layers behind them."""
        if not isinstance(self.norm1, nn.Identity):
            self.norm1 = self.attn.fold(self.norm1)
            self.norm2 = fold_norm_into_linear(self.norm2, self.mlp.fc1)


class PyramidStage(Stage, GridCache):
    """Patch embedding, but in the first stage, position embedding, blocks and closing norm.

    Args:
        dim: channels C.
        grid: height and width of the map that positions are made for.
        drop_path: rate of each block; their number is the depth.
        norm_layer: builds a norm from a number of channels.
        downsample: patch embedding, None where the network has it.
        absolute_positions: add a learned embedding of the position to the tokens.
        closing_norm: norm the tokens that go out.
        **block: see :class:`PyramidBlock`.
    """

    def __init__(
        self,
        dim: int,
        grid: tuple[int, int],
        drop_path: Sequence[float],
        norm_layer,
        downsample: ConvPatchEmbed | None,
        absolute_positions: bool,
        closing_norm: bool,
        **block: Any,
    ) -> None:
        blocks = (
            PyramidBlock(dim, grid=grid, norm_layer=norm_layer, drop_path=rate, **block)
            for rate in drop_path
        )
        super().__init__(downsample, blocks)
        self.grid = grid
        self.absolute_pos_embed = None
        if absolute_positions:
            self.absolute_pos_embed = nn.Parameter(torch.zeros(1, grid[0] * grid[1], dim))
            trunc_normal_(self.absolute_pos_embed, std=0.02)
        self.norm = norm_layer(dim) if closing_norm else nn.Identity()

    def forward(self, x: Tensor, height: int, width: int) -> tuple[Tensor, int, int]:
        """Map ``(B, height * width, C)`` to this stage's tokens; return them, H and W."""
        if self.downsample is not None:
            x, height, width = self.downsample(x, height, width)
        if self.absolute_pos_embed is not None:
            x = x + self.resized(self.absolute_pos_embed, self.grid, (height, width)).to(x.dtype)
        for block in self.blocks:
            x = run_block(block, x, height, width, self.grad_checkpointing)
        return self.norm(x), height, width


class PyramidTransformer(FeatureStages):
    """A pyramid of stages with attention over the whole map, the base of PVT and PVTv2.

    A subclass says by ``overlapping`` whether it is PVTv2: patches overlap, the feed-forward
    part convolves, stages have a closing norm and positions are not embedded.

    Args:
        embed_dims: channels per stage.
        depths: blocks per stage.
        num_heads: attention heads per stage.
        mlp_ratios: hidden channels of the feed-forward part over the stage's channels.
        attn_types: a letter per stage, 'L' for simplified linear attention, 'S' for softmax.
        sr_ratios: reduction of the keys' and values' map per stage; by default 1 where attention
            is linear and 8, 4, 2, 1 where it is softmax, as published.
        norm_layer: name, config or class of the norm, see :func:`slab_det.layers.make_norm_layer`;
            the epsilon of a LayerNorm is 1e-6 unless the config gives one.
        qkv_bias: whether query, key and value have a bias.
        img_size: side, or height and width, of the images that the positional grids are made
            for, in pixels. At every other size the grids are resized.
        in_chans: channels of the image.
        num_classes: classes of the head; 0 for none.
        global_pool: pooling before the head, in timm's words.
        drop_rate: dropout before the head.
        drop_path_rate: probability that the last residual branch is dropped; it rises linearly
            from 0 over the blocks.

    Raises:
        ValueError: lengths that do not agree, an unknown attention type or norm, a reduction or
            image size that leaves no tokens.
    """

    overlapping = False
    no_decay = ('positional_encoding', 'absolute_pos_embed')

    def __init__(
        self,
        embed_dims: Sequence[int] = (64, 128, 320, 512),
        depths: Sequence[int] = (2, 2, 2, 2),
        num_heads: Sequence[int] = (1, 2, 5, 8),
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        attn_types: str = 'LLLL',
        sr_ratios: Sequence[int] | None = None,
        norm_layer: Norm = 'PRepBN',
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
        if sr_ratios is None:
            sr_ratios = [SR_RATIOS[kind][min(i, 3)] for i, kind in enumerate(attn_types)]
        check_lengths(
            stages,
            embed_dims=embed_dims,
            num_heads=num_heads,
            mlp_ratios=mlp_ratios,
            sr_ratios=sr_ratios,
        )
        if min(sr_ratios) < 1:
            raise ValueError(f'sr_ratios must be 1 or more, but got {tuple(sr_ratios)}.')

        make_norm = make_norm_layer(norm_layer, **layer_norm_eps(norm_layer))
        img_size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        self.sr_ratios = tuple(sr_ratios)
        embeds = [self._patch_embed(i, embed_dims, in_chans, make_norm) for i in range(stages)]
        _check_size(embeds, sr_ratios, *img_size, 'img_size')
        grids = list(zip(*(_map_sides(embeds, side) for side in img_size)))

        self.patch_embed = embeds[0]
        drop_paths = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        self.layers = nn.ModuleList(
            PyramidStage(
                embed_dims[i],
                grids[i],
                drop_paths[i],
                make_norm,
                downsample=embeds[i] if i else None,
                absolute_positions=not self.overlapping,
                closing_norm=self.overlapping,
                num_heads=num_heads[i],
                attn_type=attn_types[i],
                sr_ratio=sr_ratios[i],
                mlp_ratio=mlp_ratios[i],
                qkv_bias=qkv_bias,
                conv_mlp=self.overlapping,
            )
            for i in range(stages)
        )
        self.add_head(embed_dims, 4, nn.Identity(), num_classes, global_pool, drop_rate)

    def _patch_embed(self, stage: int, dims: Sequence[int], in_chans: int, norm) -> ConvPatchEmbed:
        stride = 2 if stage else 4
        kernel = 2 * stride - 1 if self.overlapping else stride
        padding = kernel // 2 if self.overlapping else 0
        if not stage:
            return ConvPatchEmbed(in_chans, dims[0], kernel, stride, padding, norm)
        return ConvMerging(dims[stage - 1], dims[stage], kernel, stride, padding, norm)

    def forward_stages(self, x: Tensor, last: int | None = None) -> list[tuple[Tensor, int, int]]:
        """Return ``(tokens, H, W)`` of every stage up to number ``last``; tokens are ``(B, H * W,
        C)``.

        Raises:
            ValueError: the image is too small for a stage.
        """
        embeds = [self.patch_embed, *(stage.downsample for stage in self.layers[1:])]
        _check_size(embeds, self.sr_ratios, *x.shape[-2:])
        return super().forward_stages(x, last)


def _map_sides(embeds: Sequence[ConvPatchEmbed], side: int) -> list[int]:
    """Return the tokens along an image side of ``side`` pixels, stage by stage."""
    return list(accumulate(embeds, lambda side, embed: embed.output_size(side), initial=side))[1:]


def _check_size(
    embeds: Sequence[ConvPatchEmbed],
    sr_ratios: Sequence[int],
    height: int,
    width: int,
    name: str = 'image',
) -> None:
    """Raise ValueError unless every stage keeps a token of keys along both sides."""

    def fits(side: int) -> bool:
        return all(tokens >= ratio for tokens, ratio in zip(_map_sides(embeds, side), sr_ratios))

    if not fits(min(height, width)):
        least = next(side for side in range(1, 2**20) if fits(side))
        raise InputError(
            f'{name} is {height}x{width} pixels (height x width), but with '
            f'sr_ratios={tuple(sr_ratios)} each side must hold at least {least}; resize or pad it.'
        )
