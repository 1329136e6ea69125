"""Checks the documentation: every command of a bash block parses, every link leads somewhere.

    python tools/check_docs.py          # parse: files exist, the tools take the arguments
    python tools/check_docs.py --run    # and run the blocks that are marked so, on generated data
"""
import argparse
import contextlib
import inspect
import io
import os
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

from slab_det.cli import InputError, run
from slab_det.cli.doc_commands import DocError, check_command, check_links, commands_of, parse

ROOT = Path(__file__).resolve().parents[1]
#: What a run adds to commands, so that they end soon: fewer and smaller images.
SHORTER = {
    'tools/make_dataset.py': ['--train', '8', '--val', '4', '--size', '64', '96'],
}
#: Settings that a run adds to training and tests: no processes that load data.
NO_WORKERS = [f'{phase}_dataloader.{setting}' for phase in ('train', 'val', 'test')
              for setting in ('num_workers=0', 'persistent_workers=False')]
#: And to those with configs for COCO: two small images, one epoch.
SHORTER_COCO = [
    'train_cfg.max_epochs=1', 'train_cfg.val_interval=9', 'train_dataloader.dataset.indices=2',
    'test_dataloader.dataset.indices=1', 'train_dataloader.dataset.pipeline.2.scale=(96,64)',
    'test_dataloader.dataset.pipeline.1.scale=(96,64)',
]


def parse_args(arguments=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Check commands and links of the documentation')
    parser.add_argument('pages', nargs='*', metavar='PAGE',
                        help='Markdown pages (default: README.md and docs/*.md)')
    parser.add_argument('--run', action='store_true',
                        help='also run the blocks below a line <!-- check: run -->, in a temporary '
                        'folder with generated data')
    parser.add_argument('--traceback', action='store_true', help='show the whole trace of an error')
    return parser.parse_args(arguments)


def shortened(words: list) -> list:
    script, arguments = words[1], list(words[2:])
    arguments += SHORTER.get(script, [])
    if script in ('tools/train.py', 'tools/test.py'):
        if '--cfg-options' not in arguments:
            arguments.append('--cfg-options')
        place = arguments.index('--cfg-options') + 1
        arguments[place:place] = NO_WORKERS + (
            SHORTER_COCO if arguments[0].endswith('_coco.py') else [])
    return arguments


def run_command(command) -> None:
    """Run a tool in this process, in the current folder; its output is shown where it fails."""
    if command.words[0] != 'python' or not command.words[1].startswith('tools/'):
        raise DocError(f'{command}: only python tools/... can be run')
    output = io.StringIO()
    before = dict(os.environ)
    os.environ.update(command.environment)
    try:
        words = shortened(command.words)
        module, args = parse(command, ROOT / command.words[1], words)
        with contextlib.redirect_stdout(output), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            takes_words = 'arguments' in inspect.signature(module.main).parameters
            failed = module.main(words if takes_words else args)
        if failed:
            raise DocError(f'{command}: ended with {failed}')
    except DocError:
        raise
    except (Exception, SystemExit) as error:
        print(output.getvalue(), traceback.format_exc(), file=sys.stderr)
        raise DocError(f'{command}: {type(error).__name__}: {error}') from error
    finally:
        os.environ.clear()
        os.environ.update(before)


def run_pages(commands: list) -> int:
    """Run the marked commands of each page in a folder of their own; returns their number."""
    from slab_det.datasets import make_shapes_dataset
    number = 0
    start = os.getcwd()
    for page in dict.fromkeys(command.page for command in commands):
        with tempfile.TemporaryDirectory() as folder:
            for name in ('configs', 'tools', 'docs'):
                os.symlink(ROOT / name, os.path.join(folder, name))
            os.chdir(folder)
            try:
                make_shapes_dataset('data/coco', 4, 2, (64, 96), panoptic=True, semantic=True,
                                    layout='coco')
                for command in commands:
                    if command.page == page:
                        begun = time.perf_counter()
                        run_command(command)
                        print(f'{time.perf_counter() - begun:5.1f} s  {command}', flush=True)
                        number += 1
            finally:
                os.chdir(start)
    return number


def main(args: argparse.Namespace) -> None:
    pages = [Path(page).absolute() for page in args.pages] or [
        ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
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
            check_command(command, ROOT)
        except DocError as error:
            faults.append(str(error))
    if faults:
        print('\n'.join(faults), file=sys.stderr)
        raise InputError(f'{len(faults)} faults in the documentation, listed above')
    done = run_pages([command for command in commands if command.run]) if args.run else 0
    print(f'{len(pages)} pages, {len(commands)} commands: all parse'
          + (f', {done} were run' if args.run else ''))


if __name__ == '__main__':
    run(main, parse_args())
