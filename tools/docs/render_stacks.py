"""Write the table of tested stacks into docs/stacks.md: python tools/docs/render_stacks.py

The table is made of what .ci/run left behind: pytest's counts (STACK-PART.xml), and the line of
versions at the head of its output (STACK-PART.log).
"""

import argparse
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from slab_det.cli import InputError, run, write_text

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = '<!-- begin of the table -->\n', '<!-- end of the table -->\n'
HEAD = '| stack | tests | versions | passed | failed | skipped | minutes |\n'
RULE = '| --- | --- | --- | ---: | ---: | ---: | ---: |\n'
PARTS = {
    'all': 'all',
    'quick': 'those that are not slow',
    'training': 'slow ones of training, resumption, evaluation, `mim`',
    'given': 'a choice',
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Write the table of tested stacks')
    parser.add_argument(
        '--records',
        default=str(ROOT / 'work_dirs/ci'),
        metavar='DIR',
        help='folder with the records of .ci/run (default: work_dirs/ci)',
    )
    parser.add_argument(
        '--page',
        default=str(ROOT / 'docs/stacks.md'),
        metavar='FILE',
        help='page whose table is replaced (default: docs/stacks.md)',
    )
    parser.add_argument('--traceback', action='store_true', help='show the whole trace of an error')
    return parser.parse_args()


def row(record: Path) -> str:
    """Return the line of the table for one of pytest's XML files."""
    stack, _, part = record.stem.partition('-')
    try:
        suite = ElementTree.parse(record).getroot().find('testsuite').attrib
        total, failures, errors, skipped = (
            int(suite[name]) for name in ('tests', 'failures', 'errors', 'skipped')
        )
        output = record.with_suffix('.log').read_text(encoding='utf-8')
    except (OSError, ElementTree.ParseError, AttributeError, KeyError, ValueError) as error:
        raise InputError(
            f'--records: {record} or the .log beside it is not a record of .ci/run ({error}): run '
            '.ci/run again'
        ) from error
    versions = re.search(r'^stack: (.+)$', output, re.MULTILINE)
    failed = failures + errors
    cells = (
        f'`{stack}`',
        PARTS.get(part, part),
        versions.group(1) if versions else 'unknown',
        total - failed - skipped,
        failed,
        skipped,
        f'{float(suite["time"]) / 60:.0f}',
    )
    return '| ' + ' | '.join(map(str, cells)) + ' |\n'


def main(args: argparse.Namespace) -> None:
    # The default stack first, then as .ci/run runs them.
    order = list(PARTS)
    records = sorted(
        Path(args.records).glob('*-*.xml'),
        key=lambda path: (
            not path.stem.startswith('openmmlab'),
            *(
                (order.index(part), part)
                if (part := path.stem.partition('-')[2]) in order
                else (9, part)
            ),
        ),
    )
    if not records:
        raise InputError(f'--records {args.records} holds no record of .ci/run: run .ci/run first')
    page = Path(args.page)
    text = page.read_text(encoding='utf-8') if page.is_file() else ''
    if BEGIN not in text or END not in text:
        raise InputError(f'--page {page} has no {BEGIN.strip()} and {END.strip()}: add both lines')
    head, rest = text.split(BEGIN, 1)
    table = HEAD + RULE + ''.join(map(row, records))
    write_text(page, head + BEGIN + table + END + rest.split(END, 1)[1], '--page')
    print(f'wrote {page}')


if __name__ == '__main__':
    run(main, parse_args())
