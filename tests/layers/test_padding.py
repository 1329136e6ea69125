import pytest
import torch
from mmdet.registry import MODELS
from torch import nn
from torch.utils.checkpoint import checkpoint

from slab_det.layers import (
    PRepBN,
    RepBN,
    TokenBatchNorm,
    ValidTokens,
    set_ratio,
    set_valid_tokens,
    valid_tokens,
)
from tests import tiny_backbones

C = 5
PADDED = (32, 48)
SIZES = [(32, 17), (9, 48), (20, 20)]


@pytest.fixture(autouse=True)
def nothing_left_behind():
    yield
    set_valid_tokens(None)


def double(norm, ratio=0.5):
    norm = norm.double().train()
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.uniform_(0.5, 2, generator=torch.Generator().manual_seed(parameter.numel()))
    if isinstance(norm, PRepBN):
        norm.set_ratio(ratio)
    return norm


def batch(stride=4, seed=0, channels=C):
    """Tokens of 3 images; those of padding are far away from the others."""
    height, width = (side // stride for side in PADDED)
    x = torch.randn(
        3,
        height,
        width,
        channels,
        generator=torch.Generator().manual_seed(seed),
        dtype=torch.float64,
    )
    inside = torch.zeros(3, height, width, dtype=torch.bool)
    for mask, (h, w) in zip(inside, SIZES):
        mask[: -(-h // stride), : -(-w // stride)] = True
    x[~inside] += 100
    return x, inside


def by_formula(norm, x, inside):
    """BatchNorm, RepBN and PRepBN as written in the paper, from the tokens inside."""

    def repbn(module):
        part = x[inside]
        mean, var = part.mean(0), part.var(0, correction=0)
        bn = module.bn
        return bn.weight * (x - mean) / (var + bn.eps).sqrt() + bn.bias + module.eta * x

    if isinstance(norm, RepBN):
        return repbn(norm)
    g = norm.ratio
    return g * norm.ln(x) + (1 - g) * repbn(norm.repbn)


@pytest.mark.parametrize('as_map', [True, False])
@pytest.mark.parametrize(
    'norm',
    [double(RepBN(C)), double(PRepBN(C), 0.5), double(PRepBN(C), 0.0)],
    ids=['RepBN', 'PRepBN', 'PRepBN at 0'],
)
def test_statistics_and_gradients_are_those_of_the_images(norm, as_map):
    x, inside = batch()
    x.requires_grad_()
    bn = norm.bn if isinstance(norm, RepBN) else norm.repbn.bn
    bn.reset_running_stats()
    with valid_tokens(SIZES, PADDED):
        out = norm(x if as_map else x.flatten(1, 2)).view(x.shape)
    expected = by_formula(norm, x, inside)
    torch.testing.assert_close(out, expected)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    inputs = [x, *norm.parameters()]
    grads = [
        torch.autograd.grad((value * weight).sum(), inputs, materialize_grads=True)
        for value in (out, expected)
    ]
    torch.testing.assert_close(*grads)
    part = x.detach()[inside]
    torch.testing.assert_close(bn.running_mean, 0.1 * part.mean(0))
    torch.testing.assert_close(bn.running_var, 0.9 + 0.1 * part.var(0))


def test_numerical_gradient():
    bn = double(TokenBatchNorm(3))
    x = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = torch.tensor([0, 2, 3, 6])
    for _ in range(2):
        assert torch.autograd.gradcheck(lambda t: bn(t, rows=rows), x.requires_grad_())


def test_layer_norm_phase_feeds_the_statistics_of_the_images_only():
    norm, (x, inside) = double(PRepBN(C), 1.0), batch()
    with valid_tokens(SIZES, PADDED):
        out = norm(x)
    torch.testing.assert_close(out, norm.ln(x))
    torch.testing.assert_close(norm.repbn.bn.running_mean, 0.1 * x[inside].mean(0))


def test_nothing_changes_where_the_images_fill_the_batch():
    x, _ = batch()
    norms = [double(PRepBN(C)) for _ in range(2)]
    with valid_tokens([PADDED] * 3, PADDED):
        out = norms[0](x)
    assert torch.equal(out, norms[1](x))
    assert torch.equal(norms[0].repbn.bn.running_var, norms[1].repbn.bn.running_var)


def test_one_image_that_fills_the_batch_does_not_hide_the_padding_of_another():
    x, inside = batch()
    inside[0] = True
    norm = double(RepBN(C))
    with valid_tokens([PADDED, *SIZES[1:]], PADDED):
        norm(x)
    torch.testing.assert_close(norm.bn.running_mean, 0.1 * x[inside].mean(0))


def test_evaluation_and_frozen_statistics_take_no_notice():
    x, _ = batch()
    norm = double(PRepBN(C))
    norm.repbn.bn.eval()
    with valid_tokens(SIZES, PADDED):
        assert torch.equal(norm(x), norm(x))
        norm.eval()
        # Not even of tokens that are not a map of the batch.
        norm(torch.randn(2, 7, C, dtype=torch.float64))


def test_padding_behind_a_class_token():
    x, inside = batch()
    tokens = torch.cat([torch.full((3, 1, C), 7.0).double(), x.flatten(1, 2)], 1)
    norm, other = double(RepBN(C)), double(RepBN(C))
    with valid_tokens(SIZES, PADDED):
        norm(tokens)
        other(x)  # the same map without one, in the same batch
    counted = torch.cat([tokens[:, 0], x[inside]])
    torch.testing.assert_close(norm.bn.running_mean, 0.1 * counted.mean(0))
    torch.testing.assert_close(other.bn.running_mean, 0.1 * x[inside].mean(0))


def test_mean_far_from_zero_in_half_precision():
    """Sums over tokens are float32 under autocast, and the variance of large values is right."""
    x, inside = batch()
    x = (x + 1000).float()
    norm = PRepBN(C)
    norm.set_ratio(0.0)
    with valid_tokens(SIZES, PADDED), torch.autocast('cpu', dtype=torch.bfloat16):
        out = norm(x.bfloat16())
    assert out.dtype == torch.float32
    part = x.bfloat16().double()[inside]
    torch.testing.assert_close(norm.repbn.bn.running_mean.double(), 0.1 * part.mean(0))
    torch.testing.assert_close(
        norm.repbn.bn.running_var.double(), 0.9 + 0.1 * part.var(0), rtol=1e-4, atol=1e-4
    )


def test_checkpointed_norm_counts_the_same_tokens_again_and_once():
    x, inside = batch()
    norms = [double(PRepBN(C)) for _ in range(2)]
    grads = []
    for norm, run in zip(
        norms, (lambda f, t: f(t), lambda f, t: checkpoint(f, t, use_reentrant=False))
    ):
        x = x.detach().requires_grad_()
        with valid_tokens(SIZES, PADDED):
            run(norm, x).square().sum().backward()
        grads.append(x.grad)
    torch.testing.assert_close(*grads)
    for name, value in norms[0].state_dict().items():
        assert torch.equal(value, norms[1].state_dict()[name]), name
    torch.testing.assert_close(norms[0].repbn.bn.running_mean, 0.1 * x.detach()[inside].mean(0))


def test_batch_without_valid_tokens_leaves_the_statistics_alone():
    """Images smaller than the stride of a map that drops what fills no patch."""
    norm = double(RepBN(C))
    with valid_tokens([(0, 0)] * 3, PADDED), pytest.warns(UserWarning, match='single token'):
        out = norm(batch()[0])
    assert torch.isfinite(out).all() and norm.bn.num_batches_tracked == 0
    assert torch.equal(norm.bn.running_mean, torch.zeros(C, dtype=torch.float64))


@pytest.mark.parametrize('family', tiny_backbones.FAMILIES)
@pytest.mark.parametrize('padded', [(96, 128), (93, 118)], ids=['divisible', 'not'])
def test_every_norm_of_a_backbone_counts_the_tokens_of_the_images_alone(family, padded):
    """The number of tokens that each norm counts is what the images have one by one."""
    backbone = tiny_backbones.build(family, norm_cfg=dict(type='RepBN')).train()
    sizes = [(padded[0], 70), (67, padded[1]), (65, 81)]
    counts = {}

    def note(name):
        def hook(module, args, kwargs):
            rows = kwargs.get('rows')
            counts.setdefault(name, []).append(args[0].shape[0] if rows is None else rows.numel())

        return hook

    for name, module in backbone.named_modules():
        if isinstance(module, TokenBatchNorm):
            module.register_forward_pre_hook(note(name), with_kwargs=True)
    for size in sizes:
        backbone(torch.randn(1, 3, *size))
    alone, counts = counts, {}
    with valid_tokens(sizes, padded):
        backbone(torch.randn(3, 3, *padded))
    assert counts == {name: [sum(values)] for name, values in alone.items()}


@pytest.mark.parametrize('with_cp', [False, True])
def test_mmdets_swin_counts_the_tokens_of_the_images(with_cp):
    """No layer of it says which maps it makes; they follow from the size of the batch."""
    backbone = MODELS.build(
        dict(
            type='SwinTransformer',
            embed_dims=8,
            depths=(2, 1),
            num_heads=(1, 2),
            strides=(4, 2),
            window_size=7,
            out_indices=(0, 1),
            with_cp=with_cp,
            norm_cfg=dict(type='RepBN'),
        )
    )
    backbone.train()
    counts = []
    for module in backbone.modules():
        if isinstance(module, TokenBatchNorm):
            module.register_forward_pre_hook(
                lambda module, args, kwargs: counts.append(kwargs['rows'].numel()), with_kwargs=True
            )
    sizes = [(96, 70), (65, 128)]
    with valid_tokens(sizes, (96, 128)):
        sum(out.square().mean() for out in backbone(torch.randn(2, 3, 96, 128))).backward()
    tokens = {s: sum(-(-h // s) * -(-w // s) for h, w in sizes) for s in (4, 8)}
    # Embedding, two norms of two blocks, output norm; merging, one block, output norm.
    assert counts[:10] == [tokens[4]] * 5 + [tokens[8]] + [tokens[4]] + [tokens[8]] * 3
    assert len(counts) == 10 + 6 * with_cp
    for name, module in backbone.named_modules():
        if isinstance(module, TokenBatchNorm):
            assert module.num_batches_tracked == 1, name


def test_padding_has_no_say_in_a_network_whose_tokens_keep_apart():
    """Norms and layers that mix no tokens: statistics equal those of the images joined."""
    net = nn.Sequential(RepBN(C), nn.Linear(C, C), PRepBN(C)).double().train()
    set_ratio(net, 0.3)
    x, inside = batch()
    with valid_tokens(SIZES, PADDED):
        padded = net(x)[inside]
    state = {name: value.clone() for name, value in net.state_dict().items()}
    for module in net.modules():
        if isinstance(module, TokenBatchNorm):
            module.reset_running_stats()
    joined = net(x[inside][None])[0]
    torch.testing.assert_close(padded, joined)
    for name, value in net.state_dict().items():
        torch.testing.assert_close(state[name], value, msg=name)


@pytest.mark.parametrize(
    'shape', [(2, 96, C), (3, 95, C), (3, 7, 12, C), (96, C), (3, 1, 8, 12, C)]
)
def test_tokens_that_are_no_map_of_the_batch_are_refused(shape):
    norm = double(RepBN(C))
    with (
        valid_tokens(SIZES, PADDED),
        pytest.raises(
            ValueError, match='not a map of a batch of 3 images padded to .32, 48.*divisor=32'
        ),
    ):
        norm(torch.randn(shape, dtype=torch.float64))


def test_images_larger_than_the_batch_are_refused():
    with pytest.raises(ValueError, match=r'sizes=\[\(33, 48\)\].*padded to \(32, 48\)'):
        ValidTokens([(33, 48)], PADDED)
