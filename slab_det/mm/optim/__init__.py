"""Groups of parameters for the optimizer, in mmengine's registry."""

from .building import build_plain, check_optim_wrapper, quiet
from .constructor import SLABOptimWrapperConstructor, transformers

__all__ = [
    'SLABOptimWrapperConstructor',
    'build_plain',
    'check_optim_wrapper',
    'quiet',
    'transformers',
]
