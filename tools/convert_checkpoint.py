"""Convert a checkpoint to this package's names: python tools/convert_checkpoint.py SRC DST

Published SLAB and PRepBN checkpoints, official ones of Swin, PVT, PVTv2, DeiT and CSWin, timm's
(also as safetensors) and mmdet's are read. Backbones read all of them as they are with
init_cfg=dict(type='Pretrained', ...); this tool is for resizing grids, dropping a classifier and
seeing what is in a file.
"""

import argparse
import os

from slab_det.checkpoints import FAMILIES
from slab_det.cli import add_traceback, run
from slab_det.errors import InputError
from slab_det.models.conversion import convert_checkpoint, save_checkpoint


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('src', help='checkpoint file to read')
    parser.add_argument('dst', help='checkpoint file to write')
    parser.add_argument(
        '--family',
        default='auto',
        choices=['auto', *(f.name for f in FAMILIES)],
        help='refuse a checkpoint of another family (default: auto)',
    )
    parser.add_argument('--prefix', help="take only the entries below it, such as 'backbone.'")
    parser.add_argument(
        '--resize-grids',
        nargs=2,
        type=int,
        metavar=('H', 'W'),
        help='resize positional grids to those of images of H x W pixels',
    )
    parser.add_argument('--drop-classifier', action='store_true', help='leave the classifier out')
    parser.add_argument(
        '--ema',
        action=argparse.BooleanOptionalAction,
        help='take the weights averaged over training, or the plain ones (default: those that the '
        'file has first)',
    )
    parser.add_argument('--quiet', action='store_true', help='print the summary only')
    add_traceback(parser)
    args = parser.parse_args()
    if args.resize_grids and min(args.resize_grids) < 1:
        parser.error(f'--resize-grids takes a height and width in pixels, got {args.resize_grids}')
    return args


def main(args: argparse.Namespace) -> None:
    if not os.path.isfile(args.src):
        raise InputError(f'SRC {args.src} is not a file: give the path of a checkpoint')
    if os.path.exists(args.dst) and os.path.samefile(args.src, args.dst):
        raise InputError(f'DST {args.dst} is SRC itself: give another path')
    size = tuple(args.resize_grids) if args.resize_grids else None
    conversion = convert_checkpoint(
        args.src, args.family, args.prefix, size, args.drop_classifier, args.ema
    )
    save_checkpoint(conversion, args.dst)
    if not args.quiet:
        print(conversion.report.table(conversion.weights))
    print(conversion.report.headline())
    print(conversion.usage())
    print(f'wrote {args.dst}')


if __name__ == '__main__':
    run(main, parse_args())
