"""tools/export_onnx.py, test_onnx.py and quantize_onnx.py as a user runs them."""

import json
import os
import sys

import cv2
import pytest
import torch

from slab_det.layers import set_ratio
from slab_det.mm.onnx.compare import noise_image, torch_detections
from tests.mm import small_detectors
from tests.scripts import load_script

pytest.importorskip('onnx', reason='pip install -r requirements/onnx.txt')
pytest.importorskip('onnxruntime', reason='pip install -r requirements/onnx.txt')
pytest.importorskip('onnxscript', reason='pip install -r requirements/onnx.txt')

COUNT = 3


def run_tool(monkeypatch, name, *arguments):
    module = load_script(f'tools/{name}.py')
    monkeypatch.setattr(sys, 'argv', [name, *map(str, arguments)])
    module.run(module.main, module.parse_args())


def fails(monkeypatch, capsys, name, *arguments):
    """The one sentence that the tool fails with."""
    with pytest.raises(SystemExit) as stop:
        run_tool(monkeypatch, name, *arguments)
    assert stop.value.code == 1
    text = capsys.readouterr().err.strip()
    assert text.startswith('error: ') and len(text.splitlines()) == 1
    return text


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """A small Mask R-CNN: a folder with config, checkpoints and a test set whose truth is the best
    detections."""
    folder = tmp_path_factory.mktemp('onnx')
    cfg = small_detectors.config('mask-rcnn')
    cfg.custom_imports = dict(imports=['slab_det'], allow_failed_imports=False)
    cfg.model.test_cfg.rcnn.score_thr = 0.3
    model = small_detectors.build(cfg)
    torch.save(dict(state_dict=model.state_dict()), folder / 'whole.pth')
    images, annotations = [], []
    for number in range(COUNT):
        # Of the test pipeline's size for some image, so that nothing is resized.
        height, width = (96, 96 + 16 * number)
        name = f'{number}.png'
        (folder / 'images').mkdir(exist_ok=True)
        image = noise_image(height, width, number)
        cv2.imwrite(str(folder / 'images' / name), image)
        images.append(dict(id=number, file_name=name, height=height, width=width))
        found = torch_detections(model, image)
        for (x1, y1, x2, y2), label in list(zip(found['boxes'].tolist(), found['labels'].tolist()))[
            :6
        ]:
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=number,
                    category_id=label + 1,
                    bbox=[x1, y1, x2 - x1, y2 - y1],
                    area=(x2 - x1) * (y2 - y1),
                    iscrowd=0,
                    segmentation=[[x1, y1, x2, y1, x2, y2, x1, y2]],
                )
            )
    set_ratio(model, 0.25)
    torch.save(dict(state_dict=model.state_dict()), folder / 'unfinished.pth')
    names = small_detectors.CLASSES
    truth = dict(
        images=images,
        annotations=annotations,
        categories=[dict(id=i + 1, name=name) for i, name in enumerate(names)],
    )
    (folder / 'truth.json').write_text(json.dumps(truth))
    cfg.test_dataloader.dataset.update(
        data_root=str(folder),
        ann_file='truth.json',
        test_mode=True,
        data_prefix=dict(img='images/'),
    )
    cfg.test_dataloader.dataset.pipeline[-1].meta_keys = (
        'img_id',
        'img_path',
        'ori_shape',
        'img_shape',
        'scale_factor',
    )
    cfg.test_dataloader.update(
        batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False)
    )
    cfg.test_evaluator = dict(
        type='CocoMetric', ann_file=str(folder / 'truth.json'), metric=['bbox', 'segm']
    )
    cfg.test_cfg = dict(type='TestLoop')
    cfg.dump(folder / 'config.py')
    return folder


@pytest.mark.slow
def test_a_detector_is_exported_evaluated_and_quantized(place, monkeypatch, capsys, tmp_path):
    file = tmp_path / 'new' / 'detector.onnx'
    run_tool(
        monkeypatch,
        'export_onnx',
        place / 'config.py',
        place / 'whole.pth',
        '--out',
        file,
        '--image',
        place / 'images' / '0.png',
    )
    text = capsys.readouterr().out
    assert text.count('detections matched (+0)') == 5 and f'wrote {file}' in text

    from mmengine.config import Config
    from mmengine.runner import Runner

    run_tool(monkeypatch, 'test_onnx', place / 'config.py', file, '--threads', 1)
    lines = capsys.readouterr().out.splitlines()
    found = {
        line.split(': ')[0]: float(line.split(': ')[1])
        for line in lines
        if line.startswith('coco/')
    }
    cfg = Config.fromfile(place / 'config.py')
    cfg.work_dir, cfg.load_from = str(tmp_path / 'work'), str(place / 'whole.pth')
    cfg.default_scope = 'mmdet'
    expected = Runner.from_cfg(cfg).test()
    assert expected['coco/bbox_mAP'] > 0.5 and expected['coco/segm_mAP'] > 0
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-3), name

    run_tool(monkeypatch, 'quantize_onnx', file, '--calib', place / 'images', '--threads', 1)
    capsys.readouterr()
    small = file.with_name('detector_int8.onnx')
    assert sorted(path.name for path in file.parent.iterdir()) == [
        'detector.onnx',
        'detector_int8.onnx',
    ]
    assert small.stat().st_size < 0.6 * file.stat().st_size
    import onnx

    model = onnx.load(small)
    kinds = {node.op_type for node in model.graph.node}
    assert {'QuantizeLinear', 'DequantizeLinear'} <= kinds and {
        entry.domain for entry in model.opset_import
    } == {''}
    # Sums of linear layers are not rounded again.
    rounded = {node.input[0] for node in model.graph.node if node.op_type == 'QuantizeLinear'}
    assert not any(
        node.output[0] in rounded for node in model.graph.node if node.op_type in ('Gemm', 'MatMul')
    )
    run_tool(monkeypatch, 'test_onnx', place / 'config.py', small, '--threads', 1)
    lines = capsys.readouterr().out.splitlines()
    precision = next(
        float(line.split(': ')[1]) for line in lines if line.startswith('coco/bbox_mAP:')
    )
    # Random weights amplify what rounding changes; a trained detector loses 0.002.
    assert 0.15 < precision < 1


def test_export_refuses_bad_input_in_one_sentence(place, monkeypatch, capsys, tmp_path):
    config, whole, out = place / 'config.py', place / 'whole.pth', tmp_path / 'a.onnx'

    def sentence(*arguments):
        return fails(monkeypatch, capsys, 'export_onnx', *arguments)

    text = sentence(config, place / 'unfinished.pth', '--out', out)
    assert 'ratio is 0.25' in text and 'tools/reparameterize.py --drop-layer-norm' in text
    assert 'another model' in sentence(
        config, whole, '--out', out, '--cfg-options', 'model.rpn_head.feat_channels=8'
    )
    assert 'not a file' in sentence(config, place / 'none.pth', '--out', out)
    assert 'is a file, give a folder' in sentence(config, whole, '--out', whole / 'a.onnx')
    assert 'not an image' in sentence(config, whole, '--out', out, '--image', place / 'truth.json')
    assert 'test_cfg.nms' in sentence(
        config, whole, '--out', out, '--cfg-options', 'model.test_cfg.rcnn.nms.type=soft_nms'
    )
    assert os.listdir(tmp_path) == []


def test_evaluation_and_quantization_refuse_bad_input_in_one_sentence(
    place, monkeypatch, capsys, tmp_path
):
    text = fails(monkeypatch, capsys, 'test_onnx', place / 'config.py', place / 'truth.json')
    assert 'not an ONNX model' in text
    empty = tmp_path / 'empty'
    empty.mkdir()
    assert 'holds no image' in fails(
        monkeypatch, capsys, 'quantize_onnx', place / 'a.onnx', '--calib', empty
    )
    assert 'not a folder' in fails(
        monkeypatch, capsys, 'quantize_onnx', place / 'a.onnx', '--calib', place / 'none'
    )
    assert 'a.onnx is not a file' in fails(
        monkeypatch, capsys, 'quantize_onnx', tmp_path / 'a.onnx', '--calib', place / 'images'
    )
    assert os.listdir(tmp_path) == ['empty']
