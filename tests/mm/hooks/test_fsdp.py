"""Fully sharded training through mmengine's FlexibleRunner, two processes on gloo."""

import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.hooks import Hook
from mmengine.runner import FlexibleRunner, Runner

from slab_det.errors import InputError
from slab_det.mm.hooks import PRepBNHook
from tests.mm.tiny_runner import Numbers, TinyModel
from tests.processes import on_two_processes

pytestmark = pytest.mark.slow


class Notes(Hook):
    def __init__(self):
        self.seen = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen.append((float(outputs['loss']), float(runner.model.module.norm2.ratio)))


def arguments(folder, name, notes, **kwargs):
    return dict(
        work_dir=f'{folder}/{name}',
        launcher='pytorch',
        experiment_name=name,
        train_dataloader=dict(
            dataset=Numbers(16),
            sampler=dict(type='DefaultSampler', shuffle=True),
            collate_fn=pseudo_collate,
            batch_size=2,
            num_workers=0,
        ),
        train_cfg=dict(by_epoch=True, max_epochs=4),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9)),
        custom_hooks=[PRepBNHook(end=0.75), notes],
        randomness=dict(seed=0),
        **kwargs,
    )


def sharded(folder, name, **kwargs):
    torch.manual_seed(0)
    # Checkpoints are a folder with a file per process: torch crashes where it gathers whole weights
    # on a CPU.
    strategy = dict(type='FSDPStrategy', model_wrapper=dict(use_orig_params=True))
    notes = Notes()
    runner = FlexibleRunner(
        TinyModel(), strategy=strategy, **arguments(folder, name, notes, **kwargs)
    )
    runner.train()
    return notes.seen


def work(rank, folder):
    # mmengine names a GPU to torch's wrapper; on a CPU there is none.
    from torch.distributed.fsdp import FullyShardedDataParallel

    init = FullyShardedDataParallel.__init__

    def on_cpu(self, *args, **kwargs):
        init(self, *args, **{**kwargs, 'device_id': torch.device('cpu')})

    FullyShardedDataParallel.__init__ = on_cpu
    out = dict(whole=sharded(folder, 'whole'))
    try:
        sharded(folder, 'resumed', resume=True, load_from=f'{folder}/whole/epoch_2.pth')
    except InputError as error:
        out['resumed'] = str(error)
    torch.manual_seed(0)
    notes = Notes()
    runner = Runner(
        TinyModel(),
        cfg=dict(
            model_wrapper_cfg=dict(
                type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False
            )
        ),
        **arguments(folder, 'replicated', notes),
    )
    runner.train()
    out['replicated'] = notes.seen
    return out


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    return on_two_processes(work, str(tmp_path_factory.mktemp('fsdp')))


@pytest.mark.parametrize('rank', range(2))
def test_the_ratio_falls_on_every_process_as_in_replicated_training(runs, rank):
    # 16 samples on two processes in batches of 2: 4 iterations an epoch, 16 in all.
    expected = [max(0.0, 1 - iteration / 12) for iteration in range(16)]
    for run in ('whole', 'replicated'):
        assert [ratio for _, ratio in runs[rank][run]] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize('rank', range(2))
def test_losses_are_those_of_replicated_training(runs, rank):
    whole, replicated = ([loss for loss, _ in runs[rank][run]] for run in ('whole', 'replicated'))
    assert whole == pytest.approx(replicated, rel=1e-4)


@pytest.mark.parametrize('rank', range(2))
def test_sharded_checkpoints_hold_more_than_weights_and_are_refused(runs, rank):
    words = runs[rank]['resumed']
    assert 'cannot be read without running code from it' in words and 'ShardedTensor' in words
