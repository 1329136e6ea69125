import pytest
import torch
from mmengine.config import Config

from slab_det.cli import InputError, check_amp, launch
from slab_det.cli.launch import prepare_launcher

PLACE = dict(RANK='0', WORLD_SIZE='1', LOCAL_RANK='0', MASTER_ADDR='127.0.0.1', MASTER_PORT='29511')


@pytest.fixture
def started(monkeypatch):
    """The arguments with which process groups were started."""
    calls = []
    monkeypatch.setattr(
        torch.distributed,
        'init_process_group',
        lambda *args, **kwargs: calls.append((args, kwargs)),
    )
    for name in {
        *PLACE,
        *(theirs for place in launch._PLACES.values() for theirs in place.values()),
    }:
        monkeypatch.delenv(name, raising=False)
    return calls


def test_one_process_needs_no_group(started, monkeypatch):
    cfg = Config(dict())
    prepare_launcher(cfg, 'none', local_rank=3)
    assert cfg.launcher == 'none' and 'model_wrapper_cfg' not in cfg and not started
    import os

    assert os.environ['LOCAL_RANK'] == '3'


@pytest.mark.parametrize(
    'launcher, absent, starter',
    [
        ('pytorch', 'RANK', 'torchrun'),
        ('slurm', 'SLURM_PROCID', 'srun'),
        ('mpi', 'OMPI_COMM_WORLD_RANK', 'mpirun'),
    ],
)
def test_a_launcher_that_did_not_start_us_is_refused(started, launcher, absent, starter):
    with pytest.raises(
        InputError, match=f'--launcher {launcher} needs .* {absent}: start the tool with {starter}'
    ):
        prepare_launcher(Config(dict()), launcher)


def test_processes_without_an_accelerator_get_gloo_and_no_device(started, monkeypatch):
    monkeypatch.setattr('mmengine.device.get_device', lambda: 'cpu')
    for name, value in PLACE.items():
        monkeypatch.setenv(name, value)
    cfg = Config(
        dict(env_cfg=dict(dist_cfg=dict(backend='nccl', timeout=60)), find_unused_parameters=True)
    )
    prepare_launcher(cfg, 'pytorch')
    ((args, kwargs),) = started
    assert args == ('gloo',) and kwargs['timeout'].total_seconds() == 60
    assert cfg.model_wrapper_cfg == dict(
        type='MMDistributedDataParallel',
        device_ids=None,
        broadcast_buffers=False,
        find_unused_parameters=True,
    )


def test_the_configs_wrapper_is_kept(started, monkeypatch):
    monkeypatch.setattr('mmengine.device.get_device', lambda: 'cpu')
    for name, value in PLACE.items():
        monkeypatch.setenv(name, value)
    cfg = Config(
        dict(model_wrapper_cfg=dict(type='MMFullyShardedDataParallel', broadcast_buffers=True))
    )
    prepare_launcher(cfg, 'pytorch')
    assert cfg.model_wrapper_cfg.type == 'MMFullyShardedDataParallel'
    assert (
        cfg.model_wrapper_cfg.broadcast_buffers is True and cfg.model_wrapper_cfg.device_ids is None
    )


def test_processes_with_accelerators_are_left_to_mmengine(started, monkeypatch):
    monkeypatch.setattr('mmengine.device.get_device', lambda: 'cuda')
    for name, value in PLACE.items():
        monkeypatch.setenv(name, value)
    cfg = Config(dict())
    prepare_launcher(cfg, 'pytorch')
    assert cfg.launcher == 'pytorch' and 'model_wrapper_cfg' not in cfg and not started


def test_slurm_and_mpi_places_become_torchs(started, monkeypatch):
    import os

    monkeypatch.setattr('mmengine.device.get_device', lambda: 'cpu')
    for launcher in ('slurm', 'mpi'):
        monkeypatch.setenv('MASTER_ADDR', 'host')
        for (ours, theirs), value in zip(launch._PLACES[launcher].items(), '372'):
            monkeypatch.delenv(ours, raising=False)
            monkeypatch.setenv(theirs, value)
        prepare_launcher(Config(dict()), launcher)
        assert [os.environ[name] for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK')] == list('372')


def test_mixed_precision_without_a_gpu_is_refused(monkeypatch):
    for kind in ('cuda', 'npu', 'mlu', 'musa'):
        monkeypatch.setattr(f'mmengine.device.is_{kind}_available', lambda: False)
    check_amp(Config(dict(optim_wrapper=dict(type='OptimWrapper'))), 'x.py')
    check_amp(Config(dict()), 'x.py')
    with pytest.raises(InputError, match='AmpOptimWrapper of x.py needs a GPU'):
        check_amp(Config(dict(optim_wrapper=dict(type='AmpOptimWrapper'))), 'x.py')
    monkeypatch.setattr('mmengine.device.is_cuda_available', lambda: True)
    check_amp(Config(dict(optim_wrapper=dict(type='AmpOptimWrapper'))), 'x.py')
