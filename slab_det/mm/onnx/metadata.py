"""What an exported file says of itself: how an image gets in, and what its labels mean."""

from collections.abc import Mapping
from typing import Any

from slab_det.errors import InputError

#: Test transforms that change no pixel.
_LOADING = ('LoadImageFromFile', 'LoadImageFromNDArray', 'LoadAnnotations', 'PackDetInputs')

#: Key of the file's metadata under which the JSON text lies.
KEY = 'slab_det'


def file_metadata(
    cfg: Mapping[str, Any], classes: list[str] | None, mask_threshold: float | None
) -> dict[str, Any]:
    """Return what :class:`slab_det.deploy.onnx_detector.OnnxDetector` needs besides the graph.

    Args:
        cfg: a whole config; its test pipeline resizes images.
        classes: names of the labels; by default those of the config's test set.
        mask_threshold: probability from which a pixel belongs to a mask; None without masks.

    Raises:
        InputError: the pipeline does what the file cannot describe, or class names are missing.
    """
    dataset = cfg['test_dataloader']['dataset']
    while 'dataset' in dataset or 'datasets' in dataset:
        # Several sets are read with one pipeline; their classes were compared before.
        dataset = dataset['dataset'] if 'dataset' in dataset else dataset['datasets'][0]
    classes = list(classes or class_names(dataset))
    return dict(
        version=1,
        classes=classes,
        resize=_resize(dataset['pipeline']),
        mask_threshold=mask_threshold,
    )


def class_names(dataset: Mapping[str, Any]) -> list[str]:
    """Return the class names of a data set's config, or of its type.

    Raises:
        InputError: neither has them.
    """
    from mmdet.registry import DATASETS

    names = (dataset.get('metainfo') or {}).get('classes')
    if names is None:
        kind = dataset['type']
        kind = DATASETS.get(kind) if isinstance(kind, str) else kind
        names = getattr(kind, 'METAINFO', {}).get('classes')
    if names is None:
        raise InputError(
            f'the test set {dataset["type"]} has no class names; set '
            'test_dataloader.dataset.metainfo=dict(classes=(...)).'
        )
    return [names] if isinstance(names, str) else list(names)


def _resize(pipeline) -> dict[str, Any] | None:
    """Return the pipeline's resizing: ``scale`` (width, height), ``keep_ratio``, or None."""
    resize = None
    for step in pipeline:
        kind = step['type'] if isinstance(step['type'], str) else step['type'].__name__
        kind = kind.split('.')[-1]
        if kind in _LOADING:
            continue
        known = set(step) <= {'type', 'scale', 'keep_ratio', 'interpolation', 'backend'}
        plain = (
            step.get('interpolation', 'bilinear') == 'bilinear'
            and step.get('backend', 'cv2') == 'cv2'
        )
        if kind != 'Resize' or resize is not None or not known or not plain or 'scale' not in step:
            raise InputError(
                f'the test pipeline holds {dict(step)}, which cannot be exported; one '
                'bilinear Resize with a scale can, besides loading and packing.'
            )
        scale = step['scale']
        scale = [scale, scale] if isinstance(scale, int) else list(scale)
        resize = dict(scale=scale, keep_ratio=bool(step.get('keep_ratio', False)))
    return resize
