"""Calibrated statistics against numpy's mean and variance of what the norms really get."""

import numpy as np
import pytest
import torch
from torch import nn

from slab_det.layers import PRepBN, RepBN
from slab_det.models.swin import SwinTransformer
from slab_det.statistics.calibration import calibrate_batch_norm, norm_sites, sites_to_calibrate


class Net(nn.Module):
    """Three norms of different kinds in a row, the second of which depends on the first, with
    dropout and a norm that nothing reaches."""

    def __init__(self, ratio=0.0):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)
        self.bn = nn.BatchNorm2d(5)
        self.prepbn = PRepBN(5)
        self.drop = nn.Dropout(0.9)
        self.fc = nn.Linear(5, 5)
        self.repbn = RepBN(5)
        self.unused = nn.BatchNorm1d(5)
        self.prepbn.set_ratio(ratio)

    def forward(self, x):
        x = self.bn(self.conv(x)).permute(0, 2, 3, 1)
        return self.repbn(self.fc(self.drop(self.prepbn(x)).relu()))


def randomized(model, seed=0):
    """Statistics and affine parameters that are far from those of the images."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (module.running_mean, module.running_var, module.weight, module.bias):
                tensor.data.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return model


def images(count=5, seed=1):
    """Images of different sizes, on a large offset: sums of squares would cancel in float32."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(1, 3, 9 + i, 16 - i, generator=generator) * (i + 1) + 300 * i
        for i in range(count)
    ]


def collected(model, batches):
    """Mean and unbiased variance of the inputs of every norm in evaluation, by numpy."""
    seen = {}
    handles = [
        site.entry.register_forward_hook(
            lambda module, inputs, _, site=site: seen.setdefault(site.name, []).append(
                (
                    inputs[0]
                    if inputs[0].shape[-1] == site.bn.num_features
                    else inputs[0].permute(0, 2, 3, 1)
                ).reshape(-1, site.bn.num_features)
            )
        )
        for site in norm_sites(model)
    ]
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for batch in batches:
        model(batch)
    for handle in handles:
        handle.remove()
    tokens = {name: torch.cat(parts).double().numpy() for name, parts in seen.items()}
    return {name: (x.mean(0), x.var(0, ddof=1)) for name, x in tokens.items()}


def assert_describes_itself(model, batches, rtol, without=()):
    expected = collected(model, batches)
    sites = [site for site in norm_sites(model) if site.name in expected]
    assert len(sites) == len(norm_sites(model)) - len(without)
    for site in sites:
        mean, var = expected[site.name]
        np.testing.assert_allclose(site.bn.running_var.numpy(), var, rtol=rtol)
        error = np.abs(site.bn.running_mean.numpy() - mean) / np.sqrt(var)
        assert error.max() < rtol


@pytest.mark.parametrize('ratio', [0.0, 0.4, 1.0])
def test_statistics_are_those_of_all_tokens_that_the_norms_get(ratio):
    model, batches = randomized(Net(ratio)), images()
    report = calibrate_batch_norm(model, batches, tolerance=1e-6)
    assert_describes_itself(model, batches, 2e-6, without=['unused'])
    assert report.unseen == ['unused'] and report.batches == 5
    # Three norms in a row are settled in four passes, and the fifth finds nothing to change.
    assert report.passes <= 5 and report.residual <= 1e-6


def test_an_image_counts_by_its_tokens_and_the_average_is_no_running_one():
    model, batches = randomized(Net()), images()
    calibrate_batch_norm(model, batches)
    mean = model.bn.running_mean.clone()
    calibrate_batch_norm(model, batches[::-1])
    torch.testing.assert_close(model.bn.running_mean, mean)
    pixels = torch.cat([model.conv(batch).flatten(2)[0].t() for batch in batches])
    torch.testing.assert_close(mean, pixels.mean(0))
    assert int(model.bn.num_batches_tracked) == 0


@pytest.mark.parametrize('attn_types', ['LL', 'SS'])
def test_padding_of_windows_is_no_token(attn_types):
    model = SwinTransformer(
        embed_dim=8,
        depths=(2, 1),
        num_heads=(1, 2),
        attn_types=attn_types,
        window_sizes=(4, 4),
        num_classes=0,
        drop_path_rate=0.5,
    )
    for norm in model.modules():
        if isinstance(norm, PRepBN):
            norm.set_ratio(0.0)
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(1, 3, *size, generator=generator) for size in ((22, 37), (40, 21))]
    randomized(model)
    calibrate_batch_norm(model, batches, tolerance=1e-6, max_passes=20)
    assert_describes_itself(model, batches, 1e-5)


def test_one_pass_normalises_each_image_by_itself():
    model, batches = randomized(Net()), images()
    old = {
        site.name: (site.bn.running_mean.clone(), site.bn.running_var + site.bn.eps)
        for site in norm_sites(model)
        if site.name != 'unused'
    }
    report = calibrate_batch_norm(model, batches, max_passes=1)
    assert report.passes == 1
    # The one pass changed what was there before it, not what its last image left.
    changes = [
        change
        for site in norm_sites(model)
        if site.name in old
        for change in (
            ((site.bn.running_mean - old[site.name][0]).abs() / old[site.name][1].sqrt()).max(),
            (
                (site.bn.running_var + site.bn.eps - old[site.name][1]).abs() / old[site.name][1]
            ).max(),
        )
    ]
    assert report.residual == pytest.approx(float(max(changes)), rel=1e-5)
    model.train()
    model.drop.p = 0.0
    tokens = []
    model.repbn.register_forward_pre_hook(lambda _, inputs: tokens.append(inputs[0].reshape(-1, 5)))
    statistics = model.repbn.bn.running_mean.clone()
    for batch in batches:
        model(batch)
    torch.testing.assert_close(statistics, torch.cat(tokens).mean(0), rtol=1e-4, atol=1e-4)


def test_statistics_of_images_by_themselves_are_no_end():
    """The first pass finds them again, which does not say that they describe the network."""
    model, batches = randomized(Net()), images()
    calibrate_batch_norm(model, batches, max_passes=1)
    report = calibrate_batch_norm(model, batches, tolerance=1e-6)
    assert report.passes > 1
    assert_describes_itself(model, batches, 2e-6, without=['unused'])


def test_variances_must_settle_where_means_do_not_move():
    """Of tokens that lie symmetrically all means are 0 from the first pass on."""
    model = nn.Sequential(RepBN(5), RepBN(5), RepBN(5))
    batches = [
        torch.cat([x, -x]) * scale
        for x, scale in zip(
            torch.randn(3, 8, 5, generator=torch.Generator().manual_seed(0)), (0.1, 1, 10)
        )
    ]
    calibrate_batch_norm(model, batches)
    assert_describes_itself(model, batches, 1e-5)


def test_tokens_in_half_precision_are_averaged_in_full():
    tokens = (torch.randn(3, 50, 5, generator=torch.Generator().manual_seed(0)) + 300).bfloat16()
    model = RepBN(5)

    def forward(batch):
        with torch.autocast('cpu', torch.bfloat16):
            model(batch)

    calibrate_batch_norm(model, list(tokens), forward)
    rows = tokens.double().flatten(0, 1).numpy()
    np.testing.assert_allclose(model.bn.running_mean.numpy(), rows.mean(0), rtol=1e-6)
    np.testing.assert_allclose(model.bn.running_var.numpy(), rows.var(0, ddof=1), rtol=1e-5)


def test_norms_without_running_statistics_and_batches_without_tokens_are_passed_over():
    """A head may get no box of an image, and may normalise by the batch for ever."""
    model = nn.Sequential(RepBN(5), nn.BatchNorm1d(5, track_running_stats=False))
    batches = list(torch.randn(2, 8, 5, generator=torch.Generator().manual_seed(0)))
    report = calibrate_batch_norm(
        model,
        [*batches, torch.zeros(0, 5)],
        lambda batch: model(batch) if len(batch) else model[0](batch),
    )
    rows = torch.cat(batches).double().numpy()
    np.testing.assert_allclose(model[0].bn.running_mean.numpy(), rows.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model[0].bn.running_var.numpy(), rows.var(0, ddof=1), rtol=1e-5)
    assert list(report.mean_change) == ['0'] and report.batches == 3


def test_nothing_else_changes():
    model, batches = randomized(Net(0.3)), images()
    model.train()
    model.prepbn.eval()
    model.fc.weight.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    report = calibrate_batch_norm(model, batches)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ['fc.weight']
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())
    changed = {
        name for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {
        f'{norm}.running_{leaf}'
        for leaf in ('mean', 'var')
        for norm in ('bn', 'prepbn.repbn.bn', 'repbn.bn')
    }
    old = before['bn.running_var'] + model.bn.eps
    assert report.mean_change['bn'] == pytest.approx(
        float(((model.bn.running_mean - before['bn.running_mean']).abs() / old.sqrt()).max()),
        rel=1e-5,
    )
    assert report.var_change['bn'] == pytest.approx(
        float(((model.bn.running_var - before['bn.running_var']).abs() / old).max()), rel=1e-5
    )
    assert '3 BatchNorm calibrated over 5 images' in report.summary()


class Frozen(Net):
    def train(self, mode=True):
        super().train(mode)
        self.bn.eval()
        return self


def test_frozen_statistics_stay_unless_asked_for():
    model, batches = randomized(Frozen()), images()
    before = model.bn.running_mean.clone()
    assert calibrate_batch_norm(model, batches).frozen == ['bn']
    assert torch.equal(model.bn.running_mean, before)
    assert calibrate_batch_norm(model, batches, include_frozen=True).frozen == []
    assert not torch.equal(model.bn.running_mean, before)
    for norm in ('prepbn', 'repbn', 'unused'):
        setattr(model, norm, nn.Identity())
    with pytest.raises(
        ValueError, match='all 1 BatchNorm of Frozen are frozen .* include_frozen=True'
    ):
        sites_to_calibrate(model, False)


def test_a_failure_leaves_the_old_statistics():
    model, batches = randomized(Net()), images()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    calls = []

    def forward(batch):
        calls.append(batch)
        if len(calls) > 7:
            raise KeyboardInterrupt
        model(batch)

    with pytest.raises(KeyboardInterrupt):
        calibrate_batch_norm(model, batches, forward)
    with pytest.raises(ValueError, match='the inputs of the norm bn are not finite'):
        calibrate_batch_norm(model, [*batches, torch.full((1, 3, 8, 8), float('nan'))])
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(max_passes=0), 'max_passes=0 must be a whole number of at least 1'),
        (dict(tolerance=-1), 'tolerance=-1 must be a number of at least 0'),
        (dict(batches=iter([])), 'list_iterator, which can be iterated only once'),
        (dict(batches=[]), 'batches is empty'),
        (dict(forward=lambda batch: None), 'no norm was reached by two tokens'),
        (dict(model=nn.Linear(2, 2)), 'Linear has no BatchNorm to calibrate'),
    ],
)
def test_refuses_in_one_sentence(change, message):
    arguments = {'model': Net(), 'batches': images(1), **change}
    with pytest.raises(ValueError, match=message) as error:
        calibrate_batch_norm(**arguments)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(model='x.pth'), "model='x.pth' is not a torch.nn.Module: build the model"),
        (
            dict(batches=None),
            'batches=None is not an iterable of batches: give a list of them',
        ),
        (dict(batches=5), 'batches=5 is not an iterable of batches'),
        (dict(batches='images/'), "batches='images/' is not an iterable of batches"),
        (dict(batches=dict(inputs=[])), "batches={'inputs': \\[]} is not an iterable of batches"),
        (
            dict(forward='predict'),
            "forward='predict' is not a function: give one that runs",
        ),
        (dict(progress=True), 'progress=True is not a function: .* leave it out'),
        (dict(max_passes='3'), "max_passes='3' must be a whole number of at least 1"),
        (dict(max_passes=2.5), 'max_passes=2.5 must be a whole number'),
        (dict(max_passes=True), 'max_passes=True must be a whole number'),
        (dict(tolerance=None), 'tolerance=None must be a number of at least 0, such as 0.01'),
        (dict(tolerance='0.01'), "tolerance='0.01' must be a number"),
        (dict(include_frozen='False'), "include_frozen='False' must be True or False"),
    ],
)
def test_wrong_types_are_named_with_the_remedy(change, message):
    arguments = {'model': Net(), 'batches': images(1), **change}
    with pytest.raises(TypeError, match=message) as error:
        calibrate_batch_norm(**arguments)
    assert '\n' not in str(error.value) and str(error.value).endswith('.')


def test_what_can_be_indexed_or_iterated_again_is_taken():
    class Loader:
        def __iter__(self):
            return iter(images(2))

    class Indexed:
        def __getitem__(self, index):
            return images(2)[index]

    for batches in (Loader(), Indexed(), tuple(images(2))):
        report = calibrate_batch_norm(
            Net(), batches, max_passes=np.int64(1), tolerance=np.float32(0.1)
        )
        assert report.batches == 2
