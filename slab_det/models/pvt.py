"""SLAB-PVT: Pyramid Vision Transformer with PRepBN and simplified linear attention.

Sources: Guo et al., "SLAB", ICML 2024 (models ``slab_pvt_*`` and ``pvt_*_prepbn``); Wang et al.,
"Pyramid Vision Transformer", ICCV 2021. The model has no class token. Sizes that do not divide are
floored: pixels or tokens at the bottom and right that fill no patch are left out.
"""

from typing import Any

from .base import init_linear, register_models
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


register_models(
    __name__,
    PyramidVisionTransformer,
    {
        name: {**ARCHS[arch], 'attn_types': attn_types}
        for arch in ARCHS
        for name, attn_types in ((f'slab_pvt_{arch}', 'LLLL'), (f'pvt_{arch}_prepbn', 'SSSS'))
    },
    fixed_input_size=False,
)
