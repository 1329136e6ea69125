"""Converting a checkpoint file to this package's names."""

import os
import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor

from slab_det import models
from slab_det.checkpoints import (
    CheckpointError,
    Family,
    LoadReport,
    convert_state_dict,
    detect_family,
    read_checkpoint,
    select_weights,
    stored_grid_sizes,
    to_our_names,
)
from slab_det.errors import InputError
from slab_det.files import write_checkpoint


class Conversion(NamedTuple):
    """A converted checkpoint.

    Attributes:
        weights: under this package's names.
        report: what became of the entries.
        family: the family that was recognised.
        arguments: constructor arguments of the transformer that the weights are of.
        grid_sizes: height and width of its positional grids, by name.
        arch: name of its size, None if it is not a published one.
    """

    weights: dict[str, Tensor]
    report: LoadReport
    family: Family
    arguments: dict[str, Any]
    grid_sizes: dict[str, tuple[int, int]]
    arch: str | None

    def usage(self) -> str:
        """Return the options that make a backbone of these weights."""
        names = ('arch', 'attn_types', 'sr_ratios', 'window_sizes', 'split_sizes', 'img_size')
        options = {'arch': self.arch or 'a dict of the widths above', **self.arguments}
        words = [f'{name}={options[name]!r}' for name in names if name in options]
        return f'{self.family.title}: {", ".join(words)}'


def convert_checkpoint(
    path: str,
    family: str = 'auto',
    prefix: str | None = None,
    image_size: tuple[int, int] | None = None,
    drop_classifier: bool = False,
    ema: bool | None = None,
) -> Conversion:
    """Convert the checkpoint file ``path``.

    Args:
        path: the file.
        family: name of the family that it must be of, or 'auto'.
        prefix: take only the entries below it.
        image_size: resize positional grids to those of images of this height and width.
        drop_classifier: leave the classifier out.
        ema: which weights to take, see :func:`~slab_det.checkpoints.select_weights`.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it cannot be read, is of another or no known family, or entries are left
            over or lacking.
    """
    checkpoint = read_checkpoint(path)
    source, taken = select_weights(checkpoint, prefix, ema)
    if drop_classifier:
        source = {key: value for key, value in source.items() if not key.startswith('head.')}
    found = detect_family(source)
    if family not in ('auto', found.name):
        raise CheckpointError(
            f'{path} is a {found.title}, not of the family {family!r}; pass '
            f'family {found.name} or auto.'
        )
    weights = to_our_names(source, found)[0]
    if not any('blocks.0.norm1.' in key for key in weights):
        raise CheckpointError(
            f'{path} is re-parameterized and already has the names of this '
            'package; convert the checkpoint that it was made from.'
        )
    arguments = found.arguments(weights)
    sizes = stored_grid_sizes(checkpoint)
    if image_size is not None:
        if 'img_size' not in arguments and not sizes:
            raise CheckpointError(
                f'{path} is a {found.describe(weights)}, which has no positional '
                'grids that depend on the image size; leave image_size out.'
            )
        arguments['img_size'] = image_size
    elif sizes:
        # Of its own file: the grids need not be square.
        arguments['img_size'] = checkpoint['meta']['arguments']['img_size']
    network = getattr(models, found.model)
    with torch.device('meta'):
        model = network(**arguments)
    grid_sizes = model.grid_sizes()
    fitted, report = convert_state_dict(
        source,
        model.state_dict(),
        grid_sizes=grid_sizes,
        source_grid_sizes=sizes,
        resize_grids=image_size is not None,
    )
    # Branches of a norm that the source lacks come from the model, which has no values here.
    empty = [name for name, value in fitted.items() if value.is_meta]
    report.used = [name for name in report.used if name not in empty]
    report.missing += empty
    report.taken = taken
    fitted = {name: value for name, value in fitted.items() if name not in empty}
    return Conversion(fitted, report, found, arguments, grid_sizes, _arch_name(network, arguments))


def save_checkpoint(conversion: Conversion, path: str) -> None:
    """Write the weights and what they are of to ``path``, whole or not at all.

    Raises:
        InputError: the folder does not exist, or the file cannot be written.
    """
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise InputError(f'DST {path} lies in a folder that does not exist; make {folder} first.')
    content = dict(
        state_dict=conversion.weights,
        meta=dict(
            family=conversion.family.name,
            arch=conversion.arch,
            arguments=conversion.arguments,
            grid_sizes=conversion.grid_sizes,
        ),
    )
    write_checkpoint(path, content, 'DST')


def _arch_name(network: type, arguments: dict[str, Any]) -> str | None:
    for name, widths in sys.modules[network.__module__].ARCHS.items():
        if all(arguments.get(key, value) == value for key, value in widths.items()):
            return name
    return None
