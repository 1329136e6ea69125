"""The written config resolves to what was planned."""

import pytest
from mmengine.config import Config

from slab_det.mm.plug.writing import changed_settings, config_text, override

BASE = dict(
    model=dict(
        type='A',
        backbone=dict(type='ResNet', depth=50),
        neck=dict(type='FPN', in_channels=[1, 2], num_outs=5),
    ),
    necks=[dict(type='FPN', channels=[1, 2]), dict(type='BFP', level=2)],
    hooks=[dict(type='EMAHook')],
    empty=[],
    nothing=None,
    plain=[1, 2],
    optim=dict(optimizer=dict(type='SGD', lr=0.1), keys=dict(backbone=dict(lr_mult=0.1))),
)


def after(**changes):
    cfg = Config(BASE)
    cfg.merge_from_dict(changes)
    return cfg.to_dict()


def resolve(tmp_path, new):
    (tmp_path / 'base.py').write_text(
        '\n'.join(f'{key} = {value!r}' for key, value in BASE.items())
    )
    text = config_text('./base.py', BASE, new, 'two\nlines')
    (tmp_path / 'new.py').write_text(text)
    assert text.startswith('# two\n# lines\n_base_ = ')
    return Config.fromfile(tmp_path / 'new.py').to_dict(), text


@pytest.mark.parametrize(
    'changes, says, says_not',
    [
        ({'model.neck.in_channels': [3, 4]}, 'in_channels=[3, 4]', 'num_outs'),
        (
            {'hooks': [dict(type='EMAHook'), dict(type='X')]},
            "hooks = [*_base_.hooks, dict(type='X')]",
            'EMAHook',
        ),
        (
            {'necks': [dict(type='FPN', channels=[9]), dict(type='BFP', level=2)]},
            'necks = [dict(_base_.necks[0], channels=[9]), _base_.necks[1]]',
            'BFP',
        ),
        (
            {'necks': [dict(type='New'), dict(type='BFP', level=2)]},
            "necks = [dict(type='New'), _base_.necks[1]]",
            'BFP',
        ),
        ({'necks': [dict(type='New'), *BASE['necks']]}, "[dict(type='New'), *_base_.necks]", 'BFP'),
        ({'empty': [dict(type='X')]}, "empty = [dict(type='X')]", '_delete_'),
        ({'nothing': dict(type='X')}, '_delete_=True', 'BFP'),
        ({'plain': dict(type='X')}, '_delete_=True', 'BFP'),
        (
            {'optim.keys': {'backbone': dict(lr_mult=0.1), '.a.b': dict(decay_mult=0.0)}},
            "'.a.b': dict(decay_mult=0.0)",
            'lr_mult',
        ),
        ({'added': dict(a=1)}, 'added = dict(a=1)', '_delete_'),
    ],
)
def test_only_what_changed_is_written(tmp_path, changes, says, says_not):
    new = {**after()}
    for path, value in changes.items():
        *parents, key = path.split('.')
        node = new
        for parent in parents:
            node = node[parent]
        node[key] = value
    resolved, text = resolve(tmp_path, new)
    assert resolved == new
    assert says in text and says_not not in text


def test_a_module_of_another_type_and_a_lost_entry_replace_what_was_there(tmp_path):
    new = after()
    new['model']['backbone'] = dict(type='Swin', arch='tiny', widths=(1,))
    del new['optim']['keys']['backbone']
    new['model']['neck'] = dict(type='SimpleFPN', in_channels=192)
    resolved, text = resolve(tmp_path, new)
    assert resolved == new and text.count('_delete_=True') == 3
    assert override(BASE, new).keys() == {'model', 'optim'}


def test_long_lines_are_broken():
    new = after(**{'model.neck.in_channels': list(range(1000, 1030))})
    assert max(map(len, config_text('./base.py', BASE, new, 'x').splitlines())) <= 100


def test_changed_settings_are_listed_one_by_one():
    new = after(**{'model.neck.in_channels': [3, 4], 'optim.optimizer.lr': 1.0})
    new['model']['backbone'] = dict(type='Swin')
    assert list(changed_settings(BASE, new)) == [
        ('model.backbone', dict(type='ResNet', depth=50), dict(type='Swin')),
        ('model.neck.in_channels', [1, 2], [3, 4]),
        ('optim.optimizer.lr', 0.1, 1.0),
    ]
