"""Costs against formulas written down by hand, published figures and mmdet's own networks."""

import pytest
import timm
import torch
from mmdet.models import SwinTransformer
from torch import nn

from slab_det.layers import WindowLinearAttention, WindowSoftmaxAttention
from slab_det.mm.analysis import Cost, count_costs
from slab_det.mm.backbones import SLABSwinTransformer
from slab_det.models.swin import SwinBlock


def cost_of(module, *args):
    module.eval()
    return sum(count_costs(module, lambda: module(*args)).values(), Cost())


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def test_linear_attention_is_counted_by_its_formula():
    windows, side, dim, heads, kernel = 3, 6, 32, 4, 5
    tokens, head = windows * side**2, dim // heads
    module = WindowLinearAttention(dim, side, heads, kernel_size=kernel)
    products = 2 * tokens * dim * head + tokens * dim  # k^T v, q (k^T v), q . sum(k)
    projections = tokens * dim * 3 * dim + tokens * dim * dim
    convolution = tokens * dim * kernel**2
    expected = Cost(parameters(module), projections + products + convolution, products)
    assert cost_of(module, torch.randn(windows, side**2, dim)) == expected


@pytest.mark.parametrize('shape', [(14, 21), (11, 15)])
def test_a_softmax_block_is_counted_by_its_formula(shape):
    window, dim, heads = 7, 24, 3
    block = SwinBlock(dim, heads, 'S', window, shift=3, norm_layer=nn.LayerNorm)
    tokens = shape[0] * shape[1]
    padded = 14 * 21  # both shapes fill 2 x 3 windows; the padding is dropped before the projection
    products = 2 * padded * window**2 * dim  # q k^T and the sum of values
    expected = padded * 3 * dim**2 + products + tokens * 9 * dim**2
    cost = cost_of(block, torch.randn(1, tokens, dim), *shape)
    assert cost == Cost(parameters(block), expected, products)


def test_attention_modules_of_softmax_and_torch_agree():
    windows, side, dim, heads = 2, 5, 16, 4
    x = torch.randn(windows, side**2, dim)
    ours = cost_of(WindowSoftmaxAttention(dim, side, heads), x)
    torchs = cost_of(nn.MultiheadAttention(dim, heads, batch_first=True), x, x, x)
    assert (ours.multiply_adds, ours.attention) == (torchs.multiply_adds, torchs.attention)


def test_the_fused_layer_of_torch_is_counted_and_left_enabled():
    torch.backends.mha.set_fastpath_enabled(True)
    tokens, dim = 10, 16
    layer = nn.TransformerEncoderLayer(dim, 2, 4 * dim, batch_first=True)
    products = 2 * tokens**2 * dim
    expected = Cost(parameters(layer), tokens * 12 * dim**2 + products, products)
    assert cost_of(layer, torch.randn(1, tokens, dim)) == expected
    assert torch.backends.mha.get_fastpath_enabled()


# Liu et al., "Swin Transformer", ICCV 2021, table 1: G multiply-adds at 224x224.
@pytest.mark.parametrize(
    'name, figure',
    [('swin_tiny_prepbn', 4.5), ('swin_small_prepbn', 8.7), ('swin_base_prepbn', 15.4)],
)
def test_swin_costs_what_was_published(name, figure):
    cost = cost_of(timm.create_model(name), torch.zeros(1, 3, 224, 224))
    assert round(cost.multiply_adds / 1e9, 1) == figure


def test_swin_with_prepbn_costs_what_mmdets_swin_costs():
    image = torch.zeros(1, 3, 224, 448)  # whole windows: mmdet's projects its padding as well
    ours = cost_of(SLABSwinTransformer('tiny', attn_types='SSSS'), image)
    theirs = cost_of(SwinTransformer(), image)
    assert (ours.multiply_adds, ours.attention) == (theirs.multiply_adds, theirs.attention)


class Parts(nn.Module):
    """Calls a part of a child, a method of a child and an operator of its own."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(4, 5, bias=False))
        self.second = nn.Conv2d(2, 3, 3)
        self.idle = nn.Linear(6, 7)
        self.free = nn.ReLU()
        self.weight = nn.Parameter(torch.ones(4, 8))

    def forward(self, x):
        self.first[0](x)
        self.second.forward(torch.zeros(1, 2, 5, 6))
        return self.free(x @ self.weight)


def test_costs_belong_to_the_child_that_causes_them():
    model = Parts()
    assert count_costs(model, lambda: model(torch.ones(3, 4))) == {
        '': Cost(4 * 8, 3 * 4 * 8),
        'first': Cost(4 * 5, 3 * 4 * 5),
        'second': Cost(parameters(model.second), 3 * 4 * 3 * 2 * 3 * 3),
        'idle': Cost(parameters(model.idle)),
    }


def test_a_deformable_convolution_costs_what_a_plain_one_does():
    ops = pytest.importorskip('mmcv.ops')
    image, offset = torch.zeros(1, 4, 8, 9), torch.zeros(1, 18, 8, 9)
    deformable = ops.DeformConv2d(4, 6, 3, padding=1)
    plain = nn.Conv2d(4, 6, 3, padding=1, bias=False)
    assert cost_of(deformable, image, offset) == cost_of(plain, image)
    nested = nn.ModuleDict({'conv': deformable})
    costs = count_costs(nested, lambda: nested['conv'](image, offset))
    assert costs == {'conv': cost_of(plain, image)}


class Queries(nn.Module):
    """Gives parts of a parameter to a layer, as Deformable DETR does."""

    def __init__(self):
        super().__init__()
        self.queries = nn.Embedding(5, 8)
        self.project = nn.Linear(4, 3)

    def forward(self):
        place, _ = self.queries.weight.split(4, dim=1)
        return self.project(place[None])


def test_parts_of_a_parameter_are_counted():
    model = Queries()
    assert count_costs(model, model) == {
        'queries': Cost(40),
        'project': Cost(15, 5 * 4 * 3),
    }


def test_the_model_is_left_as_it_was():
    model = Parts()
    before = [dict(module.__dict__) for module in model.modules()]
    x = torch.randn(3, 4)
    expected = model(x)
    count_costs(model, lambda: model(x))
    with pytest.raises(RuntimeError):
        count_costs(model, lambda: model(torch.ones(3, 5)))
    assert [dict(module.__dict__) for module in model.modules()] == before
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize('attn_types', ['LLSS', 'SSSS'])
def test_what_a_backbone_caches_is_not_spoilt(attn_types):
    backbone = SLABSwinTransformer(
        dict(embed_dims=16, depths=(1, 2, 2, 2), num_heads=(1, 2, 4, 8)), attn_types
    ).eval()
    image = torch.randn(1, 3, 64, 96)
    cost_of(backbone, image)
    with torch.no_grad():
        after = backbone(image)
    fresh = SLABSwinTransformer(
        dict(embed_dims=16, depths=(1, 2, 2, 2), num_heads=(1, 2, 4, 8)), attn_types
    ).eval()
    fresh.load_state_dict(backbone.state_dict())
    with torch.no_grad():
        expected = fresh(image)
    assert all(torch.equal(a, b) for a, b in zip(after, expected))
