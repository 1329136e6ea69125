"""Files and folders that a tool writes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import InputError, one_line


@contextmanager
def whole_file(path: str | Path, argument: str) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that becomes ``path`` when the block ends well. The
    folder is made where it is missing.

    Raises:
        InputError: naming ``argument``, where it cannot be written.
    """
    path = Path(path)
    part = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)
    except OSError as error:
        raise InputError(
            f'{argument} {path} cannot be written: {error.strerror or error}'
        ) from error
    finally:
        if part.exists():
            part.unlink()


def write_text(path: str | Path, text: str, argument: str) -> None:
    """Write a text as :func:`whole_file` does, with the same errors."""
    with whole_file(path, argument) as part:
        part.write_text(text, encoding='utf-8')


def write_checkpoint(path: str | Path, content: Any, argument: str) -> None:
    """Write ``content`` with torch.save as :func:`whole_file` does, with the same errors."""
    import torch

    with whole_file(path, argument) as part, part.open('wb') as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # what torch makes of a disk that is full
            raise OSError(f'the disk may be full ({one_line(error)})') from error


def writable_folder(path: str | Path, argument: str) -> Path:
    """Return ``path``, which is a folder that we may write to or can become one. Makes nothing.

    Raises:
        InputError: naming ``argument``, where it cannot.
    """
    folder = Path(path).absolute()
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not nearest.is_dir():
        raise InputError(f'{argument} {path}: {nearest} is a file, give a folder')
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f'{argument} {path}: no right to write in {nearest}, give another folder')
    return Path(path)
