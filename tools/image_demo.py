"""Detects objects in images: pictures with the predictions, and one JSON in COCO's result format.

python tools/image_demo.py IMAGE_OR_FOLDER CONFIG CHECKPOINT --out demo --score-thr 0.3
"""

import argparse
import contextlib
import io
import json
import os
import warnings
from pathlib import Path

from slab_det.cli import (
    InputError,
    add_config_arguments,
    check_checkpoint,
    check_fit,
    check_model,
    choose_work_dir,
    load_config,
    run,
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
        'inputs', metavar='IMAGE_OR_FOLDER', help='an image, or a folder whose images are all taken'
    )
    add_config_arguments(parser)
    parser.add_argument(
        'checkpoint', nargs='?', help='checkpoint file (default: weights of chance)'
    )
    parser.add_argument(
        '--out', metavar='DIR', help='folder for pictures and JSON (default: demo/ in the work dir)'
    )
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        metavar='S',
        help='leave out predictions below this score, in pictures and JSON (default: %(default)s)',
    )
    parser.add_argument(
        '--batch-size',
        type=int,
        default=1,
        metavar='N',
        help='images at a time (default: %(default)s)',
    )
    parser.add_argument('--device', help='such as cuda:0 or cpu (default: the best there is)')
    parser.add_argument(
        '--palette',
        choices=PALETTES,
        default='none',
        help="colours of the classes (default: the data set's)",
    )
    parser.add_argument('--no-pictures', action='store_true', help='write the JSON only')
    return parser.parse_args(arguments)


def find_images(path: str) -> list[str]:
    """The image at ``path``, or every image in the folder ``path``, by name."""
    import cv2
    from mmdet.apis.det_inferencer import IMG_EXTENSIONS

    if os.path.isfile(path):
        if not os.path.getsize(path) or not cv2.haveImageReader(path):
            raise InputError(
                f'IMAGE_OR_FOLDER {path} is not an image that OpenCV reads: give a '
                'JPEG, PNG or the like'
            )
        return [path]
    if not os.path.isdir(path):
        raise InputError(f'IMAGE_OR_FOLDER {path} does not exist: give an image or a folder')
    images = sorted(
        os.path.join(path, name)
        for name in os.listdir(path)
        if name.lower().endswith(IMG_EXTENSIONS)
    )
    if not images:
        raise InputError(
            f'IMAGE_OR_FOLDER {path} holds no image ({", ".join(IMG_EXTENSIONS)}): '
            'give a folder that does; folders inside it are not searched'
        )
    bad = [
        image for image in images if not os.path.getsize(image) or not cv2.haveImageReader(image)
    ]
    if bad:
        raise InputError(
            f'IMAGE_OR_FOLDER {path}: {os.path.basename(bad[0])} is not an image '
            f'({len(bad)} of {len(images)}): remove it or give another folder'
        )
    return images


def check_device(device: str | None) -> str | None:
    import torch

    if device is not None:
        try:
            torch.zeros(1, device=device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(
                f'--device {device} cannot be used ({str(error).splitlines()[0]}): '
                'give cpu, or leave it out'
            ) from error
    return device


def dataset_of(cfg, config: str):
    """The test data set, with its annotations where they are there and without where not."""
    from mmdet.registry import DATASETS

    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader')
    if loader is None:
        raise InputError(
            f'config {config} has no test_dataloader, whose pipeline prepares the '
            'images: give a whole config'
        )
    dataset = dict(loader.dataset)
    while 'ann_file' not in dataset and 'dataset' in dataset:
        dataset = dict(dataset['dataset'])
    found = os.path.isfile(
        os.path.join(dataset.get('data_root') or '', dataset.get('ann_file') or '')
    )
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools tells how it reads
        return DATASETS.build(
            {**dataset, 'pipeline': [], 'test_mode': True, 'lazy_init': not found}
        )


def numbering(dataset, classes, images: list[str]) -> tuple[list[int], list[int], str]:
    """Category ids of the labels, ids of the images, and a sentence that says whose they are."""
    from slab_det.mm.analysis.coco_results import default_category_ids

    category_ids = getattr(dataset, 'cat_ids', None)
    if category_ids and len(category_ids) == len(classes):
        known = {os.path.basename(info['img_path']): info['img_id'] for info in dataset}
        ids = [known.get(os.path.basename(image)) for image in images]
        if None not in ids:
            return category_ids, ids, f'image and category ids of {dataset.ann_file}'
        return (
            category_ids,
            list(range(1, len(images) + 1)),
            f'category ids of {dataset.ann_file}, images numbered from 1 by name',
        )
    return (
        default_category_ids(classes),
        list(range(1, len(images) + 1)),
        'no annotation file found: images numbered from 1 by name, categories by '
        f'{"COCO" if len(classes) == 80 else "label + 1"}',
    )


def detect(inferencer, batch: list[str], args: argparse.Namespace, out: Path) -> list:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', message='.*out of bounds')  # a box at the edge
            return inferencer(
                batch,
                batch_size=len(batch),
                return_datasamples=True,
                pred_score_thr=args.score_thr,
                no_save_vis=args.no_pictures,
                out_dir='' if args.no_pictures else str(out),
            )['predictions']
    except Exception as error:
        import mmcv

        for image in batch:
            if mmcv.imread(image) is None:
                raise InputError(
                    f'IMAGE_OR_FOLDER: {image} is damaged, it cannot be decoded: '
                    'remove or replace it'
                ) from error
        raise


def main(args: argparse.Namespace) -> None:
    if not 0 <= args.score_thr <= 1:
        raise InputError(f'--score-thr is {args.score_thr}: give a score from 0 to 1')
    if args.batch_size < 1:
        raise InputError(f'--batch-size is {args.batch_size}: give a number of images from 1')
    cfg = load_config(args.config, args.cfg_options)
    images = find_images(args.inputs)
    check_checkpoint(args.checkpoint, 'checkpoint')
    check_device(args.device)
    choose_work_dir(cfg, args.config)
    out = writable_folder(args.out or os.path.join(cfg.work_dir, 'demo'), '--out')
    model = check_model(cfg, args.config)
    if args.checkpoint is not None:
        check_fit(args.checkpoint, model, 'checkpoint')
    del model

    from mmdet.apis import DetInferencer
    from mmengine.registry import init_default_scope
    from rich.progress import track

    from slab_det.deploy import place_twins
    from slab_det.mm.analysis.coco_results import coco_results

    init_default_scope(cfg.get('default_scope', 'mmdet'))
    dataset = dataset_of(cfg, args.config)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # what it warns of is set or said below
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
    classes = dataset.metainfo['classes']
    if args.checkpoint is None or trained_for is None or len(trained_for) != len(classes):
        inferencer.model.dataset_meta['classes'] = classes
    if args.checkpoint is None:
        print('no checkpoint: the weights are random and the predictions mean nothing')
    category_ids, image_ids, whose = numbering(dataset, classes, images)
    out.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(images), args.batch_size)
    results, panoptic = [], 0
    for start in track(starts, description='images' if args.batch_size == 1 else 'batches'):
        batch = images[start : start + args.batch_size]
        for index, sample in enumerate(detect(inferencer, batch, args, out), start=start):
            if 'pred_instances' not in sample:
                if args.no_pictures:
                    raise InputError(
                        f'--no-pictures: {args.config} predicts panoptic maps, which '
                        'come as pictures only: leave it out'
                    )
                panoptic += 1
                continue
            found = coco_results(sample, image_ids[index], category_ids, args.score_thr)
            results += [{**one, 'file_name': os.path.basename(images[index])} for one in found]
    if panoptic:
        print(
            f'{args.config} predicts no instances but panoptic maps, for which there is no JSON '
            f'of results: pictures of {len(images)} images in {out / "vis"}'
        )
        return
    write_text(out / 'predictions.json', json.dumps(results), '--out')
    where = '' if args.no_pictures else f', pictures in {out / "vis"}'
    print(
        f'{len(results)} predictions of {len(images)} images in {out / "predictions.json"} '
        f'({whose}){where}'
    )


if __name__ == '__main__':
    run(main, parse_args())
