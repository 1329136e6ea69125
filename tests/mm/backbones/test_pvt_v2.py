import pytest
import torch
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from timm.utils import reparameterize_model

from slab_det.layers import ChannelAffine, PRepBN, prepbn_modules
from tests import golden
from tests.networks import randomize, settle

register_all_modules()

ARCH = dict(embed_dims=(8, 16, 40), depths=(1, 2, 1), num_heads=(1, 2, 5), mlp_ratios=(8, 8, 4))


def build(**kwargs):
    cfg = dict(
        type='SLABPyramidVisionTransformerV2',
        arch=ARCH,
        attn_types='LLL',
        img_size=64,
        out_indices=(0, 1, 2),
        drop_path_rate=0.0,
    )
    return MODELS.build({**cfg, **kwargs})


def test_published_classification_weights_and_their_closing_norms_fill_the_backbone(tmp_path):
    data = golden.load('slab_pvt_v2_b0')
    path = tmp_path / 'published.pth'
    torch.save({'model': golden.published_state_dict(data)}, path)
    backbone = build(
        arch='b0',
        attn_types='LLLL',
        out_indices=(0, 1, 2, 3),
        img_size=224,
        init_cfg=dict(type='Pretrained', checkpoint=str(path)),
    )
    backbone.init_weights()
    with torch.no_grad():
        outputs = backbone.eval()(golden.images())
    tokens = [out.flatten(2).transpose(1, 2) for out in outputs]
    assert golden.worst_error(data, 'eval/224x224', tokens) < golden.TOLERANCE


@pytest.mark.parametrize('size', [(64, 64), (70, 99), (128, 43)])
def test_mmdets_detector_has_the_same_features_at_ratio_1(size, tmp_path):
    torch.manual_seed(0)
    source = randomize(
        MODELS.build(
            dict(
                type='PyramidVisionTransformerV2',
                embed_dims=8,
                num_layers=[1, 2, 1, 1],
                sr_ratios=[8, 4, 2, 1],
            )
        )
    )
    path = tmp_path / 'detector.pth'
    torch.save({'state_dict': {f'backbone.{k}': v for k, v in source.state_dict().items()}}, path)
    arch = dict(
        embed_dims=(8, 16, 40, 64),
        depths=(1, 2, 1, 1),
        num_heads=(1, 2, 5, 8),
        mlp_ratios=(8, 8, 4, 4),
    )
    backbone = build(
        arch=arch,
        attn_types='SSSS',
        out_indices=(0, 1, 2, 3),
        init_cfg=dict(type='Pretrained', checkpoint=str(path), prefix='backbone.'),
    ).eval()
    backbone.init_weights()
    assert {float(norm.ratio) for norm in prepbn_modules(backbone)} == {1}
    x = torch.randn(1, 3, *size)
    with torch.no_grad():
        for out, same in zip(backbone(x), source(x)):
            assert (out - same).abs().max() < 1e-5 * same.std()


def test_no_norm_is_added_to_those_that_close_the_stages():
    backbone = build(out_indices=(0, 2))
    assert not any(name.startswith('norm') for name, _ in backbone.named_parameters())
    with pytest.raises(TypeError, match='out_norm_cfg'):
        build(out_norm_cfg=dict(type='LN'))


def test_deployed_backbone_takes_reparameterized_weights():
    torch.manual_seed(0)
    backbone = settle(build(attn_types='LSL'))
    deployed = build(attn_types='LSL', deploy=True).eval()
    deployed.load_state_dict(reparameterize_model(backbone).state_dict())
    assert not any(isinstance(module, PRepBN) for module in deployed.modules())
    assert isinstance(deployed.net.layers[1].norm, ChannelAffine)
    x = torch.randn(1, 3, 77, 96)
    with torch.no_grad():
        for out, same in zip(deployed(x), backbone(x)):
            assert (out - same).abs().max() < 1e-5 * same.abs().max()
