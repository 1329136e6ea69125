"""PRepBN in models of timm, torchvision and transformers: the same outputs before and after."""

import copy
import re

import pytest
import torch
from torch import nn

from slab_det.deploy import FoldingReport, reparameterize
from slab_det.layers import (
    ChannelAffine,
    PRepBN,
    PRepBNScheduler,
    RepBN,
    convert_norms,
    fold_norm_into_linear,
)
from tests.deploy.foreign_models import (
    images,
    loss_of,
    outputs_of,
    rt_detr,
    timm_swin,
    timm_vit,
    torchvision_faster_rcnn,
    torchvision_swin,
)

#: Norms by hand from the code of the libraries: how many there are, and which feed one linear
#: layer alone, by a pattern of their names and what it becomes. Attention of Swin pads between its
#: norm and the product, the norms of RT-DETR feed a residual or an added position.
MODELS = {
    'vit': (
        timm_vit,
        5,
        {
            r'blocks\.(\d)\.norm1': r'blocks.\1.attn.qkv',
            r'blocks\.(\d)\.norm2': r'blocks.\1.mlp.fc1',
        },
    ),
    'swin': (
        timm_swin,
        11,
        {
            r'layers\.(\d)\.blocks\.(\d)\.norm2': r'layers.\1.blocks.\2.mlp.fc1',
            r'layers\.1\.downsample\.norm': r'layers.1.downsample.reduction',
        },
    ),
    'torchvision swin': (
        torchvision_swin,
        11,
        {
            r'features\.(\d)\.(\d)\.norm2': r'features.\1.\2.mlp.0',
            r'features\.2\.norm': r'features.2.reduction',
        },
    ),
    'faster rcnn': (
        torchvision_faster_rcnn,
        10,
        {
            r'backbone\.features\.(\d)\.(\d)\.norm2': r'backbone.features.\1.\2.mlp.0',
            r'backbone\.features\.2\.norm': r'backbone.features.2.reduction',
        },
    ),
    'rt-detr': (rt_detr, 9, {}),
    # A position is added before attention; the residual behind it is the normed tensor.
    'rt-detr, pre-norm': (lambda: rt_detr(normalize_before=True), 9, {}),
}


@pytest.fixture(params=MODELS)
def case(request):
    torch.manual_seed(0)
    build, count, folds = MODELS[request.param]
    return build().eval(), count, folds


def worst(expected, outputs):
    return max(
        float((out - e).abs().max() / e.abs().max().clamp(min=1e-6))
        for e, out in zip(expected, outputs, strict=True)
    )


def train(model, steps=5):
    """Steps that end at ratio 0 and move weights, statistics and the statistics' means."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scheduler = PRepBNScheduler(model, steps, end=steps - 2)
    model.train()
    for step in range(steps):
        loss = loss_of(model, images(2, 64, seed=step) * (1 + step) + 0.3)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        assert torch.isfinite(loss)
    return model.eval()


def test_outputs_stay_at_ratio_1_and_folding_keeps_those_of_ratio_0(case):
    model, count, folds = case
    with torch.no_grad():
        before = outputs_of(model, images())
        names = {name for name, m in model.named_modules() if isinstance(m, nn.LayerNorm)}
        assert convert_norms(model) == len(names) == count
        assert worst(before, outputs_of(model, images())) < 1e-6

    trained = train(model)
    report = FoldingReport()
    deployed = reparameterize(trained, example=lambda net: outputs_of(net, images()), report=report)
    assert not any(
        isinstance(module, (PRepBN, RepBN, nn.LayerNorm)) for module in deployed.modules()
    )
    for seed in (0, 7):
        with torch.no_grad():
            expected, outputs = (
                outputs_of(net, images(2, 64, seed)) for net in (trained, deployed)
            )
        assert worst(expected, outputs) < 1e-5

    matches = {
        name: (re.sub(pattern, layer, name),)
        for name in names
        for pattern, layer in folds.items()
        if re.fullmatch(pattern, name)
    }
    assert report.folded() == matches
    assert set(report.kept()) == names - set(matches)
    for name in report.kept():
        assert isinstance(deployed.get_submodule(name), ChannelAffine)

    # One of each kind by hand, from the trained weights.
    for name, (layer,) in matches.items():
        bn, eta = (getattr(trained.get_submodule(name).repbn, part) for part in ('bn', 'eta'))
        old, new = (net.get_submodule(layer) for net in (trained, deployed))
        scale = bn.weight.double() / (bn.running_var.double() + bn.eps).sqrt()
        weight = old.weight.double() * (scale + eta.double())
        shift = bn.bias.double() - scale * bn.running_mean.double()
        bias = old.weight.double() @ shift
        bias = bias if old.bias is None else bias + old.bias.double()
        torch.testing.assert_close(new.weight.double(), weight, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(new.bias.double(), bias, rtol=1e-6, atol=1e-7)


def test_folding_where_it_is_not_proven_would_change_rt_detr():
    """The case that naming alone gets wrong: the norm before the feed-forward part."""
    torch.manual_seed(0)
    model = rt_detr(normalize_before=True).eval()
    convert_norms(model)
    trained = train(model)
    wrong = copy.deepcopy(trained)
    layer = wrong.model.encoder.aifi[0].layers[0]
    layer.final_layer_norm = fold_norm_into_linear(layer.final_layer_norm, layer.mlp.fc1)
    with torch.no_grad():
        assert worst(outputs_of(trained, images()), outputs_of(wrong, images())) > 0.1


@pytest.mark.parametrize(
    'build, options, words',
    [
        ('fasterrcnn_resnet50_fpn', {}, 'FasterRCNN has no LN'),
        ('convnext', {}, r'features\.0\.1 is a LayerNorm2d, which may normalise another dimension'),
    ],
)
def test_models_whose_norms_cannot_be_replaced_are_refused(build, options, words):
    import torchvision

    if build == 'convnext':
        setting = torchvision.models.convnext.CNBlockConfig
        model = torchvision.models.ConvNeXt([setting(8, 16, 1), setting(16, None, 1)])
    else:
        model = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
            weights=None, weights_backbone=None
        )
    with pytest.raises(ValueError, match=words):
        convert_norms(model, **options)


def test_the_channels_last_norms_of_convnext_fold():
    import torchvision

    setting = torchvision.models.convnext.CNBlockConfig
    torch.manual_seed(0)
    model = torchvision.models.ConvNeXt(
        [setting(8, 16, 2), setting(16, None, 1)], layer_scale=1.0, num_classes=3
    )
    assert convert_norms(model, where=r'block\.2$') == 3
    trained, report = train(model), FoldingReport()
    deployed = reparameterize(trained, example=images(), report=report)
    assert report.folded() == {
        f'features.{i}.{j}.block.2': (f'features.{i}.{j}.block.3',)
        for i, j in ((1, 0), (1, 1), (3, 0))
    }
    with torch.no_grad():
        assert worst([trained(images())], [deployed(images())]) < 1e-5
