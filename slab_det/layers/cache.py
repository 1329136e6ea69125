"""Values that are computed once: per size of a map, or while a module is evaluated."""

from collections.abc import Callable, Hashable
from functools import lru_cache, wraps
from typing import Any

import torch
from torch import Tensor, nn


def size_cache(maxsize: int) -> Callable:
    """Keep the results of a function of sizes, which returns tensors.

    What was first asked for under inference mode serves training as well. A compiler sees the
    computation, not the cache.
    """

    def decorate(compute: Callable) -> Callable:
        kept = lru_cache(maxsize)(compute)

        @wraps(compute)
        def call(*sizes: Hashable) -> Any:
            if torch.compiler.is_compiling():
                return compute(*sizes)
            with torch.inference_mode(False):
                return kept(*sizes)

        return call

    return decorate


class EvalCache(nn.Module):
    """A module that keeps derived tensors, such as a gathered bias, during evaluation.

    Nothing is kept while gradients are recorded or the module trains. Whatever may change the
    source empties the cache: switching the mode, loading, moving; a changed version of the
    source tensor is noticed as well.
    """

    def __init__(self) -> None:
        super().__init__()
        self._cache = {}

    def cached(
        self, key: Hashable, source: Tensor, compute: Callable[[], Tensor], size: Hashable = None
    ) -> Any:
        """Return ``compute()``, from the cache where nothing can have changed since.

        Args:
            key: what is kept; one value per key.
            source: parameter that the value derives from.
            compute: derives it.
            size: what else it depends on; only the value of the last size is kept.
        """
        if (
            self.training
            or torch.is_grad_enabled()
            or torch.compiler.is_compiling()
            or torch.jit.is_tracing()
        ):
            return compute()
        version = None if source.is_inference() else source._version
        stamp = (source.data_ptr(), version, size)
        kept = self._cache.get(key)
        if kept is None or kept[0] != stamp:
            kept = self._cache[key] = (stamp, compute())
        return kept[1]

    def train(self, mode: bool = True) -> 'EvalCache':
        self._cache.clear()
        return super().train(mode)

    def _apply(self, *args, **kwargs):
        self._cache.clear()
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args, **kwargs):
        self._cache.clear()
        return super()._load_from_state_dict(*args, **kwargs)
