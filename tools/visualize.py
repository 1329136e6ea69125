"""Draw predictions beside the ground truth, one picture per image.

python tools/visualize.py CONFIG CHECKPOINT --out work_dirs/pictures --num 20 --score-thr 0.5
"""

import argparse
from pathlib import Path

import cv2
import numpy as np

from slab_det.cli import (
    InputError,
    add_config_arguments,
    choose_work_dir,
    load_detector,
    naming_damaged_images,
    number,
    progress,
    run,
    user_input,
    whole_file,
    writable_folder,
    write_text,
)
from slab_det.mm.visualization import Instance, compare, drawn_names


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
        help='draw the images of this dataloader (default: %(default)s)',
    )
    parser.add_argument(
        '--num',
        type=number(int, 0),
        default=20,
        metavar='N',
        help='number of images, spread evenly over the data set; 0 for all (default: %(default)s)',
    )
    parser.add_argument(
        '--score-thr',
        type=number(float, 0, 1),
        default=0.5,
        metavar='S',
        help='leave out predictions below this score (default: %(default)s)',
    )
    return parser.parse_args(arguments)


def spread(total: int, wanted: int) -> list:
    """Return indices of ``wanted`` of ``total`` images, evenly spread; all for 0 or too many."""
    if not 0 < wanted < total:
        return list(range(total))
    return [index * total // wanted for index in range(wanted)]


def true_instances(info: dict, height: int, width: int) -> list:
    """Return the ground truth as annotated, before any pipeline scales or filters it."""
    from mmdet.datasets.transforms import LoadAnnotations

    info = {'instances': [], **info, 'ori_shape': (height, width)}
    masked = all('mask' in one for one in info['instances'])
    truth = LoadAnnotations(with_mask=masked, box_type=None)(info)
    masks = truth['gt_masks'].masks.astype(bool) if masked else [None] * len(truth['gt_bboxes'])
    return [
        Instance(int(label), box.tolist(), mask=mask, ignored=bool(ignored))
        for label, box, mask, ignored in zip(
            truth['gt_bboxes_labels'], truth['gt_bboxes'], masks, truth['gt_ignore_flags']
        )
    ]


def predicted_instances(sample, score_thr: float) -> list:
    """Return the predictions of a DetDataSample whose score is at least ``score_thr``."""
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


def write_legend(legend: dict, out: Path) -> None:
    """Write which class names are drawn as numbers, if any are."""
    if legend:
        text = ''.join(f'{number} {name}\n' for number, name in legend.items())
        write_text(out / 'legend.txt', text, '--out')
        print(f'{len(legend)} class names are drawn as numbers, see {out / "legend.txt"}')


def main(args: argparse.Namespace) -> None:
    cfg, model, _ = load_detector(args, args.split)
    loader = cfg.get(f'{args.split}_dataloader')
    if loader is None:
        raise InputError(f'--split {args.split}: {args.config} has no {args.split}_dataloader')
    choose_work_dir(cfg, args.config)
    out = writable_folder(args.out or Path(cfg.work_dir, 'pictures'), '--out')

    import mmcv
    from mmdet.registry import DATASETS
    from mmengine.dataset import pseudo_collate
    from mmengine.device import get_device
    from mmengine.fileio import get
    from torch import no_grad

    from slab_det.deploy import place_twins

    place_twins(model.to(get_device()))
    with user_input(f'the data set of {args.config} cannot be built'):
        dataset = DATASETS.build(loader.dataset)
    classes, legend = drawn_names(dataset.metainfo['classes'])
    write_legend(legend, out)
    digits = len(str(len(dataset)))
    chosen = spread(len(dataset), args.num)
    for index in progress(chosen, 'pictures'):
        info = dataset.get_data_info(index)
        with no_grad(), naming_damaged_images():
            sample = model.test_step(pseudo_collate([dataset[index]]))[0]
        if 'pred_instances' not in sample:
            raise InputError(
                f'{args.config} predicts panoptic maps: draw them with tools/image_demo.py'
            )
        name = Path(info['img_path'])
        image = mmcv.imfrombytes(get(info['img_path']), channel_order='bgr')
        picture = compare(
            image,
            true_instances(info, *image.shape[:2]),
            predicted_instances(sample, args.score_thr),
            classes,
            title=name.name,
            score_thr=args.score_thr,
        )
        with whole_file(out / f'{index + 1:0{digits}d}_{name.stem}.png', '--out') as part:
            part.write_bytes(cv2.imencode('.png', picture)[1])
    print(f'{len(chosen)} pictures in {out}')


if __name__ == '__main__':
    run(main, parse_args())
