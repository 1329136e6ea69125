import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from slab_det.layers import ChannelAffine, PRepBN, RepBN, make_norm_layer, prepbn_modules, set_ratio

C = 6


def randomize(norm, seed=0):
    """Give every parameter and statistic of a norm a value of its own."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in norm.state_dict().items():
        if name.endswith('running_var'):
            tensor.uniform_(0.5, 2, generator=generator)
        elif tensor.is_floating_point() and not name.endswith('ratio'):
            tensor.normal_(generator=generator)
    return norm


def tokens(*shape, dtype=torch.float64, seed=1):
    return (
        torch.randn(*shape, C, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 2 + 1
    )


def batch_norm_reference(x, bn, training):
    """BatchNorm by its formula over all leading dimensions, biased variance."""
    rows = x.reshape(-1, C)
    mean = rows.mean(0) if training else bn.running_mean
    var = ((rows - mean) ** 2).mean(0) if training else bn.running_var
    return (x - mean) / (var + 1e-5).sqrt() * bn.weight + bn.bias


def layer_norm_reference(x, ln):
    mean = x.mean(-1, keepdim=True)
    var = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (var + ln.eps).sqrt() * ln.weight + ln.bias


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('shape', [(3, 5), (2, 4, 3)])
def test_repbn_is_batch_norm_plus_scaled_input(training, shape):
    norm = randomize(RepBN(C)).double().train(training)
    x = tokens(*shape)
    expected = batch_norm_reference(x, norm.bn, training) + norm.eta * x
    torch.testing.assert_close(norm(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('ratio', [0.0, 1e-4, 0.3, 0.9999, 1.0])
@pytest.mark.parametrize('shape', [(3, 5), (2, 4, 3)])
def test_prepbn_blends_layer_norm_and_repbn(training, ratio, shape):
    norm = randomize(PRepBN(C)).double().train(training)
    norm.set_ratio(ratio)
    x = tokens(*shape)
    repbn = batch_norm_reference(x, norm.repbn.bn, training) + norm.repbn.eta * x
    expected = norm.ratio * layer_norm_reference(x, norm.ln) + (1 - norm.ratio) * repbn
    torch.testing.assert_close(norm(x), expected, rtol=1e-12, atol=1e-12)


def test_ratio_one_equals_layer_norm_exactly_and_still_feeds_the_statistics():
    norm = randomize(PRepBN(C))
    peer = nn.BatchNorm1d(C)
    peer.load_state_dict(norm.repbn.bn.state_dict())
    x = tokens(4, 7, dtype=torch.float32)
    assert torch.equal(norm(x), F.layer_norm(x, (C,), norm.ln.weight, norm.ln.bias, 1e-5))
    peer(x.transpose(1, 2))
    torch.testing.assert_close(norm.repbn.bn.running_mean, peer.running_mean)
    torch.testing.assert_close(norm.repbn.bn.running_var, peer.running_var)
    assert norm.repbn.bn.num_batches_tracked == 1


@pytest.mark.parametrize('ratio', [0.0, 0.4])
def test_running_statistics_follow_torch_batch_norm(ratio):
    norm = PRepBN(C)
    norm.set_ratio(ratio)
    peer = nn.BatchNorm1d(C)
    for seed in range(3):
        x = tokens(4, 7, dtype=torch.float32, seed=seed)
        norm(x)
        peer(x.transpose(1, 2))
    torch.testing.assert_close(norm.repbn.bn.running_mean, peer.running_mean)
    torch.testing.assert_close(norm.repbn.bn.running_var, peer.running_var)


def test_ratio_zero_does_not_compute_the_layer_norm_branch():
    norm = PRepBN(C).eval()
    norm.set_ratio(0)
    norm.ln.weight.data.fill_(math.nan)
    assert norm(tokens(2, 3, dtype=torch.float32)).isfinite().all()


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('ratio', [0.0, 0.3, 1.0])
def test_gradients_of_prepbn(training, ratio):
    norm = randomize(PRepBN(C)).double().train(training)
    norm.set_ratio(ratio)
    names = [name for name, _ in norm.named_parameters()]

    def run(x, *parameters):
        return torch.func.functional_call(norm, dict(zip(names, parameters)), (x,))

    inputs = [
        tokens(2, 3).requires_grad_(),
        *(p.detach().clone().requires_grad_() for p in norm.parameters()),
    ]
    assert torch.autograd.gradcheck(run, inputs)


@pytest.mark.parametrize(
    'frozen',
    [lambda norm: norm.eval(), lambda norm: norm.repbn.bn.eval()],
    ids=['evaluation', 'norm_eval'],
)
@pytest.mark.parametrize('ratio', [0.0, 0.5, 1.0])
def test_frozen_statistics_stay_at_every_ratio(ratio, frozen):
    norm = randomize(PRepBN(C))
    norm.set_ratio(ratio)
    frozen(norm)
    before = copy.deepcopy(norm.state_dict())
    norm(tokens(2, 3, dtype=torch.float32))
    for name, value in norm.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_eps_is_the_layer_norms():
    norm = PRepBN(C, eps=1e-3)
    assert norm.ln.eps == 1e-3 and norm.repbn.bn.eps == 1e-5 and norm.repbn.bn.momentum == 0.1


@pytest.mark.parametrize('norm_type', [RepBN, PRepBN, ChannelAffine])
def test_channels_first_input_is_refused(norm_type):
    with pytest.raises(ValueError, match=r'channels last, \(\.\.\., 6\).*\(2, 6, 4, 5\)'):
        norm_type(C)(torch.zeros(2, C, 4, 5))


@pytest.mark.parametrize('ratio', [0.0, 0.5, 1.0])
def test_single_token_uses_the_running_statistics_and_says_so_once(ratio):
    norm = randomize(PRepBN(C))
    norm.set_ratio(ratio)
    x = tokens(1, 1, dtype=torch.float32)
    before = norm.repbn.bn.running_mean.clone()
    with pytest.warns(UserWarning, match='batch of at least 2') as record:
        first = norm(x)
        norm(x)
    assert len(record) == 1
    assert torch.equal(norm.repbn.bn.running_mean, before)
    torch.testing.assert_close(first, copy.deepcopy(norm).eval()(x))


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('ratio', [0.0, 0.5])
def test_autocast_computes_large_activations_in_float32(training, ratio):
    norm = randomize(PRepBN(C)).train(training)
    norm.set_ratio(ratio)
    x = (tokens(8, 16, dtype=torch.float32) * 1e4).bfloat16()
    expected = copy.deepcopy(norm)(x.float())
    with torch.autocast('cpu', torch.bfloat16):
        out = norm(x)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, expected)


def test_autocast_at_ratio_one_is_layer_norm_under_autocast():
    norm = PRepBN(C)
    x = (tokens(8, 16, dtype=torch.float32) * 1e4).bfloat16()
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(norm(x), norm.ln(x))
    # The statistics are float32 sums over the tokens, closer than bfloat16 with its 8 bits can be.
    rows = x.double().flatten(0, -2)
    torch.testing.assert_close(
        norm.repbn.bn.running_mean.double(), 0.1 * rows.mean(0), rtol=1e-5, atol=0
    )
    torch.testing.assert_close(
        norm.repbn.bn.running_var.double(), 0.9 + 0.1 * rows.var(0), rtol=1e-5, atol=0
    )


@pytest.mark.parametrize('use_reentrant', [True, False])
@pytest.mark.parametrize('ratio', [0.0, 0.5, 1.0])
def test_activation_checkpointing_updates_the_statistics_once(use_reentrant, ratio):
    norm = PRepBN(C)
    norm.set_ratio(ratio)
    plain = copy.deepcopy(norm)
    x = tokens(2, 5, dtype=torch.float32).requires_grad_()
    plain(x).square().sum().backward()
    expected, x.grad = x.grad, None
    checkpoint(norm, x, use_reentrant=use_reentrant).square().sum().backward()
    torch.testing.assert_close(x.grad, expected)
    assert norm.repbn.bn.num_batches_tracked == 1
    assert torch.equal(norm.repbn.bn.running_mean, plain.repbn.bn.running_mean)


def test_ratio_follows_the_buffer_after_an_in_place_change():
    norm = randomize(PRepBN(C)).eval()
    norm.ratio.data.copy_(torch.tensor(0.0))
    assert norm.sync_ratio() == 0
    x = tokens(2, 3, dtype=torch.float32)
    torch.testing.assert_close(norm(x), norm.repbn(x))


@pytest.mark.parametrize('value', [-0.1, 1.01, math.nan])
def test_ratio_outside_zero_to_one_is_refused(value):
    with pytest.raises(ValueError, match=r'ratio must lie in \[0, 1\]'):
        PRepBN(C).set_ratio(value)


def test_set_ratio_reaches_every_norm_of_a_model():
    model = nn.Sequential(PRepBN(C), nn.ModuleList([PRepBN(C), nn.LayerNorm(C)]))
    assert set_ratio(model, 0.25) == 2
    assert [float(m.ratio) for m in prepbn_modules(model)] == [0.25, 0.25]


def published_prepbn(iteration=0, total=1000):
    source = randomize(PRepBN(C), seed=5)
    entries = {
        'norm1.weight': source.ln.weight,
        'norm1.bias': source.ln.bias,
        'norm2.alpha': source.repbn.eta,
        'iter': torch.tensor(iteration),
        'total_step': torch.tensor(total),
        'warm': torch.tensor(0),
        **{f'norm2.bn.{k}': v for k, v in source.repbn.bn.state_dict().items()},
    }
    source.set_ratio(iteration / total)
    return source, {name: value.detach() for name, value in entries.items()}


@pytest.mark.parametrize('iteration', [0, 250, 1000])
def test_published_prepbn_names_load_with_their_ratio(iteration):
    source, entries = published_prepbn(iteration)
    norm = PRepBN(C)
    norm.load_state_dict(entries)
    assert float(norm.ratio) == iteration / 1000
    x = tokens(2, 3, dtype=torch.float32)
    torch.testing.assert_close(norm.eval()(x), source.eval()(x))


def test_layer_norm_names_load_at_ratio_one_below_any_prefix():
    ln = randomize(nn.LayerNorm(C))
    model = nn.Sequential(nn.Identity(), PRepBN(C))
    set_ratio(model, 0)
    model.load_state_dict({'1.weight': ln.weight, '1.bias': ln.bias})
    x = tokens(2, 3, dtype=torch.float32)
    assert torch.equal(model.eval()(x), ln(x))


def test_published_repbn_names_load_into_both_norms_at_ratio_zero():
    source = randomize(RepBN(C)).eval()
    entries = {'alpha': source.eta, **{f'bn.{k}': v for k, v in source.bn.state_dict().items()}}
    x = tokens(2, 3, dtype=torch.float32)
    for norm in (PRepBN(C), RepBN(C)):
        norm.load_state_dict(entries)
        torch.testing.assert_close(norm.eval()(x), source(x))


def test_repbn_takes_a_finished_prepbn_and_refuses_an_unfinished_one():
    source, entries = published_prepbn(0)
    norm = RepBN(C)
    norm.load_state_dict(entries)
    x = tokens(2, 3, dtype=torch.float32)
    torch.testing.assert_close(norm.eval()(x), source.eval()(x))
    with pytest.raises(RuntimeError, match='ratio is 0.25.*use PRepBN'):
        norm.load_state_dict(published_prepbn(250)[1])


def test_state_dict_round_trip_keeps_the_ratio():
    norm = randomize(PRepBN(C))
    norm.set_ratio(0.4)
    other = PRepBN(C)
    other.load_state_dict(norm.state_dict())
    x = tokens(2, 3, dtype=torch.float32)
    assert torch.equal(other.eval()(x), norm.eval()(x))


@pytest.mark.parametrize('seed', range(3))
def test_fuse_is_the_norm_at_inference(seed):
    norm = randomize(PRepBN(C), seed).double().eval()
    norm.set_ratio(0)
    x = tokens(3, 5)
    torch.testing.assert_close(norm.fuse()(x), norm(x), rtol=1e-12, atol=1e-12)


def test_fuse_refuses_an_unfinished_ratio():
    norm = PRepBN(C)
    norm.set_ratio(0.5)
    with pytest.raises(ValueError, match='ratio is 0.5.*only at ratio 0'):
        norm.fuse()


def test_norms_are_built_by_name_with_frozen_parameters():
    norm = make_norm_layer(dict(type='PRepBN', eps=1e-6, requires_grad=False))(C)
    assert norm.ln.eps == 1e-6
    assert not any(p.requires_grad for p in norm.parameters())
    with pytest.raises(ValueError, match="'PRepBN', 'RepBN'.*got 'BN'"):
        make_norm_layer('BN')
    with pytest.raises(TypeError, match="norm 'LN' cannot be built"):
        make_norm_layer(dict(type='LN', momentum=0.1))(C)


def _with_neck(norm):
    """A norm of tokens, and BatchNorm of maps behind it as a neck has it."""

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = norm
            self.neck = nn.BatchNorm2d(C)

        def forward(self, x):  # (N, H, W, C)
            return self.neck(self.norm(x).permute(0, 3, 1, 2))

    return Network()


def _converters():
    from mmengine.model import convert_sync_batchnorm

    return {
        'torch': nn.SyncBatchNorm.convert_sync_batchnorm,
        'mmengine': lambda model: convert_sync_batchnorm(model, 'torch'),
    }


@pytest.mark.parametrize('converter', ['torch', 'mmengine'])
@pytest.mark.parametrize('ratio', [0.0, 0.5, 1.0, None])
def test_conversion_to_sync_batch_norm_leaves_the_norm_as_it_is(ratio, converter):
    norm = randomize(RepBN(C) if ratio is None else PRepBN(C))
    if ratio is not None:
        norm.set_ratio(ratio)
    expected = copy.deepcopy(norm)
    model = _converters()[converter](_with_neck(norm))
    assert type(model.neck) is nn.SyncBatchNorm
    assert model.norm.state_dict().keys() == expected.state_dict().keys()
    for training in (True, False):
        x = tokens(2, 4, 3, dtype=torch.float32)
        torch.testing.assert_close(
            model.norm.train(training)(x), expected.train(training)(x), rtol=0, atol=0
        )
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(model.norm.state_dict()[name], value, rtol=0, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='SyncBatchNorm of torch needs a GPU')
@pytest.mark.parametrize('converter', ['torch', 'mmengine'])
def test_a_converted_model_trains_as_before_on_a_gpu(converter):
    norm = randomize(PRepBN(C))
    norm.set_ratio(0.5)
    plain = _with_neck(norm).cuda()
    converted = _converters()[converter](copy.deepcopy(plain))
    x = tokens(2, 4, 3, dtype=torch.float32).cuda()
    outputs = [model(x) for model in (plain, converted)]
    torch.testing.assert_close(*outputs)
    for out in outputs:
        out.square().sum().backward()
    for (name, a), b in zip(plain.named_parameters(), converted.parameters()):
        torch.testing.assert_close(a.grad, b.grad, msg=name)
