"""Recomputes BatchNorm statistics: python tools/calibrate_bn.py CONFIG CHECKPOINT --out FILE

The images are those of the training data as the test pipeline presents them, one at a time. FILE is
the checkpoint with the statistics replaced, without the state of the optimizer: for testing, deployment
and load_from, not for --resume.
"""

import argparse
import os
from pathlib import Path

from slab_det.cli import (
    InputError,
    add_config_arguments,
    check_data,
    check_fit,
    check_model,
    load_config,
    naming_damaged_images,
    read_checkpoint,
    run,
    writable_folder,
    write_checkpoint,
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Recompute the BatchNorm statistics of a trained detector with its parameters frozen'
    )
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint file of the trained detector')
    parser.add_argument('--out', required=True, metavar='FILE', help='checkpoint to write')
    parser.add_argument(
        '--num-images',
        type=int,
        default=128,
        metavar='N',
        help='images of the training data, spread evenly over it (default: 128)',
    )
    parser.add_argument(
        '--max-passes',
        type=int,
        default=20,
        metavar='N',
        help='passes over the images after which it ends at the latest (default: 20)',
    )
    parser.add_argument(
        '--tolerance',
        type=float,
        default=0.01,
        metavar='SHARE',
        help='it ends when a pass changes no mean by more standard deviations and no variance by '
        'a larger share (default: 0.01)',
    )
    parser.add_argument(
        '--include-frozen',
        action='store_true',
        help='recompute statistics as well that training left as they were (norm_eval, '
        'frozen_stages)',
    )
    parser.add_argument(
        '--num-workers',
        type=int,
        default=2,
        metavar='N',
        help='processes that read the images (default: 2)',
    )
    parser.add_argument(
        '--device',
        help='where to compute, such as cuda:0 or cpu (default: a GPU, where there is one)',
    )
    return parser.parse_args()


def check_numbers(args: argparse.Namespace) -> None:
    for name, least in (('num_images', 1), ('max_passes', 1), ('num_workers', 0)):
        if getattr(args, name) < least:
            raise InputError(
                f'--{name.replace("_", "-")} {getattr(args, name)}: give a number of at least {least}'
            )
    if not args.tolerance >= 0:
        raise InputError(f'--tolerance {args.tolerance}: give a number from 0 on, such as 0.01')


def check_out(out: str, config: str, checkpoint: str) -> Path:
    path = Path(out)
    if path.is_dir():
        raise InputError(f'--out {out} is a folder: give the name of the checkpoint to write')
    for name, source in (('config', config), ('checkpoint', os.path.expanduser(checkpoint))):
        # A training could not be resumed from what is written.
        if path.exists() and os.path.samefile(path, source):
            raise InputError(
                f'--out {out} is the {name} {source} itself, which would be lost: give the name of a '
                'new file'
            )
    writable_folder(path.absolute().parent, '--out')
    return path


def choose_device(name):
    import torch
    from mmengine.device import get_device

    try:
        device = torch.device(name or get_device())
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f'--device {name} cannot be used: {" ".join(str(error).split())[:200]}'
        ) from error
    return device


def averaged_too(content: dict) -> None:
    """The statistics would fit one model of the two; say which."""
    if 'ema_state_dict' in content:
        print(
            'the checkpoint holds an averaged model (EMAHook): its statistics are calibrated, not those of the '
            'model that it averages'
        )


def main(args: argparse.Namespace) -> None:
    check_numbers(args)
    cfg = load_config(args.config, args.cfg_options)
    content = read_checkpoint(args.checkpoint, 'checkpoint')
    out = check_out(args.out, args.config, args.checkpoint)

    from mmdet.utils import register_all_modules

    from slab_det.mm.hooks.calibration_data import (
        calibration_loader,
        images_as_tested,
        progress_bar,
    )
    from slab_det.statistics.calibration import calibrate_batch_norm

    register_all_modules(init_default_scope=True)
    check_data(cfg, ('train',))
    model = check_model(cfg, args.config)
    check_fit(args.checkpoint, model, 'checkpoint')
    tested = cfg.get('test_dataloader') or cfg.get('val_dataloader')
    try:
        dataset = images_as_tested(cfg.get('train_dataloader'), tested)
    except ValueError as error:
        raise InputError(f'{args.config}: {error}') from error

    weights = content.get('state_dict', content)
    model.load_state_dict(
        {key.removeprefix('module.'): value for key, value in weights.items()}, strict=False
    )
    model.to(choose_device(args.device))
    loader = calibration_loader(dataset, args.num_images, args.num_workers)
    try:
        with naming_damaged_images():
            report = calibrate_batch_norm(
                model,
                loader,
                include_frozen=args.include_frozen,
                max_passes=args.max_passes,
                tolerance=args.tolerance,
                progress=progress_bar,
            )
    except ValueError as error:
        raise InputError(f'{args.config} with {args.checkpoint}: {error}') from error
    print(report.summary())
    if report.passes == args.max_passes > 1 and report.residual > args.tolerance:
        print(f'the statistics still change by {report.residual:.2g}: raise --max-passes')

    averaged_too(content)
    meta = {key: value for key, value in (content.get('meta') or {}).items()}
    weights = {key: value.cpu() for key, value in model.state_dict().items()}
    write_checkpoint(out, dict(state_dict=weights, meta=meta), '--out')
    print(
        f'wrote {out} for testing, deployment and load_from, not for --resume: it holds no state of the optimizer'
    )


if __name__ == '__main__':
    run(main, parse_args())
