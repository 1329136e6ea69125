import pytest
import torch
from mmdet.registry import MODELS
from timm.utils import reparameterize_model
from torch import nn

from slab_det.checkpoints import CheckpointError
from slab_det.layers import ChannelAffine, PRepBN, RepBN, set_ratio
from tests import golden
from tests.networks import settle

ARCH = dict(embed_dims=16, depth=3, num_heads=2)


def build(**kwargs):
    cfg = dict(type='SLABVisionTransformer', arch=ARCH, img_size=32, patch_size=8)
    return MODELS.build({**cfg, **kwargs})


def save_published(name, path):
    file = golden.load(name)
    torch.save({'model': golden.published_state_dict(file)}, path)
    return file


@pytest.mark.parametrize(
    'name, arch, kind', [('slab_deit_t', 'tiny', 'L'), ('deit_s_prepbn', 'small', 'S')]
)
def test_published_weights_give_the_published_features_after_the_closing_norm(
    name, arch, kind, tmp_path
):
    file = save_published(name, tmp_path / 'published.pth')
    backbone = build(
        arch=arch,
        attn_types=kind,
        img_size=224,
        patch_size=16,
        init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'published.pth')),
    )
    backbone.init_weights()
    with torch.no_grad():
        (out,) = backbone.eval()(golden.images())
    assert out.shape == (2, *backbone.out_channels, 14, 14) and backbone.strides == (16,)
    case = 'eval/224x224/0'
    # The class token comes first in the golden tokens and is not part of the map.
    index = torch.from_numpy(file[f'{case}/index'])
    place = torch.unravel_index(index, file[f'{case}/shape'].tolist())
    token = place[1] - int(kind == 'S')
    values = out.flatten(2).transpose(1, 2)[place[0], token.clamp(min=0), place[2]]
    error = (values - torch.from_numpy(file[f'{case}/value'])).abs()[token >= 0]
    assert error.max() / file[f'{case}/std'] < golden.TOLERANCE


@pytest.mark.parametrize('kind', 'LS')
@pytest.mark.parametrize('size', [(8, 8), (33, 70)])
def test_any_size_gives_one_map_of_the_documented_channels_and_stride(kind, size):
    backbone = build(attn_types=kind).eval()
    (out,) = backbone(torch.randn(2, 3, *size))
    assert out.shape == (2, 16, -(-size[0] // 8), -(-size[1] // 8))


def test_chosen_blocks_are_returned_and_those_behind_are_not_built():
    backbone = build(out_indices=(0, 1))
    assert len(backbone.net.blocks) == 2 and isinstance(backbone.net.norm, nn.Identity)
    assert backbone.out_channels == (16, 16) and backbone.strides == (8, 8)
    assert len(backbone(torch.randn(1, 3, 32, 40))) == 2


@pytest.mark.parametrize('kind', 'LS')
@pytest.mark.parametrize('norm_eval', [False, True])
@pytest.mark.parametrize('frozen', range(-1, 4))
def test_freezing_in_every_combination(frozen, norm_eval, kind):
    backbone = build(attn_types=kind, frozen_stages=frozen, norm_eval=norm_eval)
    set_ratio(backbone, 0.5)
    assert backbone.train() is backbone
    x = torch.randn(2, 3, 32, 24, requires_grad=True)
    backbone(x)[0].square().mean().backward()
    net = backbone.net
    for name, parameter in net.named_parameters():
        if name.startswith('blocks.'):
            is_frozen = int(name.split('.')[1]) < frozen
        else:
            is_frozen = frozen >= (3 if name.startswith('norm.') else 0)
        assert parameter.requires_grad != is_frozen, name
    for name, module in net.named_modules():
        if isinstance(module, nn.BatchNorm1d):
            stage = int(name.split('.')[1]) if name.startswith('blocks.') else 2
            assert module.training != (stage < frozen or norm_eval), name
    assert backbone.eval() is backbone


@pytest.mark.parametrize('kind', 'LS')
def test_deploy_builds_the_network_that_reparameterizing_gives(kind):
    torch.manual_seed(0)
    trained = settle(build(attn_types=kind))
    deployed = build(attn_types=kind, deploy=True).eval()
    assert not any(isinstance(m, (PRepBN, RepBN)) for m in deployed.modules())
    assert isinstance(deployed.net.norm, ChannelAffine)
    deployed.load_state_dict(reparameterize_model(trained).state_dict())
    x = torch.randn(1, 3, 33, 50)
    for a, b in zip(trained(x), deployed(x)):
        assert (a - b).abs().max() < 1e-5 * a.abs().max()


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(arch='small'), '192 channels in the checkpoint, but 384 in the model'),
        (dict(attn_types='S'), 'has no place for blocks.0.attn.positional_encoding'),
        (dict(img_size=384), 'the grid pos_embed has shape .1, 196, 192. .*resize_grids=True'),
        (dict(norm_cfg=dict(type='LN')), 'PRepBN at ratio 0.*a LayerNorm in the model'),
        (dict(deploy=True), 'the model has deploy=True, but the checkpoint is not'),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(change, message, tmp_path):
    save_published('slab_deit_t', tmp_path / 'slab_deit_tiny.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'slab_deit_tiny.pth'))
    backbone = build(
        **{**dict(arch='tiny', img_size=224, patch_size=16), **change, 'init_cfg': init_cfg}
    )
    with pytest.raises(CheckpointError, match=message):
        backbone.init_weights()


@pytest.mark.parametrize(
    'arguments, message',
    [
        (
            dict(arch='huge'),
            "arch must be one of 'tiny', 'small', 'base' or a dict of widths, but got 'huge'",
        ),
        (
            dict(arch=dict(embed_dims=8)),
            "arch as a dict must hold 'embed_dims', 'depth', 'num_heads'",
        ),
        (dict(attn_types='LLSS'), "attn_types must be 'L' .*but got 'LLSS'"),
        (dict(norm_cfg=dict(type='BN')), "norm type must be one of .* but got 'BN'"),
        (
            dict(out_indices=(0, 3)),
            r'out_indices must be numbers of stages in ascending order, 0 to 2, but got \(0, 3\)',
        ),
        (
            dict(frozen_stages=4),
            'frozen_stages must lie between -1 and 3, the number of stages, but got 4',
        ),
    ],
)
def test_arguments_that_do_not_fit_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**arguments)
