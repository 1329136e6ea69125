"""Building an optimizer before the training: without a GPU, and in one sentence if it fails."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from slab_det.errors import InputError, one_line

from .constructor import SLABOptimWrapperConstructor, transformers

#: What decides on groups and steps; the rest is for mixed precision, sharding and accumulation.
_KEPT = ('optimizer', 'paramwise_cfg', 'constructor', 'clip_grad')


def build_plain(model: nn.Module, optim_wrapper: Mapping[str, Any]) -> OptimWrapper:
    """Build the optimizer of a config on any device, in a plain wrapper of which one step is one
    update."""
    kept = {key: optim_wrapper[key] for key in _KEPT if key in optim_wrapper}
    with quiet():
        return build_optim_wrapper(model, kept)


def check_optim_wrapper(cfg: Config, model: nn.Module, config: str) -> None:
    """Build the optimizer of ``cfg`` for ``model`` once.

    Raises:
        InputError: it cannot be built; the message names the constructor that can.
    """
    wrapper = cfg.get('optim_wrapper')
    if not isinstance(wrapper, dict) or 'optimizer' not in wrapper:
        return  # several optimizers have a constructor of their own
    constructor = wrapper.get('constructor', 'DefaultOptimWrapperConstructor')
    try:
        with OPTIM_WRAPPER_CONSTRUCTORS.switch_scope_and_registry(cfg.get('default_scope')):
            build_plain(model, wrapper)
    except Exception as error:  # whatever a constructor or an optimizer raises
        ours = SLABOptimWrapperConstructor.__name__
        hint = ''
        if constructor not in (ours, SLABOptimWrapperConstructor) and any(transformers(model)):
            hint = (
                f'; {getattr(constructor, "__name__", constructor)} may not know the backbone: set '
                f"constructor='{ours}' with paramwise_cfg=dict(layer_decay_rate=...)"
            )
        raise InputError(
            f'the optim_wrapper of {config} cannot be built: {one_line(error)}{hint}'
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep mmengine from printing a line for every parameter."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
