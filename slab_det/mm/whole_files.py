"""Checkpoints that are written whole or not at all."""

from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from slab_det.files import replaced_file


@register_backend('whole', force=True)
class WholeFileBackend(LocalBackend):
    """mmengine's local files, except that a file gets its name when all of it is written.

    If training is killed while it writes a checkpoint, the file of that name stays as it was, and
    a hidden part may be left that the next writing of the file replaces. In a config::

        default_hooks = dict(checkpoint=dict(backend_args=dict(backend='whole')))
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes to ``filepath``, whose folder is made if it is missing."""
        with replaced_file(filepath, mark='part') as part:
            super().put(obj, part)
