"""Passes of a model over batches while the inputs of its norms are watched."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from slab_det.errors import InputError
from slab_det.layers.batch_norm import sum_of_processes
from slab_det.values import check_type

#: Wraps the batches of a pass, given its number from 1, to show how far it is.
Progress = Callable[[Iterable, int], Iterable]


def check_run(
    model: nn.Module, batches: Iterable, forward: Callable | None, progress: Progress | None
) -> None:
    """Check the types of what runs a model over batches.

    Raises:
        InputTypeError: one of them cannot be what it is for.
    """
    check_type(
        'model',
        model,
        isinstance(model, nn.Module),
        'a torch.nn.Module: build the model and load its checkpoint',
    )
    # The letters of a name and the keys of a batch can be iterated, too.
    iterable = hasattr(batches, '__iter__') or hasattr(batches, '__getitem__')
    check_type(
        'batches',
        batches,
        iterable and not isinstance(batches, (str, bytes, Mapping)),
        'an iterable of batches: give a list of them or a data loader',
    )
    for name, function, purpose in (
        ('forward', forward, 'runs the model on a batch'),
        ('progress', progress, 'takes the batches and the number of the pass'),
    ):
        check_type(
            name,
            function,
            function is None or callable(function),
            f'a function: give one that {purpose}, or leave it out',
        )


def run_watched(
    watched: Iterable[tuple[nn.Module, Callable]],
    forward: Callable,
    batches: Iterable,
    like: Tensor,
) -> int:
    """Run ``forward`` on all batches with a forward pre-hook on each module.

    Args:
        watched: modules and their hooks.
        forward: runs the model on a batch.
        batches: what it runs on.
        like: a tensor on the device whose process group counts the batches.

    Returns:
        The number of batches of all processes.

    Raises:
        InputError: no process has a batch.
    """
    handles = [module.register_forward_pre_hook(hook) for module, hook in watched]
    count = torch.zeros((), dtype=torch.float64, device=like.device)
    try:
        # No graph is recorded where no parameter requires a gradient.
        with torch.enable_grad():
            for batch in batches:
                forward(batch)
                count += 1
    finally:
        for handle in handles:
            handle.remove()
    count = int(sum_of_processes(count))
    if not count:
        raise InputError('batches is empty: calibrate over at least one image.')
    return count


@contextmanager
def frozen_parameters(model: nn.Module) -> Iterator[None]:
    """Let no parameter require a gradient inside."""
    free = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in free:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in free:
            parameter.requires_grad_(True)
