"""PVTv2 checkpoints, whose names follow PVT's."""

from .family import Family, Weights
from .pvt import SHOWN, arguments, has_conv_mlp, is_pyramid, translate


def _matches(state_dict: Weights) -> bool:
    return is_pyramid(state_dict) and has_conv_mlp(state_dict)


FAMILY = Family(
    'pvt_v2',
    'Pyramid Vision Transformer v2',
    'PyramidVisionTransformerV2',
    _matches,
    translate,
    arguments,
    grids=(('positional_encoding', 'bilinear'),),
    shown=SHOWN,
)
