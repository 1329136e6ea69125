"""What holds for every family: the published outputs, and that checkpointing changes nothing."""

import copy

import pytest
import timm
import torch

from slab_det.layers import prepbn_modules, set_ratio
from slab_det.models import (
    CSWinTransformer,
    PyramidVisionTransformer,
    PyramidVisionTransformerV2,
    SwinTransformer,
    VisionTransformer,
)
from tests import golden
from tests.networks import load_published

#: Golden file, model of timm, and the first and last norm that its statistics are of.
TRAINED = [
    ('slab_swin_t', 'slab_swin_tiny', 'patch_embed.norm', 'norm'),
    ('slab_cswin_t', 'slab_cswin_tiny', 'patch_embed.norm', 'norm'),
    ('slab_pvt_t', 'slab_pvt_tiny', 'patch_embed.norm', 'layers.3.blocks.1.norm2'),
    ('pvt_t_prepbn', 'pvt_tiny_prepbn', 'patch_embed.norm', 'layers.3.blocks.1.norm2'),
    ('slab_pvt_v2_b0', 'slab_pvt_v2_b0', 'patch_embed.norm', 'layers.3.norm'),
    ('slab_deit_t', 'slab_deit_tiny', 'blocks.0.norm1', 'norm'),
    ('deit_s_prepbn', 'deit_small_prepbn', 'blocks.0.norm1', 'norm'),
]
FILES = [('swin_t_prepbn', 'swin_tiny_prepbn'), *((file, name) for file, name, *_ in TRAINED)]


def features(model):
    """What the golden files hold: the tokens of all stages, of DeiT the normed ones of the last
    block with the class token. The closing norm sees the last stage, as in classification."""
    images = golden.images()
    with torch.no_grad():
        if isinstance(model, VisionTransformer):
            return [model.forward_features(images)]
        stages = [tokens for tokens, _, _ in model.forward_stages(images)]
        model.norm(stages[-1])
    return stages


@pytest.mark.parametrize('file, name', FILES)
def test_published_features_and_logits(file, name):
    model = timm.create_model(name).eval()
    data = load_published(file, model)
    assert golden.worst_error(data, 'eval/224x224', features(model)) < golden.TOLERANCE
    with torch.no_grad():
        logits = model(golden.images())
    assert golden.error(data, 'eval/224x224/logits/0', logits) < golden.TOLERANCE


@pytest.mark.parametrize('file, name, first, last', TRAINED)
def test_published_training_blend_and_its_statistics(file, name, first, last):
    model = timm.create_model(name, drop_path_rate=0.0).train()
    data = load_published(file, model, ratio=0.5)
    assert {float(norm.ratio) for norm in prepbn_modules(model)} == {0.5}
    assert golden.worst_error(data, 'train_ratio0.5/224x224', features(model)) < golden.TOLERANCE
    norms = [model.get_submodule(path).repbn.bn for path in (first, last)]
    statistics = [value for norm in norms for value in (norm.running_mean, norm.running_var)]
    assert golden.worst_error(data, 'train_ratio0.5/bn_first_last', statistics) < golden.TOLERANCE


PYRAMID = dict(
    embed_dims=(8, 16, 16),
    depths=(2, 1, 1),
    num_heads=(1, 2, 4),
    mlp_ratios=(2, 2, 2),
    img_size=64,
    num_classes=5,
    drop_path_rate=0.0,
    attn_types='LSS',
)


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize(
    'build',
    [
        lambda: SwinTransformer(
            embed_dim=16,
            depths=(2, 2),
            num_heads=(2, 4),
            num_classes=5,
            attn_types='LS',
            window_sizes=(7, 4),
            drop_path_rate=0.0,
        ),
        lambda: CSWinTransformer(
            embed_dim=8,
            depths=(1, 2, 1),
            num_heads=(2, 2, 4),
            split_sizes=(2, 3, 3),
            img_size=64,
            num_classes=5,
            attn_types='LSS',
            drop_path_rate=0.0,
        ),
        lambda: PyramidVisionTransformer(**PYRAMID),
        lambda: PyramidVisionTransformerV2(**PYRAMID),
        lambda: VisionTransformer(
            embed_dim=16, depth=2, num_heads=2, num_classes=5, img_size=32, patch_size=8
        ),
    ],
    ids=['swin', 'cswin', 'pvt', 'pvt_v2', 'deit'],
)
def test_gradient_checkpointing_changes_nothing(build, training):
    torch.manual_seed(0)
    model = build().train(training)
    set_ratio(model, 0.5)
    other = copy.deepcopy(model)
    other.set_grad_checkpointing()
    x = torch.randn(2, 3, 40, 48)
    for network in (model, other):
        network(x).square().sum().backward()
    for (name, parameter), twin in zip(model.named_parameters(), other.parameters()):
        torch.testing.assert_close(twin.grad, parameter.grad, msg=name)
    for (name, buffer), twin in zip(model.named_buffers(), other.buffers()):
        assert torch.equal(twin, buffer), name
