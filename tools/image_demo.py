"""Detect objects in images: pictures with the predictions, and one JSON in COCO's result format.

python tools/image_demo.py IMAGE_OR_FOLDER CONFIG CHECKPOINT --out demo --score-thr 0.3
"""

import argparse
import contextlib
import io
import json
import os
import sys
import warnings
from copy import deepcopy
from pathlib import Path

from slab_det.cli import (
    InputError,
    add_config_arguments,
    check_checkpoint,
    check_data,
    check_fit,
    check_model,
    check_trained,
    choose_work_dir,
    device,
    load_config,
    number,
    progress,
    read_checkpoint,
    run,
    user_input,
    whole_file,
    writable_folder,
    write_text,
)

PALETTES = ('none', 'coco', 'voc', 'citys', 'random')


def parse_args(arguments=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Detect objects in images with mmdet's DetInferencer: pictures (vis/) and one "
        "JSON in COCO's result format (predictions.json)"
    )
    parser.add_argument(
        'inputs', metavar='IMAGE_OR_FOLDER', help='an image, or a folder with images'
    )
    add_config_arguments(parser)
    parser.add_argument('checkpoint', nargs='?', help='checkpoint file (default: random weights)')
    parser.add_argument(
        '--out', metavar='DIR', help='folder for pictures and JSON (default: demo/ in the work dir)'
    )
    parser.add_argument(
        '--score-thr',
        type=number(float, 0, 1),
        default=0.3,
        metavar='S',
        help='leave out predictions below this score, in pictures and JSON (default: %(default)s)',
    )
    parser.add_argument(
        '--batch-size',
        type=number(int, 1),
        default=1,
        metavar='N',
        help='number of images per batch (default: %(default)s)',
    )
    parser.add_argument(
        '--device', type=device, help='such as cuda:0 or cpu (default: a GPU if there is one)'
    )
    parser.add_argument(
        '--palette',
        choices=PALETTES,
        default='none',
        help="colours of the classes (default: 'none', those of the data set)",
    )
    parser.add_argument('--no-pictures', action='store_true', help='write the JSON only')
    parser.add_argument(
        '--strict',
        action='store_true',
        help='begin only if every image can be decoded (default: leave damaged ones out, say so '
        'and end with exit code 1)',
    )
    return parser.parse_args(arguments)


def find_images(path: str) -> list[str]:
    """Return the image at ``path``, or every image in the folder ``path``, by name; hidden files
    and what macOS writes beside a file are left out."""
    from mmdet.apis.det_inferencer import IMG_EXTENSIONS

    if os.path.isfile(path):
        return [path]
    if not os.path.isdir(path):
        raise InputError(f'IMAGE_OR_FOLDER {path} does not exist: give an image or a folder')
    images = sorted(
        os.path.join(path, name)
        for name in os.listdir(path)
        if name.lower().endswith(IMG_EXTENSIONS) and not name.startswith('.')
    )
    if not images:
        raise InputError(
            f'IMAGE_OR_FOLDER {path} holds no image ({", ".join(IMG_EXTENSIONS)}): '
            'give a folder that does; folders inside it are not searched'
        )
    return images


def refuse_damaged(args: argparse.Namespace, images: list[str]) -> None:
    """Raise InputError for a single image that cannot be decoded, and with --strict for any."""
    from slab_det.mm.data.images import look_at

    if len(images) > 1 and not args.strict:
        return
    faults = [(image, fault) for image in images if (fault := look_at(image).fault)]
    if faults:
        image, fault = faults[0]
        raise InputError(
            f'IMAGE_OR_FOLDER: {image} is not an image that can be decoded ({fault}; {len(faults)} '
            f'of {len(images)}): replace or remove it, or leave --strict out'
            if args.strict
            else f'IMAGE_OR_FOLDER {image} is not an image that can be decoded ({fault}): give a '
            'JPEG, PNG or the like'
        )


def test_sets(cfg, config: str) -> list:
    """Return the configs of the test data sets, one for each file of annotations."""
    from slab_det.cli.data_checks import datasets_of

    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader')
    if loader is None:
        raise InputError(
            f'config {config} has no test_dataloader, whose pipeline prepares the '
            'images: give a whole config'
        )
    return [one for _, one in datasets_of(loader.dataset, '')] or [loader.dataset]


def build(dataset: dict):
    """Return a data set, with its annotations if they are there."""
    from mmdet.registry import DATASETS

    found = os.path.isfile(
        os.path.join(dataset.get('data_root') or '', dataset.get('ann_file') or '')
    )
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports how it reads
        return DATASETS.build(
            {**dataset, 'pipeline': [], 'test_mode': True, 'lazy_init': not found}
        )


def numbering(datasets: list, classes, images: list[str]) -> tuple[list[int], list[int], str]:
    """Return category ids of the labels, ids of the images, and a sentence on their origin.

    Images are matched with those of the annotations by their whole path.
    """
    from slab_det.mm.analysis.coco_results import default_category_ids

    numbers = list(range(1, len(images) + 1))
    for dataset in datasets:
        category_ids = getattr(dataset, 'cat_ids', None)
        if category_ids and len(category_ids) == len(classes):
            known = {os.path.realpath(info['img_path']): info['img_id'] for info in dataset}
            ids = [known.get(os.path.realpath(image)) for image in images]
            if None not in ids:
                return category_ids, ids, f'image and category ids of {dataset.ann_file}'
    category_ids = getattr(datasets[0], 'cat_ids', None)
    if category_ids and len(category_ids) == len(classes):
        whose = f'category ids of {datasets[0].ann_file}, images numbered from 1 by name'
        return category_ids, numbers, whose
    return (
        default_category_ids(classes),
        numbers,
        'no annotation file found: images numbered from 1 by name, categories by '
        f'{"COCO" if len(classes) == 80 else "label + 1"}',
    )


def detect(inferencer, batch: list[str]) -> list:
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='.*out of bounds')  # a box at the edge
        return inferencer(
            batch, batch_size=len(batch), return_datasamples=True, no_save_vis=True, out_dir=''
        )['predictions']


def draw(inferencer, image: str, sample, score_thr: float, path: Path) -> None:
    import mmcv

    with warnings.catch_warnings(), whole_file(path, '--out') as part:
        warnings.filterwarnings('ignore', message='.*out of bounds')
        inferencer.visualizer.add_datasample(
            path.name,
            mmcv.imread(image, channel_order='rgb'),
            sample,
            draw_gt=False,
            pred_score_thr=score_thr,
            out_file=str(part),
        )


def draw_names(inferencer, classes, out: Path) -> None:
    """Let names that the font cannot draw be drawn as numbers, and write what they mean."""
    from slab_det.mm.visualization import drawn_names

    names, legend = drawn_names(classes, font='DejaVu Sans')
    inferencer.visualizer.dataset_meta = {**inferencer.model.dataset_meta, 'classes': names}
    if legend:
        text = '\n'.join(f'{number} {name}' for number, name in legend.items())
        write_text(out / 'vis' / 'legend.txt', f'{text}\n', '--out')
        print(f'{len(legend)} class names are drawn as numbers, see {out / "vis" / "legend.txt"}')


def main(args: argparse.Namespace) -> None:
    cfg = load_config(args.config, args.cfg_options)
    images = find_images(args.inputs)
    refuse_damaged(args, images)
    check_checkpoint(args.checkpoint, 'checkpoint')
    choose_work_dir(cfg, args.config)
    out = writable_folder(args.out or os.path.join(cfg.work_dir, 'demo'), '--out')
    check_data(cfg, ('test' if cfg.get('test_dataloader') else 'val',), absent_ok=True)
    model = check_model(cfg, args.config)
    if args.checkpoint is not None:
        check_fit(args.checkpoint, model, 'checkpoint')
        if '://' not in args.checkpoint:
            content = read_checkpoint(args.checkpoint, 'checkpoint')
            check_trained(cfg, content, f'checkpoint {args.checkpoint}')
    del model

    from mmdet.apis import DetInferencer
    from mmengine.registry import init_default_scope

    from slab_det.deploy import place_twins
    from slab_det.mm.analysis.coco_results import coco_results
    from slab_det.mm.data.images import look_at
    from slab_det.mm.strips import keep_pixels

    init_default_scope(cfg.get('default_scope', 'mmdet'))
    sets = test_sets(cfg, args.config)
    with user_input(f'the data set of {args.config} cannot be built'):
        datasets = [build(dataset) for dataset in sets]
    # The inferencer takes its pipeline from a single test set.
    cfg.test_dataloader = dict(dataset=deepcopy(sets[0]))
    keep_pixels(cfg.test_dataloader.dataset.pipeline)
    with warnings.catch_warnings(), user_input(f'{args.config} cannot be used for inference'):
        warnings.simplefilter('ignore')  # what it warns of is set or reported below
        inferencer = DetInferencer(
            cfg,
            args.checkpoint,
            device=args.device,
            palette=args.palette,
            scope=cfg.get('default_scope', 'mmdet'),
            show_progress=False,
        )
    place_twins(inferencer.model)
    trained_for = inferencer.model.dataset_meta.get('classes')
    classes = datasets[0].metainfo['classes']
    if args.checkpoint is None or len(trained_for or ()) != len(classes):
        inferencer.model.dataset_meta['classes'] = classes
    if args.checkpoint is None:
        print('no checkpoint: the weights are random and the predictions mean nothing')
    category_ids, image_ids, whose = numbering(datasets, classes, images)
    out.mkdir(parents=True, exist_ok=True)
    if not args.no_pictures:
        draw_names(inferencer, classes, out)
    results: list[dict] = []
    damaged: list[str] = []
    panoptic = 0
    starts = range(0, len(images), args.batch_size)
    try:
        for start in progress(starts, 'images' if args.batch_size == 1 else 'batches'):
            batch = []
            for index in range(start, min(start + args.batch_size, len(images))):
                fault = look_at(images[index]).fault
                if fault:
                    damaged.append(images[index])
                    print(f'warning: {images[index]} cannot be decoded: {fault}', file=sys.stderr)
                else:
                    batch.append(index)
            samples = detect(inferencer, [images[index] for index in batch]) if batch else []
            for index, sample in zip(batch, samples):
                name = os.path.basename(images[index])
                if 'pred_instances' in sample:
                    found = coco_results(sample, image_ids[index], category_ids, args.score_thr)
                    results += [{**one, 'file_name': name} for one in found]
                elif args.no_pictures:
                    raise InputError(
                        f'--no-pictures: {args.config} predicts panoptic maps, which '
                        'come as pictures only: leave it out'
                    )
                else:
                    panoptic += 1
                if not args.no_pictures:
                    draw(inferencer, images[index], sample, args.score_thr, out / 'vis' / name)
    finally:  # what was found before an interruption is not lost
        if results or not panoptic and len(damaged) < len(images):
            write_text(out / 'predictions.json', json.dumps(results), '--out')
    if panoptic:
        print(
            f'{args.config} predicts panoptic maps, for which no JSON of results is written: '
            f'pictures of {panoptic} images in {out / "vis"}'
        )
    elif len(damaged) < len(images):
        where = '' if args.no_pictures else f', pictures in {out / "vis"}'
        print(
            f'{len(results)} predictions of {len(images) - len(damaged)} images in '
            f'{out / "predictions.json"} ({whose}){where}'
        )
    if damaged:
        raise InputError(
            f'IMAGE_OR_FOLDER {args.inputs}: {len(damaged)} of {len(images)} images cannot be '
            f'decoded and were left out ({", ".join(map(os.path.basename, damaged[:3]))}): replace '
            'or remove them'
        )


if __name__ == '__main__':
    run(main, parse_args())
