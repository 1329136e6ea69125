"""Checks of what a tool was given, made before the Runner so that a refusal leaves nothing behind."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from slab_det.compat import require_detection
from slab_det.errors import InputError, one_line
from slab_det.files import writable_folder

from .checkpoint_checks import check_checkpoint


def load_config(path: str, cfg_options: dict | None = None):
    """The config at ``path`` with ``cfg_options`` merged into it.

    Raises:
        InputError: where it is missing, cannot be parsed or refers to something that is missing.
        ImportError: where mmengine, mmcv or mmdet is missing or does not fit.
    """
    require_detection('this tool')
    from slab_det.mm.config_reading import read_config

    cfg = read_config(path)
    if cfg_options:
        try:
            cfg.merge_from_dict(cfg_options)
        except (KeyError, TypeError, AssertionError, IndexError) as error:
            words = ' '.join(f'{key}={value}' for key, value in cfg_options.items())
            raise InputError(
                f'--cfg-options {words} do not fit {path}: {one_line(error)}'
            ) from error
    return cfg


def choose_work_dir(cfg, config: str, work_dir: str | None = None) -> None:
    """Sets ``cfg.work_dir``: the argument, else that of the config, else work_dirs/NAME. Makes nothing.

    Raises:
        InputError: where it cannot become a folder that we may write to.
    """
    cfg.work_dir = work_dir or cfg.get('work_dir') or os.path.join('work_dirs', Path(config).stem)
    writable_folder(cfg.work_dir, '--work-dir')


def check_model(cfg, config: str):
    """Builds the model of ``cfg`` once, without weights from files, and returns it.

    Raises:
        InputError: where it cannot be built, with the reason that the module gave, or where a checkpoint
            named in an ``init_cfg`` is missing or truncated.
    """
    import torch
    from mmdet.registry import MODELS

    if cfg.get('model') is None:
        raise InputError(f'config {config} has no model: give a whole config, not a part of one')
    from slab_det.checkpoints import is_address

    for path, checkpoint in _pretrained(cfg.model, 'model'):
        if not is_address(str(checkpoint)):
            check_checkpoint(checkpoint, path)
    try:
        # Drawing the weights of this throw-away model must not move an unseeded run's random numbers.
        with (
            MODELS.switch_scope_and_registry(cfg.get('default_scope', 'mmdet')) as registry,
            torch.random.fork_rng(devices=[]),
        ):
            return registry.build(cfg.model)
    except Exception as error:  # whatever a module raises about its arguments
        raise InputError(f'the model of {config} cannot be built: {one_line(error)}') from error


def check_hooks(cfg, config: str) -> None:
    """Builds the ``custom_hooks`` of ``cfg`` once; raises InputError where one cannot be built."""
    from mmengine.registry import HOOKS

    for hook in cfg.get('custom_hooks') or []:
        arguments = {key: value for key, value in hook.items() if key != 'priority'}
        try:
            with HOOKS.switch_scope_and_registry(cfg.get('default_scope', 'mmdet')) as registry:
                registry.build(arguments)
        except Exception as error:  # whatever a hook raises about its arguments
            raise InputError(
                f"the custom_hooks' {hook.get('type')} in {config} cannot be built: "
                f'{one_line(error)}'
            ) from error


def warn_of_missing_hook(cfg, model) -> None:
    """Says on stderr where nothing would move the ratio of PRepBN, which otherwise shows after the training.

    Args:
        cfg: the config.
        model: a throw-away model with the weights of ``load_from`` or the resumed checkpoint.
    """
    from mmengine.registry import HOOKS

    from slab_det.layers import prepbn_modules
    from slab_det.mm.hooks import PRepBNHook

    kinds = [
        hook.get('type')
        for hook in [*(cfg.get('custom_hooks') or []), *(cfg.get('default_hooks') or {}).values()]
        if hook is not None
    ]
    with HOOKS.switch_scope_and_registry(cfg.get('default_scope', 'mmdet')) as registry:
        found = [registry.get(kind) if isinstance(kind, str) else kind for kind in kinds]
    if any(isinstance(kind, type) and issubclass(kind, PRepBNHook) for kind in found):
        return
    model.train()
    # Frozen statistics (norm_eval) are for finished checkpoints.
    left = [norm for norm in prepbn_modules(model) if norm.repbn.bn.training and norm.ratio > 0]
    if left and int(os.environ.get('RANK', 0)) == 0:
        finished = (
            ', unless that of the checkpoint in init_cfg is 0'
            if any(_pretrained(cfg.model, ''))
            else ''
        )
        print(
            f'warning: custom_hooks has no PRepBNHook: the ratio of {len(left)} PRepBN stays at '
            f'{float(left[0].ratio):.3g}{finished}, and the detector keeps its LayerNorm; add '
            "dict(type='PRepBNHook', schedule='linear', end=0.8) to custom_hooks",
            file=sys.stderr,
        )


def check_data(cfg, phases: Sequence[str]) -> None:
    """Checks data roots, annotation files and image folders of the phases' data sets and evaluators.

    Raises:
        InputError: naming the setting, its value and the remedy.
    """
    from .data_checks import check_annotations, check_dataset, datasets_of

    for phase in phases:
        evaluators = (cfg.get(f'{phase}_evaluator') if phase != 'train' else None) or []
        single = isinstance(evaluators, dict)
        evaluators = [evaluators] if single else evaluators
        # Detections that are only written need no truth, which COCO does not publish for test-dev.
        annotated = not evaluators or not all(
            evaluator.get('format_only') for evaluator in evaluators
        )
        loader = cfg.get(f'{phase}_dataloader')
        if loader is not None:
            for path, dataset in datasets_of(loader.get('dataset'), f'{phase}_dataloader.dataset'):
                check_dataset(path, dataset, annotated)
        for index, evaluator in enumerate(evaluators):
            path = f'{phase}_evaluator' if single else f'{phase}_evaluator.{index}'
            if evaluator.get('type') == 'CocoMetric' and evaluator.get('ann_file'):
                check_annotations(f'{path}.ann_file', evaluator['ann_file'], annotated=annotated)


def _pretrained(node, path: str):
    """Yields (setting, checkpoint) for every ``dict(type='Pretrained', checkpoint=...)`` below ``node``."""
    if isinstance(node, dict):
        kind = node.get('type')
        if (kind if isinstance(kind, str) else getattr(kind, '__name__', '')) in (
            'Pretrained',
            'PretrainedInit',
        ):
            yield f'{path}.checkpoint', node.get('checkpoint')
        for key, value in node.items():
            yield from _pretrained(value, f'{path}.{key}')
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from _pretrained(value, f'{path}.{index}')
