"""SLAB-PVT: Pyramid Vision Transformer with PRepBN and simplified linear attention.

Sources: Guo et al., "SLAB", ICML 2024 (models ``slab_pvt_*`` and ``pvt_*_prepbn``); Wang et al.,
"Pyramid Vision Transformer", ICCV 2021. There is no class token. Sizes that do not divide are
floored: pixels or tokens at the bottom and right that fill no patch are left out.
"""

from typing import Any

from timm.models import generate_default_cfgs, register_model

from .base import create_model, init_linear, pretrained_cfg
from .pyramid import PyramidTransformer

_WIDTHS = dict(embed_dims=(64, 128, 320, 512), num_heads=(1, 2, 5, 8), mlp_ratios=(8, 8, 4, 4))

#: Sizes of the published models.
ARCHS: dict[str, dict[str, Any]] = {
    'tiny': dict(_WIDTHS, depths=(2, 2, 2, 2)),
    'small': dict(_WIDTHS, depths=(3, 4, 6, 3)),
    'medium': dict(_WIDTHS, depths=(3, 4, 18, 3)),
    'large': dict(_WIDTHS, depths=(3, 8, 27, 3)),
}


class PyramidVisionTransformer(PyramidTransformer):
    """Pyramid Vision Transformer with PRepBN and simplified linear attention.

    The arguments are those of :class:`PyramidTransformer`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.apply(init_linear)


default_cfgs = generate_default_cfgs(
    {
        name: pretrained_cfg(fixed_input_size=False)
        for arch in ARCHS
        for name in (f'slab_pvt_{arch}', f'pvt_{arch}_prepbn')
    }
)


def _create(variant: str, arch: str, attn_types: str, pretrained: bool, **kwargs: Any):
    published = {**ARCHS[arch], 'attn_types': attn_types}
    return create_model(PyramidVisionTransformer, variant, pretrained, kwargs, **published)


@register_model
def slab_pvt_tiny(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformer:
    """SLAB-PVT-Tiny: linear attention without reduction, PRepBN."""
    return _create('slab_pvt_tiny', 'tiny', 'LLLL', pretrained, **kwargs)


@register_model
def slab_pvt_small(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformer:
    """SLAB-PVT-Small: linear attention without reduction, PRepBN."""
    return _create('slab_pvt_small', 'small', 'LLLL', pretrained, **kwargs)


@register_model
def slab_pvt_medium(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformer:
    """SLAB-PVT-Medium: linear attention without reduction, PRepBN."""
    return _create('slab_pvt_medium', 'medium', 'LLLL', pretrained, **kwargs)


@register_model
def slab_pvt_large(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformer:
    """SLAB-PVT-Large: linear attention without reduction, PRepBN."""
    return _create('slab_pvt_large', 'large', 'LLLL', pretrained, **kwargs)


@register_model
def pvt_tiny_prepbn(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformer:
    """PVT-Tiny with PRepBN: softmax attention at reductions 8, 4, 2, 1."""
    return _create('pvt_tiny_prepbn', 'tiny', 'SSSS', pretrained, **kwargs)


@register_model
def pvt_small_prepbn(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformer:
    """PVT-Small with PRepBN: softmax attention at reductions 8, 4, 2, 1."""
    return _create('pvt_small_prepbn', 'small', 'SSSS', pretrained, **kwargs)


@register_model
def pvt_medium_prepbn(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformer:
    """PVT-Medium with PRepBN: softmax attention at reductions 8, 4, 2, 1."""
    return _create('pvt_medium_prepbn', 'medium', 'SSSS', pretrained, **kwargs)


@register_model
def pvt_large_prepbn(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformer:
    """PVT-Large with PRepBN: softmax attention at reductions 8, 4, 2, 1."""
    return _create('pvt_large_prepbn', 'large', 'SSSS', pretrained, **kwargs)
