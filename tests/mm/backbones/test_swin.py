import itertools

import pytest
import torch
from mmdet.registry import MODELS
from torch import nn

from slab_det.checkpoints import CheckpointError
from slab_det.layers import ChannelAffine, PRepBN, RepBN, set_ratio
from tests import golden
from tests.networks import randomize

ARCH = dict(embed_dims=8, depths=(2, 2, 2), num_heads=(1, 2, 4))


def build(**kwargs):
    cfg = dict(
        type='SLABSwinTransformer',
        arch=ARCH,
        attn_types='LSS',
        window_sizes=(8, 4, 4),
        out_indices=(0, 1, 2),
        drop_path_rate=0.0,
    )
    return MODELS.build({**cfg, **kwargs})


def save_published(name, path, ratio=0.0, prefix='', nest='model'):
    file = golden.load(name)
    weights = {prefix + k: v for k, v in golden.published_state_dict(file, ratio).items()}
    torch.save({nest: weights} if nest else weights, path)
    return file


@pytest.mark.parametrize(
    'name, kinds', [('det_slab_swin_t', 'LLSS'), ('det_swin_t_prepbn', 'SSSS')]
)
@pytest.mark.parametrize('mode, ratio', [('eval', 0.0), ('train_ratio0.5_frozen_stats', 0.5)])
def test_published_detection_backbones(name, kinds, mode, ratio, tmp_path):
    path = tmp_path / 'published.pth'
    file = save_published(name, path, ratio, prefix='backbone.', nest='state_dict')
    init_cfg = dict(type='Pretrained', checkpoint=str(path), prefix='backbone.')
    backbone = build(
        arch='tiny',
        attn_types=kinds,
        window_sizes=None,
        out_indices=(0, 1, 2, 3),
        norm_eval=True,
        init_cfg=init_cfg,
    )
    backbone.init_weights()
    backbone.train(mode != 'eval')
    for height, width in ((256, 256), (250, 333)):
        with torch.no_grad():
            outputs = backbone(golden.images(height, width))
        assert golden.worst_error(file, f'{mode}/{height}x{width}', outputs) < golden.TOLERANCE


def test_classification_weights_fill_the_backbone_and_say_what_became_of_them(tmp_path, caplog):
    path = tmp_path / 'slab_swin_tiny.pth'
    file = save_published('slab_swin_t', path)
    backbone = build(
        arch='tiny',
        attn_types='LLSS',
        window_sizes=None,
        out_indices=(0, 1, 2, 3),
        out_norm_cfg=None,
        init_cfg=dict(type='Pretrained', checkpoint=str(path)),
    )
    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    backbone.init_weights()
    logger.removeHandler(caplog.handler)
    with torch.no_grad():
        outputs = backbone.eval()(golden.images())
    tokens = [out.flatten(2).transpose(1, 2) for out in outputs]
    assert golden.worst_error(file, 'eval/224x224', tokens) < golden.TOLERANCE
    for words in ('entries used', 'renamed', 'ignored', 'PRepBN ratio 0'):
        assert words in caplog.text


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(arch='small'), 'lacks .*depths'),
        (dict(attn_types='SSSS'), 'has no place for layers.0.blocks.0.attn.positional_encoding'),
        (dict(norm_cfg=dict(type='LN')), 'PRepBN at ratio 0.*a LayerNorm in the model'),
        (dict(deploy=True), 'the model has deploy=True, but the checkpoint is not'),
        (dict(init_cfg=dict(prefix='backbone.')), "prefix='backbone.' matches nothing"),
        (dict(window_sizes=(28, 28, 7, 7)), r'has shape \(1, 3136, 96\) in the checkpoint'),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(change, message, tmp_path):
    path = tmp_path / 'slab_swin_tiny.pth'
    save_published('slab_swin_t', path)
    init_cfg = dict(type='Pretrained', checkpoint=str(path), **change.pop('init_cfg', {}))
    backbone = build(
        **{
            **dict(arch='tiny', attn_types='LLSS', window_sizes=None, out_indices=(0, 1, 2, 3)),
            **change,
            'init_cfg': init_cfg,
        }
    )
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        backbone.init_weights()
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


def test_missing_checkpoint_is_named(tmp_path):
    backbone = build(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'no.pth')))
    with pytest.raises(FileNotFoundError, match='no.pth.*does not exist'):
        backbone.init_weights()


@pytest.mark.parametrize('size', [(4, 4), (33, 70), (128, 60)])
@pytest.mark.parametrize('norm', ['PRepBN', 'RepBN', 'LN'])
def test_any_size_gives_maps_of_the_documented_channels_and_strides(size, norm):
    backbone = build(norm_cfg=dict(type=norm)).eval()
    outputs = backbone(torch.randn(2, 3, *size))
    assert backbone.out_channels == (8, 16, 32) and backbone.strides == (4, 8, 16)
    for out, channels, stride in zip(outputs, backbone.out_channels, backbone.strides):
        assert out.shape == (2, channels, -(-size[0] // stride), -(-size[1] // stride))


def test_outputs_are_normed_per_stage_or_raw():
    torch.manual_seed(0)
    normed = build().eval()
    raw = build(out_norm_cfg=None).eval()
    raw.load_state_dict({k: v for k, v in normed.state_dict().items() if k.startswith('net.')})
    x = torch.randn(1, 3, 40, 52)
    for a, b in zip(normed(x), raw(x)):
        expected = (b - b.mean(1, keepdim=True)) / (
            b.var(1, correction=0, keepdim=True) + 1e-5
        ).sqrt()
        torch.testing.assert_close(a, expected, rtol=1e-4, atol=1e-4)


def test_stages_behind_the_last_output_are_not_built():
    assert len(build(out_indices=(0, 1)).net.layers) == 2


@pytest.mark.parametrize('frozen, norm_eval', itertools.product(range(-1, 4), [False, True]))
def test_freezing_in_every_combination(frozen, norm_eval):
    backbone = build(frozen_stages=frozen, norm_eval=norm_eval)
    set_ratio(backbone, 0.5)
    assert backbone.train() is backbone
    parts = [backbone.net.patch_embed] + [
        nn.ModuleList([stage, getattr(backbone, f'norm{i}')])
        for i, stage in enumerate(backbone.net.layers)
    ]
    before = {name: buffer.clone() for name, buffer in backbone.named_buffers()}
    x = torch.randn(2, 3, 40, 52, requires_grad=True)
    sum(out.square().mean() for out in backbone(x)).backward()
    for number, part in enumerate(parts):
        is_frozen = number <= frozen
        for parameter in part.parameters():
            assert parameter.requires_grad != is_frozen
            assert (parameter.grad is None) == is_frozen
        for module in part.modules():
            if isinstance(module, nn.BatchNorm1d):
                assert module.training != (is_frozen or norm_eval)
    for name, buffer in backbone.named_buffers():
        if name.endswith('running_mean'):
            stage = 0 if 'patch_embed' in name else int(name.split('.')[2]) + 1
            moved = not torch.equal(buffer, before[name])
            assert moved != (stage <= frozen or norm_eval), name
    assert backbone.eval() is backbone


def test_activation_checkpointing_changes_nothing():
    torch.manual_seed(0)
    plain, recomputed = build(), build(with_cp=True)
    recomputed.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 40, 52)
    for backbone in (plain, recomputed):
        set_ratio(backbone, 0.5)
        sum(out.square().mean() for out in backbone(x)).backward()
    for (name, parameter), twin in zip(plain.named_parameters(), recomputed.named_parameters()):
        torch.testing.assert_close(twin[1].grad, parameter.grad, msg=name)
    for name, buffer in plain.named_buffers():
        assert torch.equal(buffer, recomputed.get_buffer(name)), name


def test_deploy_builds_the_network_that_reparameterizing_gives():
    from timm.utils import reparameterize_model

    trained = build(out_norm_cfg=dict(type='PRepBN')).eval()
    set_ratio(trained, 0)
    deployed = build(out_norm_cfg=dict(type='PRepBN'), deploy=True).eval()
    assert not any(isinstance(m, (PRepBN, RepBN)) for m in deployed.modules())
    assert isinstance(deployed.norm0, ChannelAffine)
    deployed.load_state_dict(reparameterize_model(trained).state_dict())
    x = torch.randn(1, 3, 33, 50)
    for a, b in zip(trained(x), deployed(x)):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    'arguments, message',
    [
        (
            dict(arch='huge'),
            "arch must be one of 'tiny', 'small', 'base' or a dict of widths, but got 'huge'",
        ),
        (
            dict(arch=dict(embed_dims=8)),
            "arch as a dict must hold 'embed_dims', 'depths', 'num_heads'",
        ),
        (dict(attn_types='L'), 'attn_types must hold one letter per stage'),
        (dict(norm_cfg=dict(type='BN')), "norm type must be one of .* but got 'BN'"),
        (
            dict(out_indices=(0, 3)),
            r'out_indices must be numbers of stages in ascending order, 0 to 2, but got \(0, 3\)',
        ),
        (dict(out_indices=(1, 0)), 'out_indices must be numbers of stages in ascending order'),
        (
            dict(frozen_stages=4),
            'frozen_stages must lie between -1 and 3, the number of stages, but got 4',
        ),
    ],
)
def test_arguments_that_do_not_fit_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**arguments)


def test_norms_are_found_by_mmcv_in_and_out_of_the_mmdet_scope():
    from mmcv.cnn import build_norm_layer
    from mmengine.registry import init_default_scope

    for scope in ('mmengine', 'mmdet'):
        init_default_scope(scope)
        name, norm = build_norm_layer(dict(type='PRepBN', requires_grad=False), 8, postfix=1)
        assert isinstance(norm, PRepBN) and name == 'ln1'
        assert not any(p.requires_grad for p in norm.parameters())


@pytest.mark.parametrize('size', [(128, 192), (121, 190)])
def test_mmdets_detector_has_the_same_features_at_ratio_1(size, tmp_path):
    torch.manual_seed(0)
    # Maps are larger than a window: mmdet shifts also where one window holds the whole map.
    source = randomize(
        MODELS.build(
            dict(
                type='SwinTransformer',
                embed_dims=8,
                depths=(2, 1, 2),
                num_heads=(1, 2, 4),
                strides=(4, 2, 2),
                window_size=7,
                out_indices=(0, 1, 2),
            )
        )
    )
    path = tmp_path / 'detector.pth'
    weights = {f'backbone.{key}': value for key, value in source.state_dict().items()}
    torch.save({'state_dict': {**weights, 'neck.conv.weight': torch.zeros(1)}, 'meta': {}}, path)
    arch = dict(embed_dims=8, depths=(2, 1, 2), num_heads=(1, 2, 4))
    backbone = build(
        arch=arch,
        attn_types='SSS',
        window_sizes=None,
        init_cfg=dict(type='Pretrained', checkpoint=str(path), prefix='backbone.'),
    )
    backbone.init_weights()
    assert {float(m.ratio) for m in backbone.modules() if isinstance(m, PRepBN)} == {1}
    x = torch.randn(1, 3, *size)
    with torch.no_grad():
        for out, same in zip(backbone.eval()(x), source(x)):
            assert (out - same).abs().max() < 1e-5 * same.std()
