"""Arguments that several tools have, named as in mmdet's tools."""

import argparse
import os
from collections.abc import Sequence
from typing import Any

LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')


class KeyValues(argparse.Action):
    """Collects ``key=value`` words into a dict; values are read as mmengine's ``DictAction`` reads them."""

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


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """``config``, ``--cfg-options`` and ``--traceback``."""
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
    parser.add_argument('--traceback', action='store_true', help='show the whole trace of an error')


def add_runner_arguments(parser: argparse.ArgumentParser) -> None:
    """``--work-dir``, ``--launcher`` and ``--local_rank``, besides those of every config tool."""
    add_config_arguments(parser)
    parser.add_argument(
        '--work-dir',
        help='where logs and checkpoints go (default: that of the config, else '
        'work_dirs/NAME_OF_THE_CONFIG)',
    )
    parser.add_argument(
        '--launcher', choices=LAUNCHERS, default='none', help='what started the processes'
    )
    parser.add_argument(
        '--check-images',
        action='store_true',
        help='decode every image before work begins; unchanged files are not decoded again '
        '(default: look at the headers of a sample)',
    )
    # Older launchers pass the rank as an argument in either spelling, newer ones in the environment.
    parser.add_argument(
        '--local_rank',
        '--local-rank',
        type=int,
        default=int(os.environ.get('LOCAL_RANK', 0)),
        help='rank on this machine, set by the launcher',
    )
