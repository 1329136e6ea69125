"""Quantizes an ONNX detector to INT8: python tools/quantize_onnx.py FILE.onnx --calib DIR [--out FILE_int8.onnx]

Needs onnx, onnxruntime, numpy and cv2. Prints size and latency of both files.
"""

import argparse
import os
import statistics
import time
from pathlib import Path

from slab_det.cli import InputError, run, writable_folder


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Quantize an ONNX detector to INT8')
    parser.add_argument('file', help='ONNX file of tools/export_onnx.py')
    parser.add_argument(
        '--calib',
        required=True,
        metavar='DIR',
        help='folder with images like those the detector will see, such as the training images',
    )
    parser.add_argument(
        '--out', metavar='FILE.onnx', help='file to write (default: FILE_int8.onnx)'
    )
    parser.add_argument(
        '--num', type=int, default=64, help='images of DIR to use, 0 for all (default: %(default)s)'
    )
    parser.add_argument(
        '--method',
        choices=('minmax', 'percentile', 'entropy'),
        default='minmax',
        help='how ranges are found (default: %(default)s)',
    )
    parser.add_argument('--keep', metavar='REGEX', help='leave layers whose name fits in float32')
    parser.add_argument(
        '--threads', type=int, help='threads for the latency (default: one per core)'
    )
    parser.add_argument('--traceback', action='store_true', help='show the whole trace of an error')
    return parser.parse_args()


def latencies(files: list, images: list, threads, rounds: int = 5) -> list:
    """Median milliseconds of a run of each file without reading and resizing, alternated."""
    from slab_det.deploy.onnx_detector import OnnxDetector, read_image

    detectors = [OnnxDetector(file, threads) for file in files]
    inputs = [detectors[0].preprocess(read_image(image))[None] for image in images[:4]]
    times = [[] for _ in files]
    for turn in range(rounds + 1):
        for pixels in inputs:
            for kept, detector in zip(times, detectors):
                start = time.perf_counter()
                detector.session.run(None, {'image': pixels})
                if turn:  # the first round warms up
                    kept.append(1000 * (time.perf_counter() - start))
    return [statistics.median(kept) for kept in times]


def main(args: argparse.Namespace) -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise InputError(
            f'{error}: install what this needs with pip install -r requirements/onnx.txt'
        ) from error
    from slab_det.deploy.onnx.quantize import calibration_images, quantize

    source = Path(args.file)
    target = Path(args.out) if args.out else source.with_name(f'{source.stem}_int8.onnx')
    if target.suffix != '.onnx':
        raise InputError(f'--out {args.out}: give a name that ends in .onnx')
    if args.num < 0:
        raise InputError(f'--num is {args.num}: give the number of images, or 0 for all')
    folder = writable_folder(target.parent, '--out')
    try:
        images = calibration_images(args.calib, args.num)
    except ValueError as error:
        raise InputError(f'--calib {error}') from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
        layers = quantize(source, target, images, args.method, args.keep)
    except OSError as error:
        raise InputError(f'--out {target} cannot be written: {error.strerror or error}') from error
    before, after = latencies([source, target], images, args.threads)
    print(
        f'{layers} layers in INT8, ranges from {len(images)} images\n{"":<10}{"MiB":>8}{"ms":>10}'
    )
    for name, file, latency in (('float32', source, before), ('INT8', target, after)):
        print(f'{name:<10}{os.path.getsize(file) / 2**20:>8.1f}{latency:>10.1f}')
    print(f'{before / after:.2f} times as fast\nwrote {target}')


if __name__ == '__main__':
    run(main, parse_args())
