"""Every config: it builds, trains what it should with the hooks that it should, and is
catalogued."""

import copy
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, init_default_scope
from torch import nn

from slab_det.layers import PRepBN, RepBN, prepbn_modules
from slab_det.mm.hooks import PRepBNHook
from slab_det.mm.resume import RandomStateHook

ROOT = Path(__file__).parents[2]
TRAININGS = sorted(
    path
    for path in (ROOT / 'configs').rglob('*.py')
    if '_base_' not in path.relative_to(ROOT).parts
)
# But for the detectors with LayerNorm that recipes start from.
CONFIGS = [path for path in TRAININGS if '-ln_' not in path.stem.replace('from-ln', '')]
SWIN = [path for path in CONFIGS if path.parent.name == 'slab_swin']
METAFILES = sorted((ROOT / 'configs').glob('*/metafile.yml'))
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm, RepBN, PRepBN)


@cache
def load(path):
    """A config; reading takes a second, as mmengine searches all of mmdet's metafiles for a
    base."""
    return Config.fromfile(path)


def name_of(path):
    return f'{path.parent.name}/{path.stem}'


@pytest.fixture(scope='module', params=CONFIGS, ids=name_of)
def config(request):
    init_default_scope('mmdet')
    return request.param, copy.deepcopy(load(request.param))


BUILT = {}


@pytest.fixture(scope='module')
def model(config):
    key = str(config[1].model)
    if key not in BUILT:
        if len(BUILT) == 2:  # files that follow each other share at most two models
            BUILT.pop(next(iter(BUILT)))
        BUILT[key] = MODELS.build(config[1].model)
    return BUILT[key]


def test_the_neck_takes_what_the_backbone_gives(config, model):
    model.eval()
    with torch.no_grad():
        maps = model.extract_feat(torch.zeros(1, 3, 64, 96))
    heads = config[1].model.get('rpn_head') or config[1].model.bbox_head
    strides = heads.anchor_generator.strides
    assert [(64 / m.shape[2], 96 / m.shape[3]) for m in maps[:3]] == [(s, s) for s in strides[:3]]
    assert len(maps) == len(strides)


def test_the_ratio_falls_over_four_fifths_of_training(config, model):
    assert prepbn_modules(model)
    hooks = [HOOKS.build(dict(hook)) for hook in config[1].custom_hooks]
    (driving,) = [hook for hook in hooks if isinstance(hook, PRepBNHook)]
    assert (driving.begin, driving.end, driving.end_ratio, driving.schedule) == (
        0,
        0.8,
        0.0,
        'linear',
    )
    assert driving.start_ratio is None
    assert sum(isinstance(hook, RandomStateHook) for hook in hooks) == 1


@pytest.mark.parametrize('path', TRAININGS, ids=name_of)
def test_a_killed_training_resumes_to_the_same_numbers(path):
    cfg = load(path)
    assert [hook.type for hook in cfg.custom_hooks].count('RandomStateHook') == 1
    saving = cfg.default_hooks.checkpoint
    assert saving.backend_args == dict(backend='whole')
    # mmengine removes the oldest checkpoint before it writes the newest, which may be cut.
    assert saving.get('max_keep_ckpts', -1) != 1
    assert 'slab_det' in cfg.custom_imports.imports  # both are registered there


def undecayed(model):
    """Names of the parameters of norms, of positions and of class tokens, from the built
    modules."""
    names = {
        f'{prefix}.{name}'
        for prefix, module in model.named_modules()
        if isinstance(module, NORMS)
        for name, _ in module.named_parameters()
    }
    marks = ('pos_embed', 'positional_encoding', 'relative_position_bias_table', 'cls_token')
    return names | {name for name, _ in model.named_parameters() if any(m in name for m in marks)}


def test_exactly_norms_and_positions_take_no_weight_decay(config, model):
    cfg = copy.deepcopy(config[1].optim_wrapper)
    cfg.type = 'OptimWrapper'  # mixed precision cannot be built on a CPU
    cfg.pop('loss_scale', None)
    groups = build_optim_wrapper(model, cfg).optimizer.param_groups
    base = cfg.optimizer.weight_decay
    decay = {id(p): group['weight_decay'] for group in groups for p in group['params']}
    free = undecayed(model)
    assert cfg.constructor == 'SLABOptimWrapperConstructor'
    if cfg.get('paramwise_cfg', {}).get('bias_decay_mult') == 0:
        free |= {name for name, _ in model.named_parameters() if name.endswith('.bias')}
    assert base > 0 and any(name.endswith('eta') for name in free)
    expected = {name: 0 if name in free else base for name, _ in model.named_parameters()}
    assert {name: decay[id(p)] for name, p in model.named_parameters()} == expected
    assert {group['lr'] for group in groups} == {cfg.optimizer.lr}


@pytest.mark.parametrize('path', SWIN, ids=name_of)
def test_swin_trains_as_published(path):
    cfg = load(path)
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 1e-4, 0.05)
    small, long = 'swin-s' in path.stem, '-3x' in path.stem
    assert cfg.model.backbone.drop_path_rate == (0.2 if small or long else 0.1)
    assert cfg.model.backbone.arch == ('small' if small else 'tiny')
    assert cfg.model.backbone.attn_types == ('SSSS' if 'prepbn' in path.stem else 'LLSS')
    assert cfg.train_cfg.max_epochs == (36 if long else 12)
    assert cfg.param_scheduler[-1].milestones == ([27, 33] if long else [8, 11])
    assert cfg.param_scheduler[-1].end == cfg.train_cfg.max_epochs
    assert cfg.auto_scale_lr.base_batch_size == 16
    assert (cfg.optim_wrapper.type == 'AmpOptimWrapper') == ('amp' in path.stem)


@pytest.mark.parametrize('path', SWIN, ids=name_of)
def test_swin_augments_as_its_name_says(path):
    cfg = load(path)
    pipeline = cfg.train_dataloader.dataset.pipeline
    types = [step['type'] for step in pipeline]
    masks = 'mask-rcnn' in path.stem
    assert pipeline[1].get('with_mask', False) == masks
    assert cfg.val_evaluator.metric == (['bbox', 'segm'] if masks else 'bbox')
    if 'ms-crop' not in path.stem:
        assert types == [
            'LoadImageFromFile',
            'LoadAnnotations',
            'Resize',
            'RandomFlip',
            'PackDetInputs',
        ]
        assert tuple(pipeline[2].scale) == (1333, 800)
        return
    assert types == [
        'LoadImageFromFile',
        'LoadAnnotations',
        'RandomFlip',
        'RandomChoice',
        'PackDetInputs',
    ]
    scales = [
        (480, 1333),
        (512, 1333),
        (544, 1333),
        (576, 1333),
        (608, 1333),
        (640, 1333),
        (672, 1333),
        (704, 1333),
        (736, 1333),
        (768, 1333),
        (800, 1333),
    ]
    (resize,), (first, crop, last) = pipeline[3].transforms
    assert [tuple(s) for s in resize.scales] == scales == [tuple(s) for s in last.scales]
    assert [tuple(s) for s in first.scales] == [(400, 1333), (500, 1333), (600, 1333)]
    assert crop.crop_type == 'absolute_range' and tuple(crop.crop_size) == (384, 600)


def read(path):
    return yaml.safe_load(path.read_text(encoding='utf-8'))


def test_the_index_names_every_metafile():
    names = [str(path.relative_to(ROOT)) for path in METAFILES]
    assert sorted(read(ROOT / 'model-index.yml')['Import']) == names and names


@pytest.mark.parametrize('path', METAFILES, ids=lambda path: path.parent.name)
def test_a_metafile_lists_exactly_its_configs(path):
    content = read(path)
    models = {model['Config']: model for model in content['Models']}
    assert sorted(models) == sorted(str(p.relative_to(ROOT)) for p in path.parent.glob('*.py'))
    collections = {collection['Name'] for collection in content['Collections']}
    for file, model in models.items():
        assert model['Name'] == Path(file).stem and model['In Collection'] in collections
        assert model['Metadata']['Epochs'] == load(ROOT / file).train_cfg.max_epochs


@pytest.mark.parametrize('path', METAFILES, ids=lambda path: path.parent.name)
def test_the_backbones_of_a_metafile_are_those_of_its_configs(path):
    content = read(path)
    backbones = {b['Name']: b['Config'] for c in content['Collections'] for b in c['Backbones']}
    for model in content['Models']:
        cfg = load(ROOT / model['Config']).model.backbone
        wanted = backbones[model['Metadata']['Backbone']]
        assert {key: cfg.get(key) for key in wanted} == wanted


def test_mim_reads_the_index():
    modelindex = pytest.importorskip('modelindex.load_model_index')
    index = modelindex.load(str(ROOT / 'model-index.yml'))
    assert len(index.models) == sum(len(read(path)['Models']) for path in METAFILES)


@pytest.mark.parametrize(
    'path', [p for p in SWIN if 'swin-t_fpn_ms-crop-1x' in p.stem], ids=name_of
)
def test_the_augmentation_runs_and_keeps_to_its_scales(path, tmp_path):
    init_default_scope('mmdet')
    file = str(tmp_path / 'image.png')
    assert cv2.imwrite(file, np.full((480, 640, 3), 127, np.uint8))
    square = [[100.0, 100.0, 300.0, 100.0, 300.0, 300.0, 100.0, 300.0]]
    instance = dict(bbox=[100.0, 100.0, 300.0, 300.0], bbox_label=3, ignore_flag=0, mask=square)
    pipeline = Compose(load(path).train_dataloader.dataset.pipeline)
    sizes = set()
    np.random.seed(0)
    for _ in range(12):
        results = pipeline(
            dict(img_path=file, img_id=0, height=480, width=640, instances=[instance])
        )
        height, width = results['inputs'].shape[1:]
        sizes.add((height, width))
        assert min(height, width) <= 800 and max(height, width) <= 1333
        # A crop of at most 384 x 600 pixels may be a narrow strip, which the longer side then
        # limits.
        assert min(height, width) in range(480, 801, 32) or max(height, width) >= 1332
        assert ('masks' in results['data_samples'].gt_instances) == ('mask-rcnn' in path.stem)
    assert len(sizes) > 6
