import copy

import pytest
import torch
from timm.layers import LayerNorm2d
from torch import nn

from slab_det.deploy import reparameterize
from slab_det.layers import PRepBN, RepBN, convert_norms, set_ratio


class Block(nn.Module):
    def __init__(self, channels=6):
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.linear = nn.Linear(channels, channels)
        self.norms = nn.ModuleList([nn.LayerNorm(channels), nn.LayerNorm(channels, bias=False)])
        self.free = nn.LayerNorm(channels, elementwise_affine=False)

    def forward(self, x):
        x = x + self.linear(self.norm1(x))
        for norm in self.norms:
            x = x + torch.tanh(norm(x))
        return self.free(x)


def random_model(*blocks):
    model = nn.Sequential(*(blocks or (Block(), Block())))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.randn(value.shape, generator=generator))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.running_mean.normal_(generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
    return model


@pytest.mark.parametrize('shape', [(3, 5, 6), (2, 4, 3, 6), (7, 6)])
@pytest.mark.parametrize('training', [True, False])
def test_layer_norms_become_prepbn_of_the_same_output(shape, training):
    model = random_model().train(training).double()
    x = torch.randn(shape, dtype=torch.float64)
    expected = model(x)
    assert convert_norms(model) == 8
    assert torch.equal(model(x), expected)
    norms = [module for module in model.modules() if isinstance(module, PRepBN)]
    assert len(norms) == 8 and all(norm.training is training for norm in norms)
    assert all(norm.ln.weight.dtype == torch.float64 for norm in norms)
    # In training the BatchNorm already learns its statistics.
    assert all(bool(norm.repbn.bn.num_batches_tracked) is training for norm in norms)


def test_after_the_schedule_the_network_folds_to_the_same_output():
    model = random_model().double()
    convert_norms(model)
    model.train()
    for _ in range(3):
        model(torch.randn(4, 5, 6, dtype=torch.float64))
    set_ratio(model, 0.0)
    model.eval()
    x = torch.randn(2, 9, 6, dtype=torch.float64)
    deployed = reparameterize(model)
    assert not any(isinstance(module, (PRepBN, nn.LayerNorm)) for module in deployed.modules())
    torch.testing.assert_close(deployed(x), model(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    'where, expected',
    [
        ('norm1$', {'0.norm1', '1.norm1'}),
        (r'^1\.norms', {'1.norms.0', '1.norms.1'}),
        (lambda name: name.startswith('0') and name.endswith('free'), {'0.free'}),
    ],
)
def test_where_chooses_by_name(where, expected):
    model = random_model()
    assert convert_norms(model, where=where) == len(expected)
    found = {name for name, module in model.named_modules() if isinstance(module, PRepBN)}
    assert found == expected


def test_frozen_parameters_stay_frozen_and_epsilon_stays():
    model = random_model()
    model[0].norm1.requires_grad_(False)
    convert_norms(model, where='norm1', momentum=0.03)
    assert not any(value.requires_grad for value in model[0].norm1.parameters())
    assert all(value.requires_grad for value in model[1].norm1.parameters())
    assert model[0].norm1.ln.eps == 1e-6 and model[0].norm1.repbn.bn.momentum == 0.03


def test_a_norm_of_two_names_stays_one():
    model = random_model()
    model[1].norm1 = model[0].norm1
    assert convert_norms(model, where='norm1') == 1
    assert model[0].norm1 is model[1].norm1 and isinstance(model[0].norm1, PRepBN)


@pytest.mark.parametrize(
    'from_, to, ratio, new_type',
    [
        ('PRepBN', 'LN', 1.0, nn.LayerNorm),
        ('PRepBN', 'RepBN', 0.0, RepBN),
        ('RepBN', 'PRepBN', None, PRepBN),
    ],
)
def test_other_conversions_keep_the_output(from_, to, ratio, new_type):
    norm = dict(PRepBN=PRepBN, RepBN=RepBN)[from_]
    model = random_model(nn.Linear(6, 6), norm(6), nn.Linear(6, 6), norm(6, momentum=0.2))
    if ratio is not None:
        set_ratio(model, ratio)
    model.eval()
    x = torch.randn(3, 4, 6)
    expected = model(x)
    assert convert_norms(model, from_, to) == 2
    assert type(model[1]) is new_type
    assert torch.equal(model(x), expected)


def test_decoder_layers_of_torch_keep_their_output():
    torch.manual_seed(0)
    model = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True).eval()
    queries, memory = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    expected = model(queries, memory)
    assert convert_norms(model) == 3
    assert torch.equal(model(queries, memory), expected)


def test_a_second_conversion_does_not_touch_the_branches():
    model = random_model()
    convert_norms(model)
    with pytest.raises(ValueError, match='Sequential has no LN'):
        convert_norms(model)


def blend():
    model = random_model(nn.Linear(6, 6), PRepBN(6))
    set_ratio(model, 0.5)
    return model


@pytest.mark.parametrize(
    'model, options, words',
    [
        (Block(), dict(to='BN'), "to='BN' is not a norm"),
        (Block(), dict(from_='GN'), "from_='GN' is not a norm"),
        (Block(), dict(to='RepBN'), 'the output would change'),
        (Block(), dict(where='neck'), "Block has no LN whose name fits where='neck'"),
        (Block(), dict(where='('), 'neither a regular expression'),
        (Block(), dict(where=3), 'where=3 is neither a regular expression'),
        (nn.LayerNorm(6), {}, 'model is itself a LayerNorm'),
        (nn.Sequential(nn.LayerNorm(6), LayerNorm2d(6)), {}, '1 is a LayerNorm2d'),
        (nn.Sequential(nn.LayerNorm(6), nn.LayerNorm((4, 6))), {}, r'dimensions \(4, 6\)'),
        (nn.TransformerEncoderLayer(8, 2), {}, 'norm1 belongs to torch.nn.TransformerEncoderLayer'),
        (blend(), dict(from_='PRepBN', to='LN'), '1: the ratio is 0.5, not 1'),
        (blend(), dict(from_='PRepBN', to='RepBN'), '1: the ratio is 0.5, not 0'),
    ],
)
def test_what_cannot_be_converted_is_named_and_left_as_it_was(model, options, words):
    before = [type(module) for module in copy.deepcopy(model).modules()]
    with pytest.raises(ValueError, match=words):
        convert_norms(model, **options)
    assert [type(module) for module in model.modules()] == before


def test_an_argument_that_the_norm_does_not_take_leaves_the_model_alone():
    model = random_model()
    with pytest.raises(TypeError):
        convert_norms(model, colour='red')
    assert not any(isinstance(module, PRepBN) for module in model.modules())
