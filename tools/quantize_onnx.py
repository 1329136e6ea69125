"""Quantize an ONNX detector to INT8: python tools/quantize_onnx.py FILE.onnx --calib DIR

Needs onnx, onnxruntime, numpy and cv2. Prints the size and latency of both files.
"""

import argparse
import os
import statistics
import time
from pathlib import Path

from slab_det.cli import (
    add_traceback,
    file_name,
    number,
    print_table,
    require_onnx,
    run,
    user_input,
    writable_folder,
)


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
        '--out',
        type=file_name('.onnx'),
        metavar='FILE.onnx',
        help='file to write (default: FILE_int8.onnx)',
    )
    parser.add_argument(
        '--num',
        type=number(int, 0),
        default=64,
        help='number of images of DIR to use, 0 for all (default: %(default)s)',
    )
    parser.add_argument(
        '--method',
        choices=('minmax', 'percentile', 'entropy'),
        default='minmax',
        help='how the ranges of activations are found (default: %(default)s)',
    )
    parser.add_argument(
        '--keep', metavar='REGEX', help='keep layers in float32 whose name contains this'
    )
    parser.add_argument(
        '--threads',
        type=number(int, 1),
        help='number of threads for the latency (default: one per core)',
    )
    add_traceback(parser)
    return parser.parse_args()


def latencies(files: list, images: list, threads, rounds: int = 5) -> list:
    """Return the median milliseconds of a run of each file, alternated, without preprocessing."""
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
    require_onnx()
    from slab_det.deploy.onnx.quantize import calibration_images, quantize

    source = Path(args.file)
    target = Path(args.out) if args.out else source.with_name(f'{source.stem}_int8.onnx')
    writable_folder(target.parent, '--out').mkdir(parents=True, exist_ok=True)
    with user_input('--calib', ValueError):
        images = calibration_images(args.calib, args.num)
    with (
        user_input(f'--out {target} cannot be written', OSError),
        user_input(f'{source} cannot be quantized', ValueError),
    ):
        layers = quantize(source, target, images, args.method, args.keep)
    before, after = latencies([source, target], images, args.threads)
    print(f'{layers} layers in INT8, ranges from {len(images)} images')
    rows = [
        (name, f'{os.path.getsize(file) / 2**20:.1f}', f'{latency:.1f}')
        for name, file, latency in (('float32', source, before), ('INT8', target, after))
    ]
    print_table(('', 'MiB', 'ms'), rows)
    print(f'{before / after:.2f} times as fast\nwrote {target}')


if __name__ == '__main__':
    run(main, parse_args())
