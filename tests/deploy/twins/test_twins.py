"""Twins against the blocks in whose place they are."""

import copy
import io
import pickle

import pytest
import torch

from slab_det.deploy import place_twins, remove_twins, reparameterize, temporarily
from slab_det.layers import set_ratio
from slab_det.models.swin import SwinBlock
from tests import tiny_backbones
from tests.networks import settle

#: Height and width: whole windows, odd ones, smaller than a window.
SIZES = [(64, 64), (57, 91), (32, 35)]

FAMILIES = {
    **{name: (name, {}) for name in tiny_backbones.FAMILIES},
    'swin softmax': ('swin', dict(attn_types='SSS')),
    'swin without biases': ('swin', dict(attn_types='LSL', qkv_bias=False)),
    'cswin linear': ('cswin', dict(attn_types='LLL', qkv_bias=False)),
    'pvt_v2 softmax': ('pvt_v2', dict(attn_types='SSS')),
    'pvt reduced': ('pvt', dict(sr_ratios=(4, 2, 1))),
}


def build(name, **kwargs):
    family, own = FAMILIES[name]
    torch.manual_seed(0)
    return settle(tiny_backbones.build(family, **own, **kwargs))


def classes(model):
    return [type(module) for module in model.modules()]


def assert_equal_maps(model, other, dtype=torch.float64, tolerance=1e-10, sizes=SIZES):
    for size in sizes:
        image = torch.randn(2, 3, *size, dtype=dtype)
        for expected, actual in zip(model(image), other(image)):
            assert actual.shape == expected.shape
            assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


#: All states of the norms where a twin pads normed windows, two of them elsewhere.
STATES = [
    *((name, state) for name in ('swin', 'swin softmax') for state in (1.0, 0.0, 'LN')),
    *((name, state) for name in FAMILIES for state in (0.5, 'folded')),
]


@pytest.mark.parametrize('name, state', STATES)
def test_twins_compute_what_the_blocks_do(name, state, narrow):
    model = build(name, **(dict(norm_cfg=dict(type='LN')) if state == 'LN' else {})).double()
    if state == 'folded':
        model = reparameterize(model)
    elif state != 'LN':
        set_ratio(model, state)
    plain, keys = classes(model), list(model.state_dict())
    other = place_twins(copy.deepcopy(model))
    assert classes(other) != plain and list(other.state_dict()) == keys
    with torch.no_grad():
        assert_equal_maps(model, other)
    assert classes(remove_twins(other)) == plain
    assert list(other.state_dict()) == keys


@pytest.mark.parametrize('name', tiny_backbones.FAMILIES)
def test_twins_train_as_the_blocks_do(name):
    model = build(name).train()
    set_ratio(model, 0.5)
    other = place_twins(copy.deepcopy(model))
    image = torch.randn(2, 3, 40, 56)
    for network in (model, other):
        sum(output.square().mean() for output in network(image)).backward()
    for (key, parameter), twin in zip(model.named_parameters(), other.parameters()):
        assert torch.equal(parameter.grad, twin.grad), key
    for (key, buffer), twin in zip(model.named_buffers(), other.named_buffers()):
        assert torch.equal(buffer, twin[1]), key


def test_copies_and_pickles_keep_twins_and_contexts_put_back_what_was_there():
    model = build('swin')
    plain = classes(model)
    with temporarily(place_twins, model):
        twins = classes(model)
    assert classes(model) == plain != twins
    place_twins(place_twins(model))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert classes(other) == twins
        with torch.no_grad():
            assert_equal_maps(model, other, torch.float32, 0)
    with temporarily(remove_twins, model):
        assert classes(model) == plain
    assert classes(model) == twins
    assert isinstance(model.net.layers[0].blocks[0], SwinBlock)


def test_hooks_and_a_later_folding_stay():
    model = place_twins(build('swin'))
    calls = []
    model.net.layers[1].blocks[0].register_forward_hook(lambda *_: calls.append(1))
    remove_twins(model)
    place_twins(model)
    folded = reparameterize(model)
    assert classes(folded).count(type(folded.net.layers[0].blocks[0])) == 4
    with torch.no_grad():
        assert_equal_maps(remove_twins(copy.deepcopy(model)), folded, torch.float32, 1e-4)
    assert len(calls) == 2 * len(SIZES)


def test_a_subclass_with_a_forward_pass_of_its_own_is_left_alone():
    class Skipped(SwinBlock):
        def forward(self, x, height, width):
            return x

    block = Skipped(8, 2, 'S', 4, 0, torch.nn.LayerNorm)
    assert type(place_twins(block)) is Skipped


@pytest.mark.parametrize('name', FAMILIES)
@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning', 'ignore::DeprecationWarning')
def test_a_trace_serves_other_sizes(name):
    model = place_twins(reparameterize(build(name)))
    file = io.BytesIO()
    with torch.no_grad():
        # The second size is the one that positional grids are made for.
        traced = torch.jit.trace(model, torch.randn(1, 3, 64, 64), check_trace=False)
        torch.jit.save(traced, file)
        file.seek(0)
        traced = torch.jit.load(file)
        for size in SIZES:
            image = torch.randn(1, 3, *size)
            for expected, actual in zip(model(image), traced(image)):
                assert actual.shape == expected.shape
                assert (actual - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize('name', tiny_backbones.FAMILIES)
def test_compiled_twins_are_one_graph_at_every_size(name):
    torch._dynamo.reset()
    model = place_twins(reparameterize(build(name)))
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend='eager')
    with torch.no_grad():
        assert_equal_maps(model, compiled, torch.float32, 1e-4, SIZES[:3])


def test_deploy_builds_twins_and_the_old_names_are_importable():
    from slab_det.layers import maps_in_chunks, residual_in_chunks, runs_in_chunks, window_chunks

    model = tiny_backbones.build('swin', deploy=True).eval()
    assert classes(model) == classes(place_twins(copy.deepcopy(model)))
    tokens = torch.randn(2, 30, 4)
    assert torch.equal(maps_in_chunks(tokens, torch.neg), -tokens.transpose(1, 2))
    assert torch.equal(residual_in_chunks(tokens, torch.square), tokens + tokens.square())
    assert len(window_chunks(1, 4, 4, 2, 0, False)[0].targets) == 16
    with torch.no_grad():
        assert runs_in_chunks(model, tokens)
    assert not runs_in_chunks(model, tokens)
