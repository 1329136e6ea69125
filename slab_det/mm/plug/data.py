"""The normalisation of images."""

from typing import Any

from mmdet.registry import MODELS
from mmengine.model import ImgDataPreprocessor
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from slab_det.mm.config_walk import kind_of

from .notes import Noting

#: What every checkpoint of these transformers was trained with, on red, green, blue from 0 to 255.
MEAN = [round(255 * value, 3) for value in IMAGENET_DEFAULT_MEAN]
STD = [round(255 * value, 3) for value in IMAGENET_DEFAULT_STD]


def adapt_preprocessor(cfg: dict[str, Any], note: Noting) -> None:
    """Set mean, std and the order of channels of the model's data preprocessor, in place."""
    path = 'model.data_preprocessor'
    preprocessor = cfg['model'].get('data_preprocessor')
    if preprocessor is None:  # mmengine takes the one beside the model
        path = 'data_preprocessor'
        preprocessor = cfg.get('data_preprocessor')
    kind = MODELS.get(preprocessor.get('type', '')) if preprocessor else None
    if kind is None or not issubclass(kind, ImgDataPreprocessor):
        note(
            path if preprocessor else 'model.data_preprocessor',
            f'is {"a " + kind_of(preprocessor) if preprocessor else "not there"}: see that images '
            f'reach the backbone in RGB, with mean {MEAN} and std {STD}',
            left=True,
        )
        return
    found = (
        list(preprocessor.get('mean') or []),
        list(preprocessor.get('std') or []),
        bool(preprocessor.get('bgr_to_rgb')),
        bool(preprocessor.get('rgb_to_bgr')),
    )
    if found == (MEAN, STD, True, False):
        return
    preprocessor.update(mean=MEAN, std=STD, bgr_to_rgb=True)
    preprocessor.pop('rgb_to_bgr', None)
    note(
        path,
        "ImageNet's mean and std on RGB, as the transformers are trained; before: "
        + _words(*found[:3]),
    )


def _words(mean, std, rgb) -> str:
    order = 'RGB' if rgb else 'BGR'
    return f'{order} with mean {mean} and std {std}' if mean else f'{order} from 0 to 255 as it is'
