"""How a tool fails: one sentence on stderr and an exit code, or the whole trace where it was asked for."""

import os
import sys
import traceback
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from slab_det.errors import InputError, one_line

_PACKAGE = Path(__file__).resolve().parents[1]


def run(main: Callable[[Namespace], None], args: Namespace) -> None:
    """Calls ``main(args)``; an error that says all by itself ends the process in one sentence.

    These are :class:`InputError`, ``ImportError`` and ``ValueError`` raised inside slab_det, and Ctrl-C.
    Anything else is a fault, and keeps its trace. With ``args.traceback`` every error does.
    """
    if args.traceback:
        main(args)
        return
    try:
        main(args)
    except KeyboardInterrupt:
        print('\nerror: interrupted', file=sys.stderr)  # a progress bar has left its line open
        sys.exit(130)  # as shells count an end by Ctrl-C
    except (ImportError, ValueError) as error:
        if not isinstance(error, InputError) and not _raised_by_us(error):
            raise
        rank = f'rank {os.environ["RANK"]}: ' if int(os.environ.get('WORLD_SIZE', 1)) > 1 else ''
        print(f'error: {rank}{one_line(error)}', file=sys.stderr)
        sys.exit(1)


def _raised_by_us(error: BaseException) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and _PACKAGE in Path(frames[-1].filename).resolve().parents
