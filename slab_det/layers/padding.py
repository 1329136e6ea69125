"""Which tokens of a padded batch belong to its images."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import isqrt

import torch
from torch import Tensor

Size = tuple[int, int]


class ValidTokens:
    """The tokens that the images of one padded batch would have alone.

    Images lie at the top left of the batch, padding at the bottom and right. Layers that make a
    map of another call :func:`follow_map`, so that the valid part of each of their maps is known
    at any size. Maps of layers that do not are found by their size: one stride must divide the
    padded height and width; ``ceil(h / stride)`` tokens of h pixels are valid then.

    Tokens are rows ``(B, N, C)``, a map row by row with or without a class token before it, or
    maps ``(B, H, W, C)``. The class token is valid.

    Args:
        sizes: height and width of each image in pixels.
        padded: height and width of the batch in pixels.

    Raises:
        ValueError: an image is larger than the batch.
    """

    def __init__(self, sizes: Sequence[Size], padded: Size) -> None:
        self.padded = (int(padded[0]), int(padded[1]))
        images = [(int(height), int(width)) for height, width in sizes]
        if any(h > self.padded[0] or w > self.padded[1] for h, w in images):
            raise ValueError(
                f'sizes={images} (height, width) do not fit a batch padded to '
                f'{self.padded}: give the sizes at which they lie in the batch.'
            )
        self.images = images
        self.full = all(size == self.padded for size in images)
        self._parts: dict[Size, list[Size]] = {self.padded: images}
        self._map_of: dict[int, Size] = {}
        self._rows: dict[tuple, Tensor | None] = {}

    def follow(self, before: Size, after: Size, length: Callable[[int], int]) -> None:
        """Note that a layer makes the map ``after`` of ``before``, and ``length(n)`` positions of
        n along a side.

        Raises:
            ValueError: ``before`` is not a map of this batch.
        """
        part = self._part(before)
        if part is None:
            raise self._unknown(f'a map of {before} tokens')
        self._parts[after] = [(length(h), length(w)) for h, w in part]
        self._map_of[after[0] * after[1]] = after

    def rows(self, x: Tensor) -> Tensor | None:
        """Return the valid rows of ``x.flatten(0, -2)`` in ascending order, None if all are.

        Raises:
            ValueError: ``x`` holds no map of this batch.
        """
        size, prefix = self._find_map(x)
        part = None if size is None else self._part(size)
        if part is None or x.shape[0] != len(self.images):
            raise self._unknown(f'a tensor of shape {tuple(x.shape)}')
        key = (size, prefix, x.device, tuple(part))
        if key not in self._rows:
            self._rows[key] = _rows(part, size, prefix, x.device)
        return self._rows[key]

    def _find_map(self, x: Tensor) -> tuple[Size | None, int]:
        """Return height and width of the map whose tokens ``x`` holds, None if no map is
        known, and the number of class tokens before them."""
        if x.dim() == 4:
            return (x.shape[1], x.shape[2]), 0
        if x.dim() == 3:
            counts = [(x.shape[1] - prefix, prefix) for prefix in (0, 1)]
            for count, prefix in counts:
                if count in self._map_of:
                    return self._map_of[count], prefix
            height, width = self.padded
            for count, prefix in counts:
                stride = max(1, isqrt(height * width // max(1, count)))
                size = height // stride, width // stride
                if size[0] * size[1] == count and self._stride(size) is not None:
                    return size, prefix
        return None, 0

    def _part(self, size: Size) -> list[Size] | None:
        """Return the valid height and width of every image on the map ``size``, None if it is
        not known."""
        stride = self._stride(size)
        if size not in self._parts and stride is not None:
            self._parts[size] = [(-(-h // stride), -(-w // stride)) for h, w in self.images]
        return self._parts.get(size)

    def _stride(self, size: Size) -> int | None:
        """Return the stride that makes the map ``size`` of the batch without a remainder."""
        stride = self.padded[0] // max(1, size[0])
        exact = size[0] * stride == self.padded[0] and size[1] * stride == self.padded[1]
        return stride if exact else None

    def _unknown(self, what: str) -> ValueError:
        return ValueError(
            f'{what} is not a map of a batch of {len(self.images)} images padded to {self.padded}, '
            'so that its padding is not known: pad batches to a multiple of the largest stride '
            '(pad_size_divisor=32), or let padding count (remove ValidTokensHook).'
        )


def _rows(valid: Sequence[Size], size: Size, prefix: int, device: torch.device) -> Tensor | None:
    if all(part == size for part in valid):
        return None
    part = torch.tensor(valid)
    inside = (
        (torch.arange(size[0])[:, None] < part[:, 0, None, None])
        & (torch.arange(size[1]) < part[:, 1, None, None])
    ).flatten(1)
    inside = torch.cat([inside.new_ones(len(valid), prefix), inside], 1)
    # Found on the CPU, where the number of rows is known without waiting for the device.
    return inside.flatten().nonzero().squeeze(1).to(device)


# One for the process rather than for the thread: the backward pass of a GPU runs checkpointed
# blocks again in another thread.
_current: ValidTokens | None = None


def set_valid_tokens(valid: ValidTokens | None) -> None:
    """Let statistics of the batches to come count the tokens of ``valid`` only; None counts all.

    It must stay set until the backward pass is done where blocks are checkpointed.
    """
    global _current
    _current = None if valid is None or valid.full else valid


@contextmanager
def valid_tokens(sizes: Sequence[Size], padded: Size) -> Iterator[None]:
    """Leave padding out of the statistics of a batch that is trained inside this context.

    Args:
        sizes: height and width of each image in pixels; it lies at the top left of the batch.
        padded: height and width of the batch in pixels.
    """
    set_valid_tokens(ValidTokens(sizes, padded))
    try:
        yield
    finally:
        set_valid_tokens(None)


def follow_map(before: Size, after: Size, length: Callable[[int], int]) -> None:
    """Note that a layer makes a map of ``after`` = (H, W) tokens of one of ``before``, and
    ``length(n)`` tokens of n along a side."""
    if _current is not None:
        _current.follow((int(before[0]), int(before[1])), (int(after[0]), int(after[1])), length)


def valid_rows(x: Tensor) -> Tensor | None:
    """Return the rows of ``x.flatten(0, -2)`` whose tokens belong to images, None if all do.

    Raises:
        ValueError: padding was announced, and ``x`` is not a map of that batch.
    """
    return None if _current is None else _current.rows(x)
