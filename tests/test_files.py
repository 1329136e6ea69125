"""Files appear whole or not at all."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from slab_det.cli import InputError, check_target, whole_file, write_checkpoint


def test_a_file_appears_at_the_end_in_a_folder_that_is_made(tmp_path):
    path = tmp_path / 'new' / 'deep' / 'a.txt'
    with whole_file(path, '--out') as part:
        part.write_text('whole')
        assert not path.exists()
    assert path.read_text() == 'whole' and os.listdir(path.parent) == ['a.txt']


def test_a_file_that_was_there_stays_where_the_block_fails(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_text('old')
    with pytest.raises(ZeroDivisionError), whole_file(path, '--out') as part:
        part.write_text('half')
        raise ZeroDivisionError
    assert path.read_text() == 'old' and os.listdir(tmp_path) == ['a.txt']


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / 'file').write_text('')
    path = tmp_path / 'file' / 'folder' / 'a.txt'
    with (
        pytest.raises(InputError, match=f'--out {path} cannot be written: '),
        whole_file(path, '--out'),
    ):
        raise AssertionError('the block must not run')
    assert (tmp_path / 'file').is_file()


def test_a_checkpoint_appears_whole(tmp_path):
    write_checkpoint(tmp_path / 'new' / 'a.pth', dict(state_dict=dict(w=torch.ones(3))), '--out')
    assert os.listdir(tmp_path / 'new') == ['a.pth']
    assert torch.load(tmp_path / 'new' / 'a.pth')['state_dict']['w'].tolist() == [1, 1, 1]


def test_a_checkpoint_that_cannot_be_opened_is_named():
    with pytest.raises(
        InputError, match='--out /proc/a.pth cannot be written: No such file or directory'
    ):
        write_checkpoint('/proc/a.pth', {}, '--out')


def test_a_checkpoint_that_the_disk_has_no_room_for_is_named(tmp_path):
    # A limit on the size of files stands in for the full disk.
    code = (
        'import resource, sys, torch; from slab_det.cli import write_checkpoint; '
        'resource.setrlimit(resource.RLIMIT_FSIZE, (10**5, 10**5)); '
        "write_checkpoint(sys.argv[1], torch.zeros(10**5), '--out')"
    )
    path = tmp_path / 'a.pth'
    done = subprocess.run([sys.executable, '-c', code, str(path)], capture_output=True, text=True)
    assert f'InputError: --out {path} cannot be written: the disk may be full' in done.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    'path, words',
    [
        ('.', '--out . is a folder: give the name of a file'),
        ('./a.py', '--out ./a.py is the config itself'),
        ('link.py', '--out link.py is the config itself'),
        ('a.py/b.py', 'is a file, give a folder'),
    ],
)
def test_a_target_that_would_lose_something_is_refused(tmp_path, monkeypatch, path, words):
    monkeypatch.chdir(tmp_path)
    Path('a.py').write_text('x')
    Path('link.py').symlink_to('a.py')
    with pytest.raises(InputError, match=re.escape(words)):
        check_target(path, '--out', dict(checkpoint='gone.pth', config='a.py'))


def test_a_target_may_be_new_or_replace_another_file(tmp_path):
    (tmp_path / 'b.py').write_text('x')
    for name in ('b.py', 'new/c.py'):
        check_target(tmp_path / name, '--out', dict(config=str(tmp_path / 'a.py')))
    assert [path.name for path in tmp_path.iterdir()] == ['b.py']
