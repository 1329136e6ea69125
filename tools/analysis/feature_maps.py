"""Show what a backbone sees in an image.

python tools/analysis/feature_maps.py IMAGE CONFIG CHECKPOINT --out features.png
"""

import argparse
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
    file_name,
    load_config,
    run,
    user_input,
    whole_file,
    writable_folder,
)


def parse_args(arguments=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Draw the feature maps of a backbone, level by level: their strength over the '
        'image, and their principal components as colours'
    )
    parser.add_argument('image', metavar='IMAGE', help='an image')
    add_config_arguments(parser)
    parser.add_argument(
        'checkpoint',
        nargs='?',
        help="checkpoint file (default: that of the backbone's init_cfg, or random weights)",
    )
    parser.add_argument(
        '--out',
        type=file_name('.png', '.svg', '.pdf'),
        metavar='FILE',
        help='picture, .png, .svg or .pdf (default: features/IMAGE.png in the work dir)',
    )
    parser.add_argument('--neck', action='store_true', help="draw the neck's levels instead")
    return parser.parse_args(arguments)


def load_pretrained(backbone) -> None:
    """Load the file of the backbone's ``init_cfg``, if it has one."""
    init_cfg = getattr(backbone, 'init_cfg', None)
    path = init_cfg.get('checkpoint') if isinstance(init_cfg, dict) else None
    if path and '://' not in path:
        backbone.init_weights()
    else:
        print('no checkpoint: the weights are random')


def extract(model, cfg, path: str, with_neck: bool) -> tuple:
    """Return the image at the network's size, feature maps without padding, and their strides."""
    import mmcv
    import torch
    from mmdet.utils import get_test_pipeline_cfg
    from mmengine.dataset import Compose, pseudo_collate
    from mmengine.device import get_device

    with user_input('the test pipeline cannot be built'):
        pipeline = Compose(get_test_pipeline_cfg(cfg.copy()))
    model.to(get_device()).eval()
    data = model.data_preprocessor(pseudo_collate([pipeline(dict(img_path=path, img_id=0))]), False)
    height, width = data['data_samples'][0].img_shape[:2]
    with torch.no_grad():
        maps = model.backbone(data['inputs'])
        if with_neck:
            maps = model.neck(maps)
    padded = data['inputs'].shape[-2:]
    features, strides = [], []
    for one in maps:
        rows = max(1, round(one.shape[-2] * height / padded[0]))
        columns = max(1, round(one.shape[-1] * width / padded[1]))
        features.append(one[0, :, :rows, :columns])
        strides.append(round(padded[0] / one.shape[-2]))
    image = mmcv.imread(path, channel_order='rgb')
    return mmcv.imresize(image, (width, height)), features, strides


def main(args: argparse.Namespace) -> None:
    cfg = load_config(args.config, args.cfg_options)
    import cv2

    if not os.path.isfile(args.image) or cv2.imread(args.image) is None:
        raise InputError(
            f'IMAGE {args.image} is not an image that OpenCV reads: give a JPEG, PNG or the like'
        )
    check_checkpoint(args.checkpoint, 'checkpoint')
    choose_work_dir(cfg, args.config)
    out = Path(args.out or os.path.join(cfg.work_dir, 'features', f'{Path(args.image).stem}.png'))
    writable_folder(out.parent, '--out')
    if cfg.get('test_dataloader') is None:
        raise InputError(
            f'config {args.config} has no test_dataloader, whose pipeline prepares '
            'the image: give a whole config'
        )
    model = check_model(cfg, args.config)
    part = 'neck' if args.neck else 'backbone'
    for name in {'backbone', part}:
        if getattr(model, name, None) is None:
            remedy = 'leave --neck out' if name == 'neck' else 'give a detector that has one'
            raise InputError(f'the {type(model).__name__} of {args.config} has no {name}: {remedy}')
    if args.checkpoint is not None:
        check_fit(args.checkpoint, model, 'checkpoint')
    else:
        load_pretrained(model.backbone)

    from mmengine.registry import init_default_scope

    from slab_det.mm.visualization.features import draw_features

    init_default_scope(cfg.get('default_scope', 'mmdet'))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        image, features, strides = extract(model, cfg, args.image, args.neck)
    names = [
        f'{part} level {index}, stride {stride}, {len(feature)} channels'
        for index, (feature, stride) in enumerate(zip(features, strides))
    ]
    with whole_file(out, '--out') as file:
        draw_features(image, features, names).savefig(file, dpi=110)
    print(f'{len(features)} levels of the {part} in {out}')


if __name__ == '__main__':
    run(main, parse_args())
