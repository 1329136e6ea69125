"""Every tool with configs of every shape: it works, or says in one sentence what it lacks."""

from pathlib import Path

import pytest
import torch

from slab_det.mm.datasets import make_shapes_dataset
from tests.scripts import caller, load_script

ROOT = Path(__file__).parents[2]
PLAIN = (
    f'_base_ = {str(ROOT / "configs/mini/retinanet_slab-swin_mini_shapes.py")!r}\n'
    + """
train_dataloader = dict(batch_size=2, num_workers=0)
val_dataloader = dict(batch_size=1, num_workers=0)
test_dataloader = dict(batch_size=1, num_workers=0)
train_cfg = dict(max_epochs=1, val_interval=1)
custom_hooks = [dict(type='PRepBNHook', schedule='linear', end=1)]
"""
)
#: As mmdet's own configs in Python: an inherited runtime, classes as types, no scope.
RUNTIME = """
from mmdet.engine.hooks import DetVisualizationHook
from mmdet.visualization import DetLocalVisualizer
from mmengine.hooks import (
    CheckpointHook, DistSamplerSeedHook, IterTimerHook, LoggerHook, ParamSchedulerHook)
from mmengine.runner import LogProcessor
from mmengine.visualization import LocalVisBackend

default_scope = None
default_hooks = dict(
    timer=dict(type=IterTimerHook), logger=dict(type=LoggerHook, interval=1),
    param_scheduler=dict(type=ParamSchedulerHook), checkpoint=dict(type=CheckpointHook, interval=1),
    sampler_seed=dict(type=DistSamplerSeedHook), visualization=dict(type=DetVisualizationHook))
env_cfg = dict(cudnn_benchmark=False, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
               dist_cfg=dict(backend='nccl'))
visualizer = dict(type=DetLocalVisualizer, vis_backends=[dict(type=LocalVisBackend)],
                  name='visualizer')
log_processor = dict(type=LogProcessor, window_size=50, by_epoch=True)
"""
PURE_PYTHON = """from mmengine.config import read_base

with read_base():
    from .runtime import *

from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs, RandomFlip, Resize
from mmdet.evaluation import CocoMetric
from mmdet.models import FPN, DetDataPreprocessor, RetinaHead, RetinaNet
from mmdet.models.losses import FocalLoss, L1Loss
from mmdet.models.task_modules import (
    AnchorGenerator, DeltaXYWHBBoxCoder, MaxIoUAssigner, PseudoSampler)
from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import DefaultSampler
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, TestLoop, ValLoop
from torch.optim import AdamW

from slab_det.mm.backbones import SLABSwinTransformer
from slab_det.mm.hooks import PRepBNHook

model = dict(
    type=RetinaNet,
    data_preprocessor=dict(type=DetDataPreprocessor, mean=[123.675, 116.28, 103.53],
                           std=[58.395, 57.12, 57.375], bgr_to_rgb=True, pad_size_divisor=32),
    backbone=dict(type=SLABSwinTransformer, attn_types='LLSS', window_sizes=(8, 8, 7, 7),
                  arch=dict(embed_dims=16, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8)),
                  norm_cfg=dict(type='PRepBN'), out_indices=(1, 2, 3)),
    neck=dict(type=FPN, in_channels=[32, 64, 128], out_channels=32, num_outs=4,
              add_extra_convs='on_output'),
    bbox_head=dict(
        type=RetinaHead, num_classes=5, in_channels=32, stacked_convs=1, feat_channels=32,
        anchor_generator=dict(type=AnchorGenerator, octave_base_scale=4, scales_per_octave=1,
                              ratios=[0.5, 1.0, 2.0], strides=[8, 16, 32, 64]),
        bbox_coder=dict(type=DeltaXYWHBBoxCoder),
        loss_cls=dict(type=FocalLoss, use_sigmoid=True), loss_bbox=dict(type=L1Loss)),
    train_cfg=dict(assigner=dict(type=MaxIoUAssigner, pos_iou_thr=0.5, neg_iou_thr=0.4,
                                 min_pos_iou=0, ignore_iof_thr=-1),
                   sampler=dict(type=PseudoSampler), allowed_border=-1, pos_weight=-1),
    test_cfg=dict(nms_pre=1000, min_bbox_size=0, score_thr=0.05, max_per_img=100,
                  nms=dict(type='nms', iou_threshold=0.5)))
load = [dict(type=LoadImageFromFile), dict(type=LoadAnnotations, with_bbox=True),
        dict(type=Resize, scale=(80, 64), keep_ratio=True)]
train_pipeline = [*load, dict(type=RandomFlip, prob=0.5), dict(type=PackDetInputs)]
test_pipeline = [*load, dict(type=PackDetInputs, meta_keys=(
    'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
metainfo = dict(classes=('disk', 'box', 'triangle', 'star', 'ring'))
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(type=CocoDataset, data_root='shapes', metainfo=metainfo,
                 ann_file='annotations/instances_train.json', data_prefix=dict(img='train/'),
                 pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1, num_workers=0, persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(type=CocoDataset, data_root='shapes', metainfo=metainfo, test_mode=True,
                 ann_file='annotations/instances_val.json', data_prefix=dict(img='val/'),
                 pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type=CocoMetric, ann_file='shapes/annotations/instances_val.json')
test_evaluator = val_evaluator
train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=1)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=1e-3))
custom_hooks = [dict(type=PRepBNHook, schedule='linear', end=0.8)]
"""
SETS = """
one = dict(type='CocoDataset', data_root=_base_.data_root, metainfo=_base_.metainfo,
           pipeline=_base_.test_pipeline, test_mode=True)
both = [dict(one, ann_file=f'annotations/instances_{name}.json', data_prefix=dict(img=f'{name}/'))
        for name in ('val', 'train')]
"""
SHAPES = dict(
    plain='',
    no_scope='default_scope = None\n',
    two_test_sets=SETS
    + """
test_dataloader = dict(batch_size=1, num_workers=0,
                       dataset=dict(_delete_=True, type='ConcatDataset', datasets=both))
metrics = [dict(type='CocoMetric', metric='bbox',
                ann_file=f'{_base_.data_root}/annotations/instances_{name}.json')
           for name in ('val', 'train')]
test_evaluator = dict(_delete_=True, type='MultiDatasetsEvaluator', dataset_prefixes=['a', 'b'],
                      metrics=metrics)
""",
    semi="""
detector = _base_.model
model = dict(
    _delete_=True, type='SemiBaseDetector', detector=detector,
    data_preprocessor=dict(type='MultiBranchDataPreprocessor',
                           data_preprocessor=detector.data_preprocessor),
    semi_train_cfg=dict(freeze_teacher=True, sup_weight=1.0, unsup_weight=4.0, cls_pseudo_thr=0.9,
                        min_pseudo_bbox_wh=(1e-2, 1e-2)),
    semi_test_cfg=dict(predict_on='teacher'))
branches = ['sup', 'unsup_teacher', 'unsup_student']
pack = [dict(type='PackDetInputs', meta_keys=(
    'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction',
    'homography_matrix'))]
load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
        dict(type='Resize', scale=(80, 64), keep_ratio=True), dict(type='RandomFlip', prob=0.5)]
labelled = [*load, dict(type='MultiBranch', branch_field=branches, sup=dict(type='PackDetInputs'))]
unlabelled = [load[0], dict(type='LoadEmptyAnnotations'), *load[2:],
              dict(type='MultiBranch', branch_field=branches, unsup_teacher=pack,
                   unsup_student=pack)]
one = dict(type='CocoDataset', data_root=_base_.data_root, metainfo=_base_.metainfo)
train_dataloader = dict(
    _delete_=True, batch_size=2, num_workers=0,
    sampler=dict(type='GroupMultiSourceSampler', batch_size=2, source_ratio=[1, 1]),
    dataset=dict(type='ConcatDataset', datasets=[
        dict(one, ann_file='annotations/instances_train.json', data_prefix=dict(img='train/'),
             pipeline=labelled),
        dict(one, ann_file='annotations/instances_val.json', data_prefix=dict(img='val/'),
             pipeline=unlabelled)]))
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=2, val_interval=2)
val_cfg = dict(type='TeacherStudentValLoop')
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=2))
log_processor = dict(by_epoch=False)
custom_hooks = [dict(type='PRepBNHook', schedule='linear', end=0.8), dict(type='MeanTeacherHook')]
""",
    voc="""
load, resize, annotations, pack = _base_.test_pipeline
voc_pipeline = [load, resize, dict(annotations, with_mask=False), pack]
voc = dict(_delete_=True, type='VOCDataset', data_root='voc', ann_file='names.txt',
           data_prefix=dict(sub_data_root=''), metainfo=_base_.metainfo,
           pipeline=voc_pipeline, test_mode=True)
test_dataloader = dict(dataset=voc)
test_evaluator = dict(_delete_=True, type='VOCMetric', metric='mAP')
""",
    several_metrics="""
metric = dict(type='CocoMetric', ann_file=_base_.data_root + '/annotations/instances_val.json')
val_evaluator = [dict(metric, metric='bbox'), dict(metric, metric='proposal')]
""",
    test_time_augmentation="""
tta_model = dict(type='DetTTAModel',
                 tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=10))
pack = dict(type='PackDetInputs', meta_keys=(
    'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction'))
tta_pipeline = [dict(type='LoadImageFromFile'), dict(type='TestTimeAug', transforms=[
    [dict(type='Resize', scale=(80, 80), keep_ratio=True)],
    [dict(type='RandomFlip', prob=prob) for prob in (1.0, 0.0)], [pack]])]
""",
    other_backbone="""
model = dict(backbone=dict(_delete_=True, type='ResNet', depth=18, num_stages=4,
                           out_indices=(1, 2, 3), frozen_stages=-1),
             neck=dict(in_channels=[128, 256, 512]))
custom_hooks = []
""",
)
TOOLS = dict(
    train=['train.py', '{config}', '--work-dir', 'runs'],
    test=['test.py', '{config}', '{weights}', '--work-dir', 'runs'],
    tta=['test.py', '{config}', '{weights}', '--work-dir', 'runs', '--tta'],
    visualize=['visualize.py', '{config}', '{weights}', '--num', '1', '--out', 'pictures'],
    image_demo=['image_demo.py', 'shapes/val', '{config}', '{weights}', '--out', 'demo'],
    calibrate=['calibrate_bn.py', '{config}', '{weights}', '--out', 'c.pth', '--num-images', '2',
               '--max-passes', '1', '--num-workers', '0'],
    reparameterize=['reparameterize.py', '{config}', '{weights}', '--out', 'deploy',
                    '--shape', '64', '64'],
    export=['export_onnx.py', '{config}', '{weights}', '--out', 'd.onnx'],
    flops=['get_flops.py', '{config}', '--shape', '64', '64'],
    print_config=['print_config.py', '{config}'],
    schedule=['analysis/plot_schedule.py', '{config}', '--out', 's.png'],
    features=['analysis/feature_maps.py', 'shapes/val/000001.png', '{config}', '{weights}',
              '--out', 'f.png'],
    plug=['plug_backbone.py', '{config}', '--backbone', 'slab-pvt-t', '--out', 'plugged.py',
          '--no-check'],
    check_data=['check_data.py', '{config}'],
)  # fmt: skip
#: What a tool lacks for a shape, by a word of its sentence; all others work.
LACKS = {
    ('calibrate', 'other_backbone'): 'BatchNorm',
    ('plug', 'pure_python'): 'pure Python style',
    ('plug', 'semi'): 'wraps a detector',
    ('reparameterize', 'other_backbone'): 'no PRepBN or RepBN',
    ('features', 'semi'): 'no backbone',
}


def write_config(shape):
    text = PURE_PYTHON if shape == 'pure_python' else PLAIN + SHAPES[shape]
    Path('c.py').write_text(text)
    Path('runtime.py').write_text(RUNTIME)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_shapes_dataset('shapes', 2, 2, (64, 80))
    monkeypatch.setenv('SHAPES_ROOT', str(tmp_path / 'shapes'))
    for folder in ('Annotations', 'JPEGImages'):
        Path('voc', folder).mkdir(parents=True)
    for number, path in enumerate(sorted(Path('shapes/val').iterdir())):
        Path('voc/JPEGImages', f'{number}.jpg').write_bytes(path.read_bytes())
        Path('voc/Annotations', f'{number}.xml').write_text(
            '<annotation><size><width>80</width><height>64</height></size><object>'
            '<name>disk</name><difficult>0</difficult><bndbox><xmin>9</xmin><ymin>9</ymin>'
            '<xmax>30</xmax><ymax>30</ymax></bndbox></object></annotation>'
        )
    Path('voc/names.txt').write_text('0\n1\n')
    return tmp_path


def weights_of(config):
    """A checkpoint with random weights, the ratio at 0."""
    from mmdet.registry import MODELS
    from mmengine.config import Config

    from slab_det.layers import set_ratio

    model = MODELS.build(Config.fromfile(config).model)
    set_ratio(model, 0)
    torch.save(dict(state_dict=model.state_dict(), meta={}), 'weights.pth')
    return 'weights.pth'


@pytest.mark.slow
@pytest.mark.parametrize('shape', [*SHAPES, 'pure_python'])
@pytest.mark.parametrize('tool', TOOLS)
def test_every_tool_takes_every_shape(tool, shape, place, monkeypatch, capsys):
    write_config(shape)
    script, *words = TOOLS[tool]
    weights = weights_of('c.py')
    words = [word.format(config='c.py', weights=weights) for word in words]
    before = sorted(place.rglob('*'))
    code, _, err = caller(load_script(f'tools/{script}'), monkeypatch, capsys)(*words)
    lacks = LACKS.get((tool, shape))
    if lacks is None:
        assert code == 0, err
    else:
        assert code == 1 and lacks in err.splitlines()[-1], err
        assert sorted(place.rglob('*')) == before


@pytest.mark.slow
@pytest.mark.parametrize('part', ['teacher', 'student'])
def test_the_part_that_is_named_is_deployed(part, place, monkeypatch, capsys):
    Path('c.py').write_text(PLAIN + SHAPES['semi'])
    weights = weights_of('c.py')
    call = caller(load_script('tools/reparameterize.py'), monkeypatch, capsys)
    words = ['c.py', weights, '--out', 'deploy', '--shape', '64', '64', '--part', part]
    code, out, err = call(*words)
    assert code == 0 and f'the {part} is taken' in out, err
    whole = torch.load(weights)['state_dict']
    small = torch.load('deploy/c_deploy.pth')['state_dict']
    name = 'neck.fpn_convs.0.conv.weight'
    assert torch.equal(small[name], whole[f'{part}.{name}'])
    Path('c.py').write_text(PLAIN)
    code, _, err = call('c.py', weights_of('c.py'), *words[2:])
    assert code == 1 and f'--part {part}' in err
