"""What a family of transformers tells about its checkpoints."""
import re
from typing import Callable, Dict, Mapping, NamedTuple, Optional

from torch import Tensor


class CheckpointError(ValueError):
    """A checkpoint that does not fit; the message says what it is and what would fit."""


class Family(NamedTuple):
    """A family of transformers.

    Attributes:
        name: as users know it.
        matches: whether a state dict, in any known naming of the family, is of it.
        names: for every entry of a state dict the name that it has with us, or None for an
            entry that carries no weights. Norms keep the names of their own entries, see
            :mod:`slab_det.layers.norm_names`.
        describe: the size in words, from names and shapes in our naming.
    """
    name: str
    matches: Callable[[Mapping[str, Tensor]], bool]
    names: Callable[[Mapping[str, Tensor]], Dict[str, Optional[str]]]
    describe: Callable[[Mapping[str, Tensor]], str]


def count_children(state_dict: Mapping[str, Tensor], prefix: str) -> int:
    """Return 1 + the largest number that follows ``prefix`` in a key, or 0."""
    pattern = re.compile(re.escape(prefix) + r'(\d+)\.')
    numbers = [int(match.group(1)) for match in map(pattern.match, state_dict) if match]
    return max(numbers) + 1 if numbers else 0
