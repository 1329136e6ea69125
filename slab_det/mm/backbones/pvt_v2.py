"""SLAB-PVTv2 as a detection backbone."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmdet.registry import MODELS

from slab_det.models.pvt_v2 import ARCHS, PyramidVisionTransformerV2

from .base import SLABBackbone, pick_arch
from .pvt import WIDTHS


@MODELS.register_module()
class SLABPyramidVisionTransformerV2(SLABBackbone):
    """Pyramid Vision Transformer v2 with PRepBN and simplified linear attention, for detection.

    Every stage ends with a norm, which also serves as the output's norm, so there is no
    ``out_norm_cfg``.

    Args:
        arch: 'b0' to 'b5', or ``dict(embed_dims=(32, 64, 160, 256), depths=(2, 2, 2, 2),
            num_heads=(1, 2, 5, 8), mlp_ratios=(8, 8, 4, 4))``.
        attn_types: a letter per stage, 'L' for simplified linear attention, 'S' for softmax.
        norm_cfg: norm of the transformer, ``dict(type='PRepBN')``, ``'RepBN'`` or ``'LN'``.
        sr_ratios: reduction of the keys' and values' map per stage; by default 1 if attention
            is linear and 8, 4, 2, 1 if it is softmax.
        out_indices, frozen_stages, norm_eval, with_cp, deploy, init_cfg: see
            :class:`SLABBackbone`.
        drop_path_rate: probability that the last residual branch is dropped.
        img_size: side, or height and width, of the images that the positional encodings of
            linear attention are made for, in pixels; at every other size they are resized.
        in_channels: channels of the image.
        qkv_bias: whether query, key and value have a bias.

    Outputs of ``arch='b1'`` and larger have 64, 128, 320 and 512 channels at strides 4, 8, 16
    and 32. Sizes that do not divide are rounded up, as in mmdet's PVTv2: its patches are padded.

    Raises:
        ValueError: an argument that does not fit; the message names it.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 'b0',
        attn_types: str = 'LLLL',
        norm_cfg: str | Mapping[str, Any] = dict(type='PRepBN'),
        sr_ratios: Sequence[int] | None = None,
        out_indices: Sequence[int] = (0, 1, 2, 3),
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
        net = PyramidVisionTransformerV2(
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
            net, out_indices, None, frozen_stages, norm_eval, with_cp, deploy, init_cfg
        )
