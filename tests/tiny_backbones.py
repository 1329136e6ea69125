"""Every backbone family in small, two or three stages with a few channels."""

from mmdet.registry import MODELS

PYRAMID = dict(embed_dims=(8, 16, 40), depths=(1, 2, 1), num_heads=(1, 2, 5), mlp_ratios=(2, 2, 2))

CONFIGS = {
    'swin': dict(
        type='SLABSwinTransformer',
        arch=dict(embed_dims=8, depths=(1, 2, 1), num_heads=(1, 2, 4)),
        attn_types='LSS',
        window_sizes=(8, 4, 4),
        out_indices=(0, 1, 2),
    ),
    'pvt': dict(
        type='SLABPyramidVisionTransformer',
        arch=PYRAMID,
        attn_types='LLL',
        img_size=64,
        out_indices=(0, 1, 2),
    ),
    'pvt softmax': dict(
        type='SLABPyramidVisionTransformer',
        arch=PYRAMID,
        attn_types='SSS',
        img_size=64,
        out_indices=(0, 1, 2),
    ),
    'pvt_v2': dict(
        type='SLABPyramidVisionTransformerV2',
        arch=PYRAMID,
        attn_types='LLL',
        img_size=64,
        out_indices=(0, 1, 2),
    ),
    'deit': dict(
        type='SLABVisionTransformer', arch=dict(embed_dims=16, depth=3, num_heads=2), img_size=64
    ),
    'deit softmax': dict(
        type='SLABVisionTransformer',
        arch=dict(embed_dims=16, depth=3, num_heads=2),
        img_size=64,
        attn_types='S',
    ),
    'cswin': dict(
        type='SLABCSWinTransformer',
        arch=dict(embed_dims=8, depths=(1, 2, 1), num_heads=(2, 2, 4)),
        attn_types='LSS',
        split_sizes=(2, 3, 3),
        img_size=64,
        out_indices=(0, 1, 2),
    ),
}

FAMILIES = list(CONFIGS)


def build(family: str, **kwargs):
    """Return the backbone ``family``, without drop path unless ``kwargs`` say otherwise."""
    return MODELS.build({**CONFIGS[family], 'drop_path_rate': 0.0, **kwargs})
