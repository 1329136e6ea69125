"""Fitting a checkpoint of known origin into one of our models."""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from slab_det.layers.norm_names import (
    STEP_COUNTERS,
    canonical_norm,
    entries_below,
    layer_norm_entries,
    norm_prefixes,
    repbn_entries,
    replace_entries,
)
from slab_det.layers.positions import resize_grid, square_grid

from .families import detect_family, to_our_names
from .family import CheckpointError, Family, Weights
from .reading import read_checkpoint, select_weights, stored_grid_sizes
from .report import LoadReport, shorten

GridSizes = Mapping[str, tuple[int, int]]


def convert_state_dict(
    source: Weights,
    target: Weights,
    optional: tuple[str, ...] = (),
    resize_grids: bool = False,
    grid_sizes: GridSizes | None = None,
    source_grid_sizes: GridSizes | None = None,
    unchecked: tuple[str, ...] = (),
) -> tuple[dict[str, Tensor], LoadReport]:
    """Return ``source`` under the names of ``target``, and a report.

    Args:
        source: a state dict of any known origin.
        target: state dict of the model that it is for; names and shapes are read, and the values
            of the RepBN or LayerNorm branches that the source lacks.
        optional: prefixes of the target that the source may lack.
        resize_grids: resize positional grids to those of the target; otherwise a grid of another
            size is refused.
        grid_sizes: heights and widths of the target's grids that are not square, by name.
        source_grid_sizes: the same of the source, under the target's names.
        unchecked: prefixes of entries whose shapes the caller checks.

    Raises:
        CheckpointError: another family or size, a shape that does not fit, or norms that
            cannot become the target's.
    """
    family = detect_family(source)
    weights, moved, dropped = to_our_names(source, family)
    origin = family.describe(weights)
    model = _describe_target(target, family, origin)
    _check_deployed(weights, target)
    ratio = _convert_norms(weights, target, moved)

    report = LoadReport(origin, renamed=moved, ignored=dropped, ratio=ratio)
    fitted = {}
    for key, value in weights.items():
        if key in target:
            sizes = [(known or {}).get(key) for known in (source_grid_sizes, grid_sizes)]
            another = value.shape != target[key].shape and not key.startswith(unchecked)
            if family.grid_mode(key) and (another or None not in sizes and sizes[0] != sizes[1]):
                value = _fit_grid(key, value, target[key], sizes, family, resize_grids)
                report.resized.append(key)
            elif another:
                raise CheckpointError(
                    f'{key} has shape {tuple(value.shape)} in the checkpoint ({origin}), but '
                    f'{tuple(target[key].shape)} in the model ({model}); choose the arch and '
                    'options of the checkpoint.'
                )
            fitted[key] = value
            report.used.append(key)
        elif family.may_be_ignored(key, target):
            report.ignored.append(key)
        else:
            raise CheckpointError(
                f'the model ({model}) has no place for {key} of the checkpoint ({origin}); choose '
                'the arch, attn_types and norm of the checkpoint.'
            )
    report.missing = [key for key in target if key not in fitted]
    lacking = [
        key
        for key in report.missing
        if not key.startswith(optional) and not key.startswith('head.')
    ]
    if lacking:
        raise CheckpointError(
            f'the checkpoint ({origin}) lacks {shorten(lacking)} of the model ({model}); choose '
            'the arch, attn_types and norm of the checkpoint.'
        )
    return fitted, report


def load_into(
    model: nn.Module,
    path: str,
    prefix: str | None = None,
    resize_grids: bool = False,
    ema: bool | None = None,
) -> LoadReport:
    """Load the checkpoint file ``path`` into a transformer of :mod:`slab_det.models`.

    Args:
        model: it changes only if everything fits.
        path: the file.
        prefix: take only the entries below it, for example ``'backbone.'``.
        resize_grids: see :func:`convert_state_dict`.
        ema: which weights to take, see :func:`select_weights`.

    Raises:
        FileNotFoundError, CheckpointError: see :func:`read_checkpoint` and
            :func:`convert_state_dict`.
    """
    checkpoint = read_checkpoint(path)
    source, taken = select_weights(checkpoint, prefix, ema)
    weights, report = convert_state_dict(
        source,
        model.state_dict(),
        resize_grids=resize_grids,
        grid_sizes=model.grid_sizes(),
        source_grid_sizes=stored_grid_sizes(checkpoint),
    )
    model.load_state_dict(weights, strict=False)
    report.taken = taken
    return report


def _describe_target(target: Weights, family: Family, origin: str) -> str:
    own = detect_family(target)
    if own is not family:
        raise CheckpointError(
            f'the checkpoint is a {origin}, but the model a {own.describe(target)}; '
            f'load it into a {family.title}.'
        )
    return family.describe(target)


def _fit_grid(
    key: str,
    value: Tensor,
    target: Tensor,
    sizes: list[tuple[int, int] | None],
    family: Family,
    resize: bool,
) -> Tensor:
    """Return the grid ``value`` resized to the shape of ``target``; ``sizes`` are height and width
    of both, None for a square."""
    if value.shape[-1] != target.shape[-1]:
        raise CheckpointError(
            f'{key} has {value.shape[-1]} channels in the checkpoint, but '
            f'{target.shape[-1]} in the model; choose the arch of the checkpoint.'
        )
    if not resize:
        words = [
            str(tuple(grid.shape)) + (' of {} x {} tokens'.format(*size) if size else '')
            for grid, size in zip((value, target), sizes)
        ]
        raise CheckpointError(
            f'the grid {key} has shape {words[0]} in the checkpoint, but {words[1]} in the model; '
            'build the model for the size of images or windows of the checkpoint, or allow grids '
            'to be resized with resize_grids=True.'
        )
    try:
        sizes = [size or square_grid(grid.shape[-2]) for size, grid in zip(sizes, (value, target))]
    except ValueError as error:
        raise CheckpointError(f'{key} cannot be resized: {error}') from error
    grid = resize_grid(
        value.reshape(1, *value.shape[-2:]).float(), *sizes, mode=family.grid_mode(key)
    )
    return grid.to(value.dtype).reshape(target.shape)


def _convert_norms(weights: dict[str, Tensor], target: Weights, moved: list[str]) -> float | None:
    """Give the norms in ``weights`` the entries of the target's norms; return the ratio."""
    ratio = None
    for prefix in sorted(norm_prefixes(weights) | norm_prefixes(target)):
        entries = entries_below(weights, prefix)
        if not entries:
            continue
        canonical = canonical_norm(entries)
        found = float(canonical['ratio'])
        if prefix + 'ratio' in target:
            # The branch that the source lacks keeps the target's values.
            new = entries_below(target, prefix) | canonical
            ratio = found if ratio is None else max(ratio, found)
        elif prefix + 'eta' in target:
            if found:
                raise CheckpointError(
                    f'the norm {prefix[:-1]} of the checkpoint has ratio {found:.4g}, but RepBN '
                    "has no LayerNorm branch; use norm_cfg=dict(type='PRepBN')."
                )
            new = repbn_entries(canonical)
        elif prefix + 'weight' in target and prefix + 'running_mean' not in target:
            if found != 1:
                raise CheckpointError(
                    f'the norm {prefix[:-1]} of the checkpoint is a PRepBN at ratio {found:.4g}, '
                    "but a LayerNorm in the model; use norm_cfg=dict(type='PRepBN')."
                )
            new = layer_norm_entries(canonical)
        else:
            new = {name: value for name, value in entries.items() if name not in STEP_COUNTERS}
        if new.keys() != entries.keys():
            moved.extend(prefix + name for name in entries if name not in new)
        replace_entries(weights, prefix, new)
    return ratio


def _check_deployed(source: Weights, target: Weights) -> None:
    norm = re.compile(r'(^|\.)blocks\.\d+\.norm1\.')
    deployed = [not any(map(norm.search, weights)) for weights in (source, target)]
    if deployed == [True, False]:
        raise CheckpointError(
            'the checkpoint is re-parameterized, but the model is not; set '
            'deploy=True in the backbone.'
        )
    if deployed == [False, True]:
        raise CheckpointError(
            'the model has deploy=True, but the checkpoint is not '
            're-parameterized; make one with tools/reparameterize.py.'
        )
