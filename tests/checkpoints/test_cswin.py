import re

import pytest
import torch

from slab_det.checkpoints import CheckpointError, convert_state_dict
from slab_det.checkpoints.cswin import FAMILY
from slab_det.models import CSWinTransformer, VisionTransformer
from tests import golden

SMALL = dict(
    embed_dim=32,
    depths=(1, 2, 1),
    num_heads=(1, 2, 4),
    attn_types='LSS',
    split_sizes=(2, 3, 3),
    img_size=64,
    num_classes=5,
)


def official_name(key):
    """The name in the authors' code, which counts stages from 1."""
    key = key.replace('patch_embed.proj.', 'stage1_conv_embed.0.')
    key = key.replace('patch_embed.norm.', 'stage1_conv_embed.2.').replace('head.fc.', 'head.')
    key = re.sub(
        r'^layers\.(\d+)\.downsample\.(?:proj|(norm))',
        lambda m: f'merge{m.group(1)}.{m.group(2) or "conv"}',
        key,
    )
    return re.sub(r'^layers\.(\d+)\.blocks\.', lambda m: f'stage{int(m.group(1)) + 1}.', key)


def test_published_names_fill_everything_and_the_unused_scale_is_ignored():
    with torch.device('meta'):
        target = CSWinTransformer().state_dict()
    _, report = convert_state_dict(golden.published_state_dict(golden.load('slab_cswin_t')), target)
    assert not report.missing and len(report.ignored) == 6
    assert all(name.endswith('.scale') for name in report.ignored)


def test_official_layer_norm_weights_give_the_layer_norm_networks_output_at_ratio_1():
    torch.manual_seed(0)
    source = CSWinTransformer(
        norm_layer='LN', **{**SMALL, 'attn_types': 'SSS', 'num_heads': (2, 2, 4)}
    )
    official = {official_name(key): value for key, value in source.state_dict().items()}
    assert 'merge1.conv.weight' in official and 'stage3.0.attns.0.get_v.bias' in official
    model = CSWinTransformer(**{**SMALL, 'attn_types': 'SSS', 'num_heads': (2, 2, 4)})
    weights, report = convert_state_dict(official, model.state_dict())
    model.load_state_dict(weights)
    assert report.ratio == 1
    x = torch.randn(1, 3, 40, 52)
    torch.testing.assert_close(model.eval()(x), source.eval()(x))


def test_grids_are_resized_only_when_asked():
    source = CSWinTransformer(**SMALL)
    model = CSWinTransformer(**{**SMALL, 'img_size': 96})
    with pytest.raises(CheckpointError, match='positional_encoding has shape .1, 256, 32.'):
        convert_state_dict(source.state_dict(), model.state_dict())
    weights, report = convert_state_dict(source.state_dict(), model.state_dict(), resize_grids=True)
    assert report.resized == ['layers.0.blocks.0.attns.0.positional_encoding']
    assert weights[report.resized[0]].shape == (1, 24 * 24, 32)


def test_other_family_is_refused_by_name():
    small = dict(embed_dim=16, depth=1, num_heads=2, img_size=32, patch_size=8)
    with pytest.raises(CheckpointError, match='DeiT vision transformer.*CSWin Transformer'):
        convert_state_dict(
            VisionTransformer(**small).state_dict(), CSWinTransformer(**SMALL).state_dict()
        )


def test_arguments_rebuild_the_model():
    model = CSWinTransformer(**SMALL)
    rebuilt = CSWinTransformer(**FAMILY.arguments(model.state_dict()), split_sizes=(2, 3, 3))
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    assert {name: value.shape for name, value in rebuilt.state_dict().items()} == shapes
    assert [stage.blocks[0].attns[0].num_heads for stage in rebuilt.layers] == [1, 1, 4]
