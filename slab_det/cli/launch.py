"""Several processes, with and without accelerators."""

import argparse
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from slab_det.errors import InputError

from .checks import naming_damaged_images
from .errors import built_from

#: How each launcher tells a process its place: our environment variable, the launcher's.
_PLACES = {
    'pytorch': {'RANK': 'RANK', 'WORLD_SIZE': 'WORLD_SIZE', 'LOCAL_RANK': 'LOCAL_RANK'},
    'slurm': {'RANK': 'SLURM_PROCID', 'WORLD_SIZE': 'SLURM_NTASKS', 'LOCAL_RANK': 'SLURM_LOCALID'},
    'mpi': {
        'RANK': 'OMPI_COMM_WORLD_RANK',
        'WORLD_SIZE': 'OMPI_COMM_WORLD_SIZE',
        'LOCAL_RANK': 'OMPI_COMM_WORLD_LOCAL_RANK',
    },
}
_STARTERS = {
    'pytorch': 'torchrun (tools/dist_train.sh)',
    'slurm': 'srun (tools/slurm_train.sh)',
    'mpi': 'mpirun',
}


def prepare_launcher(cfg, launcher: str, local_rank: int = 0) -> None:
    """Set the launcher in ``cfg`` and, on machines without an accelerator, start the process group.

    mmengine assumes an accelerator per process: it chooses one before it starts the group, and
    gives it to DistributedDataParallel. On a CPU the group is therefore started here, with gloo,
    and the model's wrapper gets no device.

    Raises:
        InputError: the process was not started by the launcher.
    """
    from mmengine.device import get_device

    cfg.launcher = launcher
    os.environ.setdefault('LOCAL_RANK', str(local_rank))
    if launcher == 'none':
        return
    for name in _PLACES[launcher].values():
        if name not in os.environ:
            raise InputError(
                f'--launcher {launcher} needs the environment variable {name}: start the tool '
                f'with {_STARTERS[launcher]}, or leave --launcher out'
            )
    if get_device() == 'cpu':
        _start_gloo(launcher, cfg.get('env_cfg', {}).get('dist_cfg', {}))
        wrapper = dict(
            type='MMDistributedDataParallel',
            device_ids=None,
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False),
        )
        wrapper.update(cfg.get('model_wrapper_cfg') or {})
        cfg.model_wrapper_cfg = wrapper


def check_amp(cfg, config: str) -> None:
    """Raise InputError if ``cfg`` asks for mixed precision that this machine cannot do."""
    from mmengine import device

    kind = (cfg.get('optim_wrapper') or {}).get('type')
    kind = kind if isinstance(kind, str) else getattr(kind, '__name__', '')
    if kind.split('.')[-1] == 'AmpOptimWrapper' and not any(
        getattr(device, f'is_{name}_available')() for name in ('cuda', 'npu', 'mlu', 'musa')
    ):
        raise InputError(
            f'--amp or the AmpOptimWrapper of {config} needs a GPU, and this machine has none that '
            'torch can use: leave --amp out and take the config whose name does not start with '
            'amp-, or set --cfg-options optim_wrapper.type=OptimWrapper'
        )


@contextmanager
def runner_of(cfg, args: argparse.Namespace) -> Iterator[Any]:
    """Yield mmengine's Runner of ``cfg``, its processes joined as ``args.launcher`` says.

    Raises:
        InputError: the launcher does not fit, or something that ``cfg`` names cannot be built, here
            or by the Runner in the block.
    """
    prepare_launcher(cfg, args.launcher, args.local_rank)
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = cfg.get(name)
        if isinstance(loader, dict) and loader.get('num_workers') == 0:
            # torch refuses both if there are no workers.
            loader.pop('persistent_workers', None)
            loader.pop('prefetch_factor', None)
    from mmdet.registry import RUNNERS
    from mmdet.utils import setup_cache_size_limit_of_dynamo
    from mmengine.runner import Runner

    setup_cache_size_limit_of_dynamo()
    with built_from(args.config), naming_damaged_images():
        yield RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


def _start_gloo(launcher: str, dist_cfg: dict) -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        return
    for ours, theirs in _PLACES[launcher].items():
        os.environ[ours] = os.environ[theirs]
    os.environ.setdefault('MASTER_PORT', str(dist_cfg.get('port') or 29500))
    if 'MASTER_ADDR' not in os.environ:
        if launcher != 'slurm':
            raise InputError(
                f'--launcher {launcher} needs the environment variable MASTER_ADDR, the host '
                f'of the first process: start the tool with {_STARTERS[launcher]}'
            )
        hosts = subprocess.run(
            ['scontrol', 'show', 'hostname', os.environ['SLURM_NODELIST']],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()
        os.environ['MASTER_ADDR'] = hosts[0]
    timeout = dist_cfg.get('timeout')
    dist.init_process_group('gloo', timeout=timedelta(seconds=timeout) if timeout else None)
