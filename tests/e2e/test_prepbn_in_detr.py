"""PRepBN inside the encoder layers of mmdet's DETR family, through their own ``norm_cfg``."""

import copy
from pathlib import Path

import mmdet
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner
from torch import nn

from slab_det.deploy import reparameterize
from slab_det.layers import ChannelAffine, PRepBN, convert_norms, prepbn_modules
from slab_det.mm.datasets import make_shapes_dataset

CLASSES = ('disk', 'box', 'triangle', 'star', 'ring')
DETECTORS = {
    'deformable-detr': 'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
    'dino': 'dino/dino-4scale_r50_8xb2-12e_coco.py',
}


def small(name, root, norm='PRepBN'):
    """The detector of mmdet with few layers and queries, to train 3 iterations on shapes."""
    configs = Path(mmdet.__file__).parent / '.mim' / 'configs'
    model = Config.fromfile(configs / DETECTORS[name]).model
    model.backbone = dict(
        type='SLABSwinTransformer',
        attn_types='LLSS',
        window_sizes=(40, 20, 10, 5),
        arch=dict(embed_dims=16, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 4)),
        out_indices=(1, 2, 3),
        norm_cfg=dict(type=norm),
        drop_path_rate=0.0,
    )
    model.neck.in_channels = [32, 64, 128]
    model.encoder.num_layers, model.decoder.num_layers = 2, 2
    model.encoder.layer_cfg.norm_cfg = dict(type=norm)
    model.bbox_head.num_classes = len(CLASSES)
    model.num_queries = model.test_cfg.max_per_img = 20
    if name == 'dino':
        model.dn_cfg.group_cfg.num_dn_queries = 10
    data = dict(
        type='CocoDataset',
        data_root=str(root),
        metainfo=dict(classes=CLASSES),
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='train/'),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True),
            dict(type='Resize', scale=(96, 80), keep_ratio=True),
            dict(
                type='PackDetInputs',
                meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
            ),
        ],
    )
    return Config(
        dict(
            default_scope='mmdet',
            work_dir=str(root / 'work'),
            model=model,
            train_dataloader=dict(
                batch_size=2,
                num_workers=0,
                dataset=data,
                sampler=dict(type='InfiniteSampler', shuffle=False),
            ),
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=3),
            optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-4), clip_grad=dict(max_norm=0.1)),
            custom_hooks=[dict(type='PRepBNHook', by_epoch=False, end=2)],
            default_hooks=dict(logger=None, checkpoint=None),
            log_level='ERROR',
            randomness=dict(seed=0),
        )
    )


def predict(model, dataset):
    model.eval()
    with torch.no_grad():
        samples = model.test_step(pseudo_collate([dataset[0], dataset[1]]))
    return [(one.pred_instances.scores, one.pred_instances.bboxes) for one in samples]


@pytest.fixture
def root(tmp_path):
    make_shapes_dataset(tmp_path / 'shapes', 4, 1, (64, 80))
    return tmp_path / 'shapes'


def test_norms_of_the_encoder_train_with_the_hook_and_fold_away(root):
    runner = Runner.from_cfg(small('deformable-detr', root))
    encoder = [norm for norm in runner.model.encoder.modules() if isinstance(norm, PRepBN)]
    assert len(encoder) == 4  # two layers of two norms
    runner.train()
    norms = prepbn_modules(runner.model)
    assert len(norms) > 4 and all(float(norm.ratio) == 0 for norm in norms)
    assert all(int(norm.repbn.bn.num_batches_tracked) == 3 for norm in encoder)
    model, dataset = runner.model.double(), runner.train_dataloader.dataset
    model.eval()
    expected = predict(model, dataset)
    deployed = reparameterize(model)
    assert not prepbn_modules(deployed)
    assert all(isinstance(layer.norms[1], ChannelAffine) for layer in deployed.encoder.layers)
    for (scores, boxes), (true_scores, true_boxes) in zip(predict(deployed, dataset), expected):
        torch.testing.assert_close(scores, true_scores, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(boxes, true_boxes, rtol=1e-9, atol=1e-9)


def test_the_norms_of_a_built_detector_are_converted(root):
    runner = Runner.from_cfg(small('dino', root, norm='LN'))
    model, dataset = runner.model, runner.train_dataloader.dataset
    expected = predict(model, dataset)
    in_decoder = sum(isinstance(norm, nn.LayerNorm) for norm in model.decoder.modules())
    everywhere = sum(isinstance(norm, nn.LayerNorm) for norm in model.modules())
    assert convert_norms(copy.deepcopy(model)) == everywhere
    assert convert_norms(model, where=r'^(backbone|encoder)\.') > 4
    assert sum(isinstance(norm, nn.LayerNorm) for norm in model.decoder.modules()) == in_decoder
    for (scores, boxes), (true_scores, true_boxes) in zip(predict(model, dataset), expected):
        assert torch.equal(scores, true_scores) and torch.equal(boxes, true_boxes)
    runner.train()
    assert {float(norm.ratio) for norm in prepbn_modules(model)} == {0.0}
