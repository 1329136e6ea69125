from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from slab_det.mm.datasets import draw_scene, make_shapes_dataset
from tests.scripts import load_script

ROOT = Path(__file__).parents[2]
MASK_RCNN = str(ROOT / 'configs' / 'mini' / 'mask-rcnn_slab-swin_mini_shapes.py')
RETINANET = str(ROOT / 'configs' / 'mini' / 'retinanet_slab-swin_mini_shapes.py')


@pytest.fixture(scope='module')
def tool():
    return load_script('tools/visualize.py')


@pytest.fixture
def data(tmp_path, monkeypatch):
    make_shapes_dataset(tmp_path / 'shapes', num_train=1, num_val=3, size=(64, 96))
    monkeypatch.setenv('SHAPES_ROOT', str(tmp_path / 'shapes'))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def untrained(config, path):
    from mmdet.registry import MODELS
    from mmengine.config import Config

    cfg = Config.fromfile(config)
    with MODELS.switch_scope_and_registry('mmdet') as registry:
        torch.save(dict(state_dict=registry.build(cfg.model).state_dict(), meta={}), path)
    return str(path)


@pytest.mark.parametrize(
    'total, wanted, expected',
    [(10, 5, [0, 2, 4, 6, 8]), (10, 0, list(range(10))), (3, 9, [0, 1, 2]), (7, 2, [0, 3])],
)
def test_images_are_spread_over_the_set(tool, total, wanted, expected):
    assert tool.spread(total, wanted) == expected


def test_polygons_and_run_lengths_become_the_same_masks(tool):
    from slab_det.mm.datasets.coco import encode_rle

    polygon = [[10.0, 20.0, 50.0, 20.0, 50.0, 60.0, 10.0, 60.0]]
    mask = np.zeros((100, 120), bool)
    mask[20:60, 10:50] = True
    info = dict(
        instances=[
            dict(bbox_label=2, bbox=[10, 20, 50, 60], mask=annotation, ignore_flag=flag)
            for annotation, flag in ((polygon, 0), (encode_rle(mask), 1))
        ]
    )
    for one, ignored in zip(tool.true_instances(info, 100, 120), (False, True)):
        assert np.array_equal(one.mask, mask)
        assert (one.label, list(one.bbox), one.score) == (2, [10, 20, 50, 60], None)
        assert one.ignored is ignored


def test_boxes_alone_have_no_mask(tool):
    info = dict(instances=[dict(bbox_label=0, bbox=[1, 2, 3, 4], ignore_flag=0)])
    assert tool.true_instances(info, 10, 10)[0].mask is None
    assert tool.true_instances(dict(), 10, 10) == []


def test_predictions_keep_their_masks_and_the_weak_ones_go(tool):
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    scene = draw_scene(np.random.RandomState(0), 64, 64)
    masks = torch.from_numpy(np.stack([scene.instances == k for k in (0, 1)]))
    sample = DetDataSample(
        pred_instances=InstanceData(
            bboxes=torch.tensor([[0.0, 1, 2, 3], [4, 5, 6, 7]]),
            labels=torch.tensor([3, 1]),
            scores=torch.tensor([0.2, 0.8]),
            masks=masks,
        )
    )
    (one,) = tool.predicted_instances(sample, 0.3)
    assert (one.label, one.bbox) == (1, [4, 5, 6, 7])
    assert one.score == pytest.approx(0.8)
    assert np.array_equal(one.mask, scene.instances == 1)


@pytest.mark.slow
@pytest.mark.parametrize('config', [MASK_RCNN, RETINANET])
def test_draws_a_picture_per_image(tool, data, config):
    checkpoint = untrained(config, data / 'model.pth')
    tool.main(
        tool.parse_args(
            [
                config,
                checkpoint,
                '--out',
                str(data / 'pictures'),
                '--num',
                '2',
                '--score-thr',
                '0.05',
            ]
        )
    )
    pictures = sorted((data / 'pictures').iterdir())
    assert [path.name for path in pictures] == ['1_000001.png', '2_000002.png']
    for path in pictures:
        height, width = cv2.imread(str(path)).shape[:2]
        assert width >= 2 * 448 and height >= 448


@pytest.mark.parametrize(
    'wrong, message',
    [
        (['--split', 'test', '--cfg-options', 'test_dataloader=None'], '--split test'),
        (['--cfg-options', 'val_dataloader.dataset.data_root=nowhere'], 'nowhere'),
        ([], 'checkpoint'),
    ],
)
def test_bad_input_is_named_before_anything_is_written(tool, data, wrong, message):
    from slab_det.cli import InputError

    checkpoint = str(data / 'missing.pth')
    if wrong:
        checkpoint = untrained(MASK_RCNN, data / 'model.pth')
    with pytest.raises(InputError, match=message):
        tool.main(tool.parse_args([MASK_RCNN, checkpoint, '--out', 'pictures', *wrong]))
    assert not (data / 'pictures').exists()
