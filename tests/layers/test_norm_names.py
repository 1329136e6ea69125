"""Copies of the published norm in models of others: their keys, counters and modules."""

import copy

import pytest
import torch
from torch import nn

from slab_det.deploy import reparameterize
from slab_det.errors import InputError
from slab_det.layers import (
    PRepBN,
    PRepBNScheduler,
    RepBN,
    convert_norms,
    copied_norms,
    set_ratio,
)
from slab_det.layers.norm_names import norm_prefixes


class CopiedRepBN(nn.Module):
    """What the published branch computes, by its formula and under its names."""

    def __init__(self, channels):
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1))
        self.bn = nn.BatchNorm1d(channels)

    def forward(self, x):
        return self.bn(x.transpose(1, 2)).transpose(1, 2) + self.alpha * x


class CopiedNorm(nn.Module):
    """The published norm, which counts its own forward passes."""

    def __init__(self, channels, step, warm=0, r0=1.0):
        super().__init__()
        self.norm1, self.norm2, self.r0 = nn.LayerNorm(channels), CopiedRepBN(channels), r0
        for name, value in (('warm', warm), ('iter', step), ('total_step', step)):
            self.register_buffer(name, torch.tensor(value))

    def forward(self, x):
        if not self.training:
            return self.norm2(x)
        if self.warm > 0:
            self.warm -= 1
            return self.norm1(x)
        ratio = self.r0 * self.iter / self.total_step
        self.iter -= int(self.iter > 0)
        return ratio * self.norm1(x) + (1 - ratio) * self.norm2(x)


class Encoder(nn.Module):
    """As the encoder layers that carry copies: post-norm, the copies called norm1 and norm2."""

    def __init__(self, norm):
        super().__init__()
        self.norm1, self.norm2 = norm(6), norm(6)
        self.fc1, self.fc2 = nn.Linear(6, 12), nn.Linear(12, 6)

    def forward(self, x):
        x = self.norm1(x + x.mean(1, keepdim=True))
        return self.norm2(x + self.fc2(self.fc1(x).relu()))


def copied(step=8, seed=0, **options):
    torch.manual_seed(seed)
    return nn.Sequential(Encoder(lambda channels: CopiedNorm(channels, step, **options)))


def tokens(seed):
    return torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(seed))


def trained_copy(passes, **options):
    model = copied(**options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for seed in range(passes):
            model(tokens(seed))
    return model


def ours():
    return nn.Sequential(Encoder(PRepBN))


def test_checkpoints_of_copies_load_as_they_are():
    source, model = trained_copy(6), ours()
    model.load_state_dict(source.state_dict())
    assert float(model[0].norm1.ratio) == 0.25
    torch.testing.assert_close(model(tokens(9)), source(tokens(9)), rtol=1e-6, atol=1e-6)
    finished = trained_copy(8)
    model.load_state_dict(finished.state_dict())
    model.eval(), finished.eval()
    torch.testing.assert_close(model(tokens(9)), finished(tokens(9)), rtol=1e-6, atol=1e-6)


def test_copied_norms_renames_what_load_state_dict_does():
    source = trained_copy(6).state_dict()
    before = dict(source)
    renamed = copied_norms(source)
    assert renamed.keys() == ours().state_dict().keys()
    assert source.keys() == before.keys()
    model = ours()
    model.load_state_dict(source)
    for name, value in model.state_dict().items():
        assert torch.equal(renamed[name], value), name
    assert copied_norms(renamed).keys() == renamed.keys()


def test_a_copied_branch_alone_becomes_repbn():
    source = Encoder(CopiedRepBN).state_dict()
    target = Encoder(RepBN)
    assert copied_norms(source).keys() == target.state_dict().keys()
    target.load_state_dict(copied_norms(source))


def test_a_branch_called_norm2_beside_a_layer_norm_is_not_taken_for_a_whole_norm():
    block = Encoder(CopiedRepBN)
    block.norm1 = nn.LayerNorm(6)
    weights = block.state_dict(prefix='layers.0.')
    assert norm_prefixes(weights) == {'layers.0.norm2.'}
    renamed = copied_norms(weights)
    assert torch.equal(renamed['layers.0.norm1.weight'], block.norm1.weight)
    assert torch.equal(renamed['layers.0.norm2.eta'], block.norm2.alpha)


def test_scalars_of_other_modules_stay():
    model = trained_copy(1)
    model[0].alpha = nn.Parameter(torch.ones(1))
    renamed = copied_norms(model.state_dict())
    assert '0.alpha' in renamed and '0.eta' not in renamed


@pytest.mark.parametrize(
    'options, passes, begin, end',
    [({}, 8, 0, 8), (dict(warm=3), 11, 3, 11), (dict(r0=0.5), 8, 0, 8)],
)
def test_the_step_becomes_a_part_of_the_training(options, passes, begin, end):
    """docs: ``step=S`` is ``end=S / N``, ``warm=W`` shifts both, ``r0`` is ``start_ratio``."""
    copy_, model = copied(**options), ours()
    model.load_state_dict(copy_.state_dict())
    scheduler = PRepBNScheduler(
        model, 20, begin=begin / 20, end=end / 20, start_ratio=options.get('r0')
    )
    for seed in range(passes + 3):
        expected = copy_(tokens(seed))
        torch.testing.assert_close(model(tokens(seed)), expected, rtol=1e-5, atol=1e-5)
        scheduler.step()
    assert float(model[0].norm1.ratio) == 0
    # While a copy warms up its statistics stand still; ours follow the tokens from the beginning.
    if 'warm' not in options:
        for name, value in copied_norms(copy_.state_dict()).items():
            torch.testing.assert_close(model.state_dict()[name], value)


@pytest.mark.parametrize('options', [{}, dict(r0=0.5), dict(warm=9)])
def test_copies_in_a_built_model_become_prepbn(options):
    source = trained_copy(6, **options)
    model = copy.deepcopy(source)
    assert convert_norms(model, 'copied') == 2
    assert all(isinstance(norm, PRepBN) for norm in (model[0].norm1, model[0].norm2))
    ratio = 1.0 if 'warm' in options else 0.25 * options.get('r0', 1)
    assert float(model[0].norm1.ratio) == ratio
    expected = copy.deepcopy(source)(tokens(9))
    torch.testing.assert_close(copy.deepcopy(model)(tokens(9)), expected, rtol=1e-6, atol=1e-6)
    # At the end of both the folded network is the copy in evaluation.
    set_ratio(model, 0.0)
    torch.testing.assert_close(
        reparameterize(model.eval())(tokens(3)), source.eval()(tokens(3)), rtol=1e-5, atol=1e-5
    )


def test_the_layer_norm_inside_a_copy_is_not_converted():
    model = nn.Sequential(copied(), nn.LayerNorm(6))
    assert convert_norms(model) == 1
    assert isinstance(model[0][0].norm1.norm1, nn.LayerNorm)


def test_counters_that_half_precision_made_infinite_are_refused():
    weights = {key: value.half() for key, value in copied(step=300000).state_dict().items()}
    for load in (copied_norms, ours().load_state_dict):
        with pytest.raises(InputError, match='iter=inf of total_step=inf is not a ratio'):
            load(weights)


def test_weights_without_such_a_norm_are_refused():
    with pytest.raises(InputError, match='state_dict has no RepBN or PRepBN'):
        copied_norms(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)).state_dict())
    with pytest.raises(ValueError, match='Sequential has no copied norm'):
        convert_norms(nn.Sequential(nn.LayerNorm(2)), 'copied')
