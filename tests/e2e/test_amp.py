"""Mixed precision: finite and near float32, up to activations of 1e4."""

import copy
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.structures import InstanceData

from slab_det.layers import set_ratio
from slab_det.mm.hooks.valid_tokens_hook import ValidTokensHook
from tests import tiny_backbones

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='fp16 training needs a GPU')
PRECISIONS = [
    pytest.param('cpu', torch.bfloat16, id='bf16'),
    pytest.param('cuda', torch.float16, id='fp16', marks=needs_gpu),
]


def relative_error(value, expected):
    value, expected = value.detach().double(), expected.detach().double()
    return float((value - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    'device, dtype', [pytest.param('cpu', torch.float16, id='fp16 on CPU'), *PRECISIONS]
)
@pytest.mark.parametrize('scale', [1, 1e4])
@pytest.mark.parametrize('ratio', [0.0, 0.5, 1.0])
@pytest.mark.parametrize('family', tiny_backbones.FAMILIES)
def test_backbones_in_half_precision(family, ratio, scale, device, dtype):
    torch.manual_seed(0)
    exact = tiny_backbones.build(family).to(device).train()
    set_ratio(exact, ratio)
    with torch.no_grad():
        # Tokens are as large as ``scale``; everything behind the embedding has to cope with it.
        exact.net.patch_embed.proj.weight *= scale
        if hasattr(exact.net, 'pos_embed'):
            exact.net.pos_embed *= scale
    half = copy.deepcopy(exact)
    x = torch.randn(2, 3, 64, 96, device=device)
    expected = exact(x)
    with torch.autocast(device, dtype):
        outputs = half(x)
    sum((out.float() / out.detach().float().std()).square().mean() for out in outputs).backward()
    for out, same in zip(outputs, expected):
        assert out.isfinite().all()
        assert relative_error(out, same) < 0.05
    for name, parameter in half.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    for name, buffer in half.named_buffers():
        if name.endswith(('running_mean', 'running_var')):
            assert buffer.dtype == torch.float32 and buffer.isfinite().all()
            assert relative_error(buffer, exact.get_buffer(name)) < 0.05, name


def batch(device):
    generator = torch.Generator().manual_seed(0)
    inputs, samples = [], []
    for height, width in ((128, 96), (96, 128)):
        inputs.append((torch.rand(3, height, width, generator=generator) * 255).to(torch.uint8))
        boxes = torch.tensor([[8.0, 8.0, 60.0, 50.0], [40.0, 30.0, 90.0, 90.0]])
        truth = InstanceData(bboxes=boxes, labels=torch.tensor([0, 3]))
        sample = DetDataSample(metainfo=dict(img_shape=(height, width), pad_shape=(height, width)))
        sample.gt_instances = truth
        samples.append(sample.to(device))
    return dict(inputs=inputs, data_samples=samples)


@pytest.mark.parametrize('ratio', [0.0, 0.5])
@pytest.mark.parametrize('device, dtype', PRECISIONS)
def test_detector_trains_under_mmengines_mixed_precision(device, dtype, ratio, monkeypatch):
    """AmpOptimWrapper and ValidTokensHook with an image of each shape in the batch."""
    # The wrapper refuses to start without a GPU, though its autocast runs on CPUs as well.
    monkeypatch.setattr(
        'mmengine.optim.optimizer.amp_optimizer_wrapper.is_cuda_available', lambda: True
    )
    register_all_modules(init_default_scope=False)
    cfg = Config.fromfile(CONFIGS / 'mini' / 'retinanet_slab-swin_mini_shapes.py')
    torch.manual_seed(0)
    exact = MODELS.build(cfg.model).to(device).train()
    set_ratio(exact, ratio)
    half = copy.deepcopy(exact)
    losses = {}
    for name, model in (('exact', exact), ('half', half)):
        amp = dict(type='AmpOptimWrapper', dtype=str(dtype).split('.')[1]) if model is half else {}
        wrapper = build_optim_wrapper(model, dict(cfg.optim_wrapper, **amp))
        hook = ValidTokensHook()
        runner = type('Runner', (), dict(model=model))
        hook.before_train(runner)
        losses[name] = model.train_step(batch(device), wrapper)
        hook.after_train(runner)
    for name, loss in losses['exact'].items():
        assert losses['half'][name].isfinite()
        torch.testing.assert_close(losses['half'][name].float(), loss, rtol=0.02, atol=1e-3)
    for name, parameter in half.named_parameters():
        assert parameter.dtype == torch.float32 and parameter.isfinite().all(), name
    for (name, buffer), same in zip(half.named_buffers(), exact.buffers()):
        if name.endswith('running_var'):
            assert relative_error(buffer, same) < 0.02, name
