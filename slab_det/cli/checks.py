"""Checks of what a tool was given, before the Runner, so that a refusal leaves nothing behind."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from slab_det.compat import require_detection
from slab_det.errors import InputError, MissingPackageError, user_input
from slab_det.files import writable_folder

from .checkpoint_checks import check_checkpoint


def load_config(path: str, cfg_options: dict | None = None):
    """Return the config at ``path`` with ``cfg_options`` merged into it.

    Raises:
        InputError: it is missing, cannot be parsed, or refers to something that is missing.
        MissingPackageError: mmengine, mmcv or mmdet is missing or does not fit.
    """
    require_detection('this tool')
    from slab_det.mm.config_reading import read_config

    cfg = read_config(path)
    words = ' '.join(f'{key}={value}' for key, value in (cfg_options or {}).items())
    with user_input(f'--cfg-options {words} do not fit {path}'):
        cfg.merge_from_dict(cfg_options or {})
    # Configs in pure Python set None; their names without a class are mmdet's all the same.
    cfg.default_scope = cfg.get('default_scope') or 'mmdet'
    return cfg


def require_onnx() -> None:
    """Raise MissingPackageError unless onnx and onnxruntime can be imported."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            f'{error}: install what this needs with pip install -r requirements/onnx.txt'
        ) from error


def choose_work_dir(cfg, config: str, work_dir: str | None = None) -> None:
    """Set ``cfg.work_dir``: the argument, else the config's, else work_dirs/NAME. Make nothing.

    Raises:
        InputError: it is not a folder that can be written to or made.
    """
    cfg.work_dir = work_dir or cfg.get('work_dir') or os.path.join('work_dirs', Path(config).stem)
    writable_folder(cfg.work_dir, '--work-dir')


def check_model(cfg, config: str):
    """Build the model of ``cfg`` once, without weights from files, and return it.

    Raises:
        InputError: it cannot be built, with the reason that the module gave; a checkpoint named in
            an ``init_cfg`` is missing or truncated; or a head counts other classes than the data.
    """
    import torch
    from mmdet.registry import MODELS

    if cfg.get('model') is None:
        raise InputError(f'config {config} has no model: give a whole config, not a part of one')
    from slab_det.checkpoints import is_address

    for path, checkpoint in _pretrained(cfg.model, 'model'):
        if not is_address(str(checkpoint)):
            check_checkpoint(checkpoint, path)
    # This throw-away model's weights must not move an unseeded run's random numbers.
    with (
        user_input(f'the model of {config} cannot be built'),
        MODELS.switch_scope_and_registry(cfg.get('default_scope', 'mmdet')) as registry,
        torch.random.fork_rng(devices=[]),
    ):
        model = registry.build(cfg.model)
    _check_heads(cfg, model, config)
    return model


def _check_heads(cfg, model, config: str) -> None:
    """Compare the classes of a built detector with those of its data."""
    from slab_det.mm.data import check_classes_of_model

    from .data_checks import class_of, first_dataset

    dataset, classes = first_dataset(cfg)
    if classes:
        things = {**getattr(class_of(dataset), 'METAINFO', {}), **(dataset.get('metainfo') or {})}
        check_classes_of_model(model, classes, config, things.get('thing_classes') or ())


def deployed_part(cfg, model, part: str | None, config: str):
    """Return the detector to deploy, and make ``cfg.model`` its config: the model itself, or the
    teacher or student of a semi-supervised one, by default that which it predicts with.

    Raises:
        InputError: ``part`` is named and the model has no parts.
    """
    inner = cfg.model.get('detector')
    if not isinstance(inner, dict) or not hasattr(model, 'teacher'):
        if part is not None:
            raise InputError(
                f'--part {part}: the {type(model).__name__} of {config} is one detector: leave '
                '--part out'
            )
        return model
    part = part or (cfg.model.get('semi_test_cfg') or {}).get('predict_on', 'teacher')
    print(
        f'the {type(model).__name__} of {config} holds a teacher and a student: the {part} is '
        'taken (--part chooses)'
    )
    cfg.model = inner
    return getattr(model, part)


def check_trained(cfg, content, argument: str) -> None:
    """Compare the classes that a checkpoint was trained for with those of a config; warn on stderr
    if the names differ.

    Raises:
        InputError: they are the same in another order.
    """
    from slab_det.mm.data import check_trained_classes

    from .data_checks import first_dataset

    _, classes = first_dataset(cfg)
    meta = content.get('meta') if isinstance(content, dict) else None
    trained = meta.get('dataset_meta') if isinstance(meta, dict) else None
    warning = classes and check_trained_classes(trained, classes, argument)
    if warning:
        print(f'warning: {warning}', file=sys.stderr)


def check_hooks(cfg, config: str) -> None:
    """Build the ``custom_hooks`` of ``cfg`` once.

    Raises:
        InputError: one of them cannot be built.
    """
    from mmengine.registry import HOOKS

    for hook in cfg.get('custom_hooks') or []:
        arguments = {key: value for key, value in hook.items() if key != 'priority'}
        with (
            user_input(f"the custom_hooks' {hook.get('type')} in {config} cannot be built"),
            HOOKS.switch_scope_and_registry(cfg.get('default_scope', 'mmdet')) as registry,
        ):
            registry.build(arguments)


def warn_of_missing_hook(cfg, model) -> None:
    """Warn if nothing would move the ratio of PRepBN, which otherwise shows after the training.

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


def check_data(cfg, phases: Sequence[str], **options) -> list:
    """Check annotations, classes and images, see :func:`slab_det.cli.data_checks.check_data`."""
    from . import data_checks  # imports mmdet

    return data_checks.check_data(cfg, phases, **options)


@contextmanager
def naming_damaged_images() -> Iterator[None]:
    """Turn the failure of a pipeline to load an image into one sentence that names the file.

    Raises:
        InputError: an image cannot be decoded.
    """
    try:
        yield
    except AssertionError as error:
        mark = 'failed to load image: '
        if mark not in str(error):
            raise
        path = str(error).split(mark)[-1].splitlines()[0].strip()
        raise InputError(
            f'the image {path} cannot be decoded: replace it, or remove it from the annotations; '
            'tools/check_data.py CONFIG --check-images lists all such images'
        ) from error


def _pretrained(node, path: str):
    """Yield (setting, checkpoint) of every ``dict(type='Pretrained', checkpoint=...)``."""
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
