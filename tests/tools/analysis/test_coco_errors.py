import json
from pathlib import Path

import cv2
import pytest

from slab_det.cli import InputError
from slab_det.mm.datasets import make_shapes_dataset
from tests.scripts import load_script


@pytest.fixture(scope='module')
def tool():
    return load_script('tools/analysis/coco_errors.py')


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The ground truth of three images, and results that repeat it."""
    make_shapes_dataset(tmp_path / 'shapes', 1, 3, (64, 80))
    truth = tmp_path / 'shapes/annotations/instances_val.json'
    content = json.loads(truth.read_text())
    from pycocotools import mask as mask_utils

    results = []
    for one in content['annotations']:
        encoded = mask_utils.frPyObjects(one['segmentation'], *one['segmentation']['size'])
        results.append(
            dict(
                image_id=one['image_id'],
                category_id=one['category_id'],
                score=0.9,
                bbox=one['bbox'],
                segmentation=dict(size=encoded['size'], counts=encoded['counts'].decode()),
            )
        )
    monkeypatch.chdir(tmp_path)
    return results, str(truth)


@pytest.mark.parametrize('kind', ['bbox', 'segm'])
def test_a_picture_and_a_table(tool, files, capsys, kind):
    results, truth = files
    Path('r.json').write_text(json.dumps(results))
    tool.main(tool.parse_args(['r.json', truth, '--kind', kind, '--out', 'a/e.png']))
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ['mean'] + ['1.000'] * 7 in rows
    assert cv2.imread('a/e.png').shape[1] > 1000


@pytest.mark.parametrize(
    'content, options, words',
    [
        (None, [], 'RESULTS.json r.json cannot be read'),
        ('{', [], 'RESULTS.json r.json cannot be read as JSON'),
        ('{"a": 1}', [], 'not a list of predictions'),
        ('[]', [], 'holds no prediction'),
        (
            '[{"image_id": 1, "category_id": 1, "score": 1, "bbox": [0, 0, 1, 1]}]',
            ['--kind', 'segm'],
            'without segmentation: give results with masks, or --kind bbox',
        ),
        ('[{"image_id": 1, "score": 1}]', [], 'without bbox, category_id'),
        (
            '[{"image_id": 77, "category_id": 1, "score": 1, "bbox": [0, 0, 1, 1]}]',
            [],
            'image 77, which is not in ANNOTATIONS.json',
        ),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(tool, files, tmp_path, content, options, words):
    if content is not None:
        Path('r.json').write_text(content)
    before = sorted(tmp_path.rglob('*'))
    with pytest.raises(InputError, match=words):
        tool.main(tool.parse_args(['r.json', files[1], *options]))
    assert sorted(tmp_path.rglob('*')) == before


def test_annotations_that_are_none(tool, files):
    Path('r.json').write_text('[]')
    with pytest.raises(InputError, match='ANNOTATIONS.json r.json is not COCO'):
        tool.main(tool.parse_args(['r.json', 'r.json']))
