"""Let the operators of an unpacked mmcv compile in few files: python tools/merge_sources.py FOLDER.

Most of the time of each of mmcv's 77 files goes into reading torch's headers. The files that bind
operators are included by two others in their place, so the headers are read a third as often; what
is compiled, and with which options, stays the same. Those that compute on a CPU stay alone: several
define templates of the same names.
"""

import argparse
import re
from pathlib import Path

#: Files that take their place.
PARTS = {'mmcv/ops/csrc/pytorch': 2}
#: Reads other headers, and takes as long as all the rest of its folder.
ALONE = 'pybind.cpp'
#: A macro would reach the files after it.
DEFINES = re.compile(r'^\s*#\s*define\b', re.MULTILINE)


def merge(folder: Path, parts: int) -> None:
    """Put ``parts`` files in the place of those in ``folder``."""
    sources = [
        path
        for path in sorted(folder.glob('*.cpp'))
        if path.name != ALONE and not DEFINES.search(path.read_text(encoding='utf-8'))
    ]
    included = [path.rename(path.with_suffix('.inc')) for path in sources]
    for part in range(parts):
        lines = [f'#include "{path.name}"\n' for path in included[part::parts]]
        (folder / f'merged_{part}.cpp').write_text(''.join(lines), encoding='utf-8')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description='Let the operators of mmcv compile in few files')
    parser.add_argument('folder', type=Path, help='folder of an unpacked mmcv or onedl-mmcv')
    root = parser.parse_args().folder
    for name, parts in PARTS.items():
        merge(root / name, parts)
