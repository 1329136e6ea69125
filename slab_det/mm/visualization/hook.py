"""Pictures of a test whose images have equal names in several folders."""

import os
from collections.abc import Sequence
from typing import Any

from mmdet.engine.hooks import DetVisualizationHook
from mmdet.registry import HOOKS

from .names import picture_name


@HOOKS.register_module()
class PathVisualizationHook(DetVisualizationHook):
    """mmdet's ``DetVisualizationHook``, except that no picture of a test replaces another: of
    images with equal names, all but the first are drawn into a folder named after their own."""

    _taken: dict[str, str]

    def after_test_iter(
        self, runner: Any, batch_idx: int, data_batch: dict, outputs: Sequence[Any]
    ) -> None:
        """Draw each image of a batch."""
        folder = self.test_out_dir
        if not self.draw or folder is None:
            super().after_test_iter(runner, batch_idx, data_batch, outputs)
            return
        if not hasattr(self, '_taken'):
            self._taken = {}
        base = os.path.abspath(os.path.join(runner.work_dir, runner.timestamp, folder))
        for sample in outputs:
            place, name = os.path.split(sample.img_path)
            first = self._taken.setdefault(name, place)
            # mmdet joins the folder to that of the run, which leaves absolute ones alone.
            self.test_out_dir = base if place == first else os.path.join(base, picture_name(place))
            super().after_test_iter(runner, batch_idx, data_batch, [sample])
        self.test_out_dir = base
