"""Checks the documentation: commands parse and say how they are proved, links lead somewhere.

python tools/check_docs.py          # parse: files exist, the tools take the arguments
python tools/check_docs.py --run    # and run the blocks that are marked so, on generated data
"""

import argparse
import os
import sys
from pathlib import Path

from slab_det.cli import InputError, run

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tools.docs.commands import (  # noqa: E402
    DocError,
    check_command,
    check_links,
    check_mark,
    commands_of,
)
from tools.docs.runs import run_page  # noqa: E402


def parse_args(arguments=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Check commands and links of the documentation')
    parser.add_argument(
        'pages', nargs='*', metavar='PAGE', help='Markdown pages (default: README.md and docs/*.md)'
    )
    parser.add_argument(
        '--run',
        action='store_true',
        help='also run the blocks below a line <!-- check: run ... -->, in a temporary '
        'folder with generated data',
    )
    parser.add_argument('--traceback', action='store_true', help='show the whole trace of an error')
    return parser.parse_args(arguments)


def main(args: argparse.Namespace) -> None:
    pages = [Path(page).absolute() for page in args.pages] or [
        ROOT / 'README.md',
        *sorted((ROOT / 'docs').glob('*.md')),
    ]
    faults, commands = [], []
    for page in pages:
        if not page.is_file():
            raise InputError(f'PAGE {page} is not a file: give a Markdown page')
        try:
            found = list(commands_of(page, os.path.relpath(page, ROOT)))
        except DocError as error:
            faults.append(str(error))
            continue
        commands += found
        faults += check_links(page, ROOT)
    for command in commands:
        try:
            check_mark(command, ROOT)
            check_command(command, ROOT)
        except DocError as error:
            faults.append(str(error))
    if faults:
        print('\n'.join(faults), file=sys.stderr)
        raise InputError(f'{len(faults)} faults in the documentation, listed above')
    done = 0
    if args.run:
        for page in dict.fromkeys(command.page for command in commands):
            done += run_page([command for command in commands if command.page == page], ROOT)
    print(
        f'{len(pages)} pages, {len(commands)} commands: all parse'
        + (f', {done} were run' if args.run else '')
    )


if __name__ == '__main__':
    run(main, parse_args())
