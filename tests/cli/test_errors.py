import re
from argparse import Namespace

import pytest

from slab_det.cli import InputError, run
from slab_det.cli.arguments import KeyValues
from slab_det.errors import one_line
from slab_det.mm.datasets import make_shapes_dataset

QUIET, TRACE = Namespace(traceback=False), Namespace(traceback=True)


def refuse(args):
    raise InputError('data_root a/b is not a folder:\n put the data there')


def test_an_input_error_ends_in_one_sentence(capsys):
    with pytest.raises(SystemExit) as end:
        run(refuse, QUIET)
    assert end.value.code == 1
    assert capsys.readouterr().err == 'error: data_root a/b is not a folder: put the data there\n'


def test_traceback_keeps_the_error():
    with pytest.raises(InputError):
        run(refuse, TRACE)


def test_ctrl_c_ends_in_one_sentence(capsys):
    def interrupted(args):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        run(interrupted, QUIET)
    assert end.value.code == 130 and capsys.readouterr().err == '\nerror: interrupted\n'
    with pytest.raises(KeyboardInterrupt):
        run(interrupted, TRACE)


def test_a_fault_keeps_its_trace():
    def fault(args):
        raise ValueError('somewhere deep')

    with pytest.raises(ValueError, match='somewhere deep'):
        run(fault, QUIET)


def test_a_value_error_of_the_package_ends_in_one_sentence(capsys, tmp_path):
    with pytest.raises(SystemExit):
        run(lambda args: make_shapes_dataset(str(tmp_path / 'set'), num_train=0), QUIET)
    assert re.fullmatch(r'error: .*num_train.*\n', capsys.readouterr().err)


def test_several_processes_say_which_one_speaks(capsys, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setenv('RANK', '1')
    with pytest.raises(SystemExit):
        run(refuse, QUIET)
    assert capsys.readouterr().err.startswith('error: rank 1: data_root')


def test_a_message_is_one_line():
    assert one_line(KeyError('no such\nkey')) == 'no such key'
    assert one_line(ValueError()) == 'ValueError'


def test_key_values_are_typed_and_checked(capsys):
    import argparse

    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=KeyValues)
    words = ['a.b=1', 'c=x=y', 'd=[1,(2,3)]', 'e=True', 'f=1e-4']
    assert parser.parse_args(['--cfg-options', *words]).cfg_options == {
        'a.b': 1,
        'c': 'x=y',
        'd': [1, (2, 3)],
        'e': True,
        'f': 1e-4,
    }
    for wrong in ('lr', '=3', 'a=[1,(2'):
        with pytest.raises(SystemExit) as end:
            parser.parse_args(['--cfg-options', wrong])
        assert end.value.code == 2
        assert '--cfg-options' in capsys.readouterr().err
