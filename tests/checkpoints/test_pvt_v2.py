import pytest
import timm
import torch

from slab_det.checkpoints import convert_state_dict
from slab_det.checkpoints.pvt_v2 import FAMILY
from slab_det.models import PyramidVisionTransformerV2
from tests.networks import randomize

SMALL = dict(embed_dims=(8, 16, 32, 32), depths=(1, 2, 1, 1), num_heads=(1, 2, 4, 4))


@pytest.mark.parametrize('kinds', ['LSSL', 'SSSS'])
def test_constructor_arguments_are_found_from_shapes(kinds):
    arguments = dict(SMALL, attn_types=kinds, mlp_ratios=(8, 8, 4, 4), num_classes=3)
    found = FAMILY.arguments(PyramidVisionTransformerV2(**arguments).state_dict())
    assert {name: found[name] for name in arguments} == arguments
    # Without linear attention nothing depends on the image size.
    assert found.get('img_size') == (224 if 'L' in kinds else None)


@pytest.mark.parametrize('size', [(64, 64), (75, 130)])
def test_timms_pvt_v2_has_the_same_features_at_ratio_1(size):
    torch.manual_seed(0)
    source = randomize(timm.create_model('pvt_v2_b0', **SMALL))
    # timm and the official code mix epsilons of 1e-5 and 1e-6.
    for module in source.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-6
    model = PyramidVisionTransformerV2(attn_types='SSSS', **SMALL).eval()
    weights, report = convert_state_dict(source.state_dict(), model.state_dict())
    model.load_state_dict(weights)
    assert report.ratio == 1 and not report.ignored and not report.missing
    x = torch.randn(1, 3, *size)
    with torch.no_grad():
        expected = source.forward_intermediates(x, intermediates_only=True)
        for out, same in zip(model.forward_intermediates(x, intermediates_only=True), expected):
            assert (out - same).abs().max() < 1e-5 * same.std()
        torch.testing.assert_close(model(x), source(x), rtol=1e-4, atol=1e-4)
