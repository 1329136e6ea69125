"""The random-number states of a process, as values that a checkpoint can hold."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch


def capture_states(cuda: bool = True) -> dict:
    """Return the states of Python's, numpy's and torch's generators.

    Only dicts, numbers, strings and tensors come back, so that ``torch.load`` with
    ``weights_only=True`` reads them.

    Args:
        cuda: include the generator of the current GPU, where one is in use.
    """
    version, internal, gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=False)
    states = dict(
        python=dict(version=version, internal=torch.tensor(internal), gauss=gauss),
        numpy=dict(
            bit_generator=numpy_state['bit_generator'],
            key=torch.from_numpy(numpy_state['state']['key'].astype(np.int64)),
            pos=int(numpy_state['state']['pos']),
            has_gauss=int(numpy_state['has_gauss']),
            gauss=float(numpy_state['gauss']),
        ),
        torch=torch.get_rng_state(),
    )
    if cuda and torch.cuda.is_available() and torch.cuda.is_initialized():
        states['cuda'] = torch.cuda.get_rng_state()
    return states


def restore_states(states: dict) -> None:
    """Put back what :func:`capture_states` returned, wherever its tensors lie by now."""
    python, numpy_state = states['python'], states['numpy']
    random.setstate((python['version'], tuple(python['internal'].tolist()), python['gauss']))
    np.random.set_state(
        dict(
            bit_generator=numpy_state['bit_generator'],
            state=dict(
                key=numpy_state['key'].cpu().numpy().astype(np.uint32), pos=numpy_state['pos']
            ),
            has_gauss=numpy_state['has_gauss'],
            gauss=numpy_state['gauss'],
        )
    )
    torch.set_rng_state(states['torch'].cpu())
    if 'cuda' in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states['cuda'].cpu())


@contextmanager
def states_kept() -> Iterator[None]:
    """Let all generators go on afterwards as if nothing had been drawn inside."""
    states = capture_states()
    try:
        yield
    finally:
        restore_states(states)


@contextmanager
def seeded(entropy: Sequence[int]) -> Iterator[None]:
    """Inside, the generators on the CPU depend on ``entropy`` alone; afterwards they go on as if
    nothing had happened.

    Args:
        entropy: whole numbers from 0 on, of any size and number.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    torch_state = torch.get_rng_state()
    words = np.random.SeedSequence(entropy).generate_state(4).tolist()
    random.seed(words[0])
    np.random.seed(words[1])
    # torch.manual_seed would seed the GPU as well.
    torch.default_generator.manual_seed(words[2] << 32 | words[3])
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
