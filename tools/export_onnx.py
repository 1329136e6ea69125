"""Export a detector to ONNX: python tools/export_onnx.py CONFIG CHECKPOINT --out FILE.onnx

The file holds the whole inference of a RetinaNet, Faster R-CNN or Mask R-CNN;
slab_det/deploy/onnx_detector.py runs it.
"""

import argparse
from pathlib import Path

from slab_det.cli import (
    InputError,
    add_config_arguments,
    add_part,
    file_name,
    load_detector,
    number,
    require_onnx,
    run,
    user_input,
    whole_file,
    writable_folder,
)
from slab_det.errors import SlabDetError


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Export a detector to ONNX')
    add_config_arguments(parser)
    parser.add_argument(
        'checkpoint', help='checkpoint file of the trained or re-parameterized detector'
    )
    parser.add_argument(
        '--out', type=file_name('.onnx'), required=True, metavar='FILE.onnx', help='file to write'
    )
    parser.add_argument(
        '--size',
        type=number(int, 1),
        nargs=2,
        metavar=('H', 'W'),
        help='height and width of every image, for a file of that size only (default: any)',
    )
    parser.add_argument(
        '--image',
        nargs='+',
        default=[],
        metavar='FILE',
        help='images on which ONNX and PyTorch are compared, besides generated ones',
    )
    add_part(parser)
    return parser.parse_args()


def deployed(model, source: str):
    """Return the model re-parameterized, or as it is if it has no norm of this package."""
    from slab_det.deploy import UnfinishedRatioError, reparameterize
    from slab_det.layers import PRepBN, RepBN

    if not any(isinstance(module, (PRepBN, RepBN)) for module in model.modules()):
        print('the detector has no PRepBN or RepBN: exported as it is')
        return model
    with user_input(source, SlabDetError):
        try:
            return reparameterize(model)
        except UnfinishedRatioError as error:
            remedy = (
                'fold it with tools/reparameterize.py --drop-layer-norm and export what that writes'
            )
            raise UnfinishedRatioError(error.ratio, remedy, error.norm) from error


def compare_with_torch(model, path: Path, metadata: dict, images: list) -> None:
    """Run both detectors on the same images and print how they differ.

    Raises:
        InputError: they do not agree.
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
        count += difference.count
        matched += difference.matched - abs(difference.extra)
    if matched < 0.95 * count:
        raise InputError(
            f'only {matched} of {count} detections of the ONNX file are those of PyTorch: it was '
            'not written; if they differ at some sizes only, export for one with --size H W'
        )


def main(args: argparse.Namespace) -> None:
    require_onnx()
    out = Path(args.out)
    writable_folder(out.parent, '--out')

    from slab_det.deploy.onnx_detector import read_image
    from slab_det.mm.onnx.export import export_onnx
    from slab_det.mm.onnx.metadata import file_metadata

    with user_input('--image', ValueError):
        for image in args.image:
            read_image(image)
    cfg, model, _ = load_detector(args)
    threshold = model.test_cfg.rcnn.mask_thr_binary if getattr(model, 'with_mask', False) else None
    with user_input(args.config, SlabDetError):
        metadata = file_metadata(cfg, None, threshold)
    small = deployed(model, f'{args.config} with {args.checkpoint}')
    with whole_file(out, '--out') as part:
        with user_input(args.config, SlabDetError):
            metadata = export_onnx(small, part, metadata, args.size)
        compare_with_torch(model, part, metadata, args.image)
    print(f'wrote {out}, {out.stat().st_size / 2**20:.1f} MiB')


if __name__ == '__main__':
    run(main, parse_args())
