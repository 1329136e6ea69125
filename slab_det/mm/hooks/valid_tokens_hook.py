"""Hook that keeps the padding of a batch out of BatchNorm's statistics."""

from collections.abc import Mapping
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from slab_det.errors import InputError
from slab_det.layers import TokenBatchNorm, ValidTokens, set_valid_tokens
from slab_det.mm.model import unwrap


@HOOKS.register_module()
class ValidTokensHook(Hook):
    """Let PRepBN and RepBN count the tokens of images only, not those of padding.

    mmdet pads the images of a batch to the largest one. At test time an image comes alone, so
    that statistics over zeros are those of another network. This hook takes the size of each
    image, ``img_shape``, from the data samples that the data preprocessor returns, and tells
    the norms which tokens an image would have on its own; mean and variance, in the forward and
    in the backward pass and in the running statistics, are over these. Padded tokens are
    normalised by the same mean and variance, and take part in attention as before. If all images
    fill the batch, nothing changes.

    Norms of any backbone are served that get tokens ``(B, H * W, C)`` or maps ``(B, H, W, C)``,
    such as mmdet's Swin Transformer with ``norm_cfg=dict(type='PRepBN')``; those of backbones
    that are not from this package need batches padded to a multiple of their largest stride
    (``pad_size_divisor=32``). What ``Pad`` adds in a pipeline counts as image.

    Raises:
        InputError: in training, the data samples have no ``img_shape``, or a norm gets tokens
            that are not a map of the batch.
    """

    def __init__(self) -> None:
        self._handle = None

    def before_train(self, runner) -> None:
        model = unwrap(runner.model)
        if not any(isinstance(module, TokenBatchNorm) for module in model.modules()):
            runner.logger.info('ValidTokensHook: the model has no PRepBN or RepBN, nothing to do.')
            return

        def announce(preprocessor, arguments, data) -> None:
            if model.training:
                set_valid_tokens(_valid_tokens(data))

        self._handle = model.data_preprocessor.register_forward_hook(announce)

    def after_train_iter(
        self, runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        set_valid_tokens(None)

    def after_train(self, runner) -> None:
        set_valid_tokens(None)
        if self._handle is not None:
            self._handle.remove()
            self._handle = None


def _valid_tokens(data: Any) -> ValidTokens:
    """Return the valid tokens of a batch as the data preprocessor returns it."""
    inputs = data.get('inputs') if isinstance(data, Mapping) else None
    samples = data.get('data_samples') if isinstance(data, Mapping) else None
    sizes = [getattr(sample, 'img_shape', None) for sample in samples or ()]
    if getattr(inputs, 'ndim', 0) != 4 or len(sizes) != len(inputs) or None in sizes:
        raise InputError(
            'ValidTokensHook needs a batch of images and a data sample with img_shape for each: '
            "add 'img_shape' to the meta_keys of PackDetInputs, or remove the hook."
        )
    return ValidTokens([size[:2] for size in sizes], inputs.shape[-2:])
