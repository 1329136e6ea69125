"""SLAB-DeiT as a detection backbone."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmdet.registry import MODELS
from torch import nn

from slab_det.models.deit import ARCHS, VisionTransformer

from .base import SLABBackbone, pick_arch


@MODELS.register_module()
class SLABVisionTransformer(SLABBackbone):
    """Plain vision transformer (DeiT) with PRepBN and simplified linear attention, for detection.

    All maps have one scale; :class:`slab_det.mm.necks.SimpleFPN` makes a pyramid of one. Every
    block counts as a stage in ``out_indices`` and ``frozen_stages``. The closing norm is the
    output norm of the last block, as published; earlier blocks have none. The class token of the
    softmax variant takes part in its attention and is left out of the maps.

    Args:
        arch: 'tiny', 'small', 'base', or ``dict(embed_dims=192, depth=12, num_heads=3)``.
        attn_types: 'L' for simplified linear attention in all blocks, 'S' for softmax.
        norm_cfg: norm of the transformer, ``dict(type='PRepBN')``, ``'RepBN'`` or ``'LN'``.
        out_indices: blocks whose maps are returned; the last one by default.
        frozen_stages: 0 freezes the embedding of patches and positions, k > 0 the first k blocks
            as well; -1 freezes nothing.
        norm_eval, with_cp, deploy, init_cfg: see :class:`SLABBackbone`.
        drop_path_rate: probability that the last residual branch is dropped.
        img_size: side, or height and width, in pixels of the images whose grid of patches the
            positions have; they are resized to the map.
        patch_size: side of a patch in pixels.
        in_channels: channels of the image.
        mlp_ratio: hidden channels of the feed-forward part over the channels of a token.
        qkv_bias: whether query, key and value have a bias.

    The output of ``arch='tiny'`` has 192 channels at stride 16.

    Raises:
        ValueError: an argument that does not fit; the message names it.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 'tiny',
        attn_types: str = 'L',
        norm_cfg: str | Mapping[str, Any] = dict(type='PRepBN'),
        out_indices: Sequence[int] | None = None,
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        deploy: bool = False,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_channels: int = 3,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        widths = pick_arch(
            arch, ARCHS, {'embed_dims': 'embed_dim', 'depth': 'depth', 'num_heads': 'num_heads'}
        )
        net = VisionTransformer(
            **widths,
            attn_types=attn_types,
            norm_layer=norm_cfg,
            drop_path_rate=drop_path_rate,
            img_size=img_size,
            patch_size=patch_size,
            in_chans=in_channels,
            mlp_ratio=mlp_ratio,
            qkv_bias=qkv_bias,
            num_classes=0,
        )
        if out_indices is None:
            out_indices = (len(net.layers) - 1,)
        super().__init__(
            net, out_indices, None, frozen_stages, norm_eval, with_cp, deploy, init_cfg
        )

    def _frozen(self) -> Sequence[nn.Module]:
        frozen = list(super()._frozen())
        if self.frozen_stages == len(self.net.feature_info):
            frozen.append(self.net.norm)
        return frozen

    def _freeze(self) -> None:
        super()._freeze()
        if self.frozen_stages >= 0:
            for parameter in (self.net.pos_embed, self.net.cls_token):
                if parameter is not None:
                    parameter.requires_grad_(False)
