"""What tests of resumption share: ways for a training to be killed, and what must be as without the
cut."""

import itertools
import os
import signal
from pathlib import Path
from typing import Any

import torch
from mmengine.fileio import LocalBackend
from mmengine.runner import ValLoop


def die_in_checkpoint(number: int) -> None:
    """Let SIGKILL end this process when half of its ``number``-th checkpoint (from 1) is
    written."""
    put, count = LocalBackend.put, itertools.count(1)

    def put_or_die(self, obj: bytes, filepath: str | Path) -> None:
        if '.pth' not in Path(filepath).name or next(count) < number:
            return put(self, obj, filepath)
        put(self, obj[: len(obj) // 2], filepath)
        os.kill(os.getpid(), signal.SIGKILL)

    LocalBackend.put = put_or_die


def die_in_validation(number: int) -> None:
    """Let SIGKILL end this process after the first batch of its ``number``-th validation (from
    1)."""
    run_iter, count = ValLoop.run_iter, itertools.count(1)

    def run_iter_or_die(self, idx: int, data_batch: Any) -> None:
        run_iter(self, idx, data_batch)
        if idx == 0 and next(count) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    ValLoop.run_iter = run_iter_or_die


def assert_same_checkpoint(found: str | Path, expected: str | Path, tolerance: float = 0.0) -> None:
    """Weights, optimizer, schedulers, random-number states and what other hooks save agree; records
    of the run, which hold times, may differ.

    Args:
        tolerance: by how much numbers of a floating-point tensor may differ, as a share of its
        largest.
    """
    found, expected = (
        torch.load(path, map_location='cpu', weights_only=True) for path in (found, expected)
    )
    assert {'state_dict', 'optimizer', 'random_states'} <= set(expected)
    for content in (found, expected):
        assert content['meta']['iter'] == expected['meta']['iter']
        del content['meta'], content['message_hub']
    _assert_same(found, expected, tolerance, 'checkpoint')


def _assert_same(found: Any, expected: Any, tolerance: float, name: str) -> None:
    if isinstance(expected, torch.Tensor):
        largest = (
            float(expected.abs().max())
            if expected.is_floating_point() and expected.numel()
            else 0.0
        )
        torch.testing.assert_close(
            found, expected, rtol=0, atol=tolerance * largest, msg=lambda text: f'{name}: {text}'
        )
    elif isinstance(expected, dict):
        assert list(found) == list(expected), name
        for key, value in expected.items():
            _assert_same(found[key], value, tolerance, f'{name}.{key}')
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), name
        for index, value in enumerate(expected):
            _assert_same(found[index], value, tolerance, f'{name}.{index}')
    else:
        assert found == expected, name
