"""Which norms fold into a linear layer: what is not proven to feed one alone stays."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

from slab_det.deploy import FoldingReport, reparameterize
from slab_det.layers import ChannelAffine, FoldedNorm, PRepBN, RepBN
from tests.deploy.test_reparameterize import settle

C = 6


class Traced(nn.Module):
    """A norm and two linear layers; what becomes of them is for subclasses to say."""

    def __init__(self):
        super().__init__()
        self.norm = PRepBN(C)
        self.linear = nn.Linear(C, C)
        self.other = nn.Linear(C, C)


class Feeds(Traced):
    def forward(self, x):
        return x + self.other(torch.relu(self.linear(self.norm(x))))


class FeedsByKeyword(Traced):
    def forward(self, x):
        return self.linear(input=self.norm(x))


class AsksForTheShape(Traced):
    def forward(self, x):
        x = self.norm(x)
        assert x.shape[-1] == C and x.dtype == torch.float64 and x.dim() == 3 and len(x)
        return self.linear(x)


class PostNorm(Traced):
    def forward(self, x):
        x = self.norm(x + self.other(x))
        return x + self.linear(x)


class TwoLinears(Traced):
    def forward(self, x):
        x = self.norm(x)
        return self.linear(x) * self.other(x)


class Functional(Traced):
    def forward(self, x):
        x = self.norm(x)
        return F.linear(x, self.linear.weight, self.linear.bias)


class WeightsUsedElsewhere(Traced):
    def forward(self, x):
        return self.linear(self.norm(x)) + F.linear(x, self.linear.weight)


class DetachedWeightsUsedElsewhere(Traced):
    def forward(self, x):
        return self.linear(self.norm(x)) + x * self.linear.weight.data[0]


class LinearReadsMore(Traced):
    def forward(self, x):
        return self.linear(self.norm(x)) + self.linear(x)


class LinearReadsTwoNorms(Traced):
    def __init__(self):
        super().__init__()
        self.second = PRepBN(C)

    def forward(self, x):
        return self.linear(self.norm(x)) + self.linear(self.second(x))


class NormOfTwoPlaces(Traced):
    def forward(self, x):
        return self.linear(self.norm(x)) + self.other(self.norm(2 * x))


class Padded(Traced):
    def forward(self, x):
        return self.linear(F.pad(self.norm(x), (0, 0, 0, 1)))


class PaddedByNothing(Traced):
    """As windows pad a map that fits them: at another size the pad is not empty."""

    def forward(self, x):
        return self.linear(F.pad(self.norm(x), (0, 0, 0, x.shape[1] % 5)))


class Returned(Traced):
    def forward(self, x):
        x = self.norm(x)
        return self.linear(x), dict(features=[x])


class Kept(Traced):
    def forward(self, x):
        self.kept = self.norm(x)
        return self.linear(self.kept)


class Tied(Traced):
    def __init__(self):
        super().__init__()
        self.other.weight = self.linear.weight

    def forward(self, x):
        return self.other(x) + self.linear(self.norm(x))


class TiedToWhatDoesNotRun(Tied):
    def forward(self, x):
        return self.linear(self.norm(x))


class TiedByStorage(Traced):
    def __init__(self):
        super().__init__()
        self.double()  # later it would part them
        self.table = nn.Embedding(C, C)
        self.table.weight = nn.Parameter(self.linear.weight.data[:])

    def forward(self, x):
        return self.linear(self.norm(x))


class NotCalled(Traced):
    def forward(self, x):
        return self.linear(x)


class Pruned(Traced):
    def __init__(self):
        super().__init__()
        prune.random_unstructured(self.linear, 'weight', 0.5)

    def forward(self, x):
        return self.linear(self.norm(x))


class Parametrized(Traced):
    def __init__(self):
        super().__init__()
        nn.utils.parametrizations.weight_norm(self.linear)

    def forward(self, x):
        return self.linear(self.norm(x))


class OwnLinear(nn.Linear):
    def forward(self, x):
        return super().forward(x) + x


class Subclass(Traced):
    def __init__(self):
        super().__init__()
        self.linear = OwnLinear(C, C)

    def forward(self, x):
        return self.linear(self.norm(x))


class ReadsMemory(Traced):
    """As compiled operators of others do, past all of torch's functions."""

    def forward(self, x):
        x = self.norm(x)
        assert x.data_ptr()
        return self.linear(x)


class SharesMemory(Traced):
    def forward(self, x):
        x = self.norm(x)
        return self.linear(x) + torch.from_dlpack(x)


class CalledAsForward(Traced):
    def forward(self, x):
        return self.linear(self.norm.forward(x)) + self.norm(x)


@torch.jit.script
def add_one(x: torch.Tensor) -> torch.Tensor:
    return x + 1


class Scripted(Traced):
    def forward(self, x):
        x = self.norm(x)
        return self.linear(x) + add_one(x)


def settled(kind):
    torch.manual_seed(0)
    return settle(kind()).double()


X = torch.randn(2, 5, C, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def check_same(model, deployed):
    assert not any(isinstance(module, (PRepBN, RepBN)) for module in deployed.modules())
    for x in (X, 3 * X[:1, :4]):
        torch.testing.assert_close(deployed(x), model(x), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize('kind', [Feeds, FeedsByKeyword, AsksForTheShape])
def test_a_norm_that_feeds_one_linear_layer_folds_into_it(kind):
    model, report = settled(kind), FoldingReport()
    deployed = reparameterize(model, example=X, report=report)
    assert isinstance(deployed.norm, FoldedNorm)
    assert report.folded() == {'norm': ('linear',)} and not report.kept()
    check_same(model, deployed)
    # By hand: W (a x + c) + b.
    bn, eta = model.norm.repbn.bn, model.norm.repbn.eta
    a = bn.weight / torch.sqrt(bn.running_var + bn.eps) + eta
    c = bn.bias - bn.weight * bn.running_mean / torch.sqrt(bn.running_var + bn.eps)
    torch.testing.assert_close(deployed.linear.weight, model.linear.weight * a)
    torch.testing.assert_close(
        deployed.linear.bias, model.linear.weight @ c + model.linear.bias, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize(
    'kind, reason',
    [
        (PostNorm, 'read by add, linear'),
        (TwoLinears, 'read by linear, other'),
        (Functional, 'read by '),
        (WeightsUsedElsewhere, 'the weights of linear are used outside of it'),
        (DetachedWeightsUsedElsewhere, 'the weights of linear are used outside of it'),
        (LinearReadsMore, 'linear reads something else as well'),
        (LinearReadsTwoNorms, 'linear reads something else as well'),
        (NormOfTwoPlaces, 'read by linear, other'),
        (Padded, 'read by constant_pad_nd'),
        (PaddedByNothing, 'read by constant_pad_nd'),
        (Returned, 'the model returns or keeps its output'),
        (Kept, 'the model returns or keeps its output'),
        (Tied, 'linear shares its weights'),
        (TiedToWhatDoesNotRun, 'linear shares its weights'),
        (NotCalled, 'it was not called'),
        (Pruned, 'the weights of linear are used outside of it'),
        (Parametrized, 'read by '),
        (Subclass, 'read by '),
        (ReadsMemory, 'the pass cannot be followed'),
        (SharesMemory, 'the pass cannot be followed'),
        (CalledAsForward, 'read by add, linear'),
        (Scripted, 'read by add, linear'),
    ],
)
def test_every_other_norm_becomes_its_affine_map(kind, reason):
    model, report = settled(kind), FoldingReport()
    deployed = reparameterize(model, example=X, report=report)
    assert isinstance(deployed.norm, ChannelAffine)
    assert not report.folded() and report.kept()['norm'].startswith(reason)
    if kind is not Kept:  # a model with a tensor on it
        check_same(model, deployed)


def test_weights_that_share_memory_alone_stay_apart_from_the_norm():
    report = FoldingReport()
    # A deep copy parts such weights, so that the copy may fold.
    model = reparameterize(settled(TiedByStorage), inplace=True, example=X, report=report)
    assert report.kept() == {'norm': 'linear shares its weights'}
    assert torch.equal(model.table.weight, model.linear.weight)


class HookBefore(Traced):
    def __init__(self):
        super().__init__()
        self.linear.register_forward_pre_hook(lambda module, args: (args[0],))

    def forward(self, x):
        return self.linear(self.norm(x))


def test_a_layer_with_a_hook_before_it_stays_apart_from_the_norm():
    report = FoldingReport()
    reparameterize(settled(HookBefore), example=X, report=report)
    assert report.kept() == {'norm': 'something changes linear before each call'}


class Pair(nn.Module):
    """Two blocks that share everything: the one norm feeds the one linear layer, twice."""

    def __init__(self):
        super().__init__()
        block = Feeds()
        self.blocks = nn.ModuleList([block, block])

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def test_a_shared_block_folds_once():
    model, report = settled(Pair), FoldingReport()
    deployed = reparameterize(model, example=X, report=report)
    assert report.folded() == {'blocks.0.norm': ('blocks.0.linear',)}
    assert deployed.blocks[0] is deployed.blocks[1]
    check_same(model, deployed)


def test_a_norm_of_two_names_goes_under_both():
    model = settled(NormOfTwoPlaces)
    model.alias = model.norm
    model.listed = nn.ModuleList([model.norm, model.norm])
    deployed = reparameterize(model)
    places = [deployed.norm, deployed.alias, *deployed.listed]
    assert isinstance(deployed.norm, ChannelAffine) and len(set(places)) == 1
    check_same(model, deployed)


def test_branches_that_only_some_inputs_take_need_an_example_of_each():
    class Branches(Traced):
        def forward(self, x):
            normed = self.norm(x)
            return self.linear(normed) + (normed if len(x) > 1 else 0)

    model = settled(Branches)
    report = FoldingReport()
    reparameterize(model, example=X[:1], report=report)
    assert report.folded()
    deployed = reparameterize(model, example=lambda net: (net(X[:1]), net(X)), report=report)
    assert report.kept() == {'norm': 'read by add, linear'}
    check_same(model, deployed)


@pytest.mark.parametrize(
    'example', [X, (X,), dict(x=X), lambda model: model(X)], ids=['one', 'tuple', 'dict', 'call']
)
def test_examples_of_all_kinds(example):
    report = FoldingReport()
    reparameterize(settled(Feeds), example=example, report=report)
    assert report.folded()


def test_the_recording_leaves_nothing_behind():
    model = settled(Feeds).train()
    model.linear.eval()
    before = copy.deepcopy(model.state_dict())
    deployed = reparameterize(model, inplace=True, example=X)
    assert deployed is model
    assert [model.training, model.linear.training, model.other.training] == [True, False, True]
    for module in model.modules():
        assert not module._forward_pre_hooks and not module._forward_hooks
        assert 'forward' not in vars(module)
    assert torch.equal(model.other.weight, before['other.weight'])


def test_a_forward_that_others_put_on_a_norm_stays():
    """As accelerate does to move weights between devices."""
    model = settled(Feeds)
    calls = []
    plain = model.norm.forward
    model.norm.forward = lambda x: calls.append(len(x)) or plain(x)
    model.keep = model.norm
    from slab_det.deploy.norm_readers import only_readers

    only_readers(model, dict(norm=model.norm), X)
    model(X)
    assert calls == [2, 2]


def test_the_error_of_a_wrong_example_is_the_models_own():
    with pytest.raises(ValueError, match=r'takes tokens with the channels last'):
        reparameterize(settled(Feeds), example=torch.randn(2, 5, C + 4, dtype=torch.float64))


def test_without_an_example_every_foreign_norm_stays():
    report = FoldingReport()
    deployed = reparameterize(settled(Feeds), report=report)
    assert isinstance(deployed.norm, ChannelAffine)
    assert report.kept() == {'norm': 'no example shows what reads it'}


def test_the_report_is_a_table_of_every_norm():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = PostNorm(), Feeds()

        def forward(self, x):
            return self.second(self.first(x))

    report = FoldingReport()
    reparameterize(settled(Both), example=X, report=report)
    assert str(report).splitlines() == [
        'norm         became part of     why',
        'first.norm   - (ChannelAffine)  read by add, linear'.replace('linear', 'first.linear'),
        'second.norm  second.linear      nothing else reads it',
        '1 of 2 norms folded into another layer',
    ]


def test_the_ratio_that_is_not_0_is_named_with_its_norm():
    model = settled(Pair)
    model.blocks[0].norm.set_ratio(0.25)
    with pytest.raises(ValueError, match=r'ratio is 0.25, not 0, in blocks\.0\.norm'):
        reparameterize(model, example=X)


def test_blocks_with_a_fuse_of_their_own_are_left_alone():
    """Such as those of YOLO, whose ``fuse`` works in place and returns nothing."""

    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(C, C)

        def fuse(self):
            self.fused = True

        def forward(self, x):
            return self.linear(x)

    model = settled(lambda: nn.Sequential(InPlace(), PRepBN(C)))
    deployed = reparameterize(model)
    assert isinstance(deployed[0], InPlace)
    check_same(model, deployed)
