"""SLAB-Swin: Swin Transformer with PRepBN and simplified linear attention.

Sources: Guo et al., "SLAB", ICML 2024 (models ``slab_swin_*`` and ``swin_*_prepbn``); Liu et al.,
"Swin Transformer", ICCV 2021. Any image size from one patch up is taken: maps are padded with
zeros to whole windows after the norm, as in the published detection backbones.
"""

from collections.abc import Sequence
from typing import Any

from timm.layers import DropPath, Mlp, calculate_drop_path_rates
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from slab_det.layers import (
    PatchEmbed,
    PatchMerging,
    WindowLinearAttention,
    WindowSoftmaxAttention,
    effective_shift,
    fold_norm_into_linear,
    make_norm_layer,
    shift_mask,
    window_layout,
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
    'tiny': dict(embed_dim=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24)),
    'small': dict(embed_dim=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24)),
    'base': dict(embed_dim=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32)),
}

#: Window side in tokens by attention type and stage, as published.
WINDOWS = {'L': (56, 28, 7, 7), 'S': (7, 7, 7, 7)}

ATTENTION = {'L': WindowLinearAttention, 'S': WindowSoftmaxAttention}


class SwinBlock(nn.Module):
    """``x = x + attn(norm1(x)); x = x + mlp(norm2(x))`` with attention in (shifted) windows.

    Args:
        dim: channels C.
        num_heads: attention heads.
        attn_type: 'L' for simplified linear attention, 'S' for softmax.
        window: side of a window in tokens.
        shift: cyclic shift of the windows in tokens; it does not apply where the whole map
            fits one window.
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
        window: int,
        shift: int,
        norm_layer,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.window = window
        self.shift = shift
        self.norm1 = norm_layer(dim)
        self.attn = ATTENTION[attn_type](dim, window, num_heads, qkv_bias)
        self.masked = attn_type == 'S'
        self.norm2 = norm_layer(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """Map tokens ``(B, height * width, C)`` to the same shape."""
        shift = effective_shift(height, width, self.window, self.shift)
        layout = window_layout(x.shape[0], height, width, self.window, shift, x.device)
        mask = None
        if shift and self.masked:
            mask = shift_mask(height, width, self.window, shift, x.device)
        x = x + self.drop_path(self.attn(self.norm1(x), mask=mask, layout=layout))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def reparameterize(self) -> None:
        """Fold both norms into the linear layers behind them; padding stays exact."""
        if not isinstance(self.norm1, nn.Identity):
            self.norm1 = self.attn.fold(self.norm1)
            self.norm2 = fold_norm_into_linear(self.norm2, self.mlp.fc1)


class SwinStage(Stage):
    """Patch merging, but in the first stage, and a row of blocks, every second one shifted."""

    def __init__(
        self,
        dim: int,
        window: int,
        drop_path: Sequence[float],
        norm_layer,
        downsample_from: int | None = None,
        **block: Any,
    ) -> None:
        super().__init__(
            downsample_from and PatchMerging(downsample_from, norm_layer, dim),
            [
                SwinBlock(
                    dim,
                    window=window,
                    shift=window // 2 if i % 2 else 0,
                    drop_path=rate,
                    norm_layer=norm_layer,
                    **block,
                )
                for i, rate in enumerate(drop_path)
            ],
        )


class SwinTransformer(FeatureStages):
    """Swin Transformer with PRepBN and simplified linear attention.

    Args:
        embed_dim: channels of the first stage; every stage doubles them.
        depths: blocks per stage.
        num_heads: attention heads per stage.
        attn_types: a letter per stage, 'L' for simplified linear attention, 'S' for softmax.
        window_sizes: side of a window per stage in tokens; by default 56, 28, 7, 7 where
            attention is linear and 7 where it is softmax.
        norm_layer: name, config or class of the norm, see :func:`slab_det.layers.make_norm_layer`.
        mlp_ratio: hidden channels of the feed-forward part over the stage's channels.
        qkv_bias: whether query, key and value have a bias.
        patch_size: side of a patch in pixels.
        in_chans: channels of the image.
        num_classes: classes of the head; 0 for none.
        global_pool: pooling before the head, in timm's words.
        drop_rate: dropout before the head.
        drop_path_rate: probability that the last residual branch is dropped; it rises linearly
            from 0 over the blocks.

    Raises:
        ValueError: lengths that do not agree, an unknown attention type or norm.
    """

    no_decay = ('positional_encoding', 'relative_position_bias_table')

    def __init__(
        self,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        attn_types: str = 'LLSS',
        window_sizes: Sequence[int] | None = None,
        norm_layer: Norm = 'PRepBN',
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        patch_size: int = 4,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = 'avg',
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
    ) -> None:
        super().__init__()
        check_attn_types(attn_types, len(depths))
        if window_sizes is None:
            window_sizes = [WINDOWS[kind][min(i, 3)] for i, kind in enumerate(attn_types)]
        check_lengths(len(depths), num_heads=num_heads, window_sizes=window_sizes)

        make_norm = make_norm_layer(norm_layer)
        dims = [embed_dim * 2**i for i in range(len(depths))]
        self.patch_embed = PatchEmbed(patch_size, in_chans, embed_dim, make_norm)
        drop_paths = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        self.layers = nn.ModuleList(
            SwinStage(
                dims[i],
                window_sizes[i],
                drop_paths[i],
                make_norm,
                downsample_from=dims[i - 1] if i else None,
                num_heads=num_heads[i],
                attn_type=attn_types[i],
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
            )
            for i in range(len(depths))
        )
        self.add_head(dims, patch_size, make_norm(dims[-1]), num_classes, global_pool, drop_rate)
        self.apply(init_linear)


default_cfgs = generate_default_cfgs(
    {
        name: pretrained_cfg()
        for arch in ARCHS
        for name in (f'slab_swin_{arch}', f'swin_{arch}_prepbn')
    }
)


def _create(variant: str, arch: str, attn_types: str, pretrained: bool, **kwargs: Any):
    published = {**ARCHS[arch], 'attn_types': attn_types}
    return create_model(SwinTransformer, variant, pretrained, kwargs, **published)


@register_model
def slab_swin_tiny(pretrained: bool = False, **kwargs: Any) -> SwinTransformer:
    """SLAB-Swin-T: linear attention in the first two stages, PRepBN."""
    return _create('slab_swin_tiny', 'tiny', 'LLSS', pretrained, **kwargs)


@register_model
def slab_swin_small(pretrained: bool = False, **kwargs: Any) -> SwinTransformer:
    """SLAB-Swin-S: linear attention in the first two stages, PRepBN."""
    return _create('slab_swin_small', 'small', 'LLSS', pretrained, **kwargs)


@register_model
def slab_swin_base(pretrained: bool = False, **kwargs: Any) -> SwinTransformer:
    """SLAB-Swin-B: linear attention in the first two stages, PRepBN."""
    return _create('slab_swin_base', 'base', 'LLSS', pretrained, **kwargs)


@register_model
def swin_tiny_prepbn(pretrained: bool = False, **kwargs: Any) -> SwinTransformer:
    """Swin-T with PRepBN: softmax attention in windows of 7."""
    return _create('swin_tiny_prepbn', 'tiny', 'SSSS', pretrained, **kwargs)


@register_model
def swin_small_prepbn(pretrained: bool = False, **kwargs: Any) -> SwinTransformer:
    """Swin-S with PRepBN: softmax attention in windows of 7."""
    return _create('swin_small_prepbn', 'small', 'SSSS', pretrained, **kwargs)


@register_model
def swin_base_prepbn(pretrained: bool = False, **kwargs: Any) -> SwinTransformer:
    """Swin-B with PRepBN: softmax attention in windows of 7."""
    return _create('swin_base_prepbn', 'base', 'SSSS', pretrained, **kwargs)
