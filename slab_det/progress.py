"""How far a long loop is: a bar on a terminal, a few plain lines in a log."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar('Item')


def progress(items: Iterable[Item], title: str) -> Iterator[Item]:
    """Yield ``items`` and show on the standard output how many of them are done.

    On a terminal this is rich's bar; elsewhere one line per tenth, or one at the end if the length
    of ``items`` is not known.
    """
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.progress import track

        # A console of its own: rich's global one keeps the stream of its first use.
        yield from track(items, title, console=Console())
        return
    total = len(items) if hasattr(items, '__len__') else None
    done = 0
    for done, item in enumerate(items, start=1):
        yield item
        if total and 10 * done // total > 10 * (done - 1) // total:
            print(f'{title}: {done} of {total}', flush=True)
    if total is None:
        print(f'{title}: {done}', flush=True)
