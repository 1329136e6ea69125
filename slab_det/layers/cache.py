"""Values that are computed once: per size of a map, or while a module is evaluated.

This is the one home of both caches. They serve numbers and tensors that exist; a compiler or a
trace sees the computation instead, which is the same.
"""

from collections.abc import Callable, Hashable
from functools import wraps
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


def size_cache(max_bytes: int) -> Callable:
    """Keep the results of a function of sizes, which returns tensors.

    What was first asked for under inference mode serves training as well.

    Args:
        max_bytes: memory of the results that are kept; the one asked for last always is.
    """

    def decorate(compute: Callable) -> Callable:
        kept: dict[tuple, tuple[Any, int]] = {}  # the one asked for last comes last
        lock = Lock()

        @wraps(compute)
        def call(*sizes: Hashable) -> Any:
            # Sizes of a trace are tensors, those of a compiler may be symbols.
            known = all(isinstance(size, (int, torch.device)) for size in sizes)
            if torch.compiler.is_compiling() or not known:
                return compute(*sizes)
            with lock, torch.inference_mode(False):
                entry = kept.pop(sizes, None)
                if entry is None:
                    value = compute(*sizes)
                    tensors = [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
                    if any(type(tensor) is not Tensor for tensor in tensors):
                        return value  # made under a mode that only follows shapes
                    entry = value, sum(tensor.nbytes for tensor in tensors)
                kept[sizes] = entry
                while len(kept) > 1 and sum(size for _, size in kept.values()) > max_bytes:
                    del kept[next(iter(kept))]
            return entry[0]

        call.kept = kept
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
            or type(source) not in (Tensor, nn.Parameter)
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
