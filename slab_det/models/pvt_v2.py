"""SLAB-PVTv2: Pyramid Vision Transformer v2 with PRepBN and simplified linear attention.

Sources: Guo et al., "SLAB", ICML 2024 (models ``slab_pvt_v2_*``); Wang et al., "PVT v2: Improved
Baselines with Pyramid Vision Transformer", CVMJ 2022. Patches overlap and the feed-forward part
holds a depth-wise convolution, so no positions are embedded. A norm closes every stage; what it
returns is both the stage's output and the next stage's input.
"""

import math
from typing import Any

from timm.models import generate_default_cfgs, register_model
from torch import nn

from .base import create_model, init_linear, pretrained_cfg
from .pyramid import PyramidTransformer

_WIDTHS = dict(embed_dims=(64, 128, 320, 512), num_heads=(1, 2, 5, 8), mlp_ratios=(8, 8, 4, 4))

#: Sizes of the published models.
ARCHS: dict[str, dict[str, Any]] = {
    'b0': dict(_WIDTHS, embed_dims=(32, 64, 160, 256), depths=(2, 2, 2, 2)),
    'b1': dict(_WIDTHS, depths=(2, 2, 2, 2)),
    'b2': dict(_WIDTHS, depths=(3, 4, 6, 3)),
    'b3': dict(_WIDTHS, depths=(3, 4, 18, 3)),
    'b4': dict(_WIDTHS, depths=(3, 8, 27, 3)),
    'b5': dict(_WIDTHS, mlp_ratios=(4, 4, 4, 4), depths=(3, 6, 40, 3)),
}


class PyramidVisionTransformerV2(PyramidTransformer):
    """Pyramid Vision Transformer v2 with PRepBN and simplified linear attention.

    The arguments are those of :class:`PyramidTransformer`.
    """

    overlapping = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.apply(_init_weights)


def _init_weights(module: nn.Module) -> None:
    """Initialise linear layers as usual, convolutions from their fan-out as PVTv2 does."""
    init_linear(module)
    if isinstance(module, nn.Conv2d):
        kernel = module.kernel_size[0] * module.kernel_size[1]
        fan_out = kernel * module.out_channels / module.groups
        nn.init.normal_(module.weight, 0, math.sqrt(2.0 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


default_cfgs = generate_default_cfgs(
    {f'slab_pvt_v2_{arch}': pretrained_cfg(fixed_input_size=False) for arch in ARCHS}
)


def _create(variant: str, arch: str, pretrained: bool, **kwargs: Any):
    return create_model(PyramidVisionTransformerV2, variant, pretrained, kwargs, **ARCHS[arch])


@register_model
def slab_pvt_v2_b0(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformerV2:
    """SLAB-PVTv2-B0: linear attention without reduction, PRepBN."""
    return _create('slab_pvt_v2_b0', 'b0', pretrained, **kwargs)


@register_model
def slab_pvt_v2_b1(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformerV2:
    """SLAB-PVTv2-B1: linear attention without reduction, PRepBN."""
    return _create('slab_pvt_v2_b1', 'b1', pretrained, **kwargs)


@register_model
def slab_pvt_v2_b2(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformerV2:
    """SLAB-PVTv2-B2: linear attention without reduction, PRepBN."""
    return _create('slab_pvt_v2_b2', 'b2', pretrained, **kwargs)


@register_model
def slab_pvt_v2_b3(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformerV2:
    """SLAB-PVTv2-B3: linear attention without reduction, PRepBN."""
    return _create('slab_pvt_v2_b3', 'b3', pretrained, **kwargs)


@register_model
def slab_pvt_v2_b4(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformerV2:
    """SLAB-PVTv2-B4: linear attention without reduction, PRepBN."""
    return _create('slab_pvt_v2_b4', 'b4', pretrained, **kwargs)


@register_model
def slab_pvt_v2_b5(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformerV2:
    """SLAB-PVTv2-B5: linear attention without reduction, PRepBN."""
    return _create('slab_pvt_v2_b5', 'b5', pretrained, **kwargs)
