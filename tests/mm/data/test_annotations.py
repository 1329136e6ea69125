"""Annotation files corrupted at random, against what mmdet and pycocotools make of them."""

import contextlib
import copy
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmdet.datasets import CocoDataset
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from slab_det.errors import InputError
from slab_det.mm.data import Annotations, Use, read_annotations
from slab_det.mm.data.fixing import fix
from slab_det.mm.data.rules import ALL_ROLES, EVAL, EVAL_MASKS, READ, TRAIN, TRAIN_MASKS

CLASSES = ('cat', 'dog')
#: What exporters and people have put where a number, a list or a text belongs.
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, 1, -1, 2, 0.5, 10**400, float('nan'), float('inf'), '', '1', '0', 'cat']),
    st.sampled_from([[], [1], [[]], {}, [0, 0, 0, 0], ['0', '0', '5', '5'], [1, 2, 3, None]]),
    st.sampled_from(
        [
            dict(size=[30, 40], counts=[5, 5]),
            dict(size=[30, 40], counts="b'T1n0'"),
            dict(size=[30, 40], counts='T1n0'),
            dict(counts=[1200]),
            [[0, 0, 9, 0, 9]],
            [[0, 0, 9, 9], [0, 0, 9, 0, 9, 9]],
            [0, 0, 9, 0, 9, 9],
        ]
    ),
)
PATHS = [
    *(('images', key) for key in ('id', 'file_name', 'width', 'height')),
    *(('categories', key) for key in ('id', 'name')),
    *(('annotations', key) for key in ('id', 'image_id', 'category_id', 'bbox', 'area')),
    *(('annotations', key) for key in ('iscrowd', 'segmentation', 'ignore')),
]


def valid():
    images = [dict(id=i, file_name=f'{i}.png', width=40, height=30) for i in (1, 2, 3)]
    annotations = [
        dict(
            id=number,
            image_id=number % 3 + 1,
            category_id=number % 2 + 1,
            bbox=[2, 3, 10, 8],
            area=80,
            iscrowd=0,
            segmentation=[[2, 3, 12, 3, 12, 11, 2, 11]],
        )
        for number in range(1, 7)
    ]
    annotations[2].update(iscrowd=1, segmentation=dict(size=[30, 40], counts=[100, 80, 1020]))
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
    return dict(images=images, annotations=annotations, categories=categories)


@st.composite
def corrupted(draw):
    content = valid()
    for part, key in draw(st.lists(st.sampled_from(PATHS), min_size=1, max_size=4)):
        entry = draw(st.sampled_from(content[part])) if content[part] else None
        kind = draw(st.sampled_from(['value', 'value', 'absent', 'copy', 'remove', 'whole', 'all']))
        if entry is None:
            continue
        if kind == 'value':
            entry[key] = draw(JUNK)
        elif kind == 'absent':
            entry.pop(key, None)
        elif kind == 'copy':
            content[part].append(copy.deepcopy(entry))
        elif kind == 'remove':
            content[part].remove(entry)
        elif kind == 'whole':
            content[part][content[part].index(entry)] = draw(JUNK)
            content[part] = [one for one in content[part] if isinstance(one, dict)] or [{}]
        else:
            value = draw(JUNK)
            for one in content[part]:
                one[key] = copy.deepcopy(value)
    return content


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    return tmp_path_factory.mktemp('annotations') / 'a.json'


def judge(path, content, roles, **options):
    path.write_text(json.dumps(content))
    read = read_annotations(str(path), '--ann')
    options = dict(classes=CLASSES, keep_empty=False, min_size=10, **options)
    return Annotations(str(path), read).report(Use('--ann', frozenset(roles), **options))


def load(path):
    """What a training with masks loads: mmdet's data set and its LoadAnnotations."""
    with contextlib.redirect_stdout(io.StringIO()):
        return CocoDataset(
            ann_file=str(path),
            metainfo=dict(classes=CLASSES),
            data_prefix=dict(img=''),
            filter_cfg=dict(filter_empty_gt=True, min_size=10),
            pipeline=[
                lambda info: {**info, 'ori_shape': (info['height'], info['width'])},
                dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True),
            ],
        )


def hypothesis(function):
    return settings(
        max_examples=150,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
        derandomize=True,
    )(function)


@hypothesis
@given(content=corrupted())
def test_what_passes_is_loaded_as_told_and_the_rest_is_refused_in_one_sentence(place, content):
    try:
        report = judge(place, content, {READ, TRAIN, TRAIN_MASKS})
        report.require_sound()
    except InputError as error:
        assert '\n' not in str(error) and str(place) in str(error)
        return
    dataset = load(place)
    loaded = [dataset[index] for index in range(len(dataset))]
    assert len(dataset) == report.images_kept
    assert sum(len(one['instances']) for one in loaded) == report.annotations_kept
    labels = [label for one in loaded for label in one['gt_bboxes_labels']]
    assert np.bincount(labels, minlength=2).tolist() == report.per_class.sum(1).tolist()
    names = {one['id']: one['name'] for one in content['categories']}
    assert all(names[number] == CLASSES[label] for number, label in dataset.cat2label.items())
    assert report.annotations_kept > 0


@hypothesis
@given(content=corrupted())
def test_what_passes_is_evaluated(place, content):
    try:
        judge(place, content, {READ, EVAL, EVAL_MASKS}).require_sound()
    except InputError as error:
        assert '\n' not in str(error)
        return
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(place))
        numbers = truth.getCatIds(catNms=CLASSES)
        found = truth.loadRes(
            [
                dict(image_id=image, category_id=numbers[0], bbox=[2, 3, 10, 8], score=0.5)
                for image in truth.getImgIds()
            ]
        )
        for kind in ('bbox', 'segm'):
            evaluation = COCOeval(truth, found, kind)
            evaluation.params.catIds = numbers
            evaluation.evaluate()
            evaluation.accumulate()


@hypothesis
@given(content=corrupted())
def test_a_corrected_copy_only_changes_what_was_wrong(place, content):
    fixed, changes = fix(content)
    again, more = fix(fixed)
    assert more == [] and again == fixed
    sound = {json.dumps(one, sort_keys=True) for one in valid()['annotations']}
    before = [one for one in content['annotations'] if json.dumps(one, sort_keys=True) in sound]
    if not changes:
        assert fixed == content
    if fixed['images'] and fixed['annotations'] and fixed['categories']:
        place.write_text(json.dumps(fixed))
        report = Annotations(str(place), fixed).report(Use(roles=frozenset({READ, TRAIN, EVAL})))
        assert not {finding.kind for finding in report.refused} & {
            'annotation-entry',
            'annotation-id',
            'annotation-id-twice',
            'crowd',
            'crowd-missing',
            'box',
            'area',
            'reference',
            'category-twice',
            'annotation-id-text',
        }
    boxes = [one['bbox'] for one in fixed['annotations']]
    if fixed['images'] == content['images'] and fixed['categories'] == content['categories']:
        assert all(one['bbox'] in boxes for one in before)


def test_a_sound_file_has_no_findings(place):
    report = judge(place, valid(), ALL_ROLES)
    assert report.findings == []
    assert report.summary('train') == 'train: 3 of 3 images, 6 of 6 annotations, 2 classes'
    # 80 pixels are small; labels of annotations 1 to 6 are 1 and 0 by turns.
    assert report.per_class.tolist() == [[3, 0, 0], [3, 0, 0]]


def test_indices_are_those_of_mmengine(place):
    for indices, images in ((2, 2), (-1, 1), ([0, 2], 2), (0, 0)):
        report = judge(place, valid(), {READ}, indices=indices)
        assert report.images_kept == images


@pytest.mark.parametrize(
    'name, change, text',
    [
        # Each as the exporter of that name has been seen to write it.
        ('labelme', dict(area=None), '6 of 6 annotations have no area'),
        ('VIA', dict(segmentation=[2, 3, 12, 3, 12, 11]), 'neither polygons of finite numbers'),
        ('Label Studio', dict(segmentation=[]), 'have no segmentation or an empty one'),
        ('FiftyOne', dict(iscrowd=None), 'have an iscrowd that is not a number'),
        ('Datumaro', dict(id='a7'), 'have a text as id'),
        ('CVAT', dict(bbox=['2', '3', '10', '8']), 'have no bbox of four finite numbers'),
    ],
)
def test_what_exporters_write_is_told_and_corrected(place, name, change, text):
    content = valid()
    for number, one in enumerate(content['annotations']):
        one.update(change)
        if 'id' in change:
            one['id'] = f'a{number}'
    report = judge(place, content, ALL_ROLES)
    assert any(text in str(finding) for finding in report.refused), name
    fixed, changes = fix(content)
    if change.get('segmentation') == []:  # nobody knows a mask that was not drawn
        assert not changes
    else:
        assert changes and judge(place, fixed, ALL_ROLES).refused == []
    assert [one['bbox'] for one in fixed['annotations']] == [[2, 3, 10, 8]] * 6


def test_a_roboflow_root_category_is_joined_with_the_class_of_its_name(place):
    content = valid()
    content['categories'].insert(0, dict(id=0, name='cat', supercategory='none'))
    assert 'category-twice' in {one.kind for one in judge(place, content, {READ}).refused}
    fixed, changes = fix(content)
    assert [one['id'] for one in fixed['categories']] == [1, 2]
    assert changes == ["1 more categories of the name 'cat' removed"]
    assert fixed['annotations'] == valid()['annotations']


def test_areas_of_polygons_are_computed(place):
    content = valid()
    content['annotations'][0].update(area=0, segmentation=[[0, 0, 10, 0, 0, 6]])
    fixed, _ = fix(content)
    assert fixed['annotations'][0]['area'] == 30  # half of 10 x 6
    assert content['annotations'][0]['area'] == 0  # the original is left alone


def test_a_file_is_not_changed_in_place(place):
    place.write_text(json.dumps(valid()))
    before = Path(place).read_bytes()
    content = read_annotations(str(place), '--ann')
    Annotations(str(place), content).report(Use())
    assert Path(place).read_bytes() == before and content == valid()
