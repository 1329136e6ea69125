"""ONNX files against PyTorch, at sizes they were not traced with."""

import json
import os

import pytest
import torch

from slab_det.deploy import place_twins, reparameterize
from slab_det.mm.onnx.compare import compare, noise_image, torch_detections
from slab_det.mm.onnx.metadata import KEY, file_metadata
from tests.mm import small_detectors

onnx = pytest.importorskip('onnx', reason='pip install -r requirements/onnx.txt')
ort = pytest.importorskip('onnxruntime', reason='pip install -r requirements/onnx.txt')
pytest.importorskip('onnxscript', reason='pip install -r requirements/onnx.txt')

# Height and width: odd, whole windows, smaller than a window of the first stage, long and narrow.
SIZES = [(75, 101), (96, 96), (21, 19), (130, 40)]


def session(path):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])


def detect(running, image):
    names = [output.name for output in running.get_outputs()]
    return dict(zip(names, running.run(None, {'image': image[None]})))


def export(cfg, path, size=None, model=None):
    from slab_det.mm.onnx.export import export_onnx

    model = small_detectors.build(cfg) if model is None else model
    threshold = 0.5 if getattr(model, 'with_mask', False) else None
    export_onnx(reparameterize(model), path, file_metadata(cfg, None, threshold), size)
    return model


def assert_same(model, running, size):
    image = noise_image(*size)
    difference = compare(torch_detections(model, image), detect(running, image))
    assert difference.count > 5
    assert difference.matched == difference.count and difference.extra == 0, difference
    assert difference.box < 1e-2 and difference.score < 1e-4 and difference.mask < 1e-3, difference


@pytest.mark.slow
@pytest.mark.parametrize('name', ['retinanet', 'faster-rcnn', 'mask-rcnn'])
def test_a_file_detects_what_pytorch_detects_at_every_size(name, tmp_path):
    path = tmp_path / 'detector.onnx'
    model = export(small_detectors.config(name), path)
    running = session(path)
    for size in SIZES:
        assert_same(model, running, size)
    content = onnx.load(path)
    assert {node.domain for node in content.graph.node} == {''}
    shape = content.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in shape] == [1, 'height', 'width', 3]
    assert os.listdir(tmp_path) == ['detector.onnx']


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
@pytest.mark.parametrize('family', sorted(small_detectors.BACKBONES))
def test_every_backbone_is_the_same_at_every_size(family, tmp_path):
    from mmdet.registry import MODELS

    from tests.networks import settle

    torch.manual_seed(0)
    backbone = place_twins(settle(MODELS.build(small_detectors.BACKBONES[family])))
    path = tmp_path / 'backbone.onnx'
    names = [f'stage{i}' for i in backbone.out_indices]
    with torch.no_grad():
        torch.onnx.export(
            backbone,
            (torch.randn(1, 3, 75, 101),),
            str(path),
            dynamo=False,
            opset_version=20,
            input_names=['image'],
            output_names=names,
            dynamic_axes={'image': {2: 'h', 3: 'w'}},
        )
    running = session(path)
    for size in [(64, 64), *SIZES, (40, 200)]:
        # PVT's last stage needs 32 pixels.
        image = torch.randn(1, 3, *(max(side, 32) for side in size))
        with torch.no_grad():
            expected = backbone(image)
        for before, after in zip(expected, running.run(None, {'image': image.numpy()})):
            assert before.shape == after.shape
            assert (before - torch.from_numpy(after)).abs().max() < 1e-5 * before.abs().max()


@pytest.mark.slow
def test_mmdets_own_swin_with_prepbn_is_the_same_at_every_size(tmp_path):
    cfg = small_detectors.config(
        'retinanet',
        dict(
            type='SwinTransformer',
            embed_dims=16,
            depths=(2, 2, 1, 1),
            num_heads=(1, 2, 4, 8),
            window_size=4,
            norm_cfg=dict(type='PRepBN'),
        ),
    )
    model = small_detectors.build(cfg)
    model.bbox_head.retina_cls.weight.data.mul_(0.1)  # scores of 1 would be ties
    path = tmp_path / 'detector.onnx'
    export(cfg, path, model=model)
    running = session(path)
    # Below and above the size that it was traced with, to which mmdet's padding would bring every image.
    for size in [(75, 101), (21, 19), (260, 300)]:
        assert_same(model, running, size)


@pytest.mark.slow
def test_an_empty_image_and_high_thresholds_give_no_detection(tmp_path):
    path = tmp_path / 'detector.onnx'
    cfg = small_detectors.config('mask-rcnn')
    cfg.model.test_cfg.rcnn.score_thr = 0.9999
    export(cfg, path)
    found = detect(session(path), noise_image(60, 60))
    assert found['boxes'].shape == (0, 4) and found['masks'].shape == (0, 28, 28)


@pytest.mark.slow
def test_a_file_of_one_size_takes_only_that_and_says_so(tmp_path):
    path = tmp_path / 'detector.onnx'
    model = export(small_detectors.config('retinanet'), path, size=(60, 84))
    running = session(path)
    assert running.get_inputs()[0].shape == [1, 60, 84, 3]
    assert_same(model, running, (60, 84))
    assert json.loads(running.get_modelmeta().custom_metadata_map[KEY])['size'] == [60, 84]


def test_nothing_is_left_where_the_file_cannot_be_checked(tmp_path, monkeypatch):
    from slab_det.mm.onnx import export as onnx_export

    def refuse(model):
        raise ValueError('not standard')

    monkeypatch.setattr(onnx_export, 'check_model', refuse)
    monkeypatch.setattr(
        torch.onnx,
        'export',
        lambda graph, args, file, **kwargs: onnx.save(
            onnx.helper.make_model(onnx.helper.make_graph([], 'empty', [], [])), file
        ),
    )
    with pytest.raises(ValueError, match='not standard'):
        export(small_detectors.config('retinanet'), tmp_path / 'detector.onnx')
    assert not os.listdir(tmp_path)


def test_operators_of_other_domains_are_refused():
    from slab_det.mm.onnx.export import check_model

    value = [onnx.helper.make_tensor_value_info(name, 1, [1]) for name in 'ab']
    node = onnx.helper.make_node('Gelu', ['a'], ['b'], domain='com.microsoft')
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], 'g', value[:1], value[1:]),
        opset_imports=[
            onnx.helper.make_opsetid('', 20),
            onnx.helper.make_opsetid('com.microsoft', 1),
        ],
    )
    with pytest.raises(ValueError, match='com.microsoft::Gelu'):
        check_model(model)
