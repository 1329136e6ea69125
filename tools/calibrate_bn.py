"""Recompute BatchNorm statistics: python tools/calibrate_bn.py CONFIG CHECKPOINT --out FILE

The images are those of the training data as the test pipeline presents them, one at a time. FILE is
the checkpoint with the statistics replaced, without the state of the optimizer: for testing,
deployment and load_from, not for --resume.
"""

import argparse
import os
from pathlib import Path

from slab_det.cli import (
    InputError,
    add_config_arguments,
    device,
    load_detector,
    naming_damaged_images,
    number,
    run,
    user_input,
    writable_folder,
    write_checkpoint,
)
from slab_det.errors import SlabDetError


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Recompute the BatchNorm statistics of a trained detector; its parameters stay'
    )
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint file of the trained detector')
    parser.add_argument('--out', required=True, metavar='FILE', help='checkpoint to write')
    parser.add_argument(
        '--num-images',
        type=number(int, 1),
        default=128,
        metavar='N',
        help='number of training images, spread evenly over the data set (default: %(default)s)',
    )
    parser.add_argument(
        '--max-passes',
        type=number(int, 1),
        default=20,
        metavar='N',
        help='largest number of passes over the images (default: %(default)s)',
    )
    parser.add_argument(
        '--tolerance',
        type=number(float, 0),
        default=0.01,
        metavar='SHARE',
        help='stop when a pass changes no mean by more than this many standard deviations and no '
        'variance by more than this share (default: %(default)s)',
    )
    parser.add_argument(
        '--include-frozen',
        action='store_true',
        help='also recompute the statistics that training kept frozen (norm_eval, frozen_stages)',
    )
    parser.add_argument(
        '--num-workers',
        type=number(int, 0),
        default=2,
        metavar='N',
        help='number of processes that read the images (default: %(default)s)',
    )
    parser.add_argument(
        '--device', type=device, help='such as cuda:0 or cpu (default: a GPU if there is one)'
    )
    return parser.parse_args()


def check_out(out: str, config: str, checkpoint: str) -> Path:
    path = Path(out)
    if path.is_dir():
        raise InputError(f'--out {out} is a folder: give the name of the checkpoint to write')
    for name, source in (('config', config), ('checkpoint', os.path.expanduser(checkpoint))):
        # A training could not be resumed from what is written.
        if path.exists() and os.path.exists(source) and os.path.samefile(path, source):
            raise InputError(
                f'--out {out} is the {name} {source} itself, which would be lost: give the name of '
                'a new file'
            )
    writable_folder(path.absolute().parent, '--out')
    return path


def averaged_too(content: dict) -> None:
    """Print which of two models was calibrated, if the checkpoint holds two."""
    if 'ema_state_dict' in content:
        print(
            'the checkpoint holds an averaged model (EMAHook): its statistics are calibrated, not '
            'those of the model that it averages'
        )


def main(args: argparse.Namespace) -> None:
    out = check_out(args.out, args.config, args.checkpoint)
    cfg, model, content = load_detector(args, 'train')

    from mmengine.device import get_device

    from slab_det.mm.hooks.calibration_data import (
        calibration_loader,
        images_as_tested,
        progress_bar,
    )
    from slab_det.statistics.calibration import calibrate_batch_norm

    tested = cfg.get('test_dataloader') or cfg.get('val_dataloader')
    with user_input(f'the data set of {args.config} cannot be built'):
        dataset = images_as_tested(cfg.get('train_dataloader'), tested)
    model.to(args.device or get_device())
    loader = calibration_loader(dataset, args.num_images, args.num_workers)
    source = f'{args.config} with {args.checkpoint}'
    with user_input(source, SlabDetError), naming_damaged_images():
        report = calibrate_batch_norm(
            model,
            loader,
            include_frozen=args.include_frozen,
            max_passes=args.max_passes,
            tolerance=args.tolerance,
            progress=progress_bar,
        )
    print(report.summary())
    if report.passes == args.max_passes > 1 and report.residual > args.tolerance:
        print(f'the statistics still change by {report.residual:.2g}: raise --max-passes')
    averaged_too(content)
    weights = {key: value.cpu() for key, value in model.state_dict().items()}
    meta = dict(content.get('meta') or {})
    write_checkpoint(out, dict(state_dict=weights, meta=meta), '--out')
    print(
        f'wrote {out} for testing, deployment and load_from, not for --resume: it does not hold '
        'the state of the optimizer'
    )


if __name__ == '__main__':
    run(main, parse_args())
