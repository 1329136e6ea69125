"""The branch that is fitted, against numpy's least squares."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from slab_det.layers import PRepBN, prepbn_modules, set_ratio
from slab_det.statistics.layer_norm_fit import fit_repbn_to_layer_norm
from tests.processes import on_two_processes


def network(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(6, 8), PRepBN(8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 5), PRepBN(5)
    )
    for norm in prepbn_modules(model):
        nn.init.normal_(norm.ln.weight)
        nn.init.normal_(norm.ln.bias)
    return model


def batches(count=4):
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(1, 5 + i, 7, 6, generator=generator) * (1 + i) + 2 for i in range(count)]


def test_the_branch_is_the_least_squares_map_of_each_channel():
    model = network()
    explained = fit_repbn_to_layer_norm(model, batches())
    tokens = {norm: [] for norm in prepbn_modules(model)}
    for norm in tokens:
        norm.register_forward_hook(
            lambda norm, x, y: tokens[norm].append(
                [t.detach().flatten(0, -2).double().numpy() for t in (x[0], y)]
            )
        )
    model.eval()
    for batch in batches():
        model(batch)
    assert list(explained) == ['1', '5']
    for (norm, pairs), share in zip(tokens.items(), explained.values()):
        x, y = (np.concatenate(parts) for parts in zip(*pairs))
        a, c = (t.detach().numpy() for t in norm.repbn.affine())
        errors = 0.0
        for channel in range(x.shape[1]):
            slope, offset = np.polyfit(x[:, channel], y[:, channel], 1)
            assert a[channel] == pytest.approx(slope, rel=1e-4, abs=1e-5)
            assert c[channel] == pytest.approx(offset, rel=1e-4, abs=1e-5)
            errors += ((slope * x[:, channel] + offset - y[:, channel]) ** 2).sum()
        assert share == pytest.approx(1 - errors / ((y - y.mean(0)) ** 2).sum(), rel=1e-5)
        np.testing.assert_allclose(norm.repbn.bn.running_var.numpy(), x.var(0, ddof=1), rtol=1e-4)
        assert float(norm.repbn.eta) == 0


def test_a_channel_that_never_changes_becomes_the_mean_of_its_layer_norm():
    """It has no slope; a quotient of two zeros would stay in the network for ever."""
    norm = PRepBN(4).double()
    nn.init.normal_(norm.ln.weight, generator=torch.Generator().manual_seed(0))
    x = torch.randn(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x[:, 2] = 3.0
    y = norm.ln(x).detach()
    fit_repbn_to_layer_norm(norm, [x[:20], x[20:]])
    a, c = (t.detach() for t in norm.repbn.affine())
    assert a.isfinite().all() and a[2] == 0
    torch.testing.assert_close(c[2], y[:, 2].mean())


def test_norms_that_less_than_two_tokens_reach_are_left_alone():
    model = nn.Sequential(PRepBN(4), PRepBN(4), PRepBN(4))
    state = copy.deepcopy(model.state_dict())
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(1))

    def forward(batch):
        y = model[0](batch)
        if len(batch) == 1:
            model[1](y)

    explained = fit_repbn_to_layer_norm(model, [x[:8], x[8:], x[:0]], forward)
    assert list(explained) == ['0']
    for name, value in model.state_dict().items():
        if not name.startswith('0.'):
            assert torch.equal(value, state[name]), name
    torch.testing.assert_close(model[0].repbn.bn.running_mean, x.mean(0))


def test_the_outputs_at_ratio_1_and_all_else_stay():
    model = network()
    model.train()
    before, state = copy.deepcopy(model), torch.get_rng_state()
    fit_repbn_to_layer_norm(model, batches())
    assert (
        torch.equal(torch.get_rng_state(), state) and model.training and model[1].repbn.bn.training
    )
    assert all(p.requires_grad for p in model.parameters())
    for batch in batches():
        assert torch.equal(model.eval()(batch), before.eval()(batch))
    set_ratio(model, 0.0)
    set_ratio(before, 0.0)
    wanted = network().eval()
    errors = [
        sum(float((m(b) - wanted(b)).square().sum()) for b in batches()) for m in (model, before)
    ]
    assert errors[0] < 0.5 * errors[1]


def test_refuses_a_network_that_does_not_run_on_layer_norm():
    model = network()
    model[5].set_ratio(0.5)
    with pytest.raises(ValueError, match='a PRepBN is at ratio 0.5, not 1'):
        fit_repbn_to_layer_norm(model, batches())
    with pytest.raises(ValueError, match='Linear has no PRepBN to fit'):
        fit_repbn_to_layer_norm(nn.Linear(2, 2), batches())
    with pytest.raises(ValueError, match='batches is empty'):
        fit_repbn_to_layer_norm(network(), [])


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(model='x.pth'), "model='x.pth' is not a torch.nn.Module"),
        (dict(batches=None), 'batches=None is not an iterable of batches'),
        (dict(forward='predict'), "forward='predict' is not a function"),
        (dict(progress=True), 'progress=True is not a function'),
    ],
)
def test_wrong_types_are_named(change, message):
    with pytest.raises(TypeError, match=message):
        fit_repbn_to_layer_norm(**{'model': network(), 'batches': batches(), **change})


def fit_a_share(rank):
    model = network()
    explained = fit_repbn_to_layer_norm(model, (batches()[:3], batches()[3:])[rank])
    return dict(explained=explained, state=model.state_dict())


@pytest.mark.slow
def test_two_processes_fit_to_the_tokens_of_both():
    model = network()
    explained = fit_repbn_to_layer_norm(model, batches())
    for part in on_two_processes(fit_a_share):
        assert part['explained'] == pytest.approx(explained, rel=1e-9)
        for name, value in model.state_dict().items():
            torch.testing.assert_close(part['state'][name], value, rtol=1e-6, atol=1e-7)
