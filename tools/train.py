"""Train a detector: python tools/train.py CONFIG [--work-dir DIR] [--resume [CHECKPOINT]]"""

import argparse

from slab_det.cli import (
    InputError,
    add_runner_arguments,
    check_amp,
    check_data,
    check_fit,
    check_hooks,
    check_model,
    check_resume,
    choose_work_dir,
    load_config,
    run,
    runner_of,
    warn_of_missing_hook,
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Train a detector')
    add_runner_arguments(parser)
    parser.add_argument(
        '--amp', action='store_true', help='train with automatic mixed precision (GPU only)'
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by the real batch size over auto_scale_lr.base_batch_size',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='resume from this checkpoint; without a value, from the last one in the work dir, or '
        'from the start if there is none',
    )
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    cfg = load_config(args.config, args.cfg_options)
    if args.amp:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.loss_scale = 'dynamic'
    check_amp(cfg, args.config)

    if args.auto_scale_lr:
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            raise InputError(
                f'--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in {args.config}, '
                'the batch size for which its learning rate was chosen'
            )
        cfg.auto_scale_lr.enable = True

    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume

    choose_work_dir(cfg, args.config, args.work_dir)
    check_data(cfg, ('train', 'val'), announce=True, decode=args.check_images)
    check_hooks(cfg, args.config)
    model = check_model(cfg, args.config)
    if cfg.get('resume'):
        check_resume(cfg, model)
    elif cfg.get('load_from'):
        check_fit(cfg.load_from, model, 'load_from', whole=False)
    warn_of_missing_hook(cfg, model)
    from slab_det.mm.optim import check_optim_wrapper

    check_optim_wrapper(cfg, model, args.config)
    del model
    with runner_of(cfg, args) as runner:
        runner.train()


if __name__ == '__main__':
    run(main, parse_args())
