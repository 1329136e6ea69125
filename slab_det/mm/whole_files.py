"""Checkpoints that are written whole or not at all."""

import os
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend


@register_backend('whole', force=True)
class WholeFileBackend(LocalBackend):
    """mmengine's local files, except that a file gets its name when all of it is written.

    A training that is killed while it writes a checkpoint leaves the file of that name as it was,
    or none, and a hidden part that the next writing of the file replaces. In a config::

        default_hooks = dict(checkpoint=dict(backend_args=dict(backend='whole')))
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes to ``filepath``, whose folder is made where it is missing."""
        part = Path(filepath).with_name(f'.{Path(filepath).name}.part')
        super().put(obj, part)
        os.replace(part, filepath)
