import copy
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from slab_det.cli import InputError, check_data
from slab_det.cli.data_checks import datasets_of

IMAGE = dict(id=1, file_name='1.png', height=4, width=4)
BOX = dict(id=1, image_id=1, category_id=1, bbox=[0, 0, 2, 2], area=4, iscrowd=0)
GOOD = dict(
    images=[IMAGE], annotations=[BOX], categories=[dict(id=1, name='disk'), dict(id=2, name='box')]
)


def picture(path, width=4, height=4):
    Image.new('RGB', (width, height)).save(path)


@pytest.fixture
def root(tmp_path):
    (tmp_path / 'train').mkdir()
    picture(tmp_path / 'train' / '1.png')
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
    check_data(config(root, metainfo=dict(classes=('disk',))), ('train',))
    # mmdet skips what is to be ignored before it looks at the box.
    ignored = dict(id=2, image_id=1, category_id=1, ignore=1)
    (root / 'train.json').write_text(json.dumps(dict(GOOD, annotations=[BOX, ignored])))
    check_data(config(root), ('train',))


def test_a_test_set_without_truth_serves_detections_that_are_only_written(root):
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
    picture(root / 'train' / 'deep' / '2.png')
    images = [
        dict(IMAGE, id=i, file_name=name)
        for i, name in enumerate(['1.png', 'deep/2.png', '3.png', 'no/4.png'], 1)
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
            "number 1, {'id': 1}, has no file_name and no height",
        ),
        (
            json.dumps(dict(GOOD, images=[IMAGE, dict(id=2, file_name='1.png', height=4)])),
            '1 of 2 images lack id, file_name, height or width (number 2, ',
        ),
        (
            json.dumps(
                dict(GOOD, annotations=[BOX, dict(id=2, image_id=1, category_id=1, area=1)])
            ),
            '1 of 2 annotations have no bbox of four finite numbers',
        ),
        (
            json.dumps(dict(GOOD, annotations=[BOX, dict(id=2, category_id=1, ignore=1)])),
            ', has no image_id): ',
        ),
        (
            json.dumps(dict(GOOD, annotations=[7])),
            '1 of 1 annotations lack id, image_id or category_id (number 1, {}, has no id',
        ),
        (
            json.dumps(dict(GOOD, categories=[dict(name='disk')])),
            "1 of 1 categories lack id or name (number 1, {'name': 'disk'}, has no id)",
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


def test_data_sets_in_vocs_format_need_their_files_and_have_no_masks(root):
    (root / 'train.txt').write_text('000001\n000002\n')
    voc = dict(type='VOCDataset', ann_file='train.txt', data_prefix=dict(sub_data_root='voc'))
    cfg = config(root, **voc)
    for folder, ending in (('Annotations', 'xml'), ('JPEGImages', 'jpg')):
        (root / 'voc' / folder).mkdir(parents=True)
        for name in ('000001', '000002'):
            if (folder, name) != ('JPEGImages', '000002'):
                (root / 'voc' / folder / f'{name}.{ending}').write_text('')
    message = refusal(cfg)
    assert f'{root}/voc/JPEGImages has no 000002.jpg (1 of 2 are not there)' in message
    (root / 'voc/JPEGImages/000002.jpg').write_text('')
    check_data(cfg, ('train',))
    masks = [dict(type='LoadAnnotations', with_mask=True)]
    assert 'pipeline loads masks, which files in VOC' in refusal(
        config(root, pipeline=masks, **voc)
    )


def write(root, name='train.json', **changes):
    (root / name).write_text(json.dumps(dict(GOOD, **changes)))


def many(count, **changes):
    return [dict(BOX, id=i, **changes) for i in range(1, count + 1)]


def test_every_kind_of_fault_is_told_once_with_counts_and_three_places(root):
    boxes = many(5, bbox=None) + [dict(BOX, id=6, area='x'), dict(BOX, id=6)]
    write(root, annotations=boxes)
    message = refusal(config(root))
    assert message.startswith(f'train_dataloader.dataset.ann_file {root}/train.json: ')
    assert '5 of 7 annotations have no bbox of four finite numbers' in message
    assert (
        '(annotation 1 of 1.png: bbox None; annotation 2 of 1.png: bbox None; '
        'annotation 3 of 1.png: bbox None)' in message
    )
    assert '1 of 7 annotations have no area that is a finite number' in message
    assert '1 of 7 annotations have the id of an earlier one (annotation 6 of 1.png)' in message
    assert message.count('tools/check_data.py --ann') == 1


def test_what_is_survived_is_warned_of_with_a_count(root, capsys):
    outside = [dict(BOX, id=2, bbox=[9, 9, 2, 2]), dict(BOX, id=3, area=0)]
    write(root, annotations=[BOX, *outside, dict(BOX, id=4, category_id=9)])
    check_data(config(root), ('train',), announce=True)
    out, err = capsys.readouterr()
    assert out == 'train: 1 of 1 images, 1 of 4 annotations, 2 classes\n'
    assert '1 of 4 annotations lie outside their image or have no extent' in err
    assert '1 of 4 annotations have an area of 0 or less' in err
    assert '1 of 4 annotations belong to no category of the file' in err
    assert all(line.startswith('warning: ') for line in err.splitlines())


def test_one_line_counts_all_sets_of_a_phase(root, capsys):
    cfg = config(root)
    inner = cfg.train_dataloader.dataset
    small = dict(inner, filter_cfg=dict(filter_empty_gt=True, min_size=5))
    cfg.train_dataloader.dataset = dict(
        type='ConcatDataset', datasets=[inner, dict(type='RepeatDataset', times=2, dataset=inner)]
    )
    check_data(cfg, ('train',), announce=True)
    said = capsys.readouterr().out
    assert said == 'train: 2 of 2 images, 2 of 2 annotations, 2 classes\n'
    cfg.train_dataloader.dataset = small
    assert 'none of the 1 images remains' in refusal(cfg)


def test_other_processes_leave_it_to_the_first(root, monkeypatch):
    monkeypatch.setenv('RANK', '1')
    check_data(config(root, ann_file='gone.json'), ('train',))


def test_boxes_that_are_all_dropped_are_refused(root):
    write(root, annotations=many(3, area=0))
    assert 'none of the 3 annotations remains' in refusal(config(root))
    write(root, annotations=many(3, iscrowd='0'))
    assert "all 3 annotations that remain are marked as crowds (iscrowd='0')" in refusal(
        config(root)
    )
    write(root, annotations=[])
    assert 'has no annotation to train on' in refusal(config(root))


def test_ids_of_other_types_are_refused(root):
    write(root, images=[dict(IMAGE, id='1')])
    assert "image_id is 1, the id of an image is '1'" in refusal(config(root))
    write(root, annotations=many(1, category_id='1'))
    assert "category_id is '1', the id of a category is 1" in refusal(config(root))
    write(root, images=[IMAGE, dict(IMAGE, file_name='2.png')])
    assert '1 of 2 images have the id of an earlier one' in refusal(config(root))
    write(root, annotations=many(1, image_id=[1]))
    assert 'that is not a number or a text' in refusal(config(root))


def test_classes_must_be_in_the_order_of_the_file(root):
    message = refusal(config(root, metainfo=dict(classes=('box', 'disk'))))
    assert "label 0 is 'disk' in the file and 'box' in train_dataloader.dataset.metainfo" in message
    twice = [dict(id=0, name='disk'), *GOOD['categories']]
    write(root, categories=twice)
    message = refusal(config(root))
    assert "several categories of the name 'disk'" in message
    assert 'category 0 with 0 annotations; category 1 with 1 annotations' in message
    write(root, categories=[dict(id=1, name='disk'), dict(id=1, name='box')])
    assert 'several categories with the id 1' in refusal(config(root))


def test_classes_must_be_names(root):
    message = refusal(config(root, metainfo=dict(classes='disk')))
    assert "is the text 'disk'" in message and "write ('disk',)" in message
    (root / 'names.txt').write_text('disk\nbox\n')
    check_data(config(root, metainfo=dict(classes=str(root / 'names.txt'))), ('train',))
    message = refusal(config(root, metainfo=dict(classes=('disk', 'disk'))))
    assert "names 'disk' twice" in message


def test_all_sets_must_have_the_same_classes(root):
    cfg = config(root)
    cfg.val_dataloader = config(root, metainfo=dict(classes=('disk',))).train_dataloader
    message = refusal(cfg)
    assert 'val_dataloader.dataset.metainfo.classes and those of train_dataloader' in message
    assert '1 and 2 classes' in message


def test_masks_matter_where_they_are_loaded(root):
    load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_mask=True)]
    good = dict(segmentation=[[0, 0, 2, 0, 2, 2]])
    for wrong, reason in (
        ([], 'have no segmentation or an empty one'),
        (
            [0, 0, 2, 0, 2, 2],
            'have a segmentation that is neither polygons of finite numbers nor run lengths',
        ),
        (
            [[0, 0, 2, None, 2, 2]],
            'have a segmentation that is neither polygons of finite numbers nor run lengths',
        ),
        (dict(size=[4, 4], counts="b'T1n0'"), 'have run lengths that do not fill their size'),
        (dict(size=[4, 4], counts=[3, 4]), 'have run lengths that do not fill their size'),
        (dict(size=[4, 5], counts=[20]), 'have run lengths of another size'),
    ):
        write(root, annotations=[dict(BOX, **good), dict(BOX, id=2, segmentation=wrong)])
        check_data(config(root), ('train',))
        message = refusal(config(root, pipeline=load))
        assert f'1 of 2 annotations {reason}' in message and 'annotation 2 of 1.png' in message
    write(root, annotations=[dict(BOX, segmentation=dict(size=[4, 4], counts=[3, 4, 9]))])
    check_data(config(root, pipeline=load), ('train',))


def test_an_evaluation_needs_iscrowd_and_ids_other_than_0(root, capsys):
    cfg = config(root)
    cfg.val_dataloader = cfg.train_dataloader
    cfg.val_evaluator = dict(type='CocoMetric', ann_file=str(root / 'train.json'))
    plain = {key: value for key, value in BOX.items() if key != 'iscrowd'}
    write(root, annotations=[plain])
    check_data(config(root), ('train',))
    message = refusal(cfg)
    assert message.startswith('val_evaluator.ann_file') and 'have no iscrowd' in message
    write(root, annotations=[dict(BOX, id=0)])
    check_data(cfg, ('train', 'val'))
    assert 'with which pycocotools counts a hit as a false detection' in capsys.readouterr().err
    write(root, annotations=[dict(BOX, id='a')])
    assert 'have a text as id' in refusal(cfg)


def test_every_set_and_metric_of_several_is_checked(root):
    cfg = config(root)
    sets = [dict(cfg.train_dataloader.dataset), dict(cfg.train_dataloader.dataset)]
    write(root, 'second.json', annotations=many(2, bbox=[0, 0]))
    sets[1]['ann_file'] = 'second.json'
    cfg.val_dataloader = dict(dataset=dict(type='ConcatDataset', datasets=sets))
    assert refusal(cfg).startswith('val_dataloader.dataset.datasets.1.ann_file')
    cfg.val_dataloader = cfg.train_dataloader
    metrics = [
        dict(type='CocoMetric', ann_file=str(root / name)) for name in ('train.json', 'second.json')
    ]
    cfg.val_evaluator = dict(type='MultiDatasetsEvaluator', metrics=metrics)
    assert refusal(cfg).startswith('val_evaluator.metrics.1.ann_file')


def test_images_of_another_decoded_size_are_told(root, capsys):
    image = Image.new('RGB', (6, 4))
    tags = image.getexif()
    tags[0x0112] = 6
    image.save(root / 'train' / '1.jpg', exif=tags)
    write(root, images=[dict(IMAGE, file_name='1.jpg', width=6)])
    check_data(config(root), ('train',))
    err = capsys.readouterr().err
    assert (
        'EXIF orientation' in err
        and '1.jpg is 4 x 6, EXIF orientation 6, the file says 6 x 4' in err
    )
    stored = [dict(type='LoadImageFromFile', color_type='color_ignore_orientation')]
    check_data(config(root, pipeline=[*stored, dict(type='LoadAnnotations')]), ('train',))
    assert 'EXIF' not in capsys.readouterr().err


def test_strips_that_resizing_would_lose_are_refused(root):
    picture(root / 'train' / '1.png', 400, 1)
    write(root, images=[dict(IMAGE, width=400, height=1)], annotations=many(1, bbox=[0, 0, 5, 1]))
    steps = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations'),
        dict(type='Resize', scale=(100, 50), keep_ratio=True),
    ]
    assert 'leaves no pixel of a side (1.png, 400 x 1)' in refusal(config(root, pipeline=steps))
    picture(root / 'train' / '1.png', 200, 1)
    write(root, images=[dict(IMAGE, width=200, height=1)], annotations=many(1, bbox=[0, 0, 5, 1]))
    check_data(config(root, pipeline=steps), ('train',))


SETTINGS = (  # noqa: SIM905
    'type data_root ann_file data_prefix metainfo filter_cfg backend_args pipeline indices '
    'test_mode dataset datasets metric metrics'
).split()
JUNK = st.sampled_from(
    [
        None,
        0,
        -1,
        3,
        0.5,
        True,
        '',
        'x',
        'disk',
        [],
        [0],
        [1, 'x'],
        [None],
        {},
        dict(img=3),
        dict(classes=3),
        dict(classes='disk'),
        dict(classes=('disk', 'disk')),
        dict(classes=[1]),
        dict(min_size='x'),
        dict(filter_empty_gt=True, min_size=99),
        dict(type=3),
        [dict(type='LoadAnnotations', with_mask=True)],
        [dict(type='Resize', scale=0)],
        'CocoDataset',
        'NoSuchDataset',
        'VOCDataset',
        dict(type='CocoDataset', ann_file='x'),
    ]  # fmt: skip
)


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(changes=st.lists(st.tuples(st.integers(0, 2), st.sampled_from(SETTINGS), JUNK), min_size=1))
def test_configs_that_are_corrupted_at_random_pass_or_are_refused(root, changes):
    cfg = config(root)
    cfg.val_dataloader = copy.deepcopy(cfg.train_dataloader)
    cfg.val_evaluator = dict(type='CocoMetric', ann_file=str(root / 'train.json'))
    nodes = (cfg.train_dataloader.dataset, cfg.val_dataloader.dataset, cfg.val_evaluator)
    for index, name, value in changes:
        nodes[index][name] = copy.deepcopy(value)
    try:
        check_data(cfg, ('train', 'val'))
    except InputError as error:
        assert '\n' not in str(error)


def test_all_files_are_judged_before_one_sentence_names_their_faults(root, capsys):
    write(root, annotations=many(2, bbox=None))
    write(root, 'val.json', annotations=many(2, area=None))
    cfg = config(root)
    cfg.val_dataloader = config(root, ann_file='val.json').train_dataloader
    cfg.test_dataloader = cfg.train_dataloader
    with pytest.raises(InputError) as error:
        check_data(cfg, ('train', 'val', 'test'))
    message = str(error.value)
    assert message.index('train.json: 2 of 2 annotations have no bbox') < message.index(
        f'; val_dataloader.dataset.ann_file {root}/val.json: 2 of 2 annotations have no area'
    )
    assert 'test_dataloader' not in message  # the file was named already
    write(root, annotations=[BOX, dict(BOX, id=2, area=0)])
    cfg.val_dataloader = cfg.train_dataloader
    check_data(cfg, ('train', 'val', 'test'))
    assert capsys.readouterr().err.count('have an area of 0 or less') == 1


def test_a_metric_without_a_file_needs_the_truth_in_the_samples(root):
    pack = dict(type='PackDetInputs', meta_keys=('img_id', 'img_path'))
    cfg = config(root)
    cfg.val_dataloader = config(root, pipeline=[pack]).train_dataloader
    cfg.val_evaluator = [dict(type='CocoMetric', format_only=True), dict(type='CocoMetric')]
    message = refusal(cfg)
    assert message.startswith('val_evaluator.1 has no ann_file') and "add 'instances'" in message
    pack['meta_keys'] += ('instances',)
    cfg.val_dataloader = config(root, pipeline=[pack]).train_dataloader
    check_data(cfg, ('train', 'val'))
