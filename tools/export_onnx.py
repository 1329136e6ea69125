"""Exports a detector to ONNX: python tools/export_onnx.py CONFIG CHECKPOINT --out FILE.onnx

The file holds the whole inference of a RetinaNet, Faster R-CNN or Mask R-CNN; slab_det/deploy/onnx_detector.py runs it.
"""

import argparse
from pathlib import Path

from slab_det.cli import (
    InputError,
    add_config_arguments,
    check_checkpoint,
    check_fit,
    check_model,
    load_config,
    read_checkpoint,
    run,
    whole_file,
    writable_folder,
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Export a detector to ONNX')
    add_config_arguments(parser)
    parser.add_argument(
        'checkpoint', help='checkpoint file of the trained or re-parameterized detector'
    )
    parser.add_argument('--out', required=True, metavar='FILE.onnx', help='file to write')
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        help='height and width of every image, for a file of that size only (default: any)',
    )
    parser.add_argument(
        '--image',
        nargs='+',
        default=[],
        metavar='FILE',
        help='images to compare ONNX and PyTorch on, besides generated ones',
    )
    return parser.parse_args()


def deployed(model, source: str):
    """Returns the model re-parameterized, or as it is where it has no norm of this package."""
    from slab_det.deploy import UnfinishedRatioError, reparameterize
    from slab_det.layers import PRepBN, RepBN

    if not any(isinstance(module, (PRepBN, RepBN)) for module in model.modules()):
        print('the detector has no PRepBN or RepBN: exported as it is')
        return model
    try:
        return reparameterize(model)
    except UnfinishedRatioError as error:
        remedy = (
            'fold it with tools/reparameterize.py --drop-layer-norm and export what that writes'
        )
        raise InputError(
            f'{source}: {UnfinishedRatioError(error.ratio, remedy, error.norm)}'
        ) from error


def compare_with_torch(model, path: Path, metadata: dict, images: list) -> None:
    """Runs both detectors on the same images and prints how they differ.

    Raises:
        InputError: where they do not agree.
    """
    from slab_det.deploy.onnx_detector import OnnxDetector, read_image
    from slab_det.mm.onnx.compare import compare, comparison_sizes, noise_image, torch_detections

    detector = OnnxDetector(path)
    cases = [
        ('noise', noise_image(*size))
        for size in comparison_sizes(metadata['resize'], metadata['size'])
    ]
    cases += [(name, detector.preprocess(read_image(name))) for name in images]
    count = matched = 0
    for name, image in cases:
        outputs = dict(
            zip(detector.output_names, detector.session.run(None, {'image': image[None]}))
        )
        difference = compare(torch_detections(model, image), outputs)
        print(f'{name} {image.shape[0]} x {image.shape[1]}: {difference}')
        count, matched = (
            count + difference.count,
            matched + difference.matched - abs(difference.extra),
        )
    if matched < 0.95 * count:
        raise InputError(
            f'only {matched} of {count} detections of the ONNX file are those of PyTorch: it was not '
            'written; where they differ at some sizes only, export for one with --size H W'
        )


def main(args: argparse.Namespace) -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise InputError(
            f'{error}: install what the export needs with pip install -r requirements/onnx.txt'
        ) from error
    if args.size is not None and min(args.size) < 1:
        raise InputError(
            f'--size {args.size[0]} {args.size[1]}: give a height and a width of 1 or more'
        )
    cfg = load_config(args.config, args.cfg_options)
    check_checkpoint(args.checkpoint, 'checkpoint')
    out = Path(args.out)
    if out.suffix != '.onnx':
        raise InputError(f'--out {args.out}: give a name that ends in .onnx')
    writable_folder(out.parent, '--out')

    from mmdet.utils import register_all_modules

    from slab_det.deploy.onnx_detector import read_image
    from slab_det.mm.onnx.export import export_onnx
    from slab_det.mm.onnx.metadata import file_metadata

    for image in args.image:
        read_image(image)
    register_all_modules(init_default_scope=True)
    model = check_model(cfg, args.config)
    check_fit(args.checkpoint, model, 'checkpoint')
    content = read_checkpoint(args.checkpoint, 'checkpoint')
    model.load_state_dict(content.get('state_dict', content), strict=False)
    model.eval()
    threshold = model.test_cfg.rcnn.mask_thr_binary if getattr(model, 'with_mask', False) else None
    try:
        metadata = file_metadata(cfg, None, threshold)
    except ValueError as error:
        raise InputError(f'{args.config}: {error}') from error
    small = deployed(model, f'{args.config} with {args.checkpoint}')
    with whole_file(out, '--out') as part:
        try:
            metadata = export_onnx(small, part, metadata, args.size)
        except ValueError as error:
            raise InputError(f'{args.config}: {error}') from error
        compare_with_torch(model, part, metadata, args.image)
    print(f'wrote {out}, {out.stat().st_size / 2**20:.1f} MiB')


if __name__ == '__main__':
    run(main, parse_args())
