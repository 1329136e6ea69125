import json
import shutil
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
            ['shapes/val', '--strict'],
            r'bad.jpg is not an image that can be decoded \(.*; 1 of 4\)',
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


def test_a_cut_file_is_left_out_and_named(tool, data, capsys):
    untrained('weights.pth')
    content = Path('shapes/val/000002.png').read_bytes()
    Path('shapes/val/000002.png').write_bytes(content[: len(content) // 2])
    # What macOS writes beside a file, hidden files and others' notes are not images.
    for name in ('._000001.png', '.hidden.png', 'Thumbs.db'):
        Path('shapes/val', name).write_bytes(b'x')
    words = ['shapes/val', MASK_RCNN, 'weights.pth', '--out', 'out', '--score-thr', '0.1']
    with pytest.raises(tool.InputError, match=r'1 of 3 images cannot be decoded .*000002\.png'):
        tool.main(tool.parse_args(words))
    assert 'warning: shapes/val/000002.png cannot be decoded' in capsys.readouterr().err
    results = json.loads((data / 'out/predictions.json').read_text())
    assert {one['file_name'] for one in results} == {'000001.png', '000003.png'}
    assert sorted(path.name for path in (data / 'out/vis').iterdir()) == [
        '000001.png',
        '000003.png',
    ]


def test_images_are_those_of_the_annotations_by_their_path(tool, data):
    """Two cameras number their images alike; each gets the ids of its own."""
    cfg, _ = untrained('weights.pth')
    path = Path('shapes/annotations/instances_val.json')
    content = json.loads(path.read_text())
    for number, one in enumerate(content['images']):
        new = f'cam{number % 2}/{number // 2:04d}.png'
        Path('shapes/val', new).parent.mkdir(exist_ok=True)
        Path('shapes/val', one['file_name']).rename(Path('shapes/val', new))
        one['file_name'] = new
    path.write_text(json.dumps(content))
    ids = {one['file_name']: one['id'] for one in content['images']}
    sets = [tool.build(one) for one in tool.test_sets(cfg, MASK_RCNN)]
    images = tool.find_images('shapes/val/cam1')
    categories, numbers, whose = tool.numbering(sets, sets[0].metainfo['classes'], images)
    assert numbers == [ids['cam1/0000.png']] and 'image and category ids of' in whose
    shutil.copytree('shapes/val/cam1', 'elsewhere')
    _, numbers, whose = tool.numbering(sets, sets[0].metainfo['classes'], ['elsewhere/0000.png'])
    assert numbers == [1] and 'numbered from 1' in whose


def test_a_strip_of_one_pixel_is_detected_as_by_the_onnx_runner(tool, data):
    from slab_det.deploy.onnx_detector import OnnxDetector

    untrained('weights.pth')
    image = np.random.RandomState(0).randint(0, 255, (1, 2000, 3), np.uint8)
    cv2.imwrite('strip.png', image)
    words = ['strip.png', MASK_RCNN, 'weights.pth', '--out', 'out', '--score-thr', '0']
    tool.main(tool.parse_args(words))
    assert (data / 'out/vis/strip.png').exists()

    from slab_det.mm.strips import ResizeToPixels

    step = ResizeToPixels(scale=(96, 64), keep_ratio=True)
    found = step(dict(img=image, img_shape=image.shape[:2]))
    runner = OnnxDetector.__new__(OnnxDetector)
    runner._metadata = dict(resize=dict(scale=[96, 64], keep_ratio=True), size=None)
    assert np.array_equal(found['img'], runner.preprocess(image))
    assert found['scale_factor'] == (96 / 2000, 1)


def test_names_without_letters_in_the_font_are_numbers(tool, data, capsys):
    classes = ('disk', '\u732b', 'box', 'ring', 'bar')
    for split in ('train', 'val'):
        path = Path(f'shapes/annotations/instances_{split}.json')
        content = json.loads(path.read_text())
        for category, name in zip(content['categories'], classes):
            category['name'] = name
        path.write_text(json.dumps(content))
    option = f'test_dataloader.dataset.metainfo.classes={json.dumps(classes, ensure_ascii=False)}'.replace(
        ' ', ''
    )
    words = ['shapes/val', MASK_RCNN, '--out', 'out', '--cfg-options', option]
    words.append(option.replace('test_', 'val_'))
    words.append(option.replace('test_', 'train_'))
    tool.main(tool.parse_args(words))
    assert Path('out/vis/legend.txt').read_text(encoding='utf-8') == '#1 \u732b\n'
    assert '1 class names are drawn as numbers' in capsys.readouterr().out
