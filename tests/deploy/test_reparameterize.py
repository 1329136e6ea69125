import copy

import pytest
import torch
from mmdet.registry import MODELS
from torch import nn

from slab_det.deploy import is_reparameterized, reparameterize
from slab_det.layers import ChannelAffine, PRepBN, RepBN, set_ratio

SWIN = dict(
    type='SLABSwinTransformer',
    arch=dict(embed_dims=8, depths=(2, 2, 2), num_heads=(1, 2, 4)),
    attn_types='LSS',
    window_sizes=(8, 4, 4),
    out_indices=(0, 1, 2),
)
FOREIGN = [
    dict(
        type='SwinTransformer',
        embed_dims=8,
        depths=(2, 2, 1, 1),
        num_heads=(1, 1, 2, 2),
        window_size=4,
        norm_cfg=dict(type='PRepBN'),
    ),
    dict(
        type='PyramidVisionTransformer',
        embed_dims=8,
        num_layers=[1, 1, 1, 1],
        num_heads=(1, 1, 2, 2),
        norm_cfg=dict(type='PRepBN'),
    ),
]


def settle(model, seed=0):
    """Draw statistics, affine parameters and etas of either sign; finish the schedule."""
    generator = torch.Generator().manual_seed(seed)
    for norm in model.modules():
        if isinstance(norm, RepBN):
            norm.bn.running_mean.normal_(generator=generator)
            norm.bn.running_var.uniform_(0.3, 3, generator=generator)
            norm.bn.weight.data.normal_(generator=generator)
            norm.bn.bias.data.normal_(generator=generator)
            norm.eta.data.normal_(generator=generator)
    set_ratio(model, 0)
    model.eval()
    return model


def worst(expected, outputs):
    return max(float((out - e).abs().max() / e.abs().max()) for e, out in zip(expected, outputs))


@pytest.mark.parametrize(
    'cfg',
    [
        SWIN,
        {**SWIN, 'attn_types': 'SLS'},
        {**SWIN, 'norm_cfg': dict(type='RepBN')},
        {**SWIN, 'out_norm_cfg': dict(type='PRepBN')},
        *FOREIGN,
    ],
)
@pytest.mark.parametrize('dtype, tolerance', [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_deployed_backbone_gives_the_same_maps(cfg, dtype, tolerance):
    torch.manual_seed(0)
    model = settle(MODELS.build(cfg)).to(dtype)
    deployed = reparameterize(model)
    assert not any(isinstance(module, (PRepBN, RepBN)) for module in deployed.modules())
    assert any(isinstance(module, (PRepBN, RepBN)) for module in model.modules())
    for size in ((64, 64), (57, 91), (33, 130)):
        x = torch.randn(2, 3, *size, dtype=dtype)
        with torch.no_grad():
            assert worst(model(x), deployed(x)) < tolerance


@pytest.mark.parametrize('cfg', FOREIGN)
def test_foreign_backbones_swap_norms_for_channel_affines(cfg):
    model = settle(MODELS.build(cfg))
    count = sum(isinstance(module, PRepBN) for module in model.modules())
    deployed = reparameterize(model)
    assert (
        count and sum(isinstance(module, ChannelAffine) for module in deployed.modules()) == count
    )


@pytest.mark.parametrize('dtype, tolerance', [(torch.float16, 2e-2), (torch.bfloat16, 1e-1)])
def test_half_precision_weights_keep_their_type(dtype, tolerance):
    torch.manual_seed(0)
    model = settle(MODELS.build(SWIN))
    x = torch.randn(1, 3, 57, 91)
    with torch.no_grad():
        expected = model(x)
        deployed = reparameterize(model.to(dtype))
        assert all(p.dtype == dtype for p in deployed.parameters())
        outputs = deployed(x.to(dtype))
    errors = [float((out.float() - e).std() / e.std()) for e, out in zip(expected, outputs)]
    assert max(errors) < tolerance


def test_original_is_changed_only_in_place():
    model = settle(MODELS.build(SWIN))
    before = copy.deepcopy(model.state_dict())
    reparameterize(model)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert reparameterize(model, inplace=True) is model
    assert is_reparameterized(model)


def test_a_model_that_keeps_tensors_of_its_last_training_step_is_copied():
    model = settle(nn.Sequential(nn.Linear(4, 4), PRepBN(4)))
    step = model[0](torch.ones(1, 4))
    model.kept = [step, {'loss': step.sum()}, step]
    assert not step.is_leaf
    deployed = reparameterize(model)
    first, losses, last = deployed.kept
    assert first is last and first is not step and not first.requires_grad
    torch.testing.assert_close(first, step.detach())
    torch.testing.assert_close(losses['loss'], step.detach().sum())
    assert model.kept[0] is step and step.requires_grad


def test_reparameterizing_twice_returns_the_same():
    deployed = reparameterize(settle(MODELS.build(SWIN)))
    weights = copy.deepcopy(deployed.state_dict())
    assert reparameterize(deployed) is deployed
    assert all(torch.equal(value, weights[name]) for name, value in deployed.state_dict().items())


def test_a_single_norm_becomes_its_affine_map():
    norm = settle(PRepBN(8))
    x = torch.randn(2, 5, 8)
    deployed = reparameterize(norm)
    assert isinstance(deployed, ChannelAffine)
    torch.testing.assert_close(deployed(x), norm(x))


def test_unfinished_ratio_is_refused_unless_the_branch_is_dropped():
    torch.manual_seed(0)
    model = settle(MODELS.build(SWIN))
    x = torch.randn(1, 3, 40, 40)
    with torch.no_grad():
        expected = model(x)
    set_ratio(model, 0.25)
    with pytest.raises(ValueError, match='PRepBN ratio is 0.25, not 0.*drop_layer_norm=True'):
        reparameterize(model, inplace=True)
    assert not is_reparameterized(model)
    deployed = reparameterize(model, drop_layer_norm=True)
    with torch.no_grad():
        assert worst(expected, deployed(x)) < 1e-5


@pytest.mark.parametrize(
    'model',
    [nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), {**SWIN, 'norm_cfg': dict(type='LN')}],
)
def test_models_without_prepbn_are_refused(model):
    model = MODELS.build(model) if isinstance(model, dict) else model
    with pytest.raises(ValueError, match='has no PRepBN or RepBN to re-parameterize'):
        reparameterize(model)


def test_training_after_eval_caches_is_not_stale():
    """The deployed network keeps derived tensors in evaluation; new weights must count."""
    torch.manual_seed(0)
    deployed = reparameterize(settle(MODELS.build(SWIN)))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = deployed(x)
        for name, parameter in deployed.named_parameters():
            if name.endswith('relative_position_bias_table'):
                parameter.add_(torch.randn_like(parameter))
        after = deployed(x)
        fresh = copy.deepcopy(deployed).train().eval()(x)
    assert worst(before, after) > 1e-3
    assert worst(fresh, after) == 0
