"""Groups of parameters, against a rule in words and against timm's layer-wise decay."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, init_default_scope
from timm.optim import param_groups_layer_decay
from torch import nn

from slab_det.layers import RepBN
from slab_det.mm.optim import SLABOptimWrapperConstructor
from tests import tiny_backbones

TABLES = ('positional_encoding', 'bias_table', 'pos_embed', 'cls_token')


class Detector(nn.Module):
    """A backbone at some depth, as teachers and cascades have it, a norm and a head."""

    def __init__(self, backbone, depth=0):
        super().__init__()
        for _ in range(depth):
            backbone = nn.ModuleDict({'backbone': backbone})
        self.backbone = backbone
        self.bn = nn.BatchNorm2d(2)
        self.head = nn.Linear(2, 2)


def groups(model, wrapper='OptimWrapper', weight_decay=0.05, **paramwise):
    """(lr_mult, decay_mult) of every parameter that is trained."""
    init_default_scope('mmdet')
    cfg = dict(
        type=wrapper,
        constructor='SLABOptimWrapperConstructor',
        optimizer=dict(type='AdamW', lr=2e-3),
    )
    if weight_decay is not None:
        cfg['optimizer']['weight_decay'] = weight_decay
    if paramwise:
        cfg['paramwise_cfg'] = paramwise
    names = {id(value): name for name, value in model.named_parameters()}
    found = build_optim_wrapper(model, cfg).optimizer.param_groups
    return {
        names[id(group['params'][0])]: (
            group['lr'] / 2e-3,
            group['weight_decay'] / (weight_decay or 0.01),  # torch's default
        )
        for group in found
    }


def of_norms(model):
    kinds = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm, RepBN)
    return {
        f'{name}.{leaf}'
        for name, module in model.named_modules()
        if isinstance(module, kinds)
        for leaf, _ in module.named_parameters()
    }


@pytest.mark.parametrize('family', tiny_backbones.FAMILIES)
def test_norms_and_tables_take_no_decay_at_any_depth(family):
    for depth in (0, 2):
        model = Detector(tiny_backbones.build(family), depth)
        free = of_norms(model) | {
            name for name, _ in model.named_parameters() if name.endswith(TABLES)
        }
        found = groups(model)
        assert {name for name, (_, decay) in found.items() if decay == 0} == free
        assert {name for name, (_, decay) in found.items() if decay == 1} == found.keys() - free
        assert {rate for rate, _ in found.values()} == {1.0} and len(free) > 20
        assert any(name.endswith('eta') for name in free) and 'bn.weight' in free


@pytest.mark.parametrize('family', tiny_backbones.FAMILIES)
def test_rates_fall_layer_by_layer_from_the_head_as_timm_counts_them(family):
    backbone = tiny_backbones.build(family)
    found = groups(Detector(backbone), layer_decay_rate=0.7)
    net = backbone.net
    names = {id(value): name for name, value in net.named_parameters()}
    # timm gives the last group the whole rate, which is that of the classifier where there is one.
    net.head_of_a_classifier = nn.Linear(1, 1)
    expected = {
        names[id(value)]: group['lr_scale']
        for group in param_groups_layer_decay(net, layer_decay=0.7)
        for value in group['params']
        if id(value) in names
    }
    for name, scale in expected.items():
        assert found[f'backbone.net.{name}'][0] == pytest.approx(scale), name
    assert found['head.weight'][0] == found['bn.weight'][0] == 1
    outside = [name for name in found if name.startswith('backbone.norm')]
    assert all(found[name][0] == 1 for name in outside)
    rates = {name: rate for name, (rate, _) in found.items()}
    assert rates['backbone.net.patch_embed.proj.weight'] == min(rates.values()) < 0.3
    last = max(rate for name, rate in rates.items() if name.startswith('backbone.net.'))
    assert last == pytest.approx(0.7)


@pytest.mark.parametrize('family', tiny_backbones.FAMILIES)
def test_backbones_name_their_own_parameters(family):
    backbone = tiny_backbones.build(family)
    own = dict(backbone.named_parameters())
    assert backbone.no_weight_decay() and backbone.no_weight_decay() <= own.keys()
    for coarse in (False, True):
        matcher, inner = backbone.group_matcher(coarse), backbone.net.group_matcher(coarse)
        assert matcher.keys() == inner.keys() and matcher != inner


def test_mmengines_options_keep_working():
    model = Detector(tiny_backbones.build('swin'))
    found = groups(
        model,
        norm_decay_mult=0.5,
        bias_decay_mult=0.25,
        bias_lr_mult=2.0,
        layer_decay_rate=0.5,
        custom_keys={
            'backbone': dict(lr_mult=0.1),
            'relative_position_bias_table': dict(decay_mult=0.75),
        },
    )
    assert found['bn.weight'] == found['bn.bias'] == (1, 0.5)
    assert found['head.bias'] == (2, 0.25) and found['head.weight'] == (1, 1)
    # A key without decay_mult leaves norms and tables as the backbone wants them,
    assert found['backbone.norm0.weight'] == (pytest.approx(0.1), 0.5)
    last = 'backbone.net.layers.2.blocks.0.attn.'
    assert found[last + 'qkv.weight'] == (pytest.approx(0.1 * 0.5), 1)
    # and one with it decides.
    assert found[last + 'relative_position_bias_table'] == pytest.approx((0.5, 0.75))
    table = 'backbone.net.layers.0.blocks.0.attn.positional_encoding'
    assert found[table][1] == 0


def test_frozen_parameters_are_left_out_and_an_optimizer_may_have_no_decay():
    model = Detector(tiny_backbones.build('swin', frozen_stages=1))
    found = groups(model, weight_decay=None)
    assert not any('patch_embed' in name for name in found) and 'head.weight' in found


def test_wrapped_models_have_the_same_groups():
    model = Detector(tiny_backbones.build('swin'))
    expected = groups(model, layer_decay_rate=0.5)
    wrapped = nn.ModuleDict({'module': model})
    wrapped.module = model
    assert groups(wrapped, layer_decay_rate=0.5) == {
        f'module.{name}': value for name, value in expected.items()
    }
    compiled = torch.compile(model)
    assert {
        name.replace('_orig_mod.', ''): value
        for name, value in groups(compiled, layer_decay_rate=0.5).items()
    } == expected


@pytest.mark.parametrize('scope', ['', 'mmdet.'])
def test_the_constructor_is_found_in_and_out_of_the_scope_of_mmdet(scope):
    assert (
        OPTIM_WRAPPER_CONSTRUCTORS.get(f'{scope}SLABOptimWrapperConstructor')
        is SLABOptimWrapperConstructor
    )


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(layer_decay_rate=0), r'layer_decay_rate must be in \(0, 1\], but got 0'),
        (dict(layer_decay_rate=1.5), 'must be in'),
        (dict(layer_decay_rate='0.7'), "must be in .* got '0.7'"),
        (dict(decay_rate=0.7, num_layers=6), 'decay_rate, num_layers, .* set layer_decay_rate'),
    ],
)
def test_options_that_do_not_fit_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        groups(Detector(tiny_backbones.build('swin')), **options)


def test_layer_decay_without_layers_is_refused():
    with pytest.raises(ValueError, match='no backbone of the model has a group_matcher'):
        groups(Detector(nn.Linear(2, 2)), layer_decay_rate=0.7)
