"""Make the built-in data set of drawn shapes, in COCO format.

python tools/make_dataset.py data/shapes
python tools/make_dataset.py data/large --train 2000 --val 200 --size 320 640 --seed 7
python tools/make_dataset.py data/coco --layout coco --panoptic --semantic --train 20 --val 5
"""

import argparse
import inspect
import sys
import time

from slab_det.cli import add_traceback, number, run
from slab_det.mm.datasets import (
    LAYOUTS,
    MIN_SIDE,
    STUFF_CLASSES,
    THING_CLASSES,
    make_shapes_dataset,
)

DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(make_shapes_dataset).parameters.items()
}


def parse_args(arguments=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Make a training and a validation set of drawn shapes '
        f'({", ".join(THING_CLASSES)}) with boxes and masks, in COCO format.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('out', help='folder to make')
    for split, what in (('train', 'training'), ('val', 'validation')):
        parser.add_argument(
            f'--{split}',
            type=number(int, 1),
            default=DEFAULTS[f'num_{split}'],
            metavar='N',
            help=f'number of {what} images',
        )
    parser.add_argument(
        '--size',
        type=number(int, MIN_SIDE),
        nargs=2,
        default=DEFAULTS['size'],
        metavar=('MIN', 'MAX'),
        help='smallest and largest side in pixels',
    )
    parser.add_argument(
        '--seed',
        type=number(int, 0),
        default=DEFAULTS['seed'],
        help='the same seed gives the same files, byte for byte',
    )
    parser.add_argument(
        '--panoptic',
        action='store_true',
        help="also write panoptic annotations in COCO's format; the backgrounds "
        f'({", ".join(STUFF_CLASSES)}) are stuff',
    )
    parser.add_argument(
        '--semantic',
        action='store_true',
        help='also write a map of the categories of all pixels per image (stuffthingmaps)',
    )
    parser.add_argument(
        '--layout',
        choices=tuple(LAYOUTS),
        default=DEFAULTS['layout'],
        help="'coco' names folders and categories as COCO 2017 does, so that configs for COCO run "
        'on the data set',
    )
    add_traceback(parser)
    return parser.parse_args(arguments)


def main(args: argparse.Namespace) -> None:
    from rich.progress import Progress

    start = time.perf_counter()
    with Progress(disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task('images')
        made = make_shapes_dataset(
            args.out,
            args.train,
            args.val,
            tuple(args.size),
            args.seed,
            args.panoptic,
            args.semantic,
            args.layout,
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    if made:
        print(
            f'{args.out}: {args.train} training and {args.val} validation images made in '
            f'{time.perf_counter() - start:.1f} s.'
        )
    else:
        print(f'{args.out}: already there, made with the same arguments.')


if __name__ == '__main__':
    run(main, parse_args())
