"""A config for COCO on the built-in data, for a few steps on a CPU."""

from typing import Any

from mmengine.config import Config

from slab_det.mm.config_walk import kind_of, rebuild, walk_dicts

from .trial import SIZE, fixed_size

#: What a pipeline is left with: the transforms that load.
_LOADING = ('LoadImageFromFile', 'LoadAnnotations', 'LoadPanopticAnnotations')
#: Hooks that change a pipeline which is not there.
_SWITCHES = ('YOLOXModeSwitchHook', 'PipelineSwitchHook')
#: Everything is detected; what is suppressed takes time with the square of these numbers.
_LIMITS = dict(score_thr=0.0, nms_pre=100, max_per_img=100)
_META = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')


def on_builtin_data(
    cfg: Config, root: str, size: tuple[int, int] = (160, 192), batch: int = 2
) -> Config:
    """Return ``cfg`` for one epoch on the built-in data in COCO's layout.

    The model, the optimizer, the schedule and the hooks stay as they are, except that mixed
    precision is off, augmentations are left out with the hooks that switch them, and at test
    time up to 100 detections of any score count, clipped to the image: a detector that has
    seen a few images has no others.

    Args:
        cfg: config of a detector for COCO 2017, whose files are below ``data/coco/``.
        root: what ``tools/make_dataset.py --layout coco --panoptic --semantic`` wrote.
        size: height and width of the images in pixels, unless the detector is built for one size,
            or takes its queries (up to 900) from the cells of the maps.
        batch: images per step.
    """
    cfg = Config(
        {
            name: value
            for name, value in _moved(cfg.to_dict(), f'{root.rstrip("/")}/').items()
            if not name.startswith(('test_', 'tta_'))
        }
    )
    size = fixed_size(cfg.model) or (SIZE if cfg.model.get('as_two_stage') else size)
    for phase in ('train', 'val'):
        loader = cfg[f'{phase}_dataloader']
        dataset = next(node for _, node in walk_dicts(loader) if 'ann_file' in node)
        pipeline = _loading(loader) + [dict(type='Resize', scale=size[::-1], keep_ratio=False)]
        pipeline += [dict(type='PackDetInputs', **({'meta_keys': _META} if phase == 'val' else {}))]
        sampler = dict(type='DefaultSampler', shuffle=phase == 'train')
        cfg[f'{phase}_dataloader'] = dict(
            batch_size=batch,
            num_workers=0,
            sampler=sampler,
            dataset=dict(dataset, pipeline=pipeline),
        )
    evaluators = cfg.val_evaluator if isinstance(cfg.val_evaluator, list) else [cfg.val_evaluator]
    for evaluator in evaluators:
        if kind_of(evaluator) == 'CocoPanopticMetric':
            evaluator.nproc = 1
    cfg.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1, val_begin=2)
    cfg.randomness = dict(seed=0)
    cfg.val_cfg = dict(type='ValLoop')
    cfg.log_processor = dict(type='LogProcessor', window_size=1, by_epoch=True)
    cfg.custom_hooks = [
        hook for hook in cfg.get('custom_hooks') or [] if kind_of(hook) not in _SWITCHES
    ]
    cfg.default_hooks.checkpoint = None
    cfg.default_hooks.pop('visualization', None)
    cfg.optim_wrapper.type = 'OptimWrapper'
    for name in ('loss_scale', 'dtype'):
        cfg.optim_wrapper.pop(name, None)
    cfg.model.data_preprocessor.pop('batch_augments', None)
    for _, node in walk_dicts(cfg.model.get('test_cfg')):
        node |= {key: limit for key, limit in _LIMITS.items() if (node.get(key) or 0) > limit}
    for _, node in walk_dicts(cfg.model):
        # Boxes of random weights lie outside the image, where mmdet cannot paste masks.
        if node.get('clip_border') is False:
            node.clip_border = True
    cfg.load_from, cfg.resume = None, False
    return cfg


def _moved(node: Any, root: str) -> Any:
    """Return ``node`` with paths below data/coco/ moved below ``root``."""

    def move(value: Any) -> Any:
        below = isinstance(value, str) and value.startswith('data/coco/')
        return root + value.removeprefix('data/coco/') if below else value

    return rebuild(node, move)


def _loading(loader: dict[str, Any]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for _, node in walk_dicts(loader):
        if (kind := kind_of(node)) in _LOADING:
            found.setdefault(kind, dict(node))
    if 'poly2mask' in found.get('LoadAnnotations', {}):
        found['LoadAnnotations']['poly2mask'] = True  # the built-in masks are not polygons
    return [found[kind] for kind in _LOADING if kind in found]
