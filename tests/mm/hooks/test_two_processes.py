"""Two processes on gloo: one ratio everywhere, and each process resumes with its own states."""

import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner

from slab_det.mm.hooks import PRepBNHook
from slab_det.mm.resume import RandomStateHook
from tests.mm.tiny_runner import Numbers, TinyModel
from tests.processes import on_two_processes

pytestmark = pytest.mark.slow


class Noting(RandomStateHook):
    def __init__(self):
        super().__init__()
        self.notes = {}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        norm = runner.model.module.norm1
        self.notes[runner.iter] = (
            outputs['loss'].item(),
            data_batch['index'],
            float(norm.ratio),
            norm.repbn.bn.running_mean.tolist(),
            torch.rand(1).item(),
        )
        super().after_train_iter(runner, batch_idx, data_batch, outputs)


def train(name, folder, train_cfg, checkpoint, diff_rank_seed, settings=(), **kwargs):
    hook = Noting()
    torch.manual_seed(0)  # the model is built before the runner seeds
    runner = Runner(
        model=TinyModel(dropout=0.3),
        work_dir=f'{folder}/{name}',
        launcher='pytorch',
        cfg=dict(
            model_wrapper_cfg=dict(
                type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False
            ),
            **dict(settings),
        ),
        train_dataloader=dict(
            dataset=Numbers(16, augment=True),
            sampler=dict(type='DefaultSampler', shuffle=True),
            collate_fn=pseudo_collate,
            batch_size=2,
            num_workers=0,
        ),
        train_cfg=train_cfg,
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=0.01, momentum=0.9), accumulative_counts=2
        ),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', **checkpoint)),
        custom_hooks=[hook, PRepBNHook(end=1.0)],
        randomness=dict(seed=0, diff_rank_seed=diff_rank_seed),
        experiment_name=name,
        **kwargs,
    )
    runner.train()
    return dict(notes=hook.notes, state=runner.model.module.state_dict())


def work(rank, folder):
    epochs = dict(by_epoch=True, max_epochs=3)
    by_iter, by_epoch = dict(interval=5, by_epoch=False), dict(interval=1)
    return dict(
        whole=train('whole', folder, epochs, by_iter, True),
        sync=train('sync', folder, epochs, by_iter, True, settings=dict(sync_bn='torch')),
        iters=train(
            'iters',
            folder,
            epochs,
            by_iter,
            True,
            resume=True,
            load_from=f'{folder}/whole/iter_5.pth',
        ),
        whole_epochs=train('whole_epochs', folder, epochs, by_epoch, False),
        epochs=train(
            'epochs',
            folder,
            epochs,
            by_epoch,
            False,
            resume=True,
            load_from=f'{folder}/whole_epochs/epoch_1.pth',
        ),
    )


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    return on_two_processes(work, str(tmp_path_factory.mktemp('two')))


def test_processes_see_other_samples_and_other_random_numbers(results):
    first, second = [result['whole']['notes'] for result in results]
    for iteration in first:
        assert not set(first[iteration][1]) & set(second[iteration][1])
        assert first[iteration][4] != second[iteration][4]


def test_sync_bn_of_the_config_changes_nothing(results):
    """The norms are synchronised already, and torch's SyncBatchNorm would need a GPU."""
    for result in results:
        assert result['sync']['notes'] == result['whole']['notes']


def test_ratio_and_statistics_agree(results):
    first, second = [result['whole']['notes'] for result in results]
    assert [note[2] for note in first.values()] == pytest.approx(
        [1 - t / 12 for t in range(12)], abs=1e-6
    )
    for iteration in first:
        assert first[iteration][2:4] == second[iteration][2:4]


@pytest.mark.parametrize(
    'whole, resumed, done', [('whole', 'iters', 5), ('whole_epochs', 'epochs', 4)]
)
@pytest.mark.parametrize('rank', [0, 1])
def test_each_process_resumes_exactly(results, rank, whole, resumed, done):
    expected, got = results[rank][whole], results[rank][resumed]
    assert sorted(got['notes']) == list(range(done, 12))
    for iteration, note in got['notes'].items():
        want = expected['notes'][iteration]
        assert note[1:3] == want[1:3] and note[4] == want[4]
        assert [note[0], *note[3]] == pytest.approx([want[0], *want[3]], rel=0, abs=1e-6)
    for name, value in got['state'].items():
        torch.testing.assert_close(value, expected['state'][name], rtol=0, atol=1e-6)
