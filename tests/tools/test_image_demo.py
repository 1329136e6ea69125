import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from slab_det.mm.datasets import make_shapes_dataset
from tests.scripts import load_script

ROOT = Path(__file__).parents[2]
MASK_RCNN = str(ROOT / 'configs' / 'mini' / 'mask-rcnn_slab-swin_mini_shapes.py')


@pytest.fixture(scope='module')
def tool():
    return load_script('tools/image_demo.py')


@pytest.fixture
def data(tmp_path, monkeypatch):
    make_shapes_dataset(tmp_path / 'shapes', num_train=1, num_val=3, size=(64, 96))
    monkeypatch.setenv('SHAPES_ROOT', str(tmp_path / 'shapes'))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def untrained(path):
    """A checkpoint of chance, and the model that it is of."""
    from mmdet.registry import MODELS
    from mmengine.config import Config

    torch.manual_seed(0)
    cfg = Config.fromfile(MASK_RCNN)
    with MODELS.switch_scope_and_registry('mmdet') as registry:
        model = registry.build(cfg.model)
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    return cfg, model.eval()


def test_json_holds_what_the_model_predicts_for_the_test_set(tool, data):
    cfg, model = untrained('weights.pth')
    tool.main(
        tool.parse_args(
            [
                'shapes/val',
                MASK_RCNN,
                'weights.pth',
                '--out',
                'out',
                '--score-thr',
                '0.1',
                '--batch-size',
                '2',
            ]
        )
    )
    results = json.loads((data / 'out/predictions.json').read_text())
    assert sorted(path.name for path in (data / 'out/vis').iterdir()) == [
        '000001.png',
        '000002.png',
        '000003.png',
    ]

    from mmdet.registry import DATASETS
    from mmengine.dataset import pseudo_collate

    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    expected = []
    for item in dataset:
        with torch.no_grad():
            sample = model.test_step(pseudo_collate([item]))[0]
        found = sample.pred_instances[sample.pred_instances.scores >= 0.1]
        expected += [
            (sample.img_id, label + 1, score, box, np.asarray(mask))
            for label, score, box, mask in zip(
                found.labels.tolist(), found.scores.tolist(), found.bboxes.tolist(), found.masks
            )
        ]
    assert len(results) == len(expected) > 10
    for one, (img_id, category, score, box, mask) in zip(results, expected):
        assert (one['image_id'], one['category_id']) == (img_id, category)
        assert one['score'] == pytest.approx(score, abs=1e-4)
        left, top, width, height = one['bbox']
        assert [left, top, left + width, top + height] == pytest.approx(box, abs=0.05)
        # A batch of two may be summed in another order than one of one.
        assert (mask_utils.decode(one['segmentation']) != mask).mean() < 0.01
    truth = COCO('shapes/annotations/instances_val.json')
    assert len(truth.loadRes('out/predictions.json').anns) == len(results)


def test_one_image_that_the_annotations_do_not_name(tool, data, capsys):
    untrained('weights.pth')
    cv2.imwrite('mine.jpg', np.random.RandomState(0).randint(0, 255, (70, 90, 3), np.uint8))
    tool.main(
        tool.parse_args(
            [
                'mine.jpg',
                MASK_RCNN,
                'weights.pth',
                '--score-thr',
                '0.1',
                '--no-pictures',
                '--device',
                'cpu',
            ]
        )
    )
    out = data / 'work_dirs/mask-rcnn_slab-swin_mini_shapes/demo'
    results = json.loads((out / 'predictions.json').read_text())
    assert results and {one['image_id'] for one in results} == {1}
    assert {one['file_name'] for one in results} == {'mine.jpg'}
    assert {one['category_id'] for one in results} <= {1, 2, 3, 4, 5}
    assert not (out / 'vis').exists()
    assert 'images numbered from 1 by name' in capsys.readouterr().out


@pytest.mark.parametrize(
    'make, options, words',
    [
        (lambda: Path('x.png').write_text('no image'), ['x.png'], 'x.png is not an image'),
        (lambda: Path('x.png').write_bytes(b''), ['x.png'], 'x.png is not an image'),
        (lambda: None, ['x.png'], 'x.png does not exist'),
        (lambda: Path('empty').mkdir(), ['empty'], 'empty holds no image'),
        (
            lambda: Path('shapes/val/bad.jpg').write_text('x'),
            ['shapes/val'],
            r'bad.jpg is not an image that OpenCV reads \(1 of 4\)',
        ),
        (lambda: Path('o').write_text(''), ['shapes/val', '--out', 'o'], '--out o: .* is a file'),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(tool, data, make, options, words):
    make()
    before = sorted(str(path) for path in data.rglob('*'))
    with pytest.raises(tool.InputError, match=words):
        tool.main(tool.parse_args([options[0], MASK_RCNN, *options[1:]]))
    assert sorted(str(path) for path in data.rglob('*')) == before


def test_a_cut_file_is_named(tool, data):
    untrained('weights.pth')
    content = Path('shapes/val/000002.png').read_bytes()
    Path('shapes/val/000002.png').write_bytes(content[:40])
    with pytest.raises(tool.InputError, match='000002.png is damaged'):
        tool.main(tool.parse_args(['shapes/val', MASK_RCNN, 'weights.pth', '--out', 'out']))
    assert not (data / 'out/predictions.json').exists()
