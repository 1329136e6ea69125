import pytest
import torch
import torch.nn.functional as F

from slab_det.checkpoints import CheckpointError, convert_state_dict, load_into
from slab_det.layers import prepbn_modules, set_ratio
from slab_det.models import PyramidVisionTransformer, SwinTransformer
from tests.networks import settle

SWIN = dict(
    embed_dim=8,
    depths=(1, 1),
    num_heads=(2, 2),
    attn_types='LS',
    window_sizes=(4, 4),
    num_classes=5,
)
PVT = dict(
    embed_dims=(8, 16),
    depths=(1, 1),
    num_heads=(1, 2),
    mlp_ratios=(2, 2),
    attn_types='LS',
    img_size=32,
    num_classes=5,
)


def swin(**kwargs):
    return SwinTransformer(**{**SWIN, **kwargs})


def pvt(**kwargs):
    return PyramidVisionTransformer(**{**PVT, **kwargs})


def test_a_network_of_another_family_is_named():
    with pytest.raises(
        CheckpointError,
        match='is a Swin Transformer with embed_dim 8.*but the model '
        'a Pyramid Vision Transformer with embed_dims.*load it into a Swin Transformer',
    ):
        convert_state_dict(swin().state_dict(), pvt().state_dict())


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(embed_dim=16), r'patch_embed.proj.weight has shape \(8, 3, 4, 4\) in the checkpoint'),
        (dict(depths=(2, 1)), r'lacks layers.0.blocks.1.norm1.* and \d+ more of the model'),
        (dict(attn_types='SS'), 'has no place for layers.0.blocks.0.attn.positional_encoding'),
        (dict(norm_layer='RepBN'), 'has ratio 1, but RepBN has no LayerNorm branch'),
        (
            dict(num_classes=7),
            r'head.fc.weight has shape \(5, 16\) in the checkpoint.*\(7, 16\) in the model',
        ),
        (
            dict(window_sizes=(7, 4)),
            r'the grid layers.0.*positional_encoding has shape \(1, 16, 8\)',
        ),
    ],
)
def test_other_sizes_and_options_are_named(change, message):
    with pytest.raises(CheckpointError, match=message):
        convert_state_dict(swin().state_dict(), swin(**change).state_dict())


@pytest.mark.parametrize(
    'source, target, ratio',
    [
        ('LN', 'PRepBN', 1),
        ('RepBN', 'PRepBN', 0),
        ('PRepBN', 'PRepBN', 0.25),
        ('RepBN', 'RepBN', None),
        ('LN', 'LN', None),
        ('PRepBN', 'LN', None),
        ('PRepBN', 'RepBN', None),
    ],
)
def test_norms_of_every_kind_become_the_models(source, target, ratio):
    torch.manual_seed(0)
    old = settle(swin(norm_layer=source))
    if source == 'PRepBN':
        set_ratio(old, {'PRepBN': 0.25, 'LN': 1, 'RepBN': 0}[target])
    new = swin(norm_layer=target).eval()
    weights, report = convert_state_dict(old.state_dict(), new.state_dict())
    new.load_state_dict(weights)
    assert report.ratio == ratio and not report.missing and not report.ignored
    assert {float(norm.ratio) for norm in prepbn_modules(new)} == (
        {ratio} if ratio is not None else set()
    )
    x = torch.randn(1, 3, 30, 40)
    torch.testing.assert_close(new(x), old(x))


def test_a_norm_called_norm2_that_is_repbn_alone_is_no_branch_of_its_block():
    old, new = settle(swin(norm_layer='RepBN')), swin()
    published = {key.replace('.eta', '.alpha'): value for key, value in old.state_dict().items()}
    assert 'layers.0.blocks.0.norm2.alpha' in published
    weights, _ = convert_state_dict(published, new.state_dict())
    assert torch.equal(
        weights['layers.0.blocks.0.norm2.repbn.eta'], old.layers[0].blocks[0].norm2.eta
    )
    assert torch.equal(
        weights['layers.0.blocks.0.mlp.fc1.weight'], old.layers[0].blocks[0].mlp.fc1.weight
    )


def test_a_schedule_in_the_middle_is_continued():
    old = swin()
    published = {}
    for key, value in old.state_dict().items():
        key = (
            key.replace('.ln.', '.norm1.')
            .replace('.repbn.eta', '.norm2.alpha')
            .replace('.repbn.', '.norm2.')
        )
        published.update(
            {key: value}
            if not key.endswith('.ratio')
            else {
                key[:-5] + 'iter': torch.tensor(300),
                key[:-5] + 'total_step': torch.tensor(1200),
                key[:-5] + 'warm': torch.tensor(0),
            }
        )
    new = swin()
    weights, report = convert_state_dict(published, new.state_dict())
    new.load_state_dict(weights)
    assert report.ratio == 0.25
    assert {float(norm.ratio) for norm in prepbn_modules(new)} == {0.25}


def test_classifier_and_stages_behind_the_last_are_left_out_and_listed():
    old, new = swin(), swin(num_classes=0)
    new.prune_intermediate_layers([0], prune_norm=True)
    weights, report = convert_state_dict(old.state_dict(), new.state_dict())
    assert weights.keys() == new.state_dict().keys()
    tops = {'.'.join(key.split('.')[:2]) for key in report.ignored}
    assert tops == {'head.fc', 'layers.1', 'norm.ln', 'norm.repbn', 'norm.ratio'}


def test_grids_are_resized_only_when_asked():
    torch.manual_seed(0)
    old, new = settle(pvt()), pvt(img_size=(48, 80))
    with pytest.raises(
        CheckpointError,
        match=r'the grid layers.0.absolute_pos_embed has shape '
        r'\(1, 64, 8\) in the checkpoint, but \(1, 240, 8\) of 12 x 20 tokens in the '
        'model.*resize_grids=True',
    ):
        convert_state_dict(old.state_dict(), new.state_dict(), grid_sizes=new.grid_sizes())
    weights, report = convert_state_dict(
        old.state_dict(), new.state_dict(), resize_grids=True, grid_sizes=new.grid_sizes()
    )
    names = [
        'layers.0.absolute_pos_embed',
        'layers.0.blocks.0.attn.positional_encoding',
        'layers.1.absolute_pos_embed',
    ]
    assert sorted(report.resized) == names
    for name, side, size in zip(names, (8, 8, 4), ((12, 20), (12, 20), (6, 10))):
        grid = old.state_dict()[name].view(1, side, side, -1).permute(0, 3, 1, 2)
        expected = F.interpolate(grid, size, mode='bilinear', align_corners=False)
        torch.testing.assert_close(weights[name], expected.flatten(2).transpose(1, 2))


def test_grids_of_one_number_of_tokens_but_another_shape_are_told_apart():
    old, new = (settle(pvt(img_size=size, sr_ratios=(1, 1))) for size in ((16, 64), (64, 16)))
    sizes = dict(grid_sizes=new.grid_sizes(), source_grid_sizes=old.grid_sizes())
    with pytest.raises(
        CheckpointError,
        match=r'\(1, 64, 8\) of 4 x 16 tokens in the checkpoint, but '
        r'\(1, 64, 8\) of 16 x 4 tokens in the model',
    ):
        convert_state_dict(old.state_dict(), new.state_dict(), **sizes)
    weights, _ = convert_state_dict(old.state_dict(), new.state_dict(), resize_grids=True, **sizes)
    grid = old.layers[0].absolute_pos_embed.view(1, 4, 16, 8).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, (16, 4), mode='bilinear', align_corners=False)
    torch.testing.assert_close(
        weights['layers.0.absolute_pos_embed'], expected.flatten(2).transpose(1, 2)
    )


def test_a_grid_that_is_no_square_needs_its_size():
    old, new = pvt(img_size=(48, 80)), pvt()
    with pytest.raises(
        CheckpointError,
        match='layers.0.absolute_pos_embed cannot be resized: 240 tokens are not a square grid',
    ):
        convert_state_dict(old.state_dict(), new.state_dict(), resize_grids=True)


def test_relative_position_biases_are_resized_as_images():
    torch.manual_seed(0)
    old, new = swin(attn_types='SS'), swin(attn_types='SS', window_sizes=(7, 4))
    weights, report = convert_state_dict(old.state_dict(), new.state_dict(), resize_grids=True)
    name = 'layers.0.blocks.0.attn.relative_position_bias_table'
    assert report.resized == [name]
    table = old.state_dict()[name].T.reshape(1, 2, 7, 7)
    expected = F.interpolate(table, (13, 13), mode='bicubic', align_corners=False)
    torch.testing.assert_close(weights[name], expected.view(2, 169).T)


def test_loading_a_file_changes_everything_or_nothing(tmp_path):
    old, new = settle(swin()), swin()
    path = str(tmp_path / 'ckpt.pth')
    torch.save({'model': {f'module.{key}': value for key, value in old.state_dict().items()}}, path)
    load_into(new, path)
    for key, value in old.state_dict().items():
        assert torch.equal(new.state_dict()[key], value), key
    other = swin(depths=(1, 2))
    before = {key: value.clone() for key, value in other.state_dict().items()}
    with pytest.raises(CheckpointError):
        load_into(other, path)
    for key, value in other.state_dict().items():
        assert torch.equal(before[key], value), key
