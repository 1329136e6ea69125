"""The configs of the built-in data set and of the examples with real data."""

from pathlib import Path

import pytest
from mmengine.config import Config

from slab_det.mm.datasets import THING_CLASSES

CONFIGS = Path(__file__).parents[2] / 'configs'
MINI = sorted((CONFIGS / 'mini').glob('*.py'))
EXAMPLES = sorted((CONFIGS / 'examples').glob('*.py'))
ROOTS = dict.fromkeys(MINI, 'SHAPES_ROOT')
ROOTS.update({path: path.stem.rsplit('_', 1)[1].upper() + '_ROOT' for path in EXAMPLES})

every_config = pytest.mark.parametrize('path', ROOTS, ids=lambda path: path.stem)


def strings(node):
    """Every string below a config node."""
    if isinstance(node, dict):
        for value in node.values():
            yield from strings(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from strings(value)
    elif isinstance(node, str):
        yield node


def heads(model):
    if 'bbox_head' in model:
        return [model.bbox_head]
    return [model.roi_head.bbox_head, model.roi_head.mask_head]


def plain_dataset(loader):
    dataset = loader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    return dataset


def test_there_are_configs():
    assert len(MINI) >= 2 and len(EXAMPLES) == 2


@every_config
def test_the_data_root_is_a_setting_that_reaches_every_path(path, monkeypatch):
    monkeypatch.setenv(ROOTS[path], 'some/where/else')
    cfg = Config.fromfile(path)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert plain_dataset(loader).data_root == 'some/where/else'
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        assert evaluator.ann_file.startswith('some/where/else/')
    monkeypatch.delenv(ROOTS[path])
    default = Config.fromfile(path)
    assert plain_dataset(default.train_dataloader).data_root.startswith('data/')
    assert not any('else' in text for text in strings(default.to_dict()))


@every_config
def test_heads_and_data_agree_about_the_classes(path):
    cfg = Config.fromfile(path)
    classes = tuple(plain_dataset(cfg.train_dataloader).metainfo.classes)
    assert tuple(plain_dataset(cfg.val_dataloader).metainfo.classes) == classes
    assert all(head.num_classes == len(classes) for head in heads(cfg.model))
    if path in MINI:
        assert classes == THING_CLASSES


@every_config
def test_runs_on_a_cpu_with_the_hooks_that_slab_needs(path):
    cfg = Config.fromfile(path)
    hooks = {hook.type: hook for hook in cfg.custom_hooks}
    assert {'PRepBNHook', 'RandomStateHook'} <= set(hooks)
    assert hooks['PRepBNHook'].end == pytest.approx(0.8)
    assert cfg.optim_wrapper.type == 'OptimWrapper'  # mmengine's AMP wrapper needs an accelerator
    assert cfg.optim_wrapper.clip_grad.max_norm > 0
    assert cfg.model.backbone.norm_cfg.type == 'PRepBN'


@every_config
def test_the_learning_rate_falls_until_the_last_epoch(path):
    cfg = Config.fromfile(path)
    assert cfg.param_scheduler[-1].end == cfg.param_scheduler[-1].T_max == cfg.train_cfg.max_epochs
    assert cfg.train_cfg.max_epochs % cfg.train_cfg.val_interval == 0


@every_config
def test_a_config_inherits_and_fits_one_screen(path):
    text = path.read_text()
    assert '_base_' in text and len(text.splitlines()) <= 60


@pytest.mark.parametrize(
    'path', [path for path in ROOTS if 'slab-swin' in path.stem], ids=lambda path: path.stem
)
def test_windows_divide_the_maps_of_the_training_images(path):
    cfg = Config.fromfile(path)
    pipeline = plain_dataset(cfg.train_dataloader).pipeline
    width, height = next(step.scale for step in pipeline if 'Resize' in step.type)
    assert width % cfg.model.data_preprocessor.pad_size_divisor == 0
    assert height % cfg.model.data_preprocessor.pad_size_divisor == 0
    for window, stride in zip(cfg.model.backbone.window_sizes[:3], (4, 8, 16)):
        assert width // stride % window == 0 and height // stride % window == 0
