"""The module that is exported, in PyTorch, against mmdet's own prediction."""

import pytest
import torch
from mmengine.config import Config

from slab_det.deploy import reparameterize
from slab_det.mm.onnx.compare import noise_image, torch_detections
from slab_det.mm.onnx.model import DetectorGraph
from tests.mm import small_detectors

DETECTORS = ('retinanet', 'faster-rcnn', 'mask-rcnn')


def run(graph, image):
    with torch.no_grad():
        return dict(zip(graph.output_names, graph(torch.from_numpy(image)[None])))


@pytest.mark.parametrize('name', DETECTORS)
def test_predicts_what_mmdet_predicts(name):
    model = small_detectors.build(small_detectors.config(name))
    graph = DetectorGraph(model)
    # No side is a multiple of the padding; the second is smaller than a window of the first stage.
    for size in ((75, 101), (21, 19)):
        image = noise_image(*size)
        expected, found = torch_detections(model, image), run(graph, image)
        assert len(expected['scores']) > 5
        assert set(expected) == set(found)
        for key, values in expected.items():
            assert torch.equal(torch.from_numpy(values), found[key]), (size, key)


@pytest.mark.parametrize('name', ['faster-rcnn', 'mask-rcnn'])
def test_finds_nothing_where_no_score_is_high_enough(name):
    cfg = small_detectors.config(name)
    cfg.model.test_cfg.rcnn.score_thr = 0.9999
    found = run(DetectorGraph(small_detectors.build(cfg)), noise_image(40, 50))
    assert found['boxes'].shape == (0, 4) and found['scores'].shape == (0,)
    if name == 'mask-rcnn':
        assert found['masks'].shape == (0, 28, 28)


def test_class_agnostic_heads_predict_what_mmdet_predicts():
    cfg = small_detectors.config('mask-rcnn')
    cfg.model.roi_head.bbox_head.reg_class_agnostic = True
    cfg.model.roi_head.mask_head.class_agnostic = True
    model = small_detectors.build(cfg)
    image = noise_image(75, 101)
    found = run(DetectorGraph(model), image)
    for key, values in torch_detections(model, image).items():
        assert torch.equal(torch.from_numpy(values), found[key]), key


def test_the_deployed_detector_predicts_the_same():
    model = small_detectors.build(small_detectors.config('retinanet'))
    image = noise_image(75, 101)
    expected, found = (
        torch_detections(model, image),
        run(DetectorGraph(reparameterize(model)), image),
    )
    assert torch.allclose(torch.from_numpy(expected['scores']), found['scores'], atol=1e-4)


def _other(name: str, **changes) -> Config:
    cfg = small_detectors.config(name)
    cfg.merge_from_dict(changes)
    return cfg


@pytest.mark.parametrize(
    'cfg, word',
    [
        (
            lambda: _other('retinanet', **{'model.test_cfg.nms': dict(type='soft_nms')}),
            'test_cfg.nms',
        ),
        (
            lambda: _other(
                'mask-rcnn',
                **{'model.test_cfg.rcnn.nms': dict(type='nms', iou_threshold=0.5, max_num=9)},
            ),
            'test_cfg.nms',
        ),
        (
            lambda: _other(
                'retinanet',
                **{
                    'model.bbox_head.type': 'FreeAnchorRetinaHead',
                    'model.test_cfg.min_bbox_size': 4,
                },
            ),
            'min_bbox_size',
        ),
    ],
)
def test_refuses_settings_it_does_not_know(cfg, word):
    with pytest.raises(ValueError, match=word):
        DetectorGraph(small_detectors.build(cfg()))


def test_refuses_detectors_it_does_not_know():
    from mmdet.registry import MODELS

    fcos = Config.fromstring(
        "_base_ = 'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py'", '.py'
    ).model
    fcos.backbone.init_cfg = None
    with pytest.raises(ValueError, match='FCOSHead'):
        DetectorGraph(MODELS.build(fcos))
    cascade = Config.fromstring(
        "_base_ = 'mmdet::_base_/models/cascade-rcnn_r50_fpn.py'", '.py'
    ).model
    cascade.backbone.init_cfg = None
    with pytest.raises(ValueError, match='CascadeRoIHead'):
        DetectorGraph(MODELS.build(cascade))
