import json
from pathlib import Path

import pytest

from slab_det.cli import InputError, check_data, data_checks
from slab_det.cli.data_checks import check_annotations, datasets_of

IMAGE = dict(id=1, file_name='1.png', height=4, width=4)
BOX = dict(id=1, image_id=1, category_id=1, bbox=[0, 0, 2, 2], area=4)
GOOD = dict(
    images=[IMAGE], annotations=[], categories=[dict(id=1, name='disk'), dict(id=2, name='box')]
)


@pytest.fixture
def root(tmp_path):
    (tmp_path / 'train').mkdir()
    (tmp_path / 'train' / '1.png').write_bytes(b'')
    (tmp_path / 'train.json').write_text(json.dumps(GOOD))
    return tmp_path


def config(root, **changes):
    from mmengine.config import Config

    dataset = dict(
        type='CocoDataset',
        data_root=str(root),
        ann_file='train.json',
        data_prefix=dict(img='train/'),
        metainfo=dict(classes=('disk', 'box')),
    )
    dataset.update(changes)
    return Config(dict(train_dataloader=dict(dataset=dataset)))


def refusal(cfg):
    with pytest.raises(InputError) as error:
        check_data(cfg, ('train', 'val'))
    assert '\n' not in str(error.value)
    return str(error.value)


def test_sound_data_pass(root):
    check_data(config(root), ('train', 'val'))
    check_data(config(root, metainfo=dict(classes=('box',))), ('train',))
    # mmdet skips what is to be ignored before it looks at the box.
    ignored = dict(id=2, image_id=1, category_id=1, ignore=1)
    (root / 'train.json').write_text(json.dumps(dict(GOOD, annotations=[BOX, ignored])))
    check_data(config(root), ('train',))


@pytest.mark.parametrize('large', [False, True])
def test_a_test_set_without_truth_serves_detections_that_are_only_written(root, monkeypatch, large):
    if large:
        monkeypatch.setattr(data_checks, '_PARSE_BELOW', 8)
    # As COCO publishes test-dev.
    (root / 'train.json').write_text(
        json.dumps({key: GOOD[key] for key in ('images', 'categories')})
    )
    cfg = config(root)
    cfg.test_dataloader, cfg.test_evaluator = (
        cfg.train_dataloader,
        dict(type='CocoMetric', format_only=True),
    )
    check_data(cfg, ('test',))
    cfg.test_evaluator = [dict(type='CocoMetric', format_only=True), dict(type='CocoMetric')]
    for phase in ('train', 'test'):
        with pytest.raises(InputError, match='it has no list of annotations'):
            check_data(cfg, (phase,))


def test_a_missing_data_root_is_named(root):
    message = refusal(config(root, data_root='no/such/place'))
    assert message.startswith('train_dataloader.dataset.data_root no/such/place is not a folder')
    assert '--cfg-options train_dataloader.dataset.data_root=FOLDER' in message


def test_missing_files_are_named(root):
    assert f'train_dataloader.dataset.ann_file {root}/x.json is not a file' in refusal(
        config(root, ann_file='x.json')
    )
    assert f'data_prefix.img {root}/val is not a folder' in refusal(
        config(root, data_prefix=dict(img='val'))
    )
    (root / 'train' / '1.png').unlink()
    assert 'names the image 1.png' in refusal(config(root))


def test_images_that_are_lost_anywhere_in_the_list_are_named(root):
    (root / 'train' / 'deep').mkdir()
    (root / 'train' / 'deep' / '2.png').write_bytes(b'')
    images = [
        dict(IMAGE, id=i, file_name=name)
        for i, name in enumerate(['1.png', 'deep/2.png', '3.png', 'no/4.png'])
    ]
    (root / 'train.json').write_text(json.dumps(dict(GOOD, images=images)))
    message = refusal(config(root))
    assert f'names the image 3.png, which is not in {root}/train/ (2 of 4 are not)' in message
    (root / 'train.json').write_text(json.dumps(dict(GOOD, images=images[:2])))
    check_data(config(root), ('train',))


@pytest.mark.parametrize(
    'content, reason',
    [
        ('', 'it is no JSON'),
        (json.dumps(GOOD)[:-20], 'it is no JSON'),
        ('[1, 2]', 'it has no list of images and annotations and categories'),
        (
            json.dumps(dict(images=[IMAGE], annotations={}, categories=[])),
            'it has no list of annotations',
        ),
        (
            json.dumps(dict(GOOD, images=[dict(id=1)])),
            "number 1 of its images, {'id': 1}, has no file_name and no height",
        ),
        (
            json.dumps(dict(GOOD, images=[IMAGE, dict(id=2, file_name='1.png', height=4)])),
            'number 2 of its images',
        ),
        (
            json.dumps(
                dict(GOOD, annotations=[BOX, dict(id=2, image_id=1, category_id=1, area=1)])
            ),
            ', has no bbox: ',
        ),
        (
            json.dumps(dict(GOOD, annotations=[BOX, dict(id=2, category_id=1, ignore=1)])),
            ', has no image_id: ',
        ),
        (
            json.dumps(dict(GOOD, annotations=[7])),
            'number 1 of its annotations, 7, has no id and no image_id',
        ),
        (
            json.dumps(dict(GOOD, categories=[dict(name='disk')])),
            "number 1 of its categories, {'name': 'disk'}, has no id",
        ),
        (json.dumps(dict(GOOD, images=[])), 'lists no images'),
    ],
)
def test_an_annotation_file_that_is_not_coco_is_refused(root, content, reason):
    (root / 'train.json').write_text(content)
    message = refusal(config(root))
    assert f'train_dataloader.dataset.ann_file {root}/train.json' in message and reason in message


def test_classes_without_a_category_are_refused(root):
    message = refusal(config(root, metainfo=dict(classes=('disk', 'ring'))))
    assert "no category 'ring'" in message and "'disk', 'box'" in message
    message = refusal(config(root, metainfo=None))  # then COCO's 80 classes are meant
    assert "'person'" in message and 'and 75 more' in message


@pytest.mark.parametrize(
    'content, sound',
    [
        (json.dumps(GOOD), True),
        (json.dumps(GOOD, indent=1) + '\n', True),
        (json.dumps(GOOD)[:-1], False),
        (json.dumps(dict(GOOD, info=1)).replace('categories', 'classes'), False),
    ],
)
def test_large_files_are_checked_without_parsing(root, monkeypatch, content, sound):
    monkeypatch.setattr(data_checks, '_PARSE_BELOW', -1)
    monkeypatch.setattr(data_checks.json, 'load', None)
    path = root / 'large.json'
    path.write_text(content)
    if sound:
        check_annotations('ann_file', str(path))
    else:
        with pytest.raises(InputError, match='is not COCO'):
            check_annotations('ann_file', str(path))


def test_data_sets_are_found_in_every_wrapper():
    inner = [dict(type='CocoDataset', ann_file=name) for name in 'abc']
    node = dict(
        type='RepeatDataset',
        dataset=dict(
            type='ConcatDataset',
            datasets=[inner[0], dict(type='MultiImageMixDataset', dataset=inner[1]), inner[2]],
        ),
    )
    assert [path for path, _ in datasets_of(node, 'd')] == [
        'd.dataset.datasets.0',
        'd.dataset.datasets.1.dataset',
        'd.dataset.datasets.2',
    ]
    assert [found for _, found in datasets_of(node, 'd')] == inner


def test_the_evaluators_file_is_checked(root):
    from mmengine.config import Config

    cfg = Config(
        dict(
            val_evaluator=[
                dict(type='CocoMetric', ann_file=str(root / 'train.json')),
                dict(type='CocoMetric', ann_file='gone.json'),
            ]
        )
    )
    assert refusal(cfg).startswith('val_evaluator.1.ann_file gone.json is not a file')


def test_remote_data_are_left_to_mmengine():
    check_data(config('s3://bucket/coco'), ('train',))
    check_data(config('bucket', backend_args=dict(backend='petrel')), ('train',))


def test_data_sets_of_other_kinds_only_need_their_files(root):
    (root / 'train.txt').write_text('000001\n')
    check_data(
        config(root, type='VOCDataset', ann_file='train.txt', data_prefix=dict(sub_data_root='')),
        ('train',),
    )
    assert Path(root / 'train.txt').exists()
