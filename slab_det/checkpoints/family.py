"""What a family of transformers tells about its checkpoints."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from slab_det.errors import InputError

Weights = Mapping[str, Tensor]


class CheckpointError(InputError):
    """A checkpoint that does not fit; the message says what it is and what would fit."""


@dataclass(frozen=True)
class Family:
    """A family of transformers.

    Attributes:
        name: short name, as in ``--family``.
        title: name in words.
        model: class in :mod:`slab_det.models`.
        matches: whether a state dict, in any known naming of the family, is of it.
        translate: what every entry of a state dict becomes in our naming, ``{key: {our name:
            value}}``; ``{}`` for an entry that carries no weights. Norms keep the names of their
            own entries, see :mod:`slab_det.layers.norm_names`.
        arguments: constructor arguments of ``model`` that decide the shapes, from a state dict in
            our naming, whole or re-parameterized.
        spare: pattern of the entries that a model may have no place for, besides the classifier,
            the output norms and stages behind the last one.
        grids: last parts of the names of entries that are grids of tokens, ``(1, H * W, C)`` or
            ``(H * W, C)``, each with the interpolation that resizes it.
        stages: what the names of a stage's entries begin with, followed by its number.
        shown: the arguments that name a size for a reader.
    """

    name: str
    title: str
    model: str
    matches: Callable[[Weights], bool]
    translate: Callable[[Weights], dict[str, dict[str, Tensor]]]
    arguments: Callable[[Weights], dict[str, Any]]
    spare: str = r'norm\.'
    grids: tuple[tuple[str, str], ...] = ()
    stages: str = 'layers.'
    shown: tuple[str, ...] = ('embed_dim', 'depths', 'attn_types')

    def describe(self, weights: Weights) -> str:
        """Return family and size in words, from a state dict in our naming."""
        arguments = self.arguments(weights)
        words = [f'{name} {arguments[name]!r}' for name in self.shown if name in arguments]
        return f'{self.title} with {", ".join(words[:-1])} and {words[-1]}'

    def may_be_ignored(self, key: str, target: Weights) -> bool:
        """Whether the model of state dict ``target`` may lack a place for the entry ``key``."""
        match = re.match(re.escape(self.stages) + r'(\d+)\.', key)
        if match:
            return int(match.group(1)) >= count_children(target, self.stages)
        return re.match(rf'head\.|norm\d+\.|{self.spare}', key) is not None

    def grid_mode(self, key: str) -> str | None:
        """Return the interpolation that resizes the entry ``key``, None if it is no grid."""
        return dict(self.grids).get(key.rsplit('.', 1)[-1])


def below(weights: Weights, prefix: str) -> dict[str, Tensor]:
    """Return what lies below ``prefix`` in ``weights``, under the rest of the names."""
    return {
        key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)
    }


#: What a name begins with -> what replaces it.
Rules = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]


def renamed(key: str, rules: Rules) -> str:
    """Return ``key`` by the first of ``rules`` that it begins like; itself if there is none."""
    for pattern, new in rules:
        name, found = re.subn(f'^{pattern}', new, key)
        if found:
            return name
    return key


def numbered(form: str) -> Callable[[re.Match[str]], str]:
    """Return a replacement that puts the number found, counted from 0 and not from 1, into
    ``form``."""
    return lambda match: form.format(int(match[1]) - 1)


def count_children(state_dict: Weights, prefix: str) -> int:
    """Return 1 + the largest number that follows ``prefix`` in a key, or 0."""
    pattern = re.compile(re.escape(prefix) + r'(\d+)\.')
    numbers = [int(match.group(1)) for match in map(pattern.match, state_dict) if match]
    return max(numbers) + 1 if numbers else 0


def norm_type(state_dict: Weights) -> str:
    """Return the norm of the blocks, 'PRepBN', 'RepBN' or 'LN'; 'PRepBN' where it is folded."""
    first = 'blocks.0.norm1.'
    leaves = {key.split(first, 1)[1] for key in state_dict if first in key}
    if leaves & {'alpha', 'eta'}:
        return 'RepBN'
    return 'LN' if 'weight' in leaves else 'PRepBN'
