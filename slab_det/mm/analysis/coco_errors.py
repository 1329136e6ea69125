"""What a detector's average precision loses to which kind of error, after COCO's analysis."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from slab_det.errors import InputError

#: The curves in the order in which errors are forgiven, and what each forgives.
CURVES = {
    'C75': 'IoU 0.75',
    'C50': 'IoU 0.5',
    'Loc': 'wrong place',
    'Sim': 'similar class',
    'Oth': 'other class',
    'BG': 'background',
    'FN': 'not found',
}
#: A detection that overlaps by this much means the object, wherever it puts the box.
_MEANT = 0.1
_MAX_DETECTIONS = 100


@dataclass
class ErrorCurves:
    """Precision over recall as errors are forgiven one kind after the other.

    Attributes:
        names: of the categories that have objects.
        precision: float (7 curves of CURVES, 101 recalls, categories).
    """

    names: list[str]
    precision: np.ndarray

    def average_precision(self) -> np.ndarray:
        """AP of each curve and category, float (7, categories)."""
        return self.precision.mean(axis=1)


def error_curves(truth, results: Sequence[dict[str, Any]], kind: str = 'bbox') -> ErrorCurves:
    """Analyse detections after https://cocodataset.org/#detection-eval (section Analysis Code).

    - ``C75``, ``C50``: precision at an IoU of 0.75 and 0.5;
    - ``Loc``: at 0.1, so that only the place of boxes is forgiven (duplicates still count);
    - ``Sim``: detections on objects of the same supercategory no longer count as false;
    - ``Oth``: nor do those on objects of any category;
    - ``BG``: nor those on background, so that only missed objects count;
    - ``FN``: 1.

    Args:
        truth: pycocotools' COCO.
        results: entries of a COCO result file, see :func:`~.coco_results.coco_results`.
        kind: ``'bbox'`` or ``'segm'``.

    Raises:
        InputError: no category has objects, or nothing was detected.
    """
    if not results:
        raise InputError('results: there is no detection to analyse.')
    categories = truth.loadCats(truth.getCatIds())
    counted = {one['category_id'] for one in truth.anns.values() if not one.get('iscrowd')}
    chosen = [one for one in categories if one['id'] in counted]
    if not chosen:
        raise InputError('truth: no category has objects.')
    curves = np.zeros((len(CURVES), 101, len(chosen)))
    for column, category in enumerate(chosen):
        found = [one for one in results if one['category_id'] == category['id']]
        if found:
            similar = {
                one['id']
                for one in categories
                if one.get('supercategory', one['id']) == category.get('supercategory')
            }
            curves[:3, :, column] = _precision(
                truth, found, category['id'], kind, set(), [0.75, 0.5, _MEANT]
            )
            for row, forgiven in ((3, similar), (4, {one['id'] for one in categories})):
                curves[row, :, column] = _precision(
                    truth, found, category['id'], kind, forgiven - {category['id']}, [_MEANT]
                )[0]
        curves[5, :, column] = curves[4, :, column] > 0
    curves[6] = 1
    return ErrorCurves([one['name'] for one in chosen], curves)


def _precision(
    truth, results: list[dict], category_id: int, kind: str, forgiven: set, ious: list[float]
) -> np.ndarray:
    """Precision (IoUs, 101) of one category; those of the ``forgiven`` are ignored."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations = [one for one in truth.anns.values() if one['category_id'] == category_id]
    annotations += [
        dict(one, category_id=category_id, iscrowd=1, ignore=1)
        for one in truth.anns.values()
        if one['category_id'] in forgiven
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        part = COCO()
        part.dataset = dict(
            images=list(truth.imgs.values()),
            annotations=annotations,
            categories=truth.loadCats(category_id),
        )
        part.createIndex()
        # loadRes completes the entries in place.
        evaluation = COCOeval(part, part.loadRes([dict(one) for one in results]), kind)
        evaluation.params.catIds = [category_id]
        evaluation.params.iouThrs = np.array(ious)
        evaluation.params.maxDets = [_MAX_DETECTIONS]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ['all']
        evaluation.evaluate()
        evaluation.accumulate()
    # A recall that is never reached has precision 0.
    return np.maximum(evaluation.eval['precision'][:, :, 0, 0, 0], 0)


def draw_errors(curves: ErrorCurves, title: str, most: int = 20):
    """Return a matplotlib figure: the mean curves, and each category's share of errors.

    Args:
        curves: of :func:`error_curves`.
        title: above the figure.
        most: number of categories shown, the lowest first.
    """
    from matplotlib.figure import Figure

    colours = ('#1b4965', '#3a7ca5', '#81c3d7', '#ffd166', '#f79d65', '#c77dff', '#e5e5e5')
    figure = Figure(figsize=(12, 5.2), layout='constrained')
    left, right = figure.subplots(1, 2)
    mean, average = curves.precision.mean(axis=2), curves.average_precision()
    recall = np.linspace(0, 1, mean.shape[1])
    below = np.zeros_like(recall)
    for curve, colour, name in zip(np.maximum.accumulate(mean), colours, CURVES):
        left.fill_between(
            recall,
            below,
            curve,
            color=colour,
            linewidth=0,
            label=f'[{average[list(CURVES).index(name)].mean():.3f}] {name}: {CURVES[name]}',
        )
        below = curve
    left.set(
        xlim=(0, 1), ylim=(0, 1), xlabel='recall', ylabel='precision', title='all categories, [AP]'
    )
    left.legend(loc='lower left', fontsize=8)
    order = np.argsort(average[1], kind='stable')[:most][::-1]
    start = np.zeros(len(order))
    for gain, colour in zip(np.diff(np.maximum.accumulate(average), axis=0, prepend=0), colours):
        right.barh(range(len(order)), gain[order], left=start, color=colour)
        start += gain[order]
    right.set_yticks(range(len(order)), [curves.names[index] for index in order], fontsize=8)
    shown = '' if len(order) == len(curves.names) else f', the {len(order)} lowest at IoU 0.5'
    right.set(xlim=(0, 1), xlabel='AP as errors are forgiven', title=f'by category{shown}')
    figure.suptitle(title, fontsize=10)
    return figure
