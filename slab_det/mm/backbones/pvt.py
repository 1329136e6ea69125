"""SLAB-PVT as a detection backbone."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmdet.registry import MODELS

from slab_det.models.pvt import ARCHS, PyramidVisionTransformer

from .base import SLABBackbone, pick_arch

#: Widths of an arch as a dict; mmdet's words are the transformer's.
WIDTHS = {name: name for name in ('embed_dims', 'depths', 'num_heads', 'mlp_ratios')}


@MODELS.register_module()
class SLABPyramidVisionTransformer(SLABBackbone):
    """Pyramid Vision Transformer with PRepBN and simplified linear attention, for detection.

    Args:
        arch: 'tiny', 'small', 'medium', 'large', or ``dict(embed_dims=(64, 128, 320, 512),
            depths=(2, 2, 2, 2), num_heads=(1, 2, 5, 8), mlp_ratios=(8, 8, 4, 4))``.
        attn_types: a letter per stage, 'L' for simplified linear attention, 'S' for softmax.
        norm_cfg: norm of the transformer, ``dict(type='PRepBN')``, ``'RepBN'`` or ``'LN'``.
        sr_ratios: reduction of the keys' and values' map per stage; by default 1 if attention
            is linear and 8, 4, 2, 1 if it is softmax, as published. Linear attention with
            a reduction upsamples the values for its convolution along the flattened sequence,
            as the published models do.
        out_indices, out_norm_cfg, frozen_stages, norm_eval, with_cp, deploy, init_cfg: see
            :class:`SLABBackbone`. The outputs have no norm by default, as in mmdet's PVT.
        drop_path_rate: probability that the last residual branch is dropped.
        img_size: side, or height and width, of the images that the positional grids are made
            for, in pixels; at every other size the grids are resized to the map.
        in_channels: channels of the image.
        qkv_bias: whether query, key and value have a bias.

    Outputs have 64, 128, 320 and 512 channels at strides 4, 8, 16 and 32. Sizes that do not
    divide are floored.

    Raises:
        ValueError: an argument that does not fit; the message names it.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 'tiny',
        attn_types: str = 'LLLL',
        norm_cfg: str | Mapping[str, Any] = dict(type='PRepBN'),
        sr_ratios: Sequence[int] | None = None,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        out_norm_cfg: Mapping[str, Any] | None = None,
        drop_path_rate: float = 0.1,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        deploy: bool = False,
        img_size: int | tuple[int, int] = 224,
        in_channels: int = 3,
        qkv_bias: bool = True,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        net = PyramidVisionTransformer(
            **pick_arch(arch, ARCHS, WIDTHS),
            attn_types=attn_types,
            norm_layer=norm_cfg,
            sr_ratios=sr_ratios,
            drop_path_rate=drop_path_rate,
            img_size=img_size,
            in_chans=in_channels,
            qkv_bias=qkv_bias,
            num_classes=0,
        )
        super().__init__(
            net, out_indices, out_norm_cfg, frozen_stages, norm_eval, with_cp, deploy, init_cfg
        )
