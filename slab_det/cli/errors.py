"""How a tool ends: one sentence for the user's errors, a traceback for faults."""

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from slab_det.errors import InputError, SlabDetError, one_line


def run(main: Callable[[Namespace], None], args: Namespace) -> None:
    """Call ``main(args)``; a :class:`SlabDetError` or Ctrl-C ends the process in one sentence.

    Any other error is a fault and keeps its traceback. With ``args.traceback`` every error does.
    """
    if args.traceback:
        main(args)
        return
    try:
        main(args)
    except KeyboardInterrupt:
        print('\nerror: interrupted', file=sys.stderr)  # a progress bar has left its line open
        sys.exit(130)  # as shells report an end by Ctrl-C
    except SlabDetError as error:
        rank = f'rank {os.environ["RANK"]}: ' if int(os.environ.get('WORLD_SIZE', 1)) > 1 else ''
        print(f'error: {rank}{one_line(error)}', file=sys.stderr)
        sys.exit(1)


@contextmanager
def built_from(config: str) -> Iterator[None]:
    """Raise errors of whatever a registry builds in the block as :class:`InputError`.

    A Runner builds data sets, transforms, metrics, optimizers and hooks from ``config``, many of
    them only when training has begun; ``Registry.build`` is the one place that all pass through.
    """
    from mmengine.registry import Registry

    plain = Registry.build

    def build(registry, cfg, *args, **kwargs):
        try:
            return plain(registry, cfg, *args, **kwargs)
        except SlabDetError:
            raise
        except Exception as error:  # whatever the constructor raises about its arguments
            kind = cfg.get('type') if isinstance(cfg, dict) else None
            name = getattr(kind, '__name__', kind)
            raise InputError(
                f'the {registry.name} {name} of {config} cannot be built: {one_line(error)}'
            ) from error

    Registry.build = build
    try:
        yield
    finally:
        Registry.build = plain
