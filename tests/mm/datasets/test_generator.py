import hashlib
import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from slab_det.mm.datasets import DatasetError, generator, make_shapes_dataset

SMALL = dict(num_train=4, num_val=2, size=(64, 90), seed=3)


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


def test_two_runs_write_the_same_bytes(tmp_path):
    assert make_shapes_dataset(tmp_path / 'a', **SMALL)
    code = (
        'import sys, cv2; cv2.setNumThreads(1); '
        'from slab_det.mm.datasets import make_shapes_dataset; '
        f'make_shapes_dataset(sys.argv[1], **{SMALL!r})'
    )
    subprocess.run([sys.executable, '-c', code, str(tmp_path / 'b')], check=True)
    assert digests(tmp_path / 'a') == digests(tmp_path / 'b')
    assert len(digests(tmp_path / 'a')) == 4 + 2 + 2 + 1


def test_a_larger_set_starts_with_the_smaller_one(tmp_path):
    make_shapes_dataset(tmp_path / 'a', **SMALL)
    make_shapes_dataset(tmp_path / 'b', **{**SMALL, 'num_train': 6})
    small, large = digests(tmp_path / 'a'), digests(tmp_path / 'b')
    for name in small:
        if name.endswith('.png'):
            assert small[name] == large[name]


def test_training_and_validation_images_differ_and_so_do_seeds(tmp_path):
    make_shapes_dataset(tmp_path / 'a', **SMALL)
    make_shapes_dataset(tmp_path / 'b', **{**SMALL, 'seed': 4})
    pictures = [
        digest
        for folder in 'ab'
        for name, digest in digests(tmp_path / folder).items()
        if name.endswith('.png')
    ]
    assert len(set(pictures)) == len(pictures) == 12


def test_pictures_have_the_sizes_of_the_annotations_within_the_range_asked_for(tmp_path):
    make_shapes_dataset(tmp_path / 'a', num_train=12, num_val=1, size=(64, 90))
    coco = COCO(str(tmp_path / 'a' / 'annotations' / 'instances_train.json'))
    sides = []
    for image in coco.imgs.values():
        picture = cv2.imread(str(tmp_path / 'a' / 'train' / image['file_name']))
        assert picture.shape == (image['height'], image['width'], 3)
        sides += picture.shape[:2]
    assert 64 <= min(sides) < max(sides) <= 90
    assert len(coco.imgs) == 12


def test_a_second_call_writes_nothing(tmp_path):
    make_shapes_dataset(tmp_path / 'a', **SMALL)
    before = {path: os.stat(path).st_mtime_ns for path in (tmp_path / 'a').rglob('*')}
    assert not make_shapes_dataset(tmp_path / 'a', **SMALL)
    assert before == {path: os.stat(path).st_mtime_ns for path in (tmp_path / 'a').rglob('*')}


def test_other_arguments_replace_the_set(tmp_path):
    make_shapes_dataset(tmp_path / 'a', **SMALL)
    assert make_shapes_dataset(tmp_path / 'a', **{**SMALL, 'num_train': 2})
    make_shapes_dataset(tmp_path / 'b', **{**SMALL, 'num_train': 2})
    assert digests(tmp_path / 'a') == digests(tmp_path / 'b')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a', 'b']


def test_a_missing_picture_is_made_anew(tmp_path):
    make_shapes_dataset(tmp_path / 'a', **SMALL)
    before = digests(tmp_path / 'a')
    (tmp_path / 'a' / 'val' / '000001.png').unlink()
    assert make_shapes_dataset(tmp_path / 'a', **SMALL)
    assert digests(tmp_path / 'a') == before


def test_a_set_of_an_older_format_is_made_anew(tmp_path, monkeypatch):
    make_shapes_dataset(tmp_path / 'a', **SMALL)
    monkeypatch.setattr(generator, 'FORMAT', generator.FORMAT + 1)
    assert make_shapes_dataset(tmp_path / 'a', **SMALL)
    assert not make_shapes_dataset(tmp_path / 'a', **SMALL)


def test_an_empty_folder_is_filled(tmp_path):
    assert make_shapes_dataset(tmp_path, **SMALL)
    assert (tmp_path / 'manifest.json').is_file()


@pytest.mark.parametrize(
    'spoil',
    [
        lambda folder: (folder / 'notes.txt').write_text('mine'),
        lambda folder: (folder / 'val' / '000001.png').write_bytes(b'edited'),
    ],
)
def test_what_somebody_else_wrote_is_not_overwritten(tmp_path, spoil):
    make_shapes_dataset(tmp_path / 'a', **SMALL)
    spoil(tmp_path / 'a')
    before = digests(tmp_path / 'a')
    with pytest.raises(DatasetError, match='(notes.txt|000001.png).*added or changed'):
        make_shapes_dataset(tmp_path / 'a', **{**SMALL, 'seed': 9})
    assert digests(tmp_path / 'a') == before


@pytest.mark.parametrize('manifest', [None, '{"files": 3}', 'not json', '{"files": {}}'])
def test_a_foreign_folder_is_refused(tmp_path, manifest):
    (tmp_path / 'thesis.txt').write_text('years of work')
    if manifest is not None:
        (tmp_path / 'manifest.json').write_text(manifest)
    before = digests(tmp_path)
    with pytest.raises(DatasetError, match='did not make'):
        make_shapes_dataset(tmp_path, **SMALL)
    assert digests(tmp_path) == before


def test_a_file_in_the_place_is_refused(tmp_path):
    (tmp_path / 'a').write_text('a file')
    with pytest.raises(DatasetError, match='not a folder'):
        make_shapes_dataset(tmp_path / 'a', **SMALL)


def test_nothing_is_left_when_the_work_is_cut_short(tmp_path):
    make_shapes_dataset(tmp_path / 'a', **SMALL)
    before = digests(tmp_path)

    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    for name in ('a', 'new'):
        with pytest.raises(KeyboardInterrupt):
            make_shapes_dataset(tmp_path / name, **{**SMALL, 'seed': 5}, progress=stop)
    assert digests(tmp_path) == before


def test_a_full_disk_leaves_the_old_set(tmp_path, monkeypatch):
    make_shapes_dataset(tmp_path / 'a', **SMALL)
    before = digests(tmp_path)

    def full(path, image):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(generator, 'write_png', full)
    with pytest.raises(DatasetError, match='No space left on device'):
        make_shapes_dataset(tmp_path / 'a', **{**SMALL, 'seed': 5})
    assert digests(tmp_path) == before


def test_the_old_set_comes_back_when_the_new_one_cannot_be_moved_in(tmp_path, monkeypatch):
    make_shapes_dataset(tmp_path / 'a', **SMALL)
    before, rename = digests(tmp_path), os.rename

    def refuse(source, target):
        if os.path.basename(source) == 'new':
            raise OSError(5, 'Input/output error')
        rename(source, target)

    monkeypatch.setattr(os, 'rename', refuse)
    with pytest.raises(DatasetError, match='Input/output error'):
        make_shapes_dataset(tmp_path / 'a', **{**SMALL, 'seed': 5})
    assert digests(tmp_path) == before


@pytest.mark.parametrize(
    'wrong, message',
    [
        (dict(num_train=0), 'num_train=0 must'),
        (dict(num_val=-1), 'num_val=-1 must'),
        (dict(num_val=2.5), 'num_val=2.5 must'),
        (dict(size=(10, 90)), r'size: got \(10, 90\)'),
        (dict(size=(90, 64)), r'size: got \(90, 64\)'),
        (dict(size=(64,)), r'size: got \(64,\)'),
        (dict(seed=-1), 'seed=-1 must'),
        (dict(seed='0'), "seed='0' must"),
    ],
)
def test_bad_arguments_are_named_and_nothing_is_written(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        make_shapes_dataset(tmp_path / 'a', **{**SMALL, **wrong})
    assert list(tmp_path.iterdir()) == []


def test_manifest_lists_every_file_and_the_classes(tmp_path):
    make_shapes_dataset(tmp_path / 'a', **SMALL)
    manifest = json.loads((tmp_path / 'a' / 'manifest.json').read_text())
    assert set(manifest['files']) | {'manifest.json'} == set(digests(tmp_path / 'a'))
    assert manifest['classes'] == ['disk', 'box', 'triangle', 'star', 'ring']
    assert np.sum(list(manifest['files'].values())) > 0
