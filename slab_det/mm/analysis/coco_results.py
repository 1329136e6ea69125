"""Predictions in COCO's result format."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from slab_det.mm.datasets.categories import COCO_THING_IDS


def coco_results(
    sample, image_id: int, category_ids: Sequence[int], score_thr: float = 0.0
) -> list[dict[str, Any]]:
    """Return the predicted instances of one image as entries of a COCO result file.

    Args:
        sample: mmdet's DetDataSample with ``pred_instances``.
        image_id: of the annotation file.
        category_ids: category number of each label.
        score_thr: leave out what scores less.

    Returns:
        Per instance ``image_id``, ``category_id``, ``bbox`` (left, top, width, height in pixels of
        the image), ``score`` and, if masks were predicted, ``segmentation`` (compressed run
        lengths, which pycocotools decodes). If a detector predicts no boxes, they are those of the
        masks, and instances with an empty mask are left out.
    """
    from pycocotools import mask as mask_utils

    predictions = sample.pred_instances.cpu()
    predictions = predictions[predictions.scores >= score_thr]
    masks = predictions.get('masks')
    boxes = predictions.bboxes.numpy() if 'bboxes' in predictions else None
    from_masks = masks is not None and (boxes is None or not np.any(boxes))
    results = []
    for index in range(len(predictions)):
        entry: dict[str, Any] = dict(
            image_id=image_id,
            category_id=int(category_ids[int(predictions.labels[index])]),
            score=float(predictions.scores[index]),
        )
        if masks is not None:
            encoded = mask_utils.encode(np.asfortranarray(np.asarray(masks[index], np.uint8)))
            if from_masks and not mask_utils.area(encoded):
                continue
            entry['segmentation'] = dict(
                size=[int(side) for side in encoded['size']],
                counts=encoded['counts'].decode('ascii'),
            )
        if from_masks:
            entry['bbox'] = mask_utils.toBbox(encoded).tolist()
        else:
            left, top, right, bottom = (float(side) for side in boxes[index])
            entry['bbox'] = [left, top, right - left, bottom - top]
        results.append(entry)
    return results


def default_category_ids(classes: Sequence[str]) -> list[int]:
    """Return category numbers of labels without an annotation file: COCO's own for its 80 classes,
    otherwise label + 1."""
    from mmdet.datasets import CocoDataset

    if tuple(classes) == tuple(CocoDataset.METAINFO['classes']):
        return list(COCO_THING_IDS)
    return list(range(1, len(classes) + 1))
