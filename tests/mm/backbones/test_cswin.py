import pytest
import torch
from mmdet.registry import MODELS
from timm.utils import reparameterize_model
from torch import nn

from slab_det.checkpoints import CheckpointError
from slab_det.layers import PRepBN, RepBN, set_ratio
from tests import golden
from tests.networks import settle

ARCH = dict(embed_dims=8, depths=(1, 1, 2), num_heads=(2, 2, 4))


def build(**kwargs):
    cfg = dict(
        type='SLABCSWinTransformer',
        arch=ARCH,
        attn_types='LSS',
        split_sizes=(2, 3, 3),
        img_size=64,
        out_indices=(0, 1, 2),
        drop_path_rate=0.0,
    )
    return MODELS.build({**cfg, **kwargs})


def published(tmp_path, **kwargs):
    file = golden.load('slab_cswin_t')
    path = tmp_path / 'slab_cswin_tiny.pth'
    torch.save({'model': golden.published_state_dict(file)}, path)
    cfg = dict(
        arch='tiny',
        attn_types='LLSS',
        split_sizes=(1, 2, 7, 7),
        img_size=224,
        out_indices=(0, 1, 2, 3),
        init_cfg=dict(type='Pretrained', checkpoint=str(path)),
    )
    return build(**{**cfg, **kwargs}), file


def test_published_weights_give_the_published_features(tmp_path):
    backbone, file = published(tmp_path, out_norm_cfg=None)
    backbone.init_weights()
    with torch.no_grad():
        outputs = backbone.eval()(golden.images())
    tokens = [out.flatten(2).transpose(1, 2) for out in outputs]
    assert golden.worst_error(file, 'eval/224x224', tokens) < golden.TOLERANCE


@pytest.mark.parametrize('size', [(8, 8), (36, 72), (128, 60)])
@pytest.mark.parametrize('norm', ['PRepBN', 'RepBN', 'LN'])
def test_any_size_gives_maps_of_the_documented_channels_and_strides(size, norm):
    backbone = build(norm_cfg=dict(type=norm)).eval()
    outputs = backbone(torch.randn(2, 3, *size))
    assert backbone.out_channels == (8, 16, 32) and backbone.strides == (4, 8, 16)
    for out, channels, stride in zip(outputs, backbone.out_channels, backbone.strides):
        assert out.shape == (2, channels, -(-size[0] // stride), -(-size[1] // stride))


@pytest.mark.parametrize('frozen', range(-1, 4))
def test_frozen_stages_neither_learn_nor_move_their_statistics(frozen):
    backbone = build(frozen_stages=frozen)
    set_ratio(backbone, 0.5)
    backbone.train()
    x = torch.randn(2, 3, 40, 52, requires_grad=True)
    sum(out.square().mean() for out in backbone(x)).backward()
    parts = [backbone.net.patch_embed, *backbone.net.layers]
    for number, part in enumerate(parts):
        assert all((p.grad is None) == (number <= frozen) for p in part.parameters())
        assert all(
            m.training != (number <= frozen)
            for m in part.modules()
            if isinstance(m, nn.BatchNorm1d)
        )


def test_deploy_builds_the_network_that_reparameterizing_gives():
    torch.manual_seed(0)
    trained = settle(build())
    deployed = build(deploy=True).eval()
    assert not any(isinstance(m, (PRepBN, RepBN)) for m in deployed.modules())
    deployed.load_state_dict(reparameterize_model(trained).state_dict())
    x = torch.randn(1, 3, 33, 50)
    for a, b in zip(trained(x), deployed(x)):
        assert (a - b).abs().max() < 1e-5 * a.abs().max()


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(arch='small'), r'lacks layers.2.blocks.18.*depths \(2, 4, 32, 2\)'),
        (dict(attn_types='SSSS'), 'has no place for layers.0.blocks.0.attns.0.'),
        (dict(img_size=384), 'the grid layers.0.blocks.0.attns.0.positional_encoding'),
        (dict(deploy=True), 'the model has deploy=True, but the checkpoint is not'),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(change, message, tmp_path):
    backbone, _ = published(tmp_path, **change)
    with pytest.raises(CheckpointError, match=message):
        backbone.init_weights()


@pytest.mark.parametrize(
    'arguments, message',
    [
        (
            dict(arch='base'),
            "arch must be one of 'tiny', 'small' or a dict of widths, but got 'base'",
        ),
        (dict(attn_types='L'), 'attn_types must hold one letter per stage'),
        (dict(split_sizes=(7,)), 'split_sizes must hold one entry per stage'),
        (dict(out_indices=(0, 3)), r'out_indices must be numbers of stages in ascending order'),
    ],
)
def test_arguments_that_do_not_fit_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**arguments)
