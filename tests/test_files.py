"""Files appear whole or not at all."""

import os
import subprocess
import sys

import pytest
import torch

from slab_det.cli import InputError, whole_file, write_checkpoint


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
