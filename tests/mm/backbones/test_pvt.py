import pytest
import torch
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from timm.utils import reparameterize_model
from torch import nn

from slab_det.checkpoints import CheckpointError
from slab_det.layers import PRepBN, prepbn_modules, set_ratio
from tests import golden
from tests.networks import randomize, settle

register_all_modules()

ARCH = dict(embed_dims=(8, 16, 40), depths=(1, 2, 1), num_heads=(1, 2, 5), mlp_ratios=(8, 8, 4))


def build(**kwargs):
    cfg = dict(
        type='SLABPyramidVisionTransformer',
        arch=ARCH,
        attn_types='LLL',
        img_size=64,
        out_indices=(0, 1, 2),
        drop_path_rate=0.0,
    )
    return MODELS.build({**cfg, **kwargs})


@pytest.mark.parametrize('file, kinds', [('slab_pvt_t', 'LLLL'), ('pvt_t_prepbn', 'SSSS')])
def test_published_classification_weights_fill_the_backbone(file, kinds, tmp_path):
    data = golden.load(file)
    path = tmp_path / 'published.pth'
    torch.save({'model': golden.published_state_dict(data)}, path)
    backbone = build(
        arch='tiny',
        attn_types=kinds,
        out_indices=(0, 1, 2, 3),
        img_size=224,
        init_cfg=dict(type='Pretrained', checkpoint=str(path)),
    )
    backbone.init_weights()
    with torch.no_grad():
        outputs = backbone.eval()(golden.images())
    tokens = [out.flatten(2).transpose(1, 2) for out in outputs]
    assert golden.worst_error(data, 'eval/224x224', tokens) < golden.TOLERANCE


@pytest.mark.parametrize('size', [(64, 64), (70, 99), (128, 43)])
def test_mmdets_detector_has_the_same_features_at_ratio_1(size, tmp_path):
    torch.manual_seed(0)
    source = randomize(
        MODELS.build(
            dict(
                type='PyramidVisionTransformer',
                embed_dims=8,
                num_stages=3,
                num_layers=[1, 2, 1],
                num_heads=[1, 2, 5],
                patch_sizes=[4, 2, 2],
                strides=[4, 2, 2],
                paddings=[0, 0, 0],
                sr_ratios=[8, 4, 2],
                mlp_ratios=[8, 8, 4],
                out_indices=(0, 1, 2),
                pretrain_img_size=64,
            )
        )
    )
    path = tmp_path / 'detector.pth'
    weights = {f'backbone.{key}': value for key, value in source.state_dict().items()}
    torch.save({'state_dict': {**weights, 'neck.conv.weight': torch.zeros(1)}, 'meta': {}}, path)
    backbone = build(
        attn_types='SSS', init_cfg=dict(type='Pretrained', checkpoint=str(path), prefix='backbone.')
    ).eval()
    backbone.init_weights()
    assert {float(norm.ratio) for norm in prepbn_modules(backbone)} == {1}
    x = torch.randn(1, 3, *size)
    with torch.no_grad():
        for out, same in zip(backbone(x), source(x)):
            assert (out - same).abs().max() < 1e-5 * same.std()


def test_a_grid_that_may_not_be_resized_is_refused_and_one_that_may_is(tmp_path):
    path = tmp_path / 'small.pth'
    torch.save({'state_dict': settle(build()).state_dict()}, path)
    init_cfg = dict(type='Pretrained', checkpoint=str(path))
    with pytest.raises(
        CheckpointError,
        match=r'the grid layers.0.absolute_pos_embed has shape '
        r'\(1, 256, 8\) in the checkpoint, but \(1, 960, 8\).*resize_grids=True',
    ):
        build(img_size=(96, 160), init_cfg=init_cfg).init_weights()
    backbone = build(img_size=(96, 160), init_cfg=dict(init_cfg, resize_grids=True))
    backbone.init_weights()
    assert backbone.net.layers[0].absolute_pos_embed.shape == (1, 24 * 40, 8)


def test_our_own_detector_resumes_with_its_output_norms(tmp_path):
    torch.manual_seed(0)
    old = settle(build(out_norm_cfg=dict(type='LN')))
    nn.init.normal_(old.norm1.weight)
    path = tmp_path / 'detector.pth'
    torch.save({'state_dict': {f'backbone.{k}': v for k, v in old.state_dict().items()}}, path)
    new = build(
        out_norm_cfg=dict(type='LN'),
        init_cfg=dict(type='Pretrained', checkpoint=str(path), prefix='backbone.'),
    ).eval()
    new.init_weights()
    for key, value in old.state_dict().items():
        assert torch.equal(new.state_dict()[key], value), key


def test_outputs_have_no_norm_by_default():
    backbone = build(out_indices=(0, 2)).eval()
    assert all(isinstance(getattr(backbone, f'norm{i}'), nn.Identity) for i in (0, 2))
    maps = backbone(torch.randn(2, 3, 66, 97))
    assert [tuple(m.shape) for m in maps] == [(2, 8, 16, 24), (2, 40, 4, 6)]
    assert backbone.out_channels == (8, 40) and backbone.strides == (4, 16)


def test_frozen_stages_keep_their_weights_and_statistics():
    backbone = build(frozen_stages=1)
    set_ratio(backbone, 0.5)
    backbone.train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    backbone(torch.randn(2, 3, 64, 64))[-1].sum().backward()
    frozen = ('net.patch_embed.', 'net.layers.0.')
    for name, parameter in backbone.named_parameters():
        assert (parameter.grad is None) == name.startswith(frozen), name
    for name, value in backbone.state_dict().items():
        if name.endswith('running_mean'):
            assert torch.equal(value, before[name]) == name.startswith(frozen), name


@pytest.mark.parametrize('ratios', [None, (2, 3, 1)])
def test_deployed_backbone_takes_reparameterized_weights(ratios):
    torch.manual_seed(0)
    backbone = settle(build(attn_types='LSL', sr_ratios=ratios))
    deployed = build(attn_types='LSL', sr_ratios=ratios, deploy=True).eval()
    deployed.load_state_dict(reparameterize_model(backbone).state_dict())
    assert not any(isinstance(module, PRepBN) for module in deployed.modules())
    x = torch.randn(1, 3, 77, 96)
    with torch.no_grad():
        for out, same in zip(deployed(x), backbone(x)):
            assert (out - same).abs().max() < 1e-5 * same.abs().max()


@pytest.mark.parametrize(
    'arguments, message',
    [
        (
            dict(arch='huge'),
            "arch must be one of 'tiny', 'small', 'medium', 'large' or a dict of widths.*'huge'",
        ),
        (dict(arch=dict(embed_dims=(8, 16))), 'arch as a dict must hold .*mlp_ratios'),
        (
            dict(attn_types='LL'),
            "attn_types must hold one letter per stage.*3 in all, but got 'LL'",
        ),
        (dict(sr_ratios=(1, 1)), 'sr_ratios must hold one entry per stage'),
        (dict(out_indices=(0, 3)), 'out_indices must be numbers of stages in ascending order'),
    ],
)
def test_arguments_that_do_not_fit_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**arguments)
