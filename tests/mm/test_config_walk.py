"""The walk over configs, on dicts, lists and configs whose types are classes."""

from mmengine.config import ConfigDict
from mmengine.model import PretrainedInit

from slab_det.mm.config_walk import is_pretrained, kind_of, rebuild, walk, walk_dicts

NODE = dict(a=[dict(type='X', b=(1, dict(type='Y')))], c=2)


def test_everything_is_met_once_with_the_setting_that_names_it():
    assert [path for path, _ in walk(NODE)] == [
        '',
        'a',
        'a.0',
        'a.0.type',
        'a.0.b',
        'a.0.b.0',
        'a.0.b.1',
        'a.0.b.1.type',
        'c',
    ]
    assert dict(walk(NODE, 'model'))['model.a.0.b.0'] == 1
    assert [(path, kind_of(node)) for path, node in walk_dicts(ConfigDict(NODE))] == [
        ('', ''),
        ('a.0', 'X'),
        ('a.0.b.1', 'Y'),
    ]
    assert list(walk(None, 'model')) == [('model', None)] and not list(walk_dicts(None))


def test_a_copy_is_rebuilt_with_changes_and_the_original_stays():
    new = rebuild(NODE, lambda value: 'Z' if kind_of(value) == 'Y' else value)
    assert new == dict(a=[dict(type='X', b=(1, 'Z'))], c=2)
    assert NODE['a'][0]['b'][1] == dict(type='Y')
    copied = rebuild(ConfigDict(NODE), lambda value: value)
    assert type(copied) is ConfigDict and copied == NODE and copied.a is not NODE['a']


def test_types_are_told_by_name_scope_and_class():
    assert kind_of(dict(type='mmdet.FPN')) == kind_of(dict(type='FPN')) == 'FPN'
    assert kind_of(dict(type=PretrainedInit)) == 'PretrainedInit'
    assert kind_of(dict()) == kind_of(None) == kind_of([]) == ''
    for kind in ('Pretrained', 'mmengine.Pretrained', PretrainedInit):
        assert is_pretrained(dict(type=kind, checkpoint='x.pth'))
    assert not is_pretrained(dict(type='Xavier')) and not is_pretrained('Pretrained')
