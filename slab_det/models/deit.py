"""SLAB-DeiT: plain vision transformer with PRepBN and simplified linear attention.

Sources: Guo et al., "SLAB", ICML 2024 (models ``slab_deit_*`` and ``deit_*_prepbn``); Touvron et
al., "DeiT", ICML 2021. Any image size from one patch up is taken: positions are resized to the
map, and the image is padded with zeros to whole patches.
"""

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import (
    Attention,
    DropPath,
    Mlp,
    calculate_drop_path_rates,
    to_2tuple,
    trunc_normal_,
)
from timm.models import generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from slab_det.layers import (
    GridCache,
    LinearMixing,
    PatchEmbed,
    QKVProjection,
    fold_norm_into_linear,
    layer_norm_eps,
    make_norm_layer,
)
from slab_det.layers.build import Norm

from .base import FeatureStages, as_map, create_model, init_linear, pretrained_cfg, run_block

#: Sizes; tiny and small are published.
ARCHS: dict[str, dict[str, Any]] = {
    'tiny': dict(embed_dim=192, depth=12, num_heads=3),
    'small': dict(embed_dim=384, depth=12, num_heads=6),
    'base': dict(embed_dim=768, depth=12, num_heads=12),
}


class LinearAttention(QKVProjection, LinearMixing):
    """Simplified linear attention over all tokens of a map.

    Args:
        dim: channels C.
        num_heads: attention heads.
        grid: height and width of the keys' positional encoding, which is resized to the map.
        qkv_bias: whether query, key and value have a bias.
        kernel_size: side of the depth-wise convolution.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        grid: tuple[int, int],
        qkv_bias: bool = True,
        kernel_size: int = 5,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias)
        self.build_mixing(dim, num_heads, grid, kernel_size)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """Attend among ``x: (B, height * width, C)``."""
        return self.proj(self.mix(*self.qkv(x).chunk(3, dim=-1), height, width))


class SoftmaxAttention(Attention):
    """timm's softmax attention among all tokens, the class token included."""

    def __init__(
        self, dim: int, num_heads: int, grid: tuple[int, int], qkv_bias: bool = True
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias=qkv_bias)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """Attend among ``x: (B, N, C)``, whatever their places."""
        return super().forward(x)


ATTENTION = {'L': LinearAttention, 'S': SoftmaxAttention}


class Block(nn.Module):
    """``x = x + attn(norm1(x)); x = x + mlp(norm2(x))`` over all tokens.

    Args:
        dim: channels C.
        num_heads: attention heads.
        attn_type: 'L' for simplified linear attention, 'S' for softmax.
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
        grid: tuple[int, int],
        norm_layer,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.norm1 = norm_layer(dim)
        self.attn = ATTENTION[attn_type](dim, num_heads, grid, qkv_bias)
        self.norm2 = norm_layer(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """Map tokens ``(B, N, C)`` of a map ``height x width`` to the same shape."""
        x = x + self.drop_path(self.attn(self.norm1(x), height, width))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def reparameterize(self) -> None:
        """Fold both norms into the linear layers behind them."""
        if not isinstance(self.norm1, nn.Identity):
            self.norm1 = fold_norm_into_linear(self.norm1, self.attn.qkv)
            self.norm2 = fold_norm_into_linear(self.norm2, self.mlp.fc1)


class VisionTransformer(GridCache, FeatureStages):
    """Plain vision transformer with PRepBN and simplified linear attention.

    Every block counts as a stage; all of them have the same scale. The closing norm belongs to
    the last block's features. The softmax variant has a class token, which is classified; the
    linear one has none, the mean of its tokens is. The class token has no position: where a
    checkpoint gives it one, that is part of the token here.

    Args:
        embed_dim: channels C.
        depth: number of blocks.
        num_heads: attention heads.
        attn_types: 'L' for simplified linear attention in all blocks, 'S' for softmax.
        norm_layer: name, config or class of the norm, see :func:`slab_det.layers.make_norm_layer`;
            epsilon of the LayerNorm is 1e-6 unless the config says otherwise.
        mlp_ratio: hidden channels of the feed-forward part over C.
        qkv_bias: whether query, key and value have a bias.
        img_size: side, or height and width, in pixels of the images whose grid of patches the
            positions have.
        patch_size: side of a patch in pixels.
        in_chans: channels of the image.
        num_classes: classes of the head; 0 for none.
        global_pool: 'token' classifies the class token, 'avg' the mean of the others, '' every
            token; by default 'token' where there is one.
        drop_rate: dropout before the head.
        drop_path_rate: probability that the last residual branch is dropped; it rises linearly
            from 0 over the blocks.

    Raises:
        ValueError: an argument that does not fit; the message names it.
    """

    no_decay = ('pos_embed', 'cls_token', 'positional_encoding')

    def __init__(
        self,
        embed_dim: int = 192,
        depth: int = 12,
        num_heads: int = 3,
        attn_types: str = 'L',
        norm_layer: Norm = 'PRepBN',
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if attn_types not in ATTENTION:
            raise ValueError(
                "attn_types must be 'L' (linear) or 'S' (softmax), one letter for all "
                f'blocks, but got {attn_types!r}.'
            )
        if embed_dim % num_heads:
            raise ValueError(
                f'num_heads={num_heads} does not divide embed_dim={embed_dim} channels.'
            )
        self.grid = tuple(side // patch_size for side in to_2tuple(img_size))
        if tuple(side * patch_size for side in self.grid) != tuple(to_2tuple(img_size)):
            raise ValueError(f'patch_size={patch_size} does not divide img_size={img_size} pixels.')
        make_norm = make_norm_layer(norm_layer, **layer_norm_eps(norm_layer))
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = embed_dim
        self.num_prefix_tokens = int(attn_types == 'S')
        self.global_pool = self._check_pool(global_pool)

        self.patch_embed = PatchEmbed(patch_size, in_chans, embed_dim)
        self.cls_token = None
        if self.num_prefix_tokens:
            self.cls_token = nn.Parameter(trunc_normal_(torch.empty(1, 1, embed_dim), std=0.02))
        self.pos_embed = nn.Parameter(
            trunc_normal_(torch.empty(1, self.grid[0] * self.grid[1], embed_dim), std=0.02)
        )
        drop_paths = calculate_drop_path_rates(drop_path_rate, depth)
        self.blocks = nn.ModuleList(
            Block(
                embed_dim,
                num_heads,
                attn_types,
                self.grid,
                make_norm,
                mlp_ratio,
                qkv_bias,
                drop_path,
            )
            for drop_path in drop_paths
        )
        self.feature_info = [
            dict(num_chs=embed_dim, reduction=patch_size, module=f'blocks.{i}')
            for i in range(depth)
        ]
        self.norm = make_norm(embed_dim)
        self.head_drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(embed_dim, num_classes) if num_classes else nn.Identity()
        self.apply(init_linear)

    @property
    def layers(self) -> nn.ModuleList:
        """The stages, that is, the blocks."""
        return self.blocks

    def _check_pool(self, global_pool: str | None) -> str:
        pools = ('token', 'avg', '') if self.num_prefix_tokens else ('avg', '')
        if global_pool is None:
            return pools[0]
        if global_pool not in pools:
            raise ValueError(
                f'global_pool must be one of {", ".join(map(repr, pools))} here, but '
                f"got {global_pool!r}; only attn_types='S' has a class token."
            )
        return global_pool

    def _embed(self, x: Tensor) -> tuple[Tensor, int, int]:
        """Return tokens with their positions, the class token first, H and W."""
        x, height, width = self.patch_embed(x)
        # Tokens as rows: the convolution left channels as rows, and every sum would keep that.
        x = x.contiguous() + self.resized(
            self.pos_embed, self.grid, (height, width), mode='bicubic'
        )
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        return x, height, width

    def _tokens(self, x: Tensor, last: int | None = None) -> tuple[list[Tensor], int, int]:
        """Return the tokens of every block up to number ``last``, H and W; the closing norm
        follows the last block of all."""
        x, height, width = self._embed(x)
        outputs = []
        for i, block in enumerate(self.blocks if last is None else self.blocks[: last + 1]):
            x = run_block(block, x, height, width, block.grad_checkpointing)
            outputs.append(self.norm(x) if i == len(self.feature_info) - 1 else x)
        return outputs, height, width

    def forward_stages(self, x: Tensor, last: int | None = None) -> list[tuple[Tensor, int, int]]:
        """Return ``(tokens, H, W)`` of every block up to number ``last``, tokens ``(B, H * W, C)``
        without the class token. The last block's are normed."""
        outputs, height, width = self._tokens(x, last)
        return [(tokens[:, self.num_prefix_tokens :], height, width) for tokens in outputs]

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the normed tokens of the last block, ``(B, N, C)``, the class token first."""
        return self._tokens(x)[0][-1]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool the tokens ``(B, N, C)`` and classify them, ``(B, num_classes)``."""
        if self.global_pool == 'token':
            x = x[:, 0]
        elif self.global_pool == 'avg':
            x = x[:, self.num_prefix_tokens :].mean(1)
        x = self.head_drop(x)
        return x if pre_logits else self.head(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = 'NCHW',
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the maps of chosen blocks, see :meth:`FeatureStages.forward_intermediates`.

        The last block's map is always normed, as published, and no other is, so ``norm``
        changes nothing here. The final features are all tokens, ``(B, N, C)``.
        """
        take, last = feature_take_indices(len(self.blocks), indices)
        early = stop_early or intermediates_only
        outputs, height, width = self._tokens(x, last if early else None)
        maps = [
            as_map(outputs[i][:, self.num_prefix_tokens :], height, width, output_fmt) for i in take
        ]
        return maps if intermediates_only else (outputs[-1], maps)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what the blocks ``indices`` do not need; the closing norm goes with the last
        block, whatever ``prune_norm``."""
        take, last = feature_take_indices(len(self.blocks), indices)
        self.blocks = self.blocks[: last + 1]
        if last < len(self.feature_info) - 1:
            self.norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0, '')
        return take

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """Return the classifying layer."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifying layer; 0 classes remove it."""
        if global_pool is not None:
            self.global_pool = self._check_pool(global_pool)
        self.num_classes = num_classes
        self.head = nn.Identity()
        if num_classes:
            self.head = nn.Linear(self.num_features, num_classes).to(self.pos_embed)
            init_linear(self.head)

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Group parameters by depth, for timm's layer-wise learning rates."""
        return dict(
            stem=r'^cls_token|pos_embed|patch_embed',
            blocks=[(r'^blocks\.(\d+)', None), (r'^norm', (99999,))],
        )


default_cfgs = generate_default_cfgs(
    {
        name: pretrained_cfg(pool_size=None, classifier='head')
        for arch in ARCHS
        for name in (f'slab_deit_{arch}', f'deit_{arch}_prepbn')
    }
)


def _create(variant: str, arch: str, attn_types: str, pretrained: bool, **kwargs: Any):
    published = {**ARCHS[arch], 'attn_types': attn_types}
    return create_model(VisionTransformer, variant, pretrained, kwargs, **published)


@register_model
def slab_deit_tiny(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """SLAB-DeiT-T: linear attention, no class token, PRepBN."""
    return _create('slab_deit_tiny', 'tiny', 'L', pretrained, **kwargs)


@register_model
def slab_deit_small(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """SLAB-DeiT-S: linear attention, no class token, PRepBN."""
    return _create('slab_deit_small', 'small', 'L', pretrained, **kwargs)


@register_model
def slab_deit_base(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """SLAB-DeiT-B, not published: linear attention, no class token, PRepBN."""
    return _create('slab_deit_base', 'base', 'L', pretrained, **kwargs)


@register_model
def deit_tiny_prepbn(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """DeiT-T with PRepBN: softmax attention, class token."""
    return _create('deit_tiny_prepbn', 'tiny', 'S', pretrained, **kwargs)


@register_model
def deit_small_prepbn(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """DeiT-S with PRepBN: softmax attention, class token."""
    return _create('deit_small_prepbn', 'small', 'S', pretrained, **kwargs)


@register_model
def deit_base_prepbn(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """DeiT-B with PRepBN, not published: softmax attention, class token."""
    return _create('deit_base_prepbn', 'base', 'S', pretrained, **kwargs)
