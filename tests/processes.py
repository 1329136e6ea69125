"""Work of two processes joined by gloo, as two GPUs would be."""

import datetime
import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def on_two_processes(work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Call ``work(rank, *arguments)`` on two processes and return what they return.

    Args:
        work: a function of a module. It returns what ``torch.load`` reads without running code.
        *arguments: what can be pickled.
    """
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_process, (_free_port(), folder, work, arguments), nprocs=2)
        return [torch.load(Path(folder) / f'{rank}.pth', weights_only=True) for rank in range(2)]


def _process(rank: int, port: int, folder: str, work: Callable[..., Any], arguments: tuple) -> None:
    torch.set_num_threads(1)
    os.environ['LOCAL_RANK'] = str(rank)  # mmengine asks for it even on a CPU
    dist.init_process_group(
        'gloo',
        f'tcp://127.0.0.1:{port}',
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(minutes=5),
    )
    torch.save(work(rank, *arguments), Path(folder) / f'{rank}.pth')
    dist.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]
