"""What a runner holds: its model without wrappers, averaged models, optimizer wrappers."""

from mmengine.model import BaseAveragedModel, is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import nn


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside wrappers for distributed training and compiled modules."""
    while True:
        if is_model_wrapper(model):
            model = model.module
        elif '_orig_mod' in model._modules:  # what torch.compile returns for a module
            model = model._orig_mod
        else:
            return model


def averaged_models(runner) -> list[nn.Module]:
    """Return the averaged models that hooks such as EMAHook hold."""
    models = {
        id(value): value.module
        for hook in runner.hooks
        for value in vars(hook).values()
        if isinstance(value, BaseAveragedModel)
    }
    return list(models.values())


def optim_wrappers(runner) -> list[OptimWrapper]:
    """Return the optimizer wrappers of ``runner``, one unless it has several optimizers."""
    optim = runner.optim_wrapper
    # A dict of wrappers calls itself a wrapper, too.
    return list(optim.values()) if isinstance(optim, OptimWrapperDict) else [optim]
