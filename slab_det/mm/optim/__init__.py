"""Groups of parameters for the optimizer, in mmengine's registry."""

from .constructor import SLABOptimWrapperConstructor

__all__ = ['SLABOptimWrapperConstructor']
