"""Resizing of images so narrow that a side would vanish."""

from collections.abc import Sequence
from typing import Any

import mmcv
from mmdet.datasets.transforms import Resize
from mmdet.registry import TRANSFORMS

from .config_walk import kind_of, walk_dicts


def resized(width: int, height: int, scale: Sequence[float]) -> tuple[int, int]:
    """Return width and height after mmcv's Resize with ``keep_ratio``: as large as fits into
    ``scale``, its sides taken in any order."""
    factor = min(max(scale) / max(width, height), min(scale) / min(width, height))
    return int(width * factor + 0.5), int(height * factor + 0.5)


@TRANSFORMS.register_module()
class ResizeToPixels(Resize):
    """mmdet's ``Resize``, except that a side keeps at least one pixel, as in
    :class:`slab_det.deploy.onnx_detector.OnnxDetector`."""

    def _resize_img(self, results: dict[str, Any]) -> None:
        image = results.get('img')
        if image is not None and self.keep_ratio:
            height, width = image.shape[:2]
            size = resized(width, height, results['scale'])
            if min(size) < 1:
                new = mmcv.imresize(
                    image,
                    (max(size[0], 1), max(size[1], 1)),
                    interpolation=self.interpolation,
                    backend=self.backend,
                )
                results['img'], results['img_shape'] = new, new.shape[:2]
                results['scale_factor'] = (new.shape[1] / width, new.shape[0] / height)
                return
        super()._resize_img(results)


def keep_pixels(pipeline: Any) -> None:
    """Put :class:`ResizeToPixels` in place of every ``Resize`` of a pipeline's config."""
    for _, step in walk_dicts(pipeline):
        if kind_of(step) == 'Resize':
            step['type'] = 'mmdet.ResizeToPixels'
