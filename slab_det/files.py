"""Files and folders that the package writes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import InputError, one_line


@contextmanager
def replaced_file(path: str | Path, mark: str | None = None) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that becomes ``path`` if the block ends well.

    The folder is made if it is missing. What the block wrote is on the disk before it gets the
    name, and is removed if the block fails.

    Args:
        path: the file to write.
        mark: part of the temporary name, by default the number of the process, so that two
            processes do not write into each other's file. With a fixed one, the next writing
            replaces what a killed process left behind.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(path)
    # Hidden, with the ending by which libraries choose a format.
    part = path.with_name(f'.{path.stem}.{mark or os.getpid()}{path.suffix}')
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield part
        with part.open('rb+') as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def whole_file(path: str | Path, argument: str) -> Iterator[Path]:
    """Write a file as :func:`replaced_file` does, for the user's ``argument``.

    Raises:
        InputError: naming ``argument``, if the file cannot be written.
    """
    try:
        with replaced_file(path) as part:
            yield part
    except OSError as error:
        raise InputError(
            f'{argument} {path} cannot be written: {error.strerror or error}'
        ) from error


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
        except RuntimeError as error:  # torch's answer to a full disk
            raise OSError(f'the disk may be full ({one_line(error)})') from error


def writable_folder(path: str | Path, argument: str) -> Path:
    """Return ``path``, a folder that can be written to or can be made. Makes nothing.

    Raises:
        InputError: naming ``argument``, if it cannot.
    """
    folder = Path(path).absolute()
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not nearest.is_dir():
        raise InputError(f'{argument} {path}: {nearest} is a file, give a folder')
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(
            f'{argument} {path}: there is no permission to write in {nearest}, give another folder'
        )
    return Path(path)
