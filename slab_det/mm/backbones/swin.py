"""SLAB-Swin as a detection backbone."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmdet.registry import MODELS

from slab_det.models.swin import ARCHS, SwinTransformer

from .base import SLABBackbone, pick_arch


@MODELS.register_module()
class SLABSwinTransformer(SLABBackbone):
    """Swin Transformer with PRepBN and simplified linear attention, for detection.

    Args:
        arch: 'tiny', 'small', 'base', or ``dict(embed_dims=96, depths=(2, 2, 6, 2), num_heads=(3,
            6, 12, 24))``.
        attn_types: a letter per stage, 'L' for simplified linear attention, 'S' for softmax.
        norm_cfg: norm of the transformer, ``dict(type='PRepBN')``, ``'RepBN'`` or ``'LN'``.
        window_sizes: side of a window per stage in tokens; by default 56, 28, 7, 7 if
            attention is linear and 7 if it is softmax, as published.
        out_indices, out_norm_cfg, frozen_stages, norm_eval, with_cp, deploy, init_cfg: see
            :class:`SLABBackbone`.
        drop_path_rate: probability that the last residual branch is dropped.
        patch_size: side of a patch in pixels.
        in_channels: channels of the image.
        mlp_ratio: hidden channels of the feed-forward part over the stage's channels.
        qkv_bias: whether query, key and value have a bias.

    Outputs of ``arch='tiny'`` have 96, 192, 384 and 768 channels at strides 4, 8, 16 and 32.

    Raises:
        ValueError: an argument that does not fit; the message names it.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 'tiny',
        attn_types: str = 'LLSS',
        norm_cfg: str | Mapping[str, Any] = dict(type='PRepBN'),
        window_sizes: Sequence[int] | None = None,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        out_norm_cfg: Mapping[str, Any] | None = dict(type='LN'),
        drop_path_rate: float = 0.1,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        deploy: bool = False,
        patch_size: int = 4,
        in_channels: int = 3,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        widths = pick_arch(
            arch, ARCHS, {'embed_dims': 'embed_dim', 'depths': 'depths', 'num_heads': 'num_heads'}
        )
        net = SwinTransformer(
            **widths,
            attn_types=attn_types,
            norm_layer=norm_cfg,
            window_sizes=window_sizes,
            drop_path_rate=drop_path_rate,
            patch_size=patch_size,
            in_chans=in_channels,
            mlp_ratio=mlp_ratio,
            qkv_bias=qkv_bias,
            num_classes=0,
        )
        super().__init__(
            net, out_indices, out_norm_cfg, frozen_stages, norm_eval, with_cp, deploy, init_cfg
        )
