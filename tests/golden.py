"""Golden outputs of the published models: filled checkpoints and the comparison."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

DATA = Path(__file__).parent / 'data' / 'golden'
_spec = importlib.util.spec_from_file_location('golden_fill', DATA / 'fill.py')
_fill = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_fill)

#: Largest error that is still parity, relative to the output's standard deviation.
TOLERANCE = 1e-4


def load(name: str):
    """Return the golden file ``name``."""
    return np.load(DATA / f'{name}.npz')


def published_state_dict(golden, ratio: float = 0.0) -> dict[str, Tensor]:
    """Return the checkpoint behind a golden file, in the published naming, at ratio 0 or 0.5."""
    counters = {'iter': round(1000 * ratio), 'total_step': 1000}
    state_dict = {}
    for name, shape, dtype in json.loads(str(golden['meta']))['checkpoint_manifest']:
        if dtype.startswith('float'):
            state_dict[name] = torch.from_numpy(_fill.fill(name, tuple(shape)))
        else:
            value = counters.get(name.rsplit('.', 1)[-1], 0)
            state_dict[name] = torch.full(tuple(shape), value, dtype=torch.int64)
    return state_dict


def images(height: int = 224, width: int = 224, batch: int = 2) -> Tensor:
    """Return the input of a golden case, ``(batch, 3, height, width)``."""
    return torch.from_numpy(_fill.golden_input((batch, 3, height, width)))


def error(golden, key: str, output: Tensor) -> float:
    """Return the largest error of ``output`` over the sampled entries of case ``key``, divided
    by the standard deviation of the whole golden output."""
    assert tuple(golden[f'{key}/shape']) == tuple(output.shape)
    values = output.detach().flatten().numpy()[golden[f'{key}/index']]
    return float(np.abs(values - golden[f'{key}/value']).max() / golden[f'{key}/std'])


def worst_error(golden, case: str, outputs: tuple[Tensor, ...]) -> float:
    """Return the largest :func:`error` over all outputs of ``case``."""
    return max(error(golden, f'{case}/{i}', output) for i, output in enumerate(outputs))
