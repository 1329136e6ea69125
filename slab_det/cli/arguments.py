"""Arguments that several tools have, named as in mmdet's tools."""

import argparse
import math
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')


class KeyValues(argparse.Action):
    """Collect ``key=value`` words into a dict, with values as in mmengine's ``DictAction``."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        from mmengine.config import DictAction  # -h stays fast

        words = [values] if isinstance(values, str) else list(values or ())
        for word in words:
            if not word.partition('=')[0] or '=' not in word:
                parser.error(f'{option_string} takes words of the form key=value, got {word!r}')
        try:
            DictAction(self.option_strings, self.dest)(parser, namespace, words, option_string)
        except AssertionError as error:  # its answer to brackets that do not close
            parser.error(f'{option_string} {" ".join(words)}: {error}')


def number(kind: type[int] | type[float], least: float, most: float = math.inf) -> Callable:
    """Return a ``type`` for argparse: an int or float from ``least`` to ``most``."""
    noun = 'a whole number' if kind is int else 'a number'
    limits = f'of at least {least}' if most == math.inf else f'from {least} to {most}'

    def read(text: str) -> float:
        with suppress(ValueError):
            if least <= (value := kind(text)) <= most:
                return value
        raise argparse.ArgumentTypeError(f'got {text!r}, give {noun} {limits}')

    return read


def file_name(*endings: str) -> Callable[[str], str]:
    """Return a ``type`` for argparse: the name of a file with one of the ``endings``."""

    def read(text: str) -> str:
        if not text.endswith(endings):
            raise argparse.ArgumentTypeError(
                f'got {text!r}, give a name that ends in {" or ".join(endings)}'
            )
        return text

    return read


def device(text: str) -> str:
    """A ``type`` for argparse: a device that torch can use, such as cuda:0."""
    import torch

    try:
        torch.zeros(1, device=text)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].rstrip('.')
        raise argparse.ArgumentTypeError(
            f'{text} cannot be used ({reason}): give cpu, or leave it out'
        ) from error
    return text


def add_traceback(parser: argparse.ArgumentParser) -> None:
    """Add ``--traceback``, which :func:`~slab_det.cli.run` reads."""
    parser.add_argument(
        '--traceback', action='store_true', help='show the full traceback of an error'
    )


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``config``, ``--cfg-options`` and ``--traceback``."""
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=KeyValues,
        default=None,
        metavar='KEY=VALUE',
        help='settings that override those of the config, such as optim_wrapper.optimizer.lr=1e-4; '
        'lists as key=a,b or key="[a,b]", nested ones as key="[(a,b),(c,d)]", without spaces',
    )
    add_traceback(parser)


def add_shape(parser: argparse.ArgumentParser, what: str) -> None:
    """Add ``--shape H W``, the size of ``what``."""
    parser.add_argument(
        '--shape',
        type=number(int, 1),
        nargs=2,
        default=(800, 1216),
        metavar=('H', 'W'),
        help=f'height and width of {what} in pixels (default: 800 1216)',
    )


def add_runner_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--work-dir``, ``--launcher`` and ``--local_rank`` to those of every config tool."""
    add_config_arguments(parser)
    parser.add_argument(
        '--work-dir',
        help='folder for logs and checkpoints (default: work_dir of the config, or '
        'work_dirs/NAME_OF_THE_CONFIG)',
    )
    parser.add_argument(
        '--launcher',
        choices=LAUNCHERS,
        default='none',
        help='what started the processes (default: %(default)s)',
    )
    parser.add_argument(
        '--check-images',
        action='store_true',
        help='decode every image before work begins; unchanged files are not decoded again '
        '(default: read the headers of a sample)',
    )
    # Older launchers pass the rank as an argument in either spelling, newer ones as a variable.
    parser.add_argument(
        '--local_rank',
        '--local-rank',
        type=int,
        default=int(os.environ.get('LOCAL_RANK', 0)),
        help='rank on this machine, set by the launcher',
    )


def add_part(parser: argparse.ArgumentParser) -> None:
    """Add ``--part``, which :func:`~slab_det.cli.load_detector` reads."""
    parser.add_argument(
        '--part',
        choices=('teacher', 'student'),
        help='detector of a semi-supervised model to take (default: the one it predicts with)',
    )
