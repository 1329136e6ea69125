import argparse
import sys
import types
from collections import OrderedDict

import numpy as np
import pytest
import torch

from slab_det.checkpoints import (
    CheckpointError,
    read_checkpoint,
    select_state_dict,
    stored_grid_sizes,
)

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
    with pytest.raises(CheckpointError, match='truncated or no PyTorch checkpoint'):
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
