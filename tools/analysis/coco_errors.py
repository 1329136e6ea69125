"""Show what keeps a detector's AP from 1: places, classes, background or objects not found.

python tools/test.py CONFIG CHECKPOINT --cfg-options test_evaluator.outfile_prefix=results
python tools/analysis/coco_errors.py results.bbox.json ANNOTATIONS --out errors.png
"""

import argparse
import contextlib
import io
import json
from pathlib import Path

from slab_det.cli import (
    InputError,
    add_traceback,
    file_name,
    print_table,
    run,
    user_input,
    whole_file,
    writable_folder,
)


def parse_args(arguments=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Draw which errors cost how much AP, from a COCO result file'
    )
    parser.add_argument(
        'results',
        metavar='RESULTS.json',
        help='predictions in COCO format, such as those of tools/test.py with '
        'test_evaluator.outfile_prefix or of tools/image_demo.py --score-thr 0',
    )
    parser.add_argument('annotations', metavar='ANNOTATIONS.json', help='the ground truth')
    parser.add_argument(
        '--kind',
        choices=('bbox', 'segm'),
        default='bbox',
        help='compare boxes or masks (default: %(default)s)',
    )
    parser.add_argument(
        '--out',
        type=file_name('.png', '.svg', '.pdf'),
        metavar='FILE',
        default='coco_errors.png',
        help='picture, .png, .svg or .pdf (default: %(default)s)',
    )
    add_traceback(parser)
    return parser.parse_args(arguments)


def read_json(path: str, argument: str):
    with user_input(f'{argument} {path} cannot be read as JSON', OSError, ValueError):
        return json.loads(Path(path).read_text(encoding='utf-8'))


def read_results(path: str, kind: str, truth) -> list:
    results = read_json(path, 'RESULTS.json')
    needed = {'image_id', 'category_id', 'score', 'bbox' if kind == 'bbox' else 'segmentation'}
    if not isinstance(results, list) or not all(isinstance(one, dict) for one in results):
        raise InputError(
            f"RESULTS.json {path} is not a list of predictions: give COCO's result format"
        )
    if not results:
        raise InputError(f'RESULTS.json {path} holds no prediction: lower the score threshold')
    absent = needed - set.intersection(*(set(one) for one in results))
    if absent:
        remedy = (
            'give results with masks, or --kind bbox'
            if absent == {'segmentation'}
            else "give COCO's result format"
        )
        raise InputError(
            f'RESULTS.json {path} has predictions without {", ".join(sorted(absent))}: {remedy}'
        )
    strange = {one['image_id'] for one in results} - set(truth.imgs)
    if strange:
        raise InputError(
            f'RESULTS.json {path} has predictions for image {min(strange, key=str)}, '
            'which is not in ANNOTATIONS.json: give both of the same data set'
        )
    return results


def read_truth(path: str):
    from pycocotools.coco import COCO

    from slab_det.cli.data_checks import check_annotations

    read_json(path, 'ANNOTATIONS.json')
    check_annotations('ANNOTATIONS.json', path)
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(path)


def main(args: argparse.Namespace) -> None:
    out = Path(args.out)
    writable_folder(out.parent, '--out')
    from slab_det.mm.analysis.coco_errors import CURVES, draw_errors, error_curves

    truth = read_truth(args.annotations)
    curves = error_curves(truth, read_results(args.results, args.kind, truth), args.kind)
    average = curves.average_precision()
    rows = [
        (name, *(f'{value:.3f}' for value in column))
        for name, column in zip([*curves.names, 'mean'], [*average.T, average.mean(axis=1)])
    ]
    with whole_file(out, '--out') as part:
        draw_errors(curves, f'{args.results}, {args.kind}').savefig(part, dpi=110)
    print_table(('AP', *CURVES), rows)
    meanings = ', '.join(f'{name}: {meaning}' for name, meaning in CURVES.items())
    print(f'\n{meanings}; each also forgives what the ones before it do\n{out} written')


if __name__ == '__main__':
    run(main, parse_args())
