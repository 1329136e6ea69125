"""What a file says of itself, from configs."""

import pytest

from slab_det.mm.onnx.metadata import file_metadata


def config(*steps, **dataset):
    pipeline = [dict(type='LoadImageFromFile'), *steps, dict(type='PackDetInputs')]
    return dict(
        test_dataloader=dict(dataset=dict(type='CocoDataset', pipeline=pipeline, **dataset))
    )


RESIZE = dict(type='Resize', scale=(1333, 800), keep_ratio=True)


def test_resizing_and_classes_come_from_the_test_set():
    found = file_metadata(config(RESIZE, metainfo=dict(classes=('a', 'b'))), None, 0.5)
    assert found == dict(
        version=1,
        classes=['a', 'b'],
        mask_threshold=0.5,
        resize=dict(scale=[1333, 800], keep_ratio=True),
    )
    assert file_metadata(config(), ['x'], None)['resize'] is None


def test_classes_default_to_those_of_the_data_set_type():
    assert len(file_metadata(config(RESIZE), None, None)['classes']) == 80


def test_wrapped_data_sets_are_opened():
    cfg = config(RESIZE, metainfo=dict(classes='one'))
    cfg['test_dataloader']['dataset'] = dict(
        type='RepeatDataset', dataset=cfg['test_dataloader']['dataset']
    )
    assert file_metadata(cfg, None, None)['classes'] == ['one']


@pytest.mark.parametrize(
    'step',
    [
        dict(type='Pad', size_divisor=32),
        dict(type='RandomFlip'),
        dict(type='Resize', scale_factor=2.0),
        dict(RESIZE, backend='pillow'),
        dict(RESIZE, interpolation='nearest'),
    ],
)
def test_pipelines_that_a_file_cannot_describe_are_refused(step):
    with pytest.raises(ValueError, match=step['type']):
        file_metadata(config(step, metainfo=dict(classes=('a',))), None, None)
    with pytest.raises(ValueError, match='Resize'):
        file_metadata(config(RESIZE, RESIZE), ['a'], None)
