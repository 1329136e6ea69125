"""Time per pixel of the linear transformers from a small to a large image.

    python benchmarks/scaling.py --out docs/scaling.md

1.00 means that time grows with the number of pixels and no faster.
"""

import argparse
import shlex
import sys

import torch
from latency import machine
from measure import Case, Size, alternate
from peers import LINEAR

from slab_det.cli import write_text

NOTE = """1.00 means that time grows with the number of pixels and no faster. SLAB-CSWin grows
faster, because its last two stages use softmax attention, in stripes as long as the map.
"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        '--sizes',
        nargs=2,
        type=Size.parse,
        default=[Size(480, 640), Size(1600, 2400)],
        metavar='SIZE',
        help='small and large, height x width',
    )
    parser.add_argument('--only', nargs='+', help='networks, by parts of their names')
    parser.add_argument('--device', default='cpu', choices=['cpu', 'cuda'])
    parser.add_argument('--threads', type=int, default=2, help='CPU threads')
    parser.add_argument('--rounds', type=int, default=3, help='timed runs of each network and size')
    parser.add_argument('--out', help='also write the table to this Markdown file')
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    pixels = [size.height * size.width for size in args.sizes]
    lines = [
        f'| network | {args.sizes[0]} ms | {args.sizes[1]} ms | time per pixel, ratio |',
        '| --- | ---: | ---: | ---: |',
    ]
    for name, build in LINEAR.items():
        if args.only and not any(word in name for word in args.only):
            continue
        torch.manual_seed(0)
        model = build()
        model.eval()
        cases = [Case('backbone', 'eager', 'float32', size, 1, args.device) for size in args.sizes]
        runs = dict(zip(args.sizes, (case.prepare(model) for case in cases)))
        times = alternate(runs, args.rounds, lambda line: None)
        small, large = (times[size].median for size in args.sizes)
        ratio = (large / pixels[1]) / (small / pixels[0])
        lines.append(f'| {name} | {small * 1e3:.0f} | {large * 1e3:.0f} | {ratio:.2f} |')
        print(lines[-1], file=sys.stderr, flush=True)
    print('\n'.join(lines))
    if args.out:
        head = (
            '# Scaling\n\n'
            f'Measured by `python benchmarks/scaling.py {shlex.join(sys.argv[1:])}` on\n\n'
            f'> {machine(args.device, args.threads)}\n\n'
        )
        write_text(args.out, f'{head}' + '\n'.join(lines) + '\n\n' + NOTE, '--out')
        print(f'wrote {args.out}')


if __name__ == '__main__':
    main(parse_args())
