import pytest
import torch

from slab_det.checkpoints import CheckpointError, convert_state_dict
from slab_det.checkpoints.deit import FAMILY
from slab_det.layers import set_ratio
from slab_det.models import VisionTransformer
from tests import golden
from tests.networks import settle

SMALL = dict(embed_dim=16, depth=2, num_heads=2, num_classes=5, img_size=32, patch_size=8)


def test_repbn_alone_fills_the_repbn_branch_at_ratio_0():
    torch.manual_seed(0)
    source = settle(VisionTransformer(attn_types='S', norm_layer='RepBN', **SMALL))
    published = {key.replace('.eta', '.alpha'): value for key, value in source.state_dict().items()}
    model = VisionTransformer(attn_types='S', **SMALL).eval()
    weights, report = convert_state_dict(published, model.state_dict())
    model.load_state_dict(weights)
    assert report.ratio == 0
    x = torch.randn(1, 3, 32, 40)
    torch.testing.assert_close(model(x), source(x))


def test_position_of_the_class_token_becomes_part_of_it():
    model = VisionTransformer(attn_types='S', **SMALL)
    published = model.state_dict()
    position = torch.randn(1, 1, 16)
    published['pos_embed'] = torch.cat([position, published['pos_embed']], 1)
    weights, _ = convert_state_dict(published, model.state_dict())
    torch.testing.assert_close(weights['cls_token'], model.cls_token + position)
    assert torch.equal(weights['pos_embed'], model.pos_embed)
    again, _ = convert_state_dict(weights, model.state_dict())
    assert torch.equal(again['cls_token'], weights['cls_token'])


def test_unused_class_token_of_the_linear_variant_is_ignored():
    file = golden.load('slab_deit_t')
    with torch.device('meta'):
        target = VisionTransformer().state_dict()
    weights, report = convert_state_dict(golden.published_state_dict(file), target)
    assert report.ignored == ['cls_token'] and 'cls_token' not in weights


@pytest.mark.parametrize('kind', 'LS')
def test_grids_are_resized_only_when_asked(kind):
    torch.manual_seed(0)
    source = VisionTransformer(attn_types=kind, **SMALL)
    model = VisionTransformer(attn_types=kind, **{**SMALL, 'img_size': 48})
    published = source.state_dict()
    if kind == 'S':
        published['pos_embed'] = torch.cat([torch.randn(1, 1, 16), published['pos_embed']], 1)
    with pytest.raises(
        CheckpointError, match='pos_embed has shape .1, 16, 16. .*resize_grids=True'
    ):
        convert_state_dict(published, model.state_dict())
    weights, report = convert_state_dict(published, model.state_dict(), resize_grids=True)
    encodings = [f'blocks.{i}.attn.positional_encoding' for i in range(2)] if kind == 'L' else []
    assert sorted(report.resized) == sorted(['pos_embed', *encodings])
    grid = source.pos_embed.view(1, 4, 4, 16).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, (6, 6), mode='bicubic', align_corners=False)
    torch.testing.assert_close(weights['pos_embed'], grid.flatten(2).transpose(1, 2))


def test_square_grids_fill_those_of_a_model_that_is_not_square():
    source = VisionTransformer(attn_types='L', **SMALL)
    model = VisionTransformer(attn_types='L', **{**SMALL, 'img_size': (24, 48)})
    assert model.grid_sizes() == dict.fromkeys(
        ['pos_embed', *(f'blocks.{i}.attn.positional_encoding' for i in range(2))], (3, 6)
    )
    weights, report = convert_state_dict(
        source.state_dict(), model.state_dict(), resize_grids=True, grid_sizes=model.grid_sizes()
    )
    assert len(report.resized) == 3
    grid = source.pos_embed.view(1, 4, 4, 16).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, (3, 6), mode='bicubic', align_corners=False)
    torch.testing.assert_close(weights['pos_embed'], grid.flatten(2).transpose(1, 2))


def test_distilled_checkpoint_is_refused_by_name():
    published = VisionTransformer(attn_types='S', **SMALL).state_dict()
    published['dist_token'] = published['cls_token']
    with pytest.raises(CheckpointError, match='distilled DeiT'):
        convert_state_dict(published, VisionTransformer(attn_types='S', **SMALL).state_dict())


@pytest.mark.parametrize('kind', 'LS')
def test_arguments_rebuild_the_model(kind):
    model = VisionTransformer(
        embed_dim=128,
        depth=3,
        num_heads=2,
        attn_types=kind,
        mlp_ratio=2,
        img_size=48,
        patch_size=8,
        in_chans=1,
        num_classes=5,
    )
    set_ratio(model, 0)
    rebuilt = VisionTransformer(**FAMILY.arguments(model.state_dict()))
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    assert {name: value.shape for name, value in rebuilt.state_dict().items()} == shapes
    assert rebuilt.blocks[0].attn.num_heads == 2
