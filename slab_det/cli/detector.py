"""The detector that a tool's arguments name."""

import argparse

from slab_det.errors import user_input

from .checkpoint_checks import check_checkpoint, load_weights, read_checkpoint
from .checks import check_data, check_model, check_trained, deployed_part, load_config


def load_detector(args: argparse.Namespace, *phases: str):
    """Return config, detector and checkpoint that a tool's ``config`` and ``checkpoint`` name.

    Of a semi-supervised model ``args.part`` is taken, and the config is that of this part. The
    detector has the checkpoint's weights and is in evaluation mode, on the CPU. mmdet's modules are
    registered and its scope is set.

    Args:
        args: of :func:`~.arguments.add_config_arguments` and ``checkpoint``.
        phases: whose data sets are checked as well: 'train', 'val', 'test'.

    Raises:
        InputError: one of them cannot be used.
    """
    cfg = load_config(args.config, args.cfg_options)
    check_checkpoint(args.checkpoint, 'checkpoint')
    from mmdet.utils import register_all_modules
    from mmengine.runner import CheckpointLoader

    register_all_modules(init_default_scope=True)
    check_data(cfg, phases)
    model = check_model(cfg, args.config)
    if '://' in args.checkpoint:
        with user_input(f'checkpoint {args.checkpoint} cannot be loaded'):
            content = CheckpointLoader.load_checkpoint(args.checkpoint, 'cpu')
    else:
        content = read_checkpoint(args.checkpoint, 'checkpoint')
    load_weights(content, args.checkpoint, model, 'checkpoint')
    check_trained(cfg, content, f'checkpoint {args.checkpoint}')
    model = deployed_part(cfg, model, getattr(args, 'part', None), args.config)
    return cfg, model.eval(), content
