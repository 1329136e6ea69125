"""Names of norm parameters in checkpoints of other origin, and how they become ours.

This is the one place that knows them: the norm modules use it while they load, the checkpoint
converter for whole models, and :func:`copied_norms` for models of others.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from slab_det.errors import InputError

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

    Raises:
        InputError: the published counters give no ratio.

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
            step, total = float(entries['iter']), float(entries['total_step'])
            ratio = step / max(total, 1.0)
            # Infinite where the checkpoint was written in half precision, counters included.
            if not 0 <= ratio <= 1:
                raise InputError(
                    f'iter={step:g} of total_step={total:g} is not a ratio from 0 to 1: put into '
                    "the norm's iter and total_step what they were, such as 0 and 1 where the "
                    'schedule was finished.'
                )
        else:
            ratio = 1.0 if 'ln.weight' in canonical else 0.0
        canonical['ratio'] = torch.tensor(ratio, dtype=torch.float32)
    return canonical


def repbn_entries(canonical: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the RepBN branch of :func:`canonical_norm` under the names of :class:`RepBN`."""
    return entries_below(canonical, 'repbn.')


def layer_norm_entries(canonical: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the LayerNorm branch of :func:`canonical_norm` under LayerNorm's names."""
    return entries_below(canonical, 'ln.')


def replace_entries(
    state_dict: dict[str, Tensor], prefix: str, entries: Mapping[str, Tensor]
) -> None:
    """Replace in place everything below ``prefix`` in ``state_dict`` by ``entries``."""
    for key in [key for key in state_dict if key.startswith(prefix)]:
        del state_dict[key]
    state_dict.update({prefix + name: value for name, value in entries.items()})


def norm_prefixes(weights: Mapping[str, Tensor]) -> set[str]:
    """Return the names, up to the dot, of the modules that are RepBN or PRepBN in any naming."""
    prefixes = set()
    for key in weights:
        stem = re.sub(r'(^|\.)(alpha|eta)$', r'\1', key)
        if stem == key or f'{stem}bn.running_mean' not in weights:
            continue
        branch = re.fullmatch(r'(.*\.|)(norm2|repbn)\.', stem)
        # A RepBN may itself be called norm2, beside a LayerNorm norm1 of the same block.
        whole = branch and all(
            name in _TO_PREPBN or name in STEP_COUNTERS
            for name in entries_below(weights, branch[1])
        )
        prefixes.add(branch[1] if whole else stem)
    return prefixes


def entries_below(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the entries whose names begin with ``prefix``, without it."""
    return {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}


def copied_norms(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return ``state_dict`` with every copy of the published norms under our names.

    Wherever ``LinearNorm`` or ``RepBN`` of the published code stand in a model, below any name,
    their entries become those of :class:`~slab_det.layers.PRepBN` and of
    :class:`~slab_det.layers.RepBN`: ``norm1`` to ``ln``, ``norm2.bn`` and ``norm2.alpha`` to
    ``repbn.bn`` and ``repbn.eta``, and the counters to ``ratio = iter / total_step``. All other
    entries stay. ``load_state_dict`` of a model with our norms does the same by itself; this is for
    loaders that put tensors in by name, such as ``from_pretrained`` of ``transformers``.

    Raises:
        InputError: there is no such norm, or the counters give no ratio.
    """
    prefixes = norm_prefixes(state_dict)
    if not prefixes:
        raise InputError(
            'state_dict has no RepBN or PRepBN: no alpha or eta lies beside a BatchNorm called bn; '
            'give the weights of the model themselves, without a nest around them.'
        )
    renamed = dict(state_dict)
    for prefix in sorted(prefixes):
        entries = entries_below(renamed, prefix)
        canonical = canonical_norm(entries)
        if 'ln.weight' not in canonical and 'ratio' not in entries:
            canonical = repbn_entries(canonical)
        replace_entries(renamed, prefix, canonical)
    return renamed
