"""Fitting a checkpoint of known origin into one of our models."""
from dataclasses import dataclass, field
from typing import Dict, List, Mapping, Optional, Tuple

from torch import Tensor, nn

from ..layers.norm_names import (STEP_COUNTERS, canonical_norm, layer_norm_entries,
                                 repbn_entries, replace_entries)
from .families import detect_family, to_our_names
from .family import CheckpointError, count_children
from .reading import read_checkpoint, select_state_dict


@dataclass
class LoadReport:
    """What became of the entries of a checkpoint.

    Attributes:
        origin: family and size of the checkpoint in words.
        used: entries of the model that were filled.
        renamed: entries of the checkpoint that have another name here.
        ignored: entries of the checkpoint that the model has no place for.
        missing: entries of the model that kept their values.
        ratio: PRepBN ratio that was loaded, None where the model has no PRepBN.
    """
    origin: str
    used: List[str] = field(default_factory=list)
    renamed: List[str] = field(default_factory=list)
    ignored: List[str] = field(default_factory=list)
    missing: List[str] = field(default_factory=list)
    ratio: Optional[float] = None

    def summary(self) -> str:
        """Return the report in a few lines."""
        lines = [f'{self.origin}: {len(self.used)} entries used, {len(self.renamed)} of the '
                 f'checkpoint renamed, {len(self.ignored)} ignored, {len(self.missing)} missing']
        if self.ratio is not None:
            lines[0] += f'; PRepBN ratio {self.ratio:.4g}'
        for title, names in (('ignored', self.ignored), ('missing, kept as initialised', self.missing)):
            if names:
                lines.append(f'  {title}: {_shorten(names)}')
        return '\n'.join(lines)


def convert_state_dict(
    source: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
    optional: Tuple[str, ...] = (),
) -> Tuple[Dict[str, Tensor], LoadReport]:
    """Return ``source`` under the names of ``target``, and a report.

    Args:
        source: a state dict of any known origin.
        target: state dict of the model that it is for; names and shapes are read.
        optional: prefixes of the target that the source may lack.

    Raises:
        CheckpointError: another family or size, a shape that does not fit, or norms that
            cannot become the target's.
    """
    family = detect_family(source)
    weights, moved, dropped = to_our_names(source, family)
    origin = family.describe(weights)
    _check_deployed(weights, target)
    ratio = _convert_norms(weights, target, moved)

    report = LoadReport(origin, renamed=moved, ignored=dropped, ratio=ratio)
    stages = count_children(target, 'layers.')
    fitted = {}
    for key, value in weights.items():
        if key in target:
            if value.shape != target[key].shape:
                raise CheckpointError(
                    f'{key} has shape {tuple(value.shape)} in the checkpoint ({origin}), but '
                    f'{tuple(target[key].shape)} in the model ({family.describe(target)}); choose '
                    'the arch, attn_types and window_sizes of the checkpoint.')
            fitted[key] = value
            report.used.append(key)
        elif _may_be_ignored(key, stages):
            report.ignored.append(key)
        else:
            raise CheckpointError(
                f'the model ({family.describe(target)}) has no place for {key} of the checkpoint '
                f'({origin}); choose the arch, attn_types and norm of the checkpoint.')
    report.missing = [key for key in target if key not in fitted]
    lacking = [key for key in report.missing
               if not key.startswith(optional) and not key.startswith('head.')]
    if lacking:
        raise CheckpointError(
            f'the checkpoint ({origin}) lacks {_shorten(lacking)} of the model '
            f'({family.describe(target)}); choose the arch, attn_types and norm of the checkpoint.')
    return fitted, report


def load_into(model: nn.Module, path: str, prefix: Optional[str] = None) -> LoadReport:
    """Load the checkpoint file ``path`` into a transformer of :mod:`slab_det.models`.

    Args:
        model: it changes only if everything fits.
        path: the file.
        prefix: take only the entries below it, for example ``'backbone.'``.

    Raises:
        FileNotFoundError, CheckpointError: see :func:`read_checkpoint` and
            :func:`convert_state_dict`.
    """
    weights, report = convert_state_dict(
        select_state_dict(read_checkpoint(path), prefix), model.state_dict())
    model.load_state_dict(weights, strict=False)
    return report


def _convert_norms(weights: Dict[str, Tensor], target: Mapping[str, Tensor], moved: List[str]) -> Optional[float]:
    """Give the norms in ``weights`` the entries of the target's norms; return the ratio."""
    ratio = None
    for prefix in sorted(_norm_prefixes(weights) | _norm_prefixes(target)):
        entries = {key[len(prefix):]: value for key, value in weights.items() if key.startswith(prefix)}
        if not entries:
            continue
        canonical = canonical_norm(entries)
        found = float(canonical['ratio'])
        if prefix + 'ratio' in target:
            new = _complete(canonical, target, prefix)
            ratio = found if ratio is None else max(ratio, found)
        elif prefix + 'eta' in target:
            if found:
                raise CheckpointError(
                    f'the norm {prefix[:-1]} of the checkpoint has ratio {found:.4g}, but RepBN has '
                    "no LayerNorm branch; use norm_cfg=dict(type='PRepBN').")
            new = repbn_entries(canonical)
        elif prefix + 'weight' in target and prefix + 'running_mean' not in target:
            if found != 1:
                raise CheckpointError(
                    f'the norm {prefix[:-1]} of the checkpoint is a PRepBN at ratio {found:.4g}, but '
                    "a LayerNorm in the model; use norm_cfg=dict(type='PRepBN').")
            new = layer_norm_entries(canonical)
        else:
            new = {name: value for name, value in entries.items() if name not in STEP_COUNTERS}
        if new.keys() != entries.keys():
            moved.extend(prefix + name for name in entries if name not in new)
        replace_entries(weights, prefix, new)
    return ratio


def _complete(canonical: Dict[str, Tensor], target: Mapping[str, Tensor], prefix: str) -> Dict[str, Tensor]:
    """Fill the branch that the source lacks from the target, which keeps its values there."""
    own = {key[len(prefix):]: value for key, value in target.items() if key.startswith(prefix)}
    return {**own, **canonical}


def _norm_prefixes(weights: Mapping[str, Tensor]) -> set:
    """Return the names, up to the dot, of the modules that are RepBN or PRepBN."""
    prefixes = set()
    for key in weights:
        for leaf in ('norm2.alpha', 'repbn.eta', 'alpha', 'eta'):
            if key.endswith('.' + leaf):
                prefixes.add(key[:-len(leaf)])
                break
    return prefixes


def _check_deployed(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    deployed = [any(key.endswith('.pad_qkv') for key in weights) for weights in (source, target)]
    if deployed == [True, False]:
        raise CheckpointError('the checkpoint is re-parameterized, but the model is not; set '
                              'deploy=True in the backbone.')
    if deployed == [False, True]:
        raise CheckpointError('the model has deploy=True, but the checkpoint is not '
                              're-parameterized; make one with tools/reparameterize.py.')


def _may_be_ignored(key: str, stages: int) -> bool:
    """Classifier, closing norm, output norms and stages that the model was built without."""
    top, _, rest = key.partition('.')
    if top == 'layers':
        return int(rest.split('.')[0]) >= stages
    return top == 'head' or top.startswith('norm')


def _shorten(names: List[str], limit: int = 6) -> str:
    more = f' and {len(names) - limit} more' if len(names) > limit else ''
    return ', '.join(names[:limit]) + more
