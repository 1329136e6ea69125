"""Which images a calibration sees, through which pipeline, and what it shows meanwhile."""

import json

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset

from slab_det.mm.hooks.calibration_data import calibration_loader, images_as_tested, progress_bar
from tests.mm.tiny_runner import Numbers

#: Reads no file; what an image went through shows in what comes out.
TESTED = [dict(type='PackDetInputs', meta_keys=('img_id', 'img_path'))]
TRAINED = [dict(type='RandomFlip', prob=1.0), dict(type='PackDetInputs')]


@pytest.fixture
def part(tmp_path):
    """Return the config of a COCO data set with the given images, one of them without a box, with a
    pipeline of training, which also drops that one."""

    def config(name, ids):
        content = dict(
            images=[dict(id=i, file_name=f'{i}.png', height=8, width=8) for i in ids],
            annotations=[
                dict(id=i, image_id=i, category_id=1, bbox=[1, 1, 4, 4], area=16, iscrowd=0)
                for i in ids[1:]
            ],
            categories=[dict(id=1, name='a')],
        )
        (tmp_path / f'{name}.json').write_text(json.dumps(content))
        return dict(
            type='CocoDataset',
            ann_file=str(tmp_path / f'{name}.json'),
            data_prefix=dict(img=name),
            metainfo=dict(classes=('a',)),
            filter_cfg=dict(filter_empty_gt=True),
            pipeline=TRAINED,
        )

    return config


def repeated(*parts):
    return dict(type='RepeatDataset', times=3, dataset=parts[0])


def mixed(*parts):
    return dict(type='MultiImageMixDataset', dataset=parts[0], pipeline=[dict(type='Mosaic')])


def concatenated(*parts):
    return dict(type='ConcatDataset', datasets=list(parts))


def all_of_them(*parts):
    return mixed(dict(type='RepeatDataset', times=2, dataset=concatenated(*parts)))


@pytest.mark.parametrize(
    'wrap, ids',
    [
        (lambda *parts: parts[0], [3, 5, 8]),
        (repeated, [3, 5, 8]),
        (mixed, [3, 5, 8]),
        (concatenated, [3, 5, 8, 2, 4]),
        (all_of_them, [3, 5, 8, 2, 4]),
    ],
    ids=['plain', 'RepeatDataset', 'MultiImageMixDataset', 'ConcatDataset', 'nested'],
)
@pytest.mark.parametrize('test_wrapped', [False, True])
def test_each_image_inside_wrappers_comes_once_as_the_test_sees_it(part, wrap, ids, test_wrapped):
    train, tested = (
        wrap(part('one', [3, 5, 8]), part('two', [2, 4])),
        dict(part('val', [9]), pipeline=TESTED),
    )
    if test_wrapped:
        tested = concatenated(tested)
    dataset = images_as_tested(dict(dataset=train, batch_size=4), dict(dataset=tested))
    inner = dataset.datasets if isinstance(dataset, ConcatDataset) else [dataset]
    assert [one.get_data_info(i)['img_id'] for one in inner for i in range(len(one))] == ids
    for one in inner:
        assert one.test_mode  # so the image without a box is there, and a fault is no other image
        assert [type(step).__name__ for step in one.pipeline.transforms] == ['PackDetInputs']
        assert one.pipeline.transforms[0].meta_keys == ('img_id', 'img_path')
    first = [one.get_data_info(0)['img_path'] for one in inner]
    assert first == ['one/3.png', 'two/2.png'][: len(inner)]


def test_configs_stay_as_they_are(part):
    train = dict(dataset=repeated(part('one', [1, 2])))
    tested = dict(dataset=dict(part('val', [9]), pipeline=TESTED))
    before = json.dumps([train, tested])
    images_as_tested(train, tested)
    assert json.dumps([train, tested]) == before


@pytest.mark.parametrize(
    'train, tested, message',
    [
        (None, dict(dataset=dict(pipeline=[])), 'train_dataloader is NoneType and not a config'),
        (dict(dataset=dict(pipeline=[])), Numbers(), 'test_dataloader is Numbers and not a config'),
        (
            dict(dataset=dict(pipeline=[])),
            dict(dataset=dict(type='X')),
            'name no data set with a pipeline',
        ),
        (
            dict(dataset=repeated(dict(type='X'))),
            dict(dataset=dict(pipeline=[])),
            'name no data set with a',
        ),
    ],
)
def test_loaders_that_lead_to_no_images_are_refused(train, tested, message):
    with pytest.raises(ValueError, match=message):
        images_as_tested(train, tested)


def test_images_are_spread_evenly_and_shared():
    loader = calibration_loader(Numbers(10), 4)
    assert [batch['index'] for batch in loader] == [[1], [3], [6], [8]]
    assert np.diff(
        [batch['index'][0] for batch in calibration_loader(Numbers(3), 99)]
    ).tolist() == [1, 1]


def test_going_through_the_images_draws_nothing_from_the_random_numbers_of_training():
    state = torch.get_rng_state()
    assert len(list(calibration_loader(Numbers(3), 3))) == 3
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    'arguments, message',
    [
        ((Numbers(3), 0), 'num_images=0 must be a whole number of at least 1'),
        ((Numbers(0), 4), 'dataset has no images'),
    ],
)
def test_a_loader_without_images_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        calibration_loader(*arguments)


def test_the_bar_shows_the_pass_and_each_image(capsys):
    loader = calibration_loader(Numbers(3), 3)
    shown = iter(progress_bar(loader, 2))
    assert [next(shown)['index'], next(shown)['index']] == [[0], [1]]
    words = capsys.readouterr().out
    assert words == 'calibration, pass 2: 1 of 3\n'
    assert [batch['index'] for batch in shown] == [[2]]
    words = capsys.readouterr().out
    assert words.splitlines() == [f'calibration, pass 2: {done} of 3' for done in (2, 3)]


def test_other_processes_and_an_empty_share_show_nothing(capsys, monkeypatch):
    assert list(progress_bar([], 1)) == []
    monkeypatch.setattr('slab_det.mm.hooks.calibration_data.is_main_process', lambda: False)
    assert list(progress_bar([7, 8], 1)) == [7, 8]
    assert capsys.readouterr().out == ''
