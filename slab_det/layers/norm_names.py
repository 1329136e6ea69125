"""Names of norm parameters in checkpoints of other origin, and how they become ours.

This is the one place that knows them: the norm modules use it while they load, and the
checkpoint converter uses it for whole models.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

#: Published step counters, which carry the ratio and nothing else.
STEP_COUNTERS = ('iter', 'total_step', 'warm')

_BATCH_NORM = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')
_REP_BN = {'eta': 'eta', 'alpha': 'eta', **{f'bn.{leaf}': f'bn.{leaf}' for leaf in _BATCH_NORM}}

#: Entry of a norm in any known naming -> entry of our PRepBN.
_TO_PREPBN = {
    # ours
    'ratio': 'ratio',
    'ln.weight': 'ln.weight',
    'ln.bias': 'ln.bias',
    **{f'repbn.{old}': f'repbn.{new}' for old, new in _REP_BN.items()},
    # published PRepBN: two branches called norm1 and norm2
    'norm1.weight': 'ln.weight',
    'norm1.bias': 'ln.bias',
    **{f'norm2.{old}': f'repbn.{new}' for old, new in _REP_BN.items()},
    # a norm that is RepBN alone
    **{old: f'repbn.{new}' for old, new in _REP_BN.items()},
    # a plain LayerNorm
    'weight': 'ln.weight',
    'bias': 'ln.bias',
}


def canonical_norm(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the entries of one norm under the names of :class:`PRepBN`.

    Args:
        entries: what a checkpoint holds below the norm's own name, in our naming, in the
            published one (``norm1.weight``, ``norm2.bn.weight``, ``norm2.alpha``, ``iter``,
            ``total_step``), as RepBN alone (``bn.weight``, ``alpha``) or as LayerNorm
            (``weight``, ``bias``).

    Returns:
        Entries named as in PRepBN, always with ``ratio``: ``iter / total_step`` where the
        published counters are there, 0 for RepBN alone, 1 for LayerNorm. Entries that are no
        norm's keep their name.
    """
    canonical = {
        _TO_PREPBN.get(name, name): value
        for name, value in entries.items()
        if name not in STEP_COUNTERS
    }
    if 'ratio' not in canonical:
        if 'iter' in entries and 'total_step' in entries:
            ratio = float(entries['iter']) / max(float(entries['total_step']), 1.0)
        else:
            ratio = 1.0 if 'ln.weight' in canonical else 0.0
        canonical['ratio'] = torch.tensor(ratio, dtype=torch.float32)
    return canonical


def repbn_entries(canonical: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the RepBN branch of :func:`canonical_norm` under the names of :class:`RepBN`."""
    return {
        name[len('repbn.') :]: value
        for name, value in canonical.items()
        if name.startswith('repbn.')
    }


def layer_norm_entries(canonical: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the LayerNorm branch of :func:`canonical_norm` under LayerNorm's names."""
    return {
        name[len('ln.') :]: value for name, value in canonical.items() if name.startswith('ln.')
    }


def replace_entries(
    state_dict: dict[str, Tensor], prefix: str, entries: Mapping[str, Tensor]
) -> None:
    """Replace in place everything below ``prefix`` in ``state_dict`` by ``entries``."""
    for key in [key for key in state_dict if key.startswith(prefix)]:
        del state_dict[key]
    state_dict.update({prefix + name: value for name, value in entries.items()})
