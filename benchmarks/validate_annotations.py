"""Time and memory of the validator beside json.load and pycocotools' index.

python benchmarks/validate_annotations.py [--images 118000] [--annotations 860000] [--repeats 3]

A file of the size of COCO's train2017 is generated. Both are measured in processes of their own, by
turns, so that a busy machine slows both; the ratio counts.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]

_MEASURE = """
import json, resource, sys, time
path = sys.argv[1]
{setup}
start, cpu = time.perf_counter(), time.process_time()
{work}
print(json.dumps([time.perf_counter() - start, time.process_time() - cpu,
                  resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""
PEERS = dict(
    index=dict(
        setup='import contextlib, os\nfrom pycocotools.coco import COCO',
        work='with contextlib.redirect_stdout(open(os.devnull, "w")):\n    found = COCO(path)',
    ),
    validator=dict(
        setup='from slab_det.mm.data import Annotations, Use, read_annotations',
        work='Annotations(path, read_annotations(path, "--ann")).report(Use()).require_sound()',
    ),
)


def generate(path: Path, images: int, annotations: int, seed: int = 0) -> None:
    """Write a sound COCO file with boxes, polygons and, one in a hundred, run lengths."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(200, 640, (images, 2))
    owners = np.sort(rng.integers(0, images, annotations))
    with path.open('w', encoding='utf-8') as file:
        file.write('{"images": [')
        for index, (width, height) in enumerate(sizes.tolist()):
            one = dict(
                license=1,
                file_name=f'{index:012d}.jpg',
                coco_url=f'http://images.cocodataset.org/train2017/{index:012d}.jpg',
                height=height,
                width=width,
                date_captured='2013-11-14 11:18:45',
                id=index + 1,
            )
            file.write(', ' * bool(index) + json.dumps(one))
        file.write('], "annotations": [')
        for index, owner in enumerate(owners.tolist()):
            width, height = sizes[owner].tolist()
            w, h = rng.integers(8, min(width, height) - 8, 2).tolist()
            x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
            crowd = index % 100 == 0
            if crowd:
                runs = [y, h, height - y - h] * (width // 8)
                segmentation: object = dict(
                    counts=[*runs, width * height - sum(runs)], size=[height, width]
                )
            else:
                points = rng.random((int(rng.integers(4, 40)), 2)) * (w, h) + (x, y)
                segmentation = [points.round(2).ravel().tolist()]
            one = dict(
                segmentation=segmentation,
                area=w * h * 0.7,
                iscrowd=int(crowd),
                image_id=owner + 1,
                bbox=[x, y, w, h],
                category_id=index % 80 + 1,
                id=index + 1,
            )
            file.write(', ' * bool(index) + json.dumps(one))
        categories = [dict(supercategory='thing', id=i, name=f'class {i}') for i in range(1, 81)]
        file.write(f'], "categories": {json.dumps(categories)}}}')


def measure(peer: str, path: Path) -> list[float]:
    """Return wall seconds, processor seconds and peak MiB of a peer in a process of its own."""
    done = subprocess.run(
        [sys.executable, '-c', _MEASURE.format(**PEERS[peer]), str(path)],
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )
    if done.returncode:
        sys.exit(f'error: {peer} failed: {done.stderr.strip().splitlines()[-1]}')
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--images', type=int, default=118_000)
    parser.add_argument('--annotations', type=int, default=860_000)
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--file', type=Path, help='generate here and keep (default: temporary)')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = args.file or Path(folder) / 'generated.json'
        if not path.exists():
            generate(path, args.images, args.annotations)
        found: dict[str, list[list[float]]] = {peer: [] for peer in PEERS}
        for _ in range(args.repeats):
            for peer in PEERS:
                found[peer].append(measure(peer, path))
        print(f'{path.stat().st_size / 2**20:.0f} MiB, {args.repeats} repeats, medians')
        medians = {
            peer: [statistics.median(column) for column in zip(*runs)]
            for peer, runs in found.items()
        }
    for peer, (wall, cpu, memory) in medians.items():
        print(f'{peer:<10} {wall:6.1f} s wall {cpu:6.1f} s processor {memory:7.0f} MiB')
    ratios = [b / a for a, b in zip(medians['index'], medians['validator'])]
    print(f'ratio {ratios[0]:.2f} wall, {ratios[1]:.2f} processor, {ratios[2]:.2f} memory')


if __name__ == '__main__':
    main()
