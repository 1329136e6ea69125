"""Files appear whole or not at all."""
import os

import pytest

from slab_det.cli import InputError, whole_file


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
        1 / 0
    assert path.read_text() == 'old' and os.listdir(tmp_path) == ['a.txt']


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / 'file').write_text('')
    path = tmp_path / 'file' / 'folder' / 'a.txt'
    with pytest.raises(InputError, match=f'--out {path} cannot be written: '), whole_file(path, '--out'):
        raise AssertionError('the block must not run')
    assert (tmp_path / 'file').is_file()
