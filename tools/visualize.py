"""Draw predictions beside the ground truth, one picture per image.

python tools/visualize.py CONFIG CHECKPOINT --out work_dirs/pictures --num 20 --score-thr 0.5
"""

import argparse
import os
from pathlib import Path

import cv2
import numpy as np

from slab_det.cli import (
    InputError,
    add_config_arguments,
    check_checkpoint,
    check_data,
    check_fit,
    check_model,
    choose_work_dir,
    load_config,
    run,
)
from slab_det.mm.visualization import Instance, compare


def parse_args(arguments=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Draw predictions beside the ground truth, one picture per image'
    )
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--out', metavar='DIR', help='folder for the pictures (default: pictures/ in the work dir)'
    )
    parser.add_argument(
        '--split',
        choices=('val', 'test'),
        default='val',
        help='whose dataloader names the images (default: %(default)s)',
    )
    parser.add_argument(
        '--num',
        type=int,
        default=20,
        metavar='N',
        help='images, evenly spread over the set; 0 draws all (default: %(default)s)',
    )
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.5,
        metavar='S',
        help='leave out predictions below this score (default: %(default)s)',
    )
    return parser.parse_args(arguments)


def spread(total: int, wanted: int) -> list:
    """Indices of ``wanted`` of ``total`` images, evenly spread; all of them for 0 or too many."""
    if not 0 < wanted < total:
        return list(range(total))
    return [index * total // wanted for index in range(wanted)]


def true_instances(info: dict, height: int, width: int) -> list:
    """The ground truth as annotated, before any pipeline scales or filters it."""
    from pycocotools import mask as mask_utils

    instances = []
    for one in info.get('instances', []):
        mask, annotation = None, one.get('mask')
        if isinstance(annotation, list):
            polygons = [part for part in annotation if len(part) >= 6]
            if polygons:
                mask = mask_utils.decode(
                    mask_utils.merge(mask_utils.frPyObjects(polygons, height, width))
                ).astype(bool)
        elif annotation is not None:
            if isinstance(annotation['counts'], list):
                annotation = mask_utils.frPyObjects(annotation, height, width)
            mask = mask_utils.decode(annotation).astype(bool)
        instances.append(
            Instance(
                one['bbox_label'], one['bbox'], mask=mask, ignored=bool(one.get('ignore_flag', 0))
            )
        )
    return instances


def predicted_instances(sample, score_thr: float) -> list:
    """The predictions of a DetDataSample from ``score_thr`` up."""
    predictions = sample.pred_instances.cpu()
    predictions = predictions[predictions.scores >= score_thr]
    masks = predictions.get('masks')
    return [
        Instance(
            int(predictions.labels[i]),
            predictions.bboxes[i].tolist(),
            score=float(predictions.scores[i]),
            mask=None if masks is None else np.asarray(masks[i], dtype=bool),
        )
        for i in range(len(predictions))
    ]


def write_picture(path: Path, picture: np.ndarray) -> None:
    ok, content = cv2.imencode('.png', picture)
    if not ok:
        raise InputError(f'--out {path.parent}: OpenCV could not encode {path.name}')
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        temporary.write_bytes(content.tobytes())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def main(args: argparse.Namespace) -> None:
    if args.num < 0:
        raise InputError(f'--num is {args.num}: give the number of images, or 0 for all')
    if not 0 <= args.score_thr <= 1:
        raise InputError(f'--score-thr is {args.score_thr}: give a score from 0 to 1')
    cfg = load_config(args.config, args.cfg_options)
    loader = cfg.get(f'{args.split}_dataloader')
    if loader is None:
        raise InputError(f'--split {args.split}: {args.config} has no {args.split}_dataloader')
    check_checkpoint(args.checkpoint, 'checkpoint')
    choose_work_dir(cfg, args.config)
    check_data(cfg, (args.split,))
    model = check_model(cfg, args.config)
    check_fit(args.checkpoint, model, 'checkpoint')
    out = Path(args.out or os.path.join(cfg.work_dir, 'pictures'))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f'--out {out} cannot be made ({error.strerror}): give another folder'
        ) from error

    import mmcv
    from mmdet.registry import DATASETS
    from mmengine.dataset import pseudo_collate
    from mmengine.device import get_device
    from mmengine.fileio import get
    from mmengine.registry import init_default_scope
    from mmengine.runner import load_checkpoint
    from mmengine.utils import track_iter_progress
    from torch import no_grad

    from slab_det.deploy import place_twins

    init_default_scope(cfg.get('default_scope', 'mmdet'))
    load_checkpoint(model, args.checkpoint, map_location='cpu', logger='silent')
    model.to(get_device())
    place_twins(model).eval()
    dataset = DATASETS.build(loader.dataset)
    classes = dataset.metainfo['classes']
    digits = len(str(len(dataset)))
    for index in track_iter_progress(spread(len(dataset), args.num)):
        info = dataset.get_data_info(index)
        image = mmcv.imfrombytes(get(info['img_path']), channel_order='bgr')
        with no_grad():
            sample = model.test_step(pseudo_collate([dataset[index]]))[0]
        picture = compare(
            image,
            true_instances(info, *image.shape[:2]),
            predicted_instances(sample, args.score_thr),
            classes,
            title=os.path.basename(info['img_path']),
            score_thr=args.score_thr,
        )
        write_picture(out / f'{index + 1:0{digits}d}_{Path(info["img_path"]).stem}.png', picture)
    print(f'\n{len(spread(len(dataset), args.num))} pictures in {out}')


if __name__ == '__main__':
    run(main, parse_args())
