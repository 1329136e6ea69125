"""Latency of ONNX files in onnxruntime, float32 and INT8, beside PyTorch.

    python benchmarks/onnx_latency.py --parts backbone detector --out docs/benchmark-onnx.md

mmdet's Swin-T (LayerNorm) and the deployed networks are exported and quantized the same way. All
of a table take turns in one process; the ratio to mmdet's Swin-T in eager PyTorch is what counts.
Weights are random: latency does not depend on them.
"""

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from latency import machine
from measure import Case, Size, alternate, busy_host
from peers import BASELINE, build

from slab_det.cli import write_text
from slab_det.deploy.onnx.quantize import quantize_graph
from slab_det.mm.onnx.export import OPSET, export_onnx

NETWORKS = (BASELINE, 'Swin-T PRepBN, deployed', 'SLAB-Swin-T, deployed')
EAGER = f'{BASELINE}, eager PyTorch'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        '--parts', nargs='+', default=['backbone'], choices=['backbone', 'detector']
    )
    parser.add_argument(
        '--size',
        type=Size.parse,
        default=Size(800, 1216),
        help='height x width (default: %(default)s)',
    )
    parser.add_argument('--threads', type=int, default=2, help='CPU threads (default: %(default)s)')
    parser.add_argument(
        '--rounds', type=int, default=7, help='timed runs of each (default: %(default)s)'
    )
    parser.add_argument(
        '--only', nargs='+', help='networks to run beside the baseline, by parts of their names'
    )
    parser.add_argument(
        '--files',
        metavar='DIR',
        help='keep the ONNX files here, and use those that are here already',
    )
    parser.add_argument('--prepare', action='store_true', help='make the files of --files and stop')
    parser.add_argument('--out', help='also write the tables to this Markdown file')
    return parser.parse_args()


def input_of(part: str, size: Size) -> dict[str, np.ndarray]:
    """Return what a file takes: a normalised image for a backbone, bytes for a detector."""
    generator = np.random.default_rng(0)
    if part == 'backbone':
        return dict(image=generator.standard_normal((1, 3, *size), np.float32))
    return dict(image=generator.integers(0, 256, (1, *size, 3), np.uint8))


def export(part: str, name: str, size: Size, path: Path) -> None:
    """Export a network. A file of mmdet's Swin is of one size: its window counts are constants."""
    model = build(part, name)
    fixed = size if name == BASELINE else None
    if part == 'detector':
        export_onnx(
            model.model, path, dict(version=1, classes=[], resize=None, mask_threshold=0.5), fixed
        )
        return
    image = torch.randn(1, 3, *(fixed or (203, 277)))
    names = [f'stage{i}' for i in range(4)]
    axes = None if fixed else {'image': {2: 'height', 3: 'width'}}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.onnx.export(
            model,
            (image,),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=['image'],
            output_names=names,
            dynamic_axes=axes,
        )


def files(part: str, name: str, size: Size, folder: Path) -> dict[str, Path]:
    """Return the float32 and the INT8 file of a network, made where they are missing."""
    stem = f'{part}-{size}-' + name.replace(', deployed', '').replace(' ', '-').lower()
    whole, small = folder / f'{stem}.onnx', folder / f'{stem}-int8.onnx'
    if not whole.exists():
        print(f'  exporting {name}', file=sys.stderr, flush=True)
        export(part, name, size, whole)
    if not small.exists():
        print(f'  quantizing {name}', file=sys.stderr, flush=True)
        quantize_graph(whole, small, [input_of(part, size)])
    return {'float32': whole, 'INT8': small}


def runner(file: Path, inputs: dict[str, np.ndarray], threads: int) -> Callable[[], None]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # As OnnxDetector does.
    options.add_session_config_entry('session.set_denormal_as_zero', '1')
    session = onnxruntime.InferenceSession(str(file), options, providers=['CPUExecutionProvider'])
    return lambda: session.run(None, inputs)


def table(part: str, size: Size, args: argparse.Namespace, folder: Path) -> str:
    """Measure a part and return its Markdown table; '' where only files were wanted."""
    names = [
        name
        for name in NETWORKS
        if name == BASELINE or not args.only or any(word in name for word in args.only)
    ]
    found = {name: files(part, name, size, folder) for name in names}
    if args.prepare:
        return ''
    inputs = input_of(part, size)
    runs = {EAGER: Case(part, 'eager', 'float32', size, 1, 'cpu').prepare(build(part, BASELINE))}
    for name, paths in found.items():
        runs.update(
            {
                f'{name}, ONNX {kind}': runner(path, inputs, args.threads)
                for kind, path in paths.items()
            }
        )
    times = alternate(runs, args.rounds, lambda line: print(line, file=sys.stderr, flush=True))
    lines = [
        f'## {part}, {size}',
        '',
        '| network | median ms | fastest ms | ratio to eager PyTorch '
        '| times as fast as its float32 file |',
        '| --- | ---: | ---: | ---: | ---: |',
    ]
    for name, runs_of in times.items():
        own = name.replace('INT8', 'float32')
        gain = f'{times[own].median / runs_of.median:.2f}' if own != name else ''
        lines.append(
            f'| {name} | {runs_of.median * 1e3:.0f} | {runs_of.fastest * 1e3:.0f} | '
            f'{runs_of.median / times[EAGER].median:.2f} | {gain} |'
        )
    return '\n'.join(lines + busy_host(times))


def main(args: argparse.Namespace) -> None:
    if args.prepare and not args.files:
        sys.exit('error: --prepare makes files: name their folder with --files DIR')
    from mmdet.utils import register_all_modules

    register_all_modules(init_default_scope=True)
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.files or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        tables = [table(part, args.size, args, folder) for part in args.parts]
    if args.prepare:
        return
    command = (
        f'--parts {" ".join(args.parts)} --size {args.size} --threads {args.threads} '
        f'--rounds {args.rounds}'
    )
    text = (
        '\n\n'.join(
            [
                '# Benchmark of ONNX files',
                f'Measured by `python benchmarks/onnx_latency.py {command}` on',
                f'> {machine("cpu", args.threads)}; onnxruntime {onnxruntime.__version__}',
                *tables,
            ]
        )
        + '\n'
    )
    print(text)
    if args.out:
        write_text(args.out, text, '--out')
        print(f'wrote {args.out}')


if __name__ == '__main__':
    main(parse_args())
