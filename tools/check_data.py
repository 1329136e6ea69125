"""Check annotations, classes and images before anything is trained on them.

python tools/check_data.py CONFIG [--check-images] [--draw FOLDER]
python tools/check_data.py --ann FILE [--images FOLDER] [--fix NEW_FILE]

Nothing is changed in place. The exit code is 1 where a training or an evaluation would be refused.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from slab_det.cli import (
    InputError,
    KeyValues,
    add_traceback,
    load_config,
    run,
    writable_folder,
    write_text,
)

#: Pictures that --draw writes at most.
MOST_PICTURES = 50


def parse_args(arguments=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', nargs='?', help='config, all of whose data sets are checked')
    parser.add_argument('--ann', metavar='FILE', help="annotation file in COCO's format")
    parser.add_argument('--images', metavar='FOLDER', help='folder of the images of --ann')
    parser.add_argument(
        '--classes', nargs='+', metavar='NAME', help='classes of --ann (default: its categories)'
    )
    parser.add_argument(
        '--fix', metavar='NEW_FILE', help='write a corrected copy of --ann and say what it changes'
    )
    parser.add_argument(
        '--draw', metavar='FOLDER', help='draw the images concerned, with their boxes'
    )
    parser.add_argument(
        '--check-images',
        action='store_true',
        help='decode every image; unchanged files are not decoded again',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=KeyValues,
        metavar='KEY=VALUE',
        help='settings that override those of the config',
    )
    add_traceback(parser)
    args = parser.parse_args(arguments)
    if (args.config is None) == (args.ann is None):
        parser.error('give either a config or --ann FILE')
    for name in ('images', 'classes', 'fix'):
        if args.ann is None and getattr(args, name) is not None:
            parser.error(f'--{name} goes with --ann FILE')
    return args


def check_file(args: argparse.Namespace) -> list:
    """Check the file of --ann, and write the corrected copy of --fix."""
    from slab_det.cli.data_checks import check_source, file_source
    from slab_det.mm.data import Annotations, read_annotations
    from slab_det.mm.data.fixing import fix

    if args.images is not None and not os.path.isdir(args.images):
        raise InputError(f'--images {args.images} is not a folder: give the folder of the images')
    source = file_source(args.ann, args.images, args.classes)
    if args.fix is not None:
        if os.path.exists(args.fix):
            raise InputError(f'--fix {args.fix} exists: give the name of a new file')
        writable_folder(Path(args.fix).absolute().parent, '--fix')
    content = read_annotations(args.ann, '--ann', annotated=False, encoding='utf-8-sig')
    found = Annotations(args.ann, content)
    pairs = [(found, check_source(found, source, args.check_images))]
    if args.fix is not None:
        fixed, changes = fix(content, args.images, args.classes or ())
        write_text(args.fix, json.dumps(fixed, allow_nan=False), '--fix')
        print(f'wrote {args.fix}: {"; ".join(changes) or "nothing to change"}')
        found = Annotations(args.fix, fixed)
        pairs = [(found, check_source(found, source, args.check_images))]
    return pairs


def draw(pairs: list, folder: Path) -> int:
    """Draw the images that findings concern, with their boxes; return how many."""
    import cv2

    from slab_det.mm.data.columns import ABSENT
    from slab_det.mm.visualization import Instance, draw_instances, drawn_names
    from slab_det.mm.visualization.names import picture_name

    folder.mkdir(parents=True, exist_ok=True)
    drawn = 0
    for found, report in pairs:
        if report.use.images is None:
            continue
        concerned = sorted({int(i) for finding in report.findings for i in finding.images})
        names, _ = drawn_names([str(name) for name in found.category_names])
        for index in concerned[: MOST_PICTURES - drawn]:
            name = found.names[index]
            path = os.path.join(report.use.images, name) if name is not ABSENT else ''
            pixels = cv2.imread(path) if os.path.isfile(path) else None
            if pixels is None:
                continue
            instances = [
                Instance(
                    int(found.category_of[place]),
                    [x, y, x + width, y + height],
                    ignored=not found.kept[place],
                )
                for place in (found.image_of == index).nonzero()[0]
                for x, y, width, height in [found.boxes[place].tolist()]
                if x == x and found.category_of[place] >= 0
            ]
            picture = draw_instances(pixels, instances, names)
            cv2.imencode('.png', picture)[1].tofile(folder / f'{picture_name(name)}.png')
            drawn += 1
    return drawn


def main(args: argparse.Namespace) -> None:
    if args.draw is not None:
        writable_folder(args.draw, '--draw')
    if args.ann is not None:
        pairs = check_file(args)
    else:
        from mmdet.utils import register_all_modules

        from slab_det.cli.data_checks import PHASES, look_at_data

        cfg = load_config(args.config, args.cfg_options)
        register_all_modules(init_default_scope=True)
        pairs = look_at_data(cfg, PHASES, args.check_images)
        if not pairs:
            raise InputError(f"config {args.config} has no local annotations in COCO's format")

    from slab_det.mm.data.tables import print_reports

    print_reports([report for _, report in pairs])
    if args.draw is not None:
        print(f'{draw(pairs, Path(args.draw))} pictures in {args.draw}')
    refused = sum(len(report.refused) for _, report in pairs)
    if refused:
        print(f'error: {refused} kinds of faults would be refused, see the table', file=sys.stderr)
        sys.exit(1)


if __name__ == '__main__':
    run(main, parse_args())
