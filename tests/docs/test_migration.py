"""The migration page: its configs train with the settings of the published ones.

Facts from the repository xinghaochen/SLAB, folder detection: configs/swin, configs/_base_/datasets
and mmdet_custom. What they inherit from mmdet 2.11 (schedule_1x, the FPN of Mask R-CNN) is mmdet's.
"""

import inspect
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from torch import nn

from slab_det.layers import PRepBN, prepbn_modules
from slab_det.mm.analysis.schedule import training_schedule
from slab_det.mm.backbones import SLABSwinTransformer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / 'docs' / 'migration.md').read_text()
ROWS = re.findall(
    r'^\| `(swin/[^`]+)` \| \[`[^`]+`\]\(\.\./(configs/[^)]+)\) \| (\w{4}), ([\d-]+) '
    r'\| ([\d.]+) \| (\d+) \| ([\d, ]+) \|$',
    PAGE,
    re.MULTILINE,
)
#: Published: type, size, stochastic depth, epochs, epochs after which the rate falls to a tenth.
PUBLISHED = {
    'slab_swin_tiny': ('SLAB', (2, 2, 6, 2), 0.1, 12, (8, 11)),
    'slab_swin_small': ('SLAB', (2, 2, 18, 2), 0.2, 12, (8, 11)),
    'swin_tiny_prepbn 1x': ('PRepBN', (2, 2, 6, 2), 0.1, 12, (8, 11)),
    'swin_small_prepbn 1x': ('PRepBN', (2, 2, 18, 2), 0.2, 12, (8, 11)),
    'swin_tiny_prepbn 3x': ('PRepBN', (2, 2, 6, 2), 0.2, 36, (27, 33)),
    'swin_small_prepbn 3x': ('PRepBN', (2, 2, 18, 2), 0.2, 36, (27, 33)),
}
SCALES = [(size, 1333) for size in (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)]


@cache
def load(path):
    return Config.fromfile(ROOT / path)


def key_of(published):
    name = re.match(
        r'swin/mask_rcnn_(.+)_patch4_window7_mstrain_480-800_adamw_(.x)_coco.py', published
    )
    return name[1] if name[1] in PUBLISHED else f'{name[1]} {name[2]}'


def test_the_page_lists_every_published_swin_config_once():
    assert sorted(key_of(row[0]) for row in ROWS) == sorted(PUBLISHED)


@pytest.mark.parametrize('row', ROWS, ids=lambda row: key_of(row[0]))
def test_a_config_builds_what_was_published(row):
    published, ours, attention, depths, drop_path, epochs, falls = row
    kind, blocks, rate, length, milestones = PUBLISHED[key_of(published)]
    # The page says what was published.
    assert attention == ('LLSS' if kind == 'SLAB' else 'SSSS')
    assert tuple(map(int, depths.split('-'))) == blocks
    assert (float(drop_path), int(epochs)) == (rate, length)
    assert tuple(map(int, falls.split(', '))) == milestones

    cfg = load(ours)
    with torch.device('meta'):  # weights are of no interest
        backbone = MODELS.build(dict(cfg.model.backbone))
    assert tuple(len(stage.blocks) for stage in backbone.net.layers) == blocks
    windows = [stage.blocks[0].window for stage in backbone.net.layers]
    assert windows == ([56, 28, 7, 7] if kind == 'SLAB' else [7] * 4)
    last = backbone.net.layers[-1].blocks[-1]
    assert last.drop_path.drop_prob == pytest.approx(rate)
    assert cfg.model.neck.in_channels == [96, 192, 384, 768]
    # Every norm but those at the four outputs is a PRepBN.
    assert len(prepbn_modules(backbone)) == 2 * sum(blocks) + 1 + 3

    twin = load(next(other[1] for other in ROWS if other[5] == epochs))
    assert cfg.train_cfg == twin.train_cfg and cfg.param_scheduler == twin.param_scheduler


@pytest.mark.parametrize('epochs, milestones', [(12, (8, 11)), (36, (27, 33))])
def test_rates_fall_when_they_did(epochs, milestones):
    cfg = load(next(row[1] for row in ROWS if int(row[5]) == epochs))
    schedule = training_schedule(
        cfg, nn.Sequential(nn.Linear(4, 4), PRepBN(4)), num_images=117266, processes=8
    )
    (rates,) = schedule.rates.values()
    assert schedule.batch_size == 16 and schedule.epoch_length == 7330  # ceil(ceil(117266 / 8) / 2)
    assert len(rates) == 7330 * epochs
    assert rates[0] == pytest.approx(1e-7) and rates[500] == pytest.approx(1e-4)
    drops = np.flatnonzero(np.diff(rates[501:]) < 0) + 502
    assert drops.tolist() == [7330 * epoch for epoch in milestones]
    assert rates[-1] == pytest.approx(1e-6)


def test_what_the_configs_share():
    cfg = load(ROWS[0][1])
    for row in ROWS[1:]:
        other = load(row[1])
        for key in ('optim_wrapper', 'train_dataloader', 'val_dataloader'):
            assert other[key] == cfg[key]
        assert other.model.data_preprocessor == cfg.model.data_preprocessor
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.betas, optimizer.weight_decay) == (
        'AdamW',
        1e-4,
        (0.9, 0.999),
        0.05,
    )
    assert cfg.optim_wrapper.get('clip_grad') is None
    assert cfg.optim_wrapper.get('accumulative_counts', 1) == 1
    loader = cfg.train_dataloader
    assert (loader.batch_size, loader.num_workers) == (2, 2)
    assert cfg.auto_scale_lr.base_batch_size == 16
    assert cfg.data_root == 'data/coco/'
    images = cfg.model.data_preprocessor
    assert (images.mean, images.std, images.bgr_to_rgb, images.pad_size_divisor) == (
        [123.675, 116.28, 103.53],
        [58.395, 57.12, 57.375],
        True,
        32,
    )
    assert cfg.test_dataloader.dataset.pipeline[1].scale == (1333, 800)
    _, _, flip, choice, _ = loader.dataset.pipeline
    assert flip.prob == 0.5
    (whole,), (first, crop, second) = choice.transforms
    assert [tuple(scale) for scale in whole.scales] == SCALES
    assert [tuple(scale) for scale in second.scales] == SCALES
    assert [tuple(scale) for scale in first.scales] == [(400, 1333), (500, 1333), (600, 1333)]
    assert (crop.crop_type, tuple(crop.crop_size), crop.allow_negative_crop) == (
        'absolute_range',
        (384, 600),
        True,
    )
    assert all(one.keep_ratio for one in (whole, first, second))


def test_decay_is_that_of_the_published_code_but_for_the_positional_encoding():
    cfg = load(ROWS[0][1])
    backbone = MODELS.build(dict(cfg.model.backbone))
    groups = build_optim_wrapper(backbone, dict(cfg.optim_wrapper)).optimizer.param_groups
    decay = {id(value): group['weight_decay'] for group in groups for value in group['params']}
    free = {name for name, value in backbone.named_parameters() if decay[id(value)] == 0}
    published = {
        name
        for name, _ in backbone.named_parameters()
        if 'norm' in name or 'relative_position_bias_table' in name
    }
    extra = free - published
    assert published <= free and extra and all('positional_encoding' in name for name in extra)


def test_arguments_that_the_page_names_exist():
    arguments = inspect.signature(SLABSwinTransformer).parameters
    named = set(re.findall(r'model\.backbone\.(\w+)', PAGE))
    assert named >= {'norm_eval', 'init_cfg'} and named <= arguments.keys()
    assert {'window_sizes', 'attn_types', 'drop_path_rate', 'with_cp', 'out_norm_cfg'} <= (
        arguments.keys()
    )
    assert arguments['out_norm_cfg'].default == dict(type='LN')
