"""Make the built-in data set of drawn shapes, in COCO format.

python tools/make_dataset.py data/shapes
python tools/make_dataset.py data/large --train 2000 --val 200 --size 320 640 --seed 7
python tools/make_dataset.py data/coco --layout coco --panoptic --semantic --train 20 --val 5
"""

import argparse
import inspect
import sys
import time

from slab_det.mm.datasets import (
    LAYOUTS,
    STUFF_CLASSES,
    THING_CLASSES,
    DatasetError,
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
    parser.add_argument(
        '--train', type=int, default=DEFAULTS['num_train'], metavar='N', help='training images'
    )
    parser.add_argument(
        '--val', type=int, default=DEFAULTS['num_val'], metavar='N', help='validation images'
    )
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        default=DEFAULTS['size'],
        metavar=('MIN', 'MAX'),
        help='smallest and largest side in pixels',
    )
    parser.add_argument('--seed', type=int, default=DEFAULTS['seed'], help='same seed, same bytes')
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
        help="coco: folders named as COCO 2017's and its categories, so that "
        'configs for COCO run on it',
    )
    return parser.parse_args(arguments)


def main(arguments=None) -> int:
    args = parse_args(arguments)

    def show(done: int, total: int) -> None:
        if sys.stdout.isatty():
            print(f'\r{done}/{total} images', end='\n' if done == total else '', flush=True)

    start = time.perf_counter()
    try:
        made = make_shapes_dataset(
            args.out,
            args.train,
            args.val,
            tuple(args.size),
            args.seed,
            args.panoptic,
            args.semantic,
            args.layout,
            show,
        )
    except (ValueError, DatasetError, ImportError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    if made:
        print(
            f'{args.out}: {args.train} training and {args.val} validation images made in '
            f'{time.perf_counter() - start:.1f} s.'
        )
    else:
        print(f'{args.out}: already there, made with the same arguments.')
    return 0


if __name__ == '__main__':
    sys.exit(main())
