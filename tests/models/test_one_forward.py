"""A block has one forward pass: what surrounds the call does not choose its body.

Tools that follow a network (hooks, exporters, compilers, shape analysis) see that pass.
"""

import ast
import io
from pathlib import Path

import pytest
import timm
import torch

import slab_det
from slab_det.layers import PRepBN, set_ratio
from slab_det.models import FeatureStages
from tests import tiny_backbones

WORDS = ('is_tracing', 'is_compiling', 'is_exporting', 'is_grad_enabled', 'is_cuda', 'device.type')

#: What may ask, because it is not about the body of a block.
ALLOWED = {
    ('layers/autocast.py', 'autocast_device', 'device.type'),
    ('layers/norms.py', '_keep_in_graph', 'is_grad_enabled'),  # idle branch, distributed training
    ('layers/norms.py', '_is_readable', 'is_compiling'),  # whether the ratio can be read
    ('layers/norms.py', '_is_readable', 'is_tracing'),
    ('layers/norms.py', '_note', 'device.type'),
    ('layers/norms.py', '_branch', 'device.type'),
    ('layers/batch_norm.py', 'in_backward', 'is_compiling'),  # statistics under recomputation
    ('layers/cache.py', 'call', 'is_compiling'),  # what is kept
    ('layers/cache.py', 'cached', 'is_grad_enabled'),
    ('layers/cache.py', 'cached', 'is_compiling'),
    ('layers/cache.py', 'cached', 'is_tracing'),
    ('models/base.py', 'run_block', 'is_grad_enabled'),  # activation checkpointing
}


def questions(path):
    """Return the innermost function and the word of each question in a source file."""
    found = set()

    def visit(node, function):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            function = node.name
        if isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            found.update((function, word) for word in WORDS if text.endswith(f'.{word}'))
        if isinstance(node, ast.Name) and node.id in WORDS:
            found.add((function, node.id))
        for child in ast.iter_child_nodes(node):
            visit(child, function)

    visit(ast.parse(path.read_text()), None)
    return found


def test_nothing_below_deploy_chooses_a_body():
    root = Path(slab_det.__file__).parent
    found = {
        (path.relative_to(root).as_posix(), *question)
        for room in ('layers', 'models')
        for path in (root / room).glob('*.py')
        for question in questions(path)
    }
    assert found == ALLOWED


SIZES = [(64, 64), (57, 91), (40, 35)]


def build(family):
    torch.manual_seed(0)
    model = tiny_backbones.build(family).eval()
    set_ratio(model, 0.0)
    return model


def assert_same(expected, actual):
    for one, other in zip(expected, actual, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('family', tiny_backbones.FAMILIES)
def test_hooks_on_norms_and_attentions_fire_once_with_whole_maps(family):
    model = build(family)
    calls = []

    def note(name):
        return lambda module, inputs: calls.append((name, tuple(inputs[0].shape)))

    for name, module in model.named_modules():
        parts = name.split('.')
        if isinstance(module, PRepBN) or parts[-1] == 'attn' or parts[-2:-1] == ['attns']:
            module.register_forward_pre_hook(note(name))
    image = torch.randn(2, 3, 57, 91)
    model.train()(image)
    expected = list(calls)
    calls.clear()
    with torch.no_grad():
        model.eval()(image)
    assert calls == expected
    names = [name for name, _ in calls]
    assert len(names) == len(set(names)) > 6
    assert all(name.split('.')[-1] in str(names) for name in ('norm1', 'norm2'))


@pytest.mark.slow
@pytest.mark.parametrize('family', tiny_backbones.FAMILIES)
def test_export_with_a_dynamic_batch(family):
    model = build(family)
    image = torch.randn(2, 3, 57, 91)
    batch = torch.export.Dim('batch', min=1, max=64)
    with torch.no_grad():
        exported = torch.export.export(model, (image,), dynamic_shapes=({0: batch},)).module()
        for count in (1, 2, 5):
            images = torch.randn(count, 3, 57, 91)
            assert_same(model(images), exported(images))


@pytest.mark.slow
@pytest.mark.parametrize('family', tiny_backbones.FAMILIES)
def test_compile_with_changing_sizes(family):
    torch._dynamo.reset()
    model = build(family)
    compiled = torch.compile(model, fullgraph=True, backend='eager')
    with torch.no_grad():
        for size in SIZES:
            images = torch.randn(2, 3, *size)
            assert_same(model(images), compiled(images))


@pytest.mark.parametrize('family', tiny_backbones.FAMILIES)
@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning', 'ignore::DeprecationWarning')
def test_a_trace_is_the_network_at_its_size(family):
    model = build(family)
    for size in SIZES:
        image, other = torch.randn(2, 2, 3, *size)
        with torch.no_grad():
            traced = torch.jit.trace(model, image, check_trace=False)
            file = io.BytesIO()
            torch.jit.save(traced, file)
            file.seek(0)
            assert_same(model(other), torch.jit.load(file)(other))


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize(
    'name',
    ['slab_swin_tiny', 'swin_tiny_prepbn', 'slab_pvt_tiny', 'pvt_tiny_prepbn', 'slab_pvt_v2_b0']
    + ['slab_deit_tiny', 'deit_tiny_prepbn', 'slab_cswin_tiny'],
)
def test_shapes_on_the_meta_device(name, training):
    with torch.device('meta'):
        model = timm.create_model(name, num_classes=3).train(training)
    assert isinstance(model, FeatureStages)
    assert model(torch.empty(2, 3, 200, 264, device='meta')).shape == (2, 3)
