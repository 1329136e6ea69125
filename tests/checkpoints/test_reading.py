import argparse
import sys
import types
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from slab_det.checkpoints import (
    CheckpointError,
    read_checkpoint,
    select_state_dict,
    select_weights,
    stored_grid_sizes,
)
from slab_det.models import SwinTransformer

WEIGHTS = {'a.weight': torch.arange(6.0).view(2, 3)}


def save_with_foreign_class(path, make, **kwargs):
    """Save an object of a class whose module is gone when the file is read."""
    modules = {name: types.ModuleType(name) for name in ('yacs', 'yacs.config')}
    sys.modules.update(modules)
    try:
        torch.save({'model': WEIGHTS, 'config': make(modules['yacs.config'])}, path, **kwargs)
    finally:
        for name in modules:
            del sys.modules[name]


def config_node(module):
    class CfgNode(dict):
        """As in yacs: a dict with attributes of its own."""

        def __init__(self, values):
            super().__init__(values)
            self.__dict__['immutable'] = True

    CfgNode.__module__, CfgNode.__qualname__ = 'yacs.config', 'CfgNode'
    module.CfgNode = CfgNode
    return CfgNode({'MODEL': CfgNode({'NAME': 'swin'}), 'LR': 0.1})


@pytest.mark.parametrize('zipped', [True, False])
def test_options_of_the_training_script_do_not_hinder(tmp_path, zipped):
    path = tmp_path / 'ckpt.pth'
    options = argparse.Namespace(lr=0.1, nested=argparse.Namespace(x=1))
    torch.save(
        {'model': WEIGHTS, 'args': options, 'best': np.float64(3)},
        path,
        _use_new_zipfile_serialization=zipped,
    )
    checkpoint = read_checkpoint(str(path))
    assert torch.equal(checkpoint['model']['a.weight'], WEIGHTS['a.weight'])
    assert not isinstance(checkpoint['args'], argparse.Namespace)


@pytest.mark.parametrize('zipped', [True, False])
def test_yacs_configs_do_not_hinder_where_yacs_is_absent(tmp_path, zipped):
    path = tmp_path / 'ckpt.pth'
    save_with_foreign_class(path, config_node, _use_new_zipfile_serialization=zipped)
    checkpoint = read_checkpoint(str(path))
    assert torch.equal(checkpoint['model']['a.weight'], WEIGHTS['a.weight'])
    assert type(checkpoint['config']) is OrderedDict


class Hostile:
    """Runs ``function(argument)`` when an unsafe reader builds it."""

    def __init__(self, function, argument):
        self.call = function, (argument,)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize(
    'module, name', [('builtins', 'exec'), ('posix', 'system'), ('pathlib', 'Path')]
)
def test_no_code_of_a_file_runs(tmp_path, zipped, module, name):
    path, trace = tmp_path / 'ckpt.pth', tmp_path / 'trace'
    argument = {'exec': f'open({str(trace)!r}, "w")', 'system': f'touch {trace}', 'Path': 'x'}[name]
    hostile = Hostile(getattr(__import__(module), name), argument)
    torch.save({'model': WEIGHTS, 'x': hostile}, path, _use_new_zipfile_serialization=zipped)
    if name == 'Path':  # a class, whose objects are dropped
        found = type(read_checkpoint(str(path))['x']).__module__
        assert found == 'slab_det.checkpoints.reading'
    else:
        message = f'cannot be read without running code from it .GLOBAL {module}.{name}'
        with pytest.raises(CheckpointError, match=message):
            read_checkpoint(str(path))
    assert not trace.exists()


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('share', [0, 0.3, 0.9])
def test_truncated_files_are_named(tmp_path, zipped, share):
    path = tmp_path / 'ckpt.pth'
    torch.save({'model': {'a': torch.randn(100, 100)}}, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    size = int(share * len(content))
    with pytest.raises(
        CheckpointError, match=rf"ckpt.pth' \({size} bytes\) cannot be read.*truncated"
    ):
        read_checkpoint(str(path))


@pytest.mark.parametrize(
    'content', [b'hello', b'PK\x03\x04 no archive', b'\x89PNG\r\n' + bytes(100)]
)
def test_files_of_another_kind_are_named(tmp_path, content):
    path = tmp_path / 'ckpt.pth'
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match='truncated or not a checkpoint'):
        read_checkpoint(str(path))


def test_a_file_without_a_dict_and_no_file_are_named(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / 'list.pth')
    with pytest.raises(CheckpointError, match='holds a list, not a dict of weights'):
        read_checkpoint(str(tmp_path / 'list.pth'))
    with pytest.raises(FileNotFoundError, match="no.pth' does not exist"):
        read_checkpoint(str(tmp_path / 'no.pth'))


@pytest.mark.parametrize('nest', [None, 'model', 'state_dict', 'model_ema'])
@pytest.mark.parametrize('before', ['', 'module.'])
def test_nests_and_wrappers_are_opened(nest, before):
    weights = {before + key: value for key, value in WEIGHTS.items()}
    checkpoint = {**weights, 'epoch': 3} if nest is None else {nest: weights, 'epoch': 3}
    assert select_state_dict(checkpoint).keys() == WEIGHTS.keys()


@pytest.mark.parametrize('prefix', ['backbone', 'backbone.'])
def test_a_prefix_selects_what_lies_below_it(prefix):
    checkpoint = {
        'state_dict': {'backbone.a.weight': WEIGHTS['a.weight'], 'neck.b': torch.zeros(1)}
    }
    assert select_state_dict(checkpoint, prefix).keys() == WEIGHTS.keys()
    with pytest.raises(
        CheckpointError, match="prefix='encoder.' matches nothing.*'backbone', 'neck'"
    ):
        select_state_dict(checkpoint, 'encoder')


def test_a_checkpoint_without_weights_is_refused():
    with pytest.raises(
        CheckpointError, match="holds no weights, only 'epoch'.*'state_dict', 'model'"
    ):
        select_state_dict({'epoch': 3})


def test_grid_sizes_are_read_where_the_file_says_them():
    assert stored_grid_sizes({'meta': {'grid_sizes': {'p': [2, 8]}}}) == {'p': (2, 8)}
    for other in ({}, {'meta': None}, {'meta': {'epoch': 1}}, {'meta': {'grid_sizes': 'none'}}):
        assert stored_grid_sizes(other) == {}


SWIN = dict(embed_dim=8, depths=(1,), num_heads=(1,), attn_types='S', window_sizes=(4,))


@pytest.fixture(scope='module')
def swin():
    """A state dict that is known to be a Swin's, and two others of the same names."""
    weights = SwinTransformer(**SWIN, num_classes=3).state_dict()
    return weights, {key: value + 1 for key, value in weights.items()}


def named(prefix, weights):
    return {prefix + key: value for key, value in weights.items()}


def same(found, weights):
    return found.keys() == weights.keys() and all(
        torch.equal(found[key], value) for key, value in weights.items()
    )


@pytest.mark.parametrize(
    'prefix',
    [
        '_orig_mod.',
        'module._orig_mod.',
        '_orig_mod.module.',
        'model.',
        'model._orig_mod.module.',
        'module.model.net._fsdp_wrapped_module.',
        'network.',
    ],
)
def test_names_of_compiled_wrapped_and_lightning_modules_are_opened(swin, prefix):
    assert same(select_state_dict({'state_dict': named(prefix, swin[0])}), swin[0])


def test_modules_compiled_or_sharded_inside_are_opened(swin):
    inside = {
        key.replace('blocks.0.', 'blocks.0._orig_mod._checkpoint_wrapped_module.'): value
        for key, value in swin[0].items()
    }
    assert inside.keys() != swin[0].keys() and same(select_state_dict(inside), swin[0])


def test_what_lightning_keeps_beside_the_model_is_left_out(swin):
    beside = {'criterion.weight': torch.ones(5), 'metric.total': torch.ones(3)}
    assert same(select_state_dict({'state_dict': {**beside, **named('model.', swin[0])}}), swin[0])


def test_our_backbones_are_opened_with_their_output_norms(swin):
    norms = {'norm0.weight': torch.ones(8)}
    assert same(select_state_dict({**named('net.', swin[0]), **norms}), {**swin[0], **norms})
    detector = {
        **named('backbone.net.', swin[0]),
        **named('backbone.', norms),
        'neck.a': torch.ones(2),
    }
    assert same(select_state_dict(detector, 'backbone.'), {**swin[0], **norms})


def test_averages_of_torch_come_with_a_counter_that_is_no_weight(swin):
    averaged = torch.optim.swa_utils.AveragedModel(SwinTransformer(**SWIN, num_classes=3))
    found = select_state_dict(averaged.state_dict())
    assert found.keys() == swin[0].keys()


@pytest.mark.parametrize('wrapped', ['', 'module.', '_orig_mod.'])
@pytest.mark.parametrize(
    'plain, averaged',
    [
        ('state_dict', 'state_dict_ema'),
        ('model', 'model_ema'),
        ('state_dict', 'ema_state_dict'),
        ('model', 'ema.module'),
        ('params', 'params_ema'),
        ('state_dict.model', 'ema_state_dict.model'),
    ],
)
def test_plain_or_averaged_weights_are_chosen_and_named(swin, plain, averaged, wrapped):
    checkpoint = {'epoch': 3}
    for place, weights in zip((averaged, plain), swin[::-1]):
        *parents, last = place.split('.')
        node = checkpoint
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = named(wrapped, weights)
    found, taken = select_weights(checkpoint)
    assert same(found, swin[0]) and f'plain weights of {plain!r} taken' in taken
    assert 'ema=True' in taken
    found, taken = select_weights(checkpoint, ema=True)
    assert same(found, swin[1]) and f'averaged weights of {averaged!r} taken' in taken
    assert same(select_state_dict(checkpoint, ema=False), swin[0])


def test_lightning_names_of_an_average_are_told_apart(swin):
    flat = {**named('model.', swin[0]), **named('ema_model.module.', swin[1])}
    assert same(select_state_dict({'state_dict': flat}), swin[0])
    assert same(select_state_dict({'state_dict': flat}, ema=True), swin[1])
    assert same(select_state_dict({'state_dict': flat}, 'ema_model.module.'), swin[1])


def test_mmengines_hook_stores_the_average_in_the_place_of_the_plain_weights(swin):
    plain, averaged = swin
    checkpoint = {
        'state_dict': averaged,
        'ema_state_dict': {'steps': torch.tensor(7), **named('module.', plain)},
    }
    assert same(select_state_dict(checkpoint), averaged)
    assert same(select_state_dict(checkpoint, ema=True), averaged)
    assert same(select_state_dict(checkpoint, ema=False), plain)


@pytest.mark.parametrize('ema, there', [(True, 'model'), (False, 'model_ema')])
def test_a_choice_that_the_file_does_not_have_is_refused(swin, ema, there):
    with pytest.raises(
        CheckpointError, match=f'ema={ema}, but the .*under {there!r}; leave ema out'
    ):
        select_state_dict({there: swin[0]}, ema=ema)
    assert select_weights({there: swin[0]}).taken == ''


def test_safetensors_are_read_under_any_name(swin, tmp_path):
    for name in ('model.safetensors', 'model.pth'):
        save_file(swin[0], tmp_path / name)
        assert same(select_state_dict(read_checkpoint(str(tmp_path / name))), swin[0])
    content = (tmp_path / 'model.pth').read_bytes()
    (tmp_path / 'model.pth').write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match='truncated'):
        read_checkpoint(str(tmp_path / 'model.pth'))


class Model(torch.nn.Linear):
    """A model whose loading leaves a trace."""

    def __setstate__(self, state):
        raise AssertionError('code of the file runs')


@pytest.mark.parametrize('nest', [None, 'model', 'ema'])
@pytest.mark.parametrize('zipped', [True, False])
def test_whole_models_are_refused_with_the_remedy(tmp_path, nest, zipped):
    path = str(tmp_path / 'model.pth')
    model = Model(2, 2)
    content = model if nest is None else {nest: model, 'epoch': 3}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r'whole pickled model \(.*Mod.*\).*model.state_dict'):
        select_state_dict(read_checkpoint(path))


def test_torchscript_is_refused_with_the_remedy(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / 'model.pt'))
    with pytest.raises(CheckpointError, match=r'whole pickled model \(TorchScript\)'):
        read_checkpoint(str(tmp_path / 'model.pt'))


def test_without_stand_ins_foreign_objects_are_refused_and_the_argument_is_named(tmp_path):
    torch.save({'model': WEIGHTS, 'args': argparse.Namespace(lr=0.1)}, tmp_path / 'ckpt.pth')
    with pytest.raises(CheckpointError, match='^--resume .*ckpt.pth.*running code.*Namespace'):
        read_checkpoint(str(tmp_path / 'ckpt.pth'), '--resume', foreign=False)
