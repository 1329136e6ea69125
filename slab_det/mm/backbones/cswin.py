"""SLAB-CSWin as a detection backbone."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmdet.registry import MODELS

from slab_det.models.cswin import ARCHS, CSWinTransformer

from .base import SLABBackbone, pick_arch


@MODELS.register_module()
class SLABCSWinTransformer(SLABBackbone):
    """CSWin Transformer with PRepBN and simplified linear attention, for detection.

    Args:
        arch: 'tiny', 'small', or ``dict(embed_dims=64, depths=(2, 4, 18, 1), num_heads=(2, 4, 8,
            16))``.
        attn_types: a letter per stage, 'L' for simplified linear attention, 'S' for softmax.
        norm_cfg: norm of the transformer, ``dict(type='PRepBN')``, ``'RepBN'`` or ``'LN'``.
        split_sizes: width of the stripes of softmax attention per stage, in tokens; None, and the
            last stage always, for the whole map. Linear attention always sees the whole map.
        out_indices, out_norm_cfg, frozen_stages, norm_eval, with_cp, deploy, init_cfg: see
            :class:`SLABBackbone`.
        drop_path_rate: probability that the last residual branch is dropped.
        img_size: side, or height and width, in pixels of the images whose maps the positional
            encodings fit; they are resized to the map.
        in_channels: channels of the image.
        mlp_ratio: hidden channels of the feed-forward part over the stage's channels.
        qkv_bias: whether query, key and value have a bias.

    Outputs of ``arch='tiny'`` have 64, 128, 256 and 512 channels at strides 4, 8, 16 and 32.

    Raises:
        ValueError: an argument that does not fit; the message names it.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 'tiny',
        attn_types: str = 'LLSS',
        norm_cfg: str | Mapping[str, Any] = dict(type='PRepBN'),
        split_sizes: Sequence[int | None] = (1, 2, 7, 7),
        out_indices: Sequence[int] = (0, 1, 2, 3),
        out_norm_cfg: Mapping[str, Any] | None = dict(type='LN'),
        drop_path_rate: float = 0.1,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        deploy: bool = False,
        img_size: int | tuple[int, int] = 224,
        in_channels: int = 3,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        widths = pick_arch(
            arch, ARCHS, {'embed_dims': 'embed_dim', 'depths': 'depths', 'num_heads': 'num_heads'}
        )
        net = CSWinTransformer(
            **widths,
            attn_types=attn_types,
            split_sizes=split_sizes,
            norm_layer=norm_cfg,
            drop_path_rate=drop_path_rate,
            img_size=img_size,
            in_chans=in_channels,
            mlp_ratio=mlp_ratio,
            qkv_bias=qkv_bias,
            num_classes=0,
        )
        super().__init__(
            net, out_indices, out_norm_cfg, frozen_stages, norm_eval, with_cp, deploy, init_cfg
        )
